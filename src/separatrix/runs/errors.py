"""Errors of the package: one line that says what is wrong, with what, and what to do."""


class SeparatrixError(Exception):
    """Base of every error raised on purpose; its message is one line a user can act on."""


class RunUnreadableError(SeparatrixError):
    """A run folder that is missing, corrupt, truncated, foreign or hostile."""


class RunExistsError(SeparatrixError):
    """A run path that already holds something and must not be overwritten."""


class RunLockedError(SeparatrixError):
    """A run that another process is writing at this moment."""


class UnknownSeriesError(SeparatrixError, KeyError):
    """A series that the run does not hold."""

    __str__ = Exception.__str__


class UnknownMemberError(SeparatrixError, KeyError):
    """A probe, finding or study name that no installed package provides."""

    __str__ = Exception.__str__


class ImportSourceError(SeparatrixError):
    """A log file that cannot be turned into a run."""


class MissingExtraError(SeparatrixError):
    """An optional package that the requested operation needs is not installed."""


class RecordingError(SeparatrixError):
    """A recording that cannot be started as asked."""


class UsageError(SeparatrixError):
    """Arguments that do not fit the command or function."""
