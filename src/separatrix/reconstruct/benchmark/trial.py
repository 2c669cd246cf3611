"""One trial: a model learns a trajectory of a system and forecasts another one from many starts."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from separatrix.reconstruct import find_reconstructor, trajectories
from separatrix.reconstruct.scores import power_spectrum_distance, smape, state_space_divergence, valid_times
from separatrix.runs.errors import SeparatrixError
from separatrix.systems import find_system, interval_of, simulate

LYAPUNOV_TIMES = 12.0
"""How far ahead forecasts go."""

_MOST_STEPS = 2000
_PERIODS_LEFT_OUT = 20.0
_CONTEXT = 100
_SHORT = 1.0  # Lyapunov times over which percentage errors are taken


@dataclasses.dataclass(frozen=True)
class Trial:
    """A model (with settings) that learns `points` points of a system, sampled at equal intervals.

    Flows have `points_per_period` points in a dominant period. `noise` is added to what is learnt, in standard
    deviations of each variable; forecasts start from noisy histories of another trajectory, and are compared with it
    free of noise.
    """

    system: str
    model: str
    seed: int = 0
    points: int = 2000
    points_per_period: float = 100.0
    noise: float = 0.0
    starts: int = 20
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> str:
        """Names the trial among others of one benchmark."""
        chosen = "".join(f",{name}={value}" for name, value in sorted(self.settings.items()))
        return (
            f"{self.system}/{self.model}{chosen}/{self.seed}/{self.points}/{self.points_per_period:g}/{self.noise:g}"
            f"/{self.starts}"
        )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a trial gave.

    `valid_time` is the median over starts of the time until the error exceeds 0.4 spreads, in Lyapunov times, `low` and
    `high` its quartiles; `smape` over the first Lyapunov time, 0 to 200; `divergence` of the states visited in a long
    free run, in nats, and `spectrum_distance` of its power spectrum, 0 to 1. `failure` says why there is none of these:
    then valid times are 0, smape 200, divergence infinite and the distance 1.
    """

    valid_time: float = 0.0
    low: float = 0.0
    high: float = 0.0
    smape: float = 200.0
    divergence: float = math.inf
    spectrum_distance: float = 1.0
    seconds: float = 0.0
    failure: str = ""


def run_trial(trial: Trial) -> Outcome:
    """Learn and forecast; what a model cannot do is its failure, what is asked wrongly an error.

    Raises:
        UnknownMemberError: there is no such system or model.
        SettingError: the model has no such setting, or not in that range.
        DescriptionError: nothing is known of the system's period or exponents.
    """
    system, member = find_system(trial.system), find_reconstructor(trial.model)
    settings = member.complete(trial.settings)
    exponent = system.largest_exponent
    dt = interval_of(system, None, trial.points_per_period)
    steps = min(_MOST_STEPS, max(10, math.ceil(LYAPUNOV_TIMES / (exponent * dt))))
    learnt, tested = (
        _observed(system.name, count, trial.points_per_period, 2 * trial.seed + half)
        for half, count in ((0, trial.points), (1, _CONTEXT + max(trial.points, 2 * steps)))
    )
    spread = learnt.std(axis=0)
    draw = np.random.default_rng(trial.seed)
    noisy, histories = (part + trial.noise * spread * draw.standard_normal(part.shape) for part in (learnt, tested))
    begin = time.perf_counter()
    try:
        model = member.fit(trajectories(noisy, dt), settings, seed=trial.seed)
        starts = np.linspace(_CONTEXT, len(tested) - steps, trial.starts).astype(int)
        past = max(_CONTEXT, model.history)
        if past > starts[0]:
            return Outcome(failure=f"needs {past} points of history")
        forecast = model.forecast(np.stack([histories[at - past : at] for at in starts]), steps)
        seconds = time.perf_counter() - begin
        run = model.forecast(histories[:past], len(tested) - past)
    except SeparatrixError as error:
        return Outcome(seconds=time.perf_counter() - begin, failure=str(error))
    truth = np.stack([tested[at : at + steps] for at in starts])
    times = valid_times(forecast, truth, dt, exponent, spread)
    short = max(1, min(steps, round(_SHORT / (exponent * dt))))
    low, middle, high = (float(np.quantile(times, share)) for share in (0.25, 0.5, 0.75))
    return Outcome(
        valid_time=middle,
        low=low,
        high=high,
        smape=smape(forecast[:, :short], truth[:, :short]),
        divergence=state_space_divergence(run, tested[past:], bins=_bins(learnt)),
        spectrum_distance=power_spectrum_distance(run, tested[past:]),
        seconds=seconds,
    )


@functools.lru_cache(maxsize=4)  # trials of several models on one system follow each other
def _observed(name: str, points: int, points_per_period: float, seed: int) -> Float[np.ndarray, "point variable"]:
    system = find_system(name)
    transient = _PERIODS_LEFT_OUT * (system.period if system.kind != "map" else 100.0)
    path = simulate(system, points, points_per_period=points_per_period, copies=1, transient=transient, seed=seed)
    found: np.ndarray = path.observed[0]
    found.setflags(write=False)
    return found


def _bins(points: np.ndarray) -> int:
    """Intervals a variable, such that cells hold several points."""
    return int(np.clip(round(len(points) ** (1 / (points.shape[1] + 1))), 3, 30))
