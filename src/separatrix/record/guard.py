"""Keeps errors of ours out of the training: they become events, and what fails thrice is switched off."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from separatrix.record.budget import Budget
from separatrix.record.isolation import Aside, in_words
from separatrix.runs.writer import RunWriter

_FAILURES_ALLOWED = 3


class Failures:
    """Counts how often each listener failed and says which are switched off."""

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self._counts: dict[str, int] = {}
        self.off: set[str] = set()

    def note(self, listener: str, error: Exception, step: int) -> None:
        """One more failure of `listener`, at a step: an event, and the end of its listening if it was the third."""
        count = self._counts[listener] = self._counts.get(listener, 0) + 1
        off = count >= _FAILURES_ALLOWED
        if off:
            self.off.add(listener)
        reason = in_words(error)
        what = f"was switched off after {count} failures" if off else "failed"
        self._writer.event(
            "probe-off" if off else "probe-failed",
            f"the recorder's listener {listener} {what} ({reason})",
            step=step,
            severity="warning",
            data={"listener": listener, "reason": reason},
        )


class Guarded(Protocol):
    """What a class needs for its methods to be guarded."""

    @property
    def active(self) -> bool:
        """Whether anything is heard."""
        ...

    @property
    def budget(self) -> Budget:
        """What the time spent is charged to."""
        ...

    @property
    def failures(self) -> Failures:
        """Where errors are counted."""
        ...

    @property
    def step(self) -> int:
        """Steps done so far."""
        ...


_Listener = TypeVar("_Listener", bound=Callable[..., Any])


def guarded(listener: _Listener) -> _Listener:
    """A method that never raises, runs apart from the training's modes and is charged to the budget.

    It returns None when it failed, is switched off, or its object is not active.
    """
    name = listener.__name__.lstrip("_")

    @functools.wraps(listener)
    def safe(self: Guarded, *args: Any, **kwargs: Any) -> Any:
        if not self.active or name in self.failures.off:
            return None
        begin = time.perf_counter()
        try:
            with Aside():
                return listener(self, *args, **kwargs)
        except Exception as error:
            # Even telling of it may fail, for want of memory.
            with contextlib.suppress(Exception):
                self.failures.note(name, error, self.step)
            return None
        finally:
            self.budget.charge(time.perf_counter() - begin)

    return safe  # type: ignore[return-value]
