"""Errors of systems: what is wrong, with which system, and what to do."""

from separatrix.runs.errors import SeparatrixError


class DescriptionError(SeparatrixError):
    """A system whose description cannot be used: an equation, parameter or initial state that does not fit."""


class EscapeError(SeparatrixError):
    """A trajectory that leaves every bound; `time` says when, `copy` which of the batch."""

    def __init__(self, message: str, time: float, copy: int) -> None:
        super().__init__(message)
        self.time = time
        self.copy = copy


class IntegrationError(SeparatrixError):
    """A trajectory that cannot be followed to its end: too many steps, or steps too small."""
