"""The error of averages of weights."""

from __future__ import annotations

from separatrix.runs.errors import UsageError


class AveragingError(UsageError):
    """An average of weights that cannot be formed as asked."""
