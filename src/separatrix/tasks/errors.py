"""Errors of tasks and of the ensemble engine, and the warning that says when the slower way is taken."""

from __future__ import annotations

from separatrix.runs.errors import SeparatrixError


class TaskError(SeparatrixError, ValueError):
    """A knob out of its range, data that are not installed, or a quantity that has no closed form."""


class EnsembleError(SeparatrixError, ValueError):
    """Networks, hyperparameters or data that cannot be trained as one batched computation."""


class EnsembleWarning(UserWarning):
    """An ensemble that trains correctly, but not in the fastest way."""
