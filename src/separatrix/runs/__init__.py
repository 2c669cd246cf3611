"""Runs on disk and the nouns that every room shares; nothing here imports torch."""

from separatrix.runs.errors import (
    ImportSourceError,
    MissingExtraError,
    RecordingError,
    RunExistsError,
    RunLockedError,
    RunUnreadableError,
    SeparatrixError,
    UnknownMemberError,
    UnknownSeriesError,
    UsageError,
)
from separatrix.runs.redaction import Redactor
from separatrix.runs.run import Run, open_run
from separatrix.runs.types import (
    DIMS,
    SEVERITIES,
    Claim,
    Event,
    Finding,
    FindingRule,
    NotAssessed,
    Segment,
    SeriesData,
    SeriesSpec,
    Severity,
    Status,
)
from separatrix.runs.writer import RunWriter

__all__ = [
    "DIMS",
    "SEVERITIES",
    "Claim",
    "Event",
    "Finding",
    "FindingRule",
    "ImportSourceError",
    "MissingExtraError",
    "NotAssessed",
    "RecordingError",
    "Redactor",
    "Run",
    "RunExistsError",
    "RunLockedError",
    "RunUnreadableError",
    "RunWriter",
    "Segment",
    "SeparatrixError",
    "SeriesData",
    "SeriesSpec",
    "Severity",
    "Status",
    "UnknownMemberError",
    "UnknownSeriesError",
    "UsageError",
    "open_run",
]
