"""A theory beside a run: the residual over time, and how long the theory holds."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from separatrix.runs import Run, RunWriter, SeriesData, Status, UsageError
from separatrix.runs.settings import Settings
from separatrix.theory.theory import Floats, Prediction, Theory

META_KEY = "theory"
"""The key of a run's facts that names the theory, its settings and the seed of the problem."""


@dataclasses.dataclass(frozen=True)
class Residual:
    """Measured less predicted, for one series at the steps of the run.

    `values` has shape (steps, ...), labels as in the run, NaN where nothing was measured. `share` is the largest
    residual of each step over the span of the prediction (its largest value less its smallest): infinite where a value
    is not finite, NaN where nothing was measured. `holds_until` is the last step up to which that stays within the
    theory's band; None if it never does, or the theory has no band for it.
    """

    series: str
    steps: NDArray[np.int64]
    measured: Floats
    predicted: Floats
    values: Floats
    share: Floats
    holds_until: int | None


def compare(
    run: Run, theory: Theory, settings: Settings | None = None, *, problem: Any = None, seed: int = 0
) -> dict[str, Residual]:
    """The residual of each series that the run and the theory share, at the steps of the run.

    A theory counts updates of the parameters. Recordings write what belongs to a step, its loss first, as it was before
    the update of that step, and evaluations as they were after it; the comparison allows for that.

    What the theory is about comes from `problem`; else it is drawn at `settings` and `seed`; else both are read from
    the run, which holds them if it was written by `write`.

    Raises:
        UsageError: none of the three says what the problem is, or no series is shared.
        SettingError: a setting is unknown or outside its range.
    """
    if problem is None:
        settings, seed = _noted(run, theory) if settings is None else (settings, seed)
        problem = theory.problem(theory.complete(settings), seed)
    shared = [spec.name for spec in theory.series if spec.name in run]
    if not shared:
        names = ", ".join(spec.name for spec in theory.series)
        raise UsageError(f"{run.path} holds none of the series that theory {theory.name} predicts: {names}")
    found = {name: run.series(name) for name in shared}
    return {name: _residual(theory, series, _updates(run, series), problem) for name, series in found.items()}


def _noted(run: Run, theory: Theory) -> tuple[Settings, int]:
    noted = run.meta.get(META_KEY)
    if not isinstance(noted, dict) or noted.get("name") != theory.name:
        raise UsageError(
            f"{run.path} does not say at which settings theory {theory.name} applies: give settings or a problem"
        )
    return dict(noted.get("settings", {})), int(noted.get("seed", 0))


def _updates(run: Run, measured: SeriesData) -> list[int]:
    """How many updates had been made when each value was measured."""
    recorded = "parameters" in run.meta and not measured.name.startswith("eval_")
    before = recorded or ("ensemble" in run.meta and measured.name == "loss")
    return [max(int(step) - before, 0) for step in measured.steps]


def _residual(theory: Theory, measured: SeriesData, updates: Sequence[int], problem: Any) -> Residual:
    predicted = theory.predicted(problem, updates)[measured.name]
    values = np.asarray(measured.values, dtype=np.float64)
    if values.shape != predicted.shape:
        raise UsageError(
            f"{measured.name} of the run has shape {values.shape[1:]} at a step, that of the theory"
            f" {predicted.shape[1:]}: compare a run of the problem that the theory was given"
        )
    with np.errstate(invalid="ignore"):
        residual = np.where(measured.measured, values - predicted, np.nan)
    share = shares(residual, predicted, measured.measured)
    bands = {band.series: band.share for band in theory.bands}
    return Residual(
        measured.name,
        np.asarray(measured.steps, dtype=np.int64),
        values,
        predicted,
        residual,
        share,
        _held(measured.steps, share, bands.get(measured.name)),
    )


def shares(residual: Floats, predicted: Floats, measured: NDArray[np.bool_] | None = None) -> Floats:
    """Largest size of the residual at each step, over the span of the finite values predicted; (steps,).

    Infinite where something that was measured, or is predicted there, is not finite; NaN where nothing was measured.
    """
    finite = predicted[np.isfinite(predicted)]
    span = max(float(np.ptp(finite)) if finite.size else 0.0, np.finfo(np.float64).tiny)
    sizes = np.where(np.isfinite(residual), np.abs(residual), np.inf)
    looked = np.ones(residual.shape, dtype=bool) if measured is None else np.broadcast_to(measured, residual.shape)
    rows = len(residual), -1
    largest = np.where(looked, sizes, -np.inf).reshape(rows).max(axis=1) / span
    return np.where(looked.reshape(rows).any(axis=1), largest, np.nan)


def _held(steps: NDArray[Any], share: Floats, band: float | None) -> int | None:
    if band is None or not len(share):
        return None
    beyond = np.flatnonzero(share > band)
    last = len(share) - 1 if not beyond.size else int(beyond[0]) - 1
    return int(steps[last]) if last >= 0 else None


def write(
    prediction: Prediction,
    path: str | os.PathLike[str],
    theory: Theory,
    settings: Settings,
    *,
    seed: int = 0,
    simulated: bool = False,
) -> Path:
    """Write a prediction (or a simulation) as a run, so that `separatrix compare` and the report can show it.

    Raises:
        RunExistsError: the path holds something.
    """
    writer = RunWriter(path)
    try:
        facts: Mapping[str, Any] = {"name": theory.name, "settings": dict(settings), "seed": seed}
        writer.meta(META_KEY, facts)
        writer.meta("config", {"theory": theory.name, "simulated": simulated, "seed": seed, **settings})
        for spec in theory.series:
            series = writer.series(dataclasses.replace(spec, dtype="float64"))
            data = prediction.series[spec.name]
            for dim, labels in data.coords.items():
                writer.positions(dim, labels)
            for step, value in zip(data.steps.tolist(), data.values, strict=True):
                if data.coords:
                    writer.vector(series, step, np.ascontiguousarray(value))
                else:
                    writer.scalar(series, step, float(value))
    except BaseException as error:
        writer.close(Status.CRASHED, repr(error))
        raise
    writer.close()
    return Path(path)
