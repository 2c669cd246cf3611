"""The error of what is computed over examples."""

from __future__ import annotations

from separatrix.runs.errors import SeparatrixError


class ExamplesError(SeparatrixError, ValueError):
    """Per-example values of the wrong shape or too few, or labels and settings that do not fit them."""
