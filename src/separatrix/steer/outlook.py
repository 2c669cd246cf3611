"""What a recorded training comes to under a schedule by name, at its own peak rate and warm-up or others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from separatrix.analysis.forecasting import (
    DEFAULT_LAW,
    Curve,
    Forecast,
    common_series,
    curve_of,
    forecast,
    recorded_rates,
)
from separatrix.runs import Run
from separatrix.runs.errors import UsageError
from separatrix.steer.schedules import Schedule, constant, cosine, linear, one_cycle, square_root, step_decay, wsd

SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "wsd": wsd,
    "sqrt": square_root,
    "step": step_decay,
    "1cycle": lambda steps, warmup: one_cycle(steps, rise=max(warmup, 2) / steps),
}
"""By the name that the command line knows them by: functions of `steps` and `warmup`."""

OWN = "own"
"""The schedule that the run itself followed, as far as it was recorded; it keeps its last rate from its end on."""


def outlook(
    runs: Sequence[Run],
    steps: int,
    schedule: str = OWN,
    *,
    peak: float | None = None,
    warmup: int | None = None,
    until: int | None = None,
    law: str = DEFAULT_LAW,
    level: float = 0.9,
    seed: int = 0,
) -> Forecast:
    """The forecast of a training of `steps` steps under a schedule, from runs of the same model, data and batches.

    Runs are compared by `eval_loss` if all have enough of it, else by `loss`. `peak` and `warmup` are those of the
    first run unless given; `until` leaves out the losses that the runs recorded after that step, but the schedule stays
    the recorded one. `law` is one of `analysis.forecasting.LAWS`.

    Raises:
        UsageError: there is no such schedule, it does not fit into the steps, or a run has too few losses or no rates.
    """
    if not runs:
        raise UsageError("a forecast needs at least one run")
    series = common_series(runs, until)
    curves = [curve_of(run, series=series, last=until) for run in runs]
    whole = dataclasses.replace(curves[0], rates=recorded_rates(runs[0]).values)
    return forecast(curves, planned_rates(whole, steps, schedule, peak, warmup), steps, law=law, level=level, seed=seed)


def planned_rates(
    curve: Curve, steps: int, schedule: str, peak: float | None = None, warmup: int | None = None
) -> np.ndarray:
    """Learning rates (steps,) of a schedule by name, at the curve's own peak and warm-up unless given.

    Raises:
        UsageError: there is no such schedule, or it does not fit into the steps.
    """
    if schedule == OWN:
        if steps < 1:
            raise UsageError(f"a training of {steps} steps trains nothing: give at least 1")
        kept = curve.rates[:steps]
        return np.concatenate([kept, np.full(steps - len(kept), kept[-1])])
    if schedule not in SCHEDULES:
        raise UsageError(f"there is no schedule {schedule!r}: choose from {', '.join((OWN, *SCHEDULES))}")
    made = SCHEDULES[schedule](steps, warmup=curve.warmup if warmup is None else warmup)
    return made.values() * (float(curve.rates.max()) if peak is None else peak)
