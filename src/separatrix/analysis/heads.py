"""Attention heads over the steps: reading their series, whatever dimensions they were stored with."""

from __future__ import annotations

from separatrix.analysis.trends import Track, tracks
from separatrix.runs import Run


def heads(run: Run, name: str, fewest: int) -> tuple[Track, ...]:
    """The finite values of each head that was measured at least `fewest` times; labels are module and head."""
    found = (track.finite() for track in tracks(run, name))
    return tuple(track for track in found if len(track) >= fewest)


def modules_of(labels: list[str]) -> list[str]:
    """Names of the modules that heads belong to, each once; a label without a module is left as it is."""
    return list(dict.fromkeys(label.rpartition("/")[0] or label for label in labels))
