"""Errors of tuning, and the package that it needs."""

from __future__ import annotations

import importlib
from typing import Any

from separatrix.runs.errors import MissingExtraError, SeparatrixError, UsageError


class SweepError(UsageError):
    """A sweep that cannot be made as asked, or not be gone on with."""


class WorkerLostError(SeparatrixError):
    """The process that attended to a trial is gone, and the trial with it."""


def needed(package: str, extra: str) -> Any:
    """The imported optional package.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs {package}, which cannot be imported ({error}): pip install 'separatrix[{extra}]'"
        ) from error
