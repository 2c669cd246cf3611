"""Errors and warnings of steering."""

from __future__ import annotations

from separatrix.runs.errors import SeparatrixError, UsageError


class SteerError(SeparatrixError):
    """A parametrization, schedule, optimizer or search that cannot be had as asked."""


class ParametrizationError(SteerError, UsageError):
    """A model, its base and delta, a rule or an optimizer that do not fit together."""


class ParametrizationWarning(UserWarning):
    """Something about a model that a parametrization had to assume, or could not do the usual way."""
