"""Levels of noisy scalars: one track of a series, smoothed, and where it crosses a value."""

from __future__ import annotations

import numpy as np

from separatrix.analysis.trends import Floats, Integers, Track, tracks
from separatrix.runs import Run


def single(run: Run, *names: str) -> Track | None:
    """The finite part of the first of the named series that is a single scalar; None if there is none."""
    for name in names:
        found = [track.finite() for track in tracks(run, name)]
        if len(found) == 1 and len(found[0]):
            return found[0]
    return None


def centred(values: Floats, width: int) -> Floats:
    """Median of the `width` values around each, fewer at the ends."""
    half = max(0, width // 2)
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def held(track: Track, steps: Integers) -> Floats:
    """The value in force at each step; before the first measurement the first."""
    return np.asarray(track.values[np.clip(np.searchsorted(track.steps, steps, side="right") - 1, 0, None)])


def stretches(flags: np.ndarray) -> list[tuple[int, int]]:
    """First and last position of each stretch of true flags."""
    edges = np.diff(np.concatenate([[0], np.asarray(flags, dtype=np.int8), [0]]))
    return list(zip(np.flatnonzero(edges == 1).tolist(), (np.flatnonzero(edges == -1) - 1).tolist(), strict=True))


def lasting_from(flags: np.ndarray) -> int | None:
    """First position from which all flags are true; None if the last is not."""
    false = np.flatnonzero(~np.asarray(flags, dtype=bool))
    first = int(false[-1]) + 1 if false.size else 0
    return first if first < len(flags) else None
