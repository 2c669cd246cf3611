"""The contract that recording changes nothing: a training, run with and without it, is the same bit for bit."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import random
import tempfile
import unittest.mock as mock
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from separatrix.record import record
from separatrix.runs import Status, open_run
from separatrix.testing.fingerprints import (
    Fingerprint,
    fingerprint,
    patchable_places,
    replaced_places,
    surroundings,
)

Training = Callable[[], Iterable[object]]
"""Builds everything itself and yields, after every step, what is to be compared: models, optimizers, losses, counts."""

_MOST_NAMED = 6


@dataclasses.dataclass(frozen=True)
class Trace:
    """One run of a training: a fingerprint after every step, what it printed and which warnings it gave."""

    steps: tuple[Fingerprint, ...]
    printed: str
    complained: str
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What was compared: steps of the training, and the names and number of steps of the series recorded."""

    steps: int
    recorded: dict[str, int]
    events: tuple[str, ...]


def check_changes_nothing(
    training: Training,
    *,
    probes: str | Sequence[str] = "all",
    budget: float = 1.0,
    seed: int = 0,
    run: str | Path | None = None,
    needs: Sequence[str] = ("loss",),
) -> Comparison:
    """Run a training twice without and once with recording, all seeded alike, and compare everything at every step.

    The first two runs must equal each other, or nothing can be said of the third. `needs` names series that the
    recording must hold, so that a recording that saw nothing does not pass. `run` is the folder to record into, a
    temporary one if left out.

    Raises:
        AssertionError: the training does not repeat itself, differs when recorded, prints or warns otherwise, leaves
            torch patched, or the recording lacks a series of `needs`.
    """
    first = _traced(training, seed)
    second = _traced(training, seed)
    _compare(first, second, "the training does not repeat itself: seed it, or leave out what differs", warned=False)
    places = patchable_places()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run" if run is None else Path(run)
        # Snapshots are dear beside the steps of a small training: here time must not decide whether they are taken.
        with (
            mock.patch("separatrix.record.budget._CREDIT_SECONDS", 1e6),
            record(run=path, probes=probes, budget=budget),
        ):
            recorded = _traced(training, seed)
        with open_run(path) as opened:
            lengths = {name: len(opened.series(name).steps) for name in opened.names()}
            events = tuple(f"{event.kind}: {event.message}" for event in opened.events)
            status = opened.status
    replaced = replaced_places(places, patchable_places())
    assert not replaced, f"still patched after the recording: {', '.join(replaced[:_MOST_NAMED])}"
    _compare(second, recorded, "the training differs when recorded", warned=True)
    assert status is Status.FINISHED, f"the recording ended as {status}"
    missing = [name for name in needs if not lengths.get(name)]
    assert not missing, f"the recording holds no {', '.join(missing)}; events: {'; '.join(events) or 'none'}"
    return Comparison(len(recorded.steps), lengths, events)


def _traced(training: Training, seed: int) -> Trace:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    steps: list[Fingerprint] = []
    out, err = io.StringIO(), io.StringIO()
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always")
            for shown in training():
                steps.append(fingerprint(shown, "training") | surroundings())
        steps.append(surroundings())
    finally:
        torch.set_warn_always(always)
    said = tuple(f"{w.filename}:{w.lineno}: {w.category.__name__}: {w.message}" for w in caught)
    return Trace(tuple(steps), out.getvalue(), err.getvalue(), said)


def _compare(one: Trace, other: Trace, what: str, *, warned: bool) -> None:
    assert len(one.steps) == len(other.steps), f"{what} (steps: {len(one.steps)} and {len(other.steps)})"
    for step, (a, b) in enumerate(zip(one.steps, other.steps, strict=True), start=1):
        differing = [place for place in {**a, **b} if a.get(place) != b.get(place)]
        assert not differing, f"{what} (step {step}: {', '.join(differing[:_MOST_NAMED])})"
    assert one.printed == other.printed, f"{what} (printed {one.printed!r} and {other.printed!r})"
    assert one.complained == other.complained, f"{what} (standard error {one.complained!r} and {other.complained!r})"
    if warned:
        assert one.warnings == other.warnings, f"{what} (warnings {one.warnings} and {other.warnings})"
