"""Errors of schedules."""

from __future__ import annotations

from separatrix.runs.errors import UsageError
from separatrix.steer.errors import SteerError


class ScheduleError(SteerError, UsageError):
    """A schedule, bound, refinement or range test that cannot be made from what it is given."""
