"""Errors of the room."""

from __future__ import annotations

from separatrix.runs.errors import UsageError


class TrajectoryError(UsageError):
    """Data that are no evenly sampled trajectories, or too few of them for what is asked."""


class ForecastError(UsageError):
    """A forecast that a reconstruction cannot make."""
