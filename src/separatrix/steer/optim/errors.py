"""Errors of optimizers."""

from __future__ import annotations

from separatrix.runs.errors import UsageError


class OptimizerError(UsageError):
    """A hyperparameter or a gradient that an optimizer cannot work with."""
