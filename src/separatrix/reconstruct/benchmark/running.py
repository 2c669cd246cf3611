"""Trials in parallel, each kept as it ends, so that a benchmark that was interrupted goes on where it was."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from separatrix.reconstruct.benchmark.trial import Outcome, Trial, run_trial
from separatrix.runs.errors import UsageError


def run_trials(
    trials: Sequence[Trial],
    kept: Path | None = None,
    *,
    workers: int = 1,
    said: Callable[[Trial, Outcome], object] = lambda trial, outcome: None,
) -> list[Outcome]:
    """Outcomes of all trials, in their order; those that the file `kept` holds already are not run again.

    The file has one line of JSON a trial. `said` is called as each new one ends. With several workers, each is a
    process of its own with one thread.

    Raises:
        UsageError: the file holds something else.
    """
    known = _read(kept) if kept is not None and kept.exists() else {}
    found = {trial.key: known[trial.key] for trial in trials if trial.key in known}
    missing = [trial for trial in trials if trial.key not in known]
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)

    def note(trial: Trial, outcome: Outcome) -> None:
        found[trial.key] = outcome
        if kept is not None:
            with kept.open("a") as file:
                file.write(json.dumps({"trial": trial.key, **_plain(outcome)}) + "\n")
        said(trial, outcome)

    if workers == 1:
        for trial in missing:
            note(trial, run_trial(trial))
    elif missing:
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"
        try:
            context = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
                running = {pool.submit(run_trial, trial): trial for trial in missing}
                for future in concurrent.futures.as_completed(running):
                    note(running[future], future.result())
        finally:
            if before is None:
                del os.environ["OMP_NUM_THREADS"]
            else:
                os.environ["OMP_NUM_THREADS"] = before
    return [found[trial.key] for trial in trials]


def _plain(outcome: Outcome) -> dict[str, Any]:
    """Numbers that are not finite as None: strict JSON has none."""
    values = dataclasses.asdict(outcome)
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}


def _read(path: Path) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            values: dict[str, Any] = json.loads(line)
            key = values.pop("trial")
            found[key] = Outcome(**{name: math.inf if v is None else v for name, v in values.items()})  # type: ignore[arg-type]
        except (ValueError, KeyError, TypeError, AttributeError):
            if number == len(lines) > 1:
                # An interruption cut it off: what follows must not be appended to it.
                path.write_text("".join(f"{kept}\n" for kept in lines[:-1]))
                break
            raise UsageError(f"{path} holds no trials (line {number}): name another folder") from None
    return found
