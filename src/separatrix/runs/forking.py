"""What a fork means for those who store on a thread: none stores at that moment, and in the child all are dead."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

_PATIENCE_SECONDS = 1.0


class Storing(Protocol):
    """What is guarded: `storing` is held while it stores, `abandon` is called in the child."""

    storing: threading.RLock

    def abandon(self) -> None:
        """Forget, in a forked child, what belongs to the parent."""


_guarded: weakref.WeakSet[Storing] = weakref.WeakSet()
_held: list[Storing] = []


def guard(one: Storing) -> None:
    """Keep forks of this process from one that stores, until `forget`."""
    _guarded.add(one)


def forget(one: Storing) -> None:
    """Guard it no longer."""
    _guarded.discard(one)


def _before() -> None:
    # No mutex of sqlite is held in the child if nobody stores at the moment of the fork.
    for one in list(_guarded):
        if one.storing.acquire(timeout=_PATIENCE_SECONDS):
            _held.append(one)


def _after_in_parent() -> None:
    while _held:
        _held.pop().storing.release()


def _after_in_child() -> None:
    _held.clear()
    for one in list(_guarded):
        one.abandon()
    _guarded.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
