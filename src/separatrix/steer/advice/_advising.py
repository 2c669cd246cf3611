"""Asks every adviser and orders what they say."""

from __future__ import annotations

import os
from collections.abc import Mapping

from separatrix.analysis import Diagnosis, diagnose
from separatrix.analysis.progress import FEWEST
from separatrix.analysis.trends import loss_tracks
from separatrix.runs import Run, open_run
from separatrix.runs.discovery import members
from separatrix.steer.advice._types import Advice, Adviser, Advising


def advisers() -> Mapping[str, Adviser]:
    """Every adviser by name, those of other installed packages included (entry points `separatrix.advisers`)."""
    return members("separatrix.steer.advice", Adviser, "separatrix.advisers")


def advise(run: Run | str | os.PathLike[str], diagnosis: Diagnosis | None = None) -> Advising:
    """What to change next in a training: one piece of advice a setting, that with numbers first.

    Advice follows the order of the findings, gravest first; what follows from measurements alone comes after it. Where
    two advisers speak of one setting the first is kept.

    Raises:
        RunUnreadableError: the path holds no run, or a damaged one.
    """
    if not isinstance(run, Run):
        with open_run(run) as opened:
            return advise(opened, diagnosis)
    judged = diagnose(run) if diagnosis is None else diagnosis
    rank = {code: place for place, code in reversed(list(enumerate(judged.codes)))}
    found: list[Advice] = []
    for _, adviser in sorted(advisers().items()):
        found += adviser.assess(run, judged)
    found.sort(key=lambda a: (not a.numeric, rank.get(a.finding, len(rank)), -a.confidence))
    kept: list[Advice] = []
    for advice in found:
        if not advice.numeric or advice.setting not in {other.setting for other in kept}:
            kept.append(advice)
    return Advising(run.name, tuple(kept), "" if kept else _lack(run))


def _lack(run: Run) -> str:
    """What is missing for any advice; empty where enough was recorded and nothing is to be changed."""
    if not run.names():
        return "nothing was recorded in this run: train with torch under separatrix watch or record"
    losses = max((len(track) for track in loss_tracks(run)[0]), default=0)
    if losses >= FEWEST:
        return ""
    return f"too little was recorded for advice: {losses} finite losses, of which it takes {FEWEST}"
