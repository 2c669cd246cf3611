"""Detours: latent states that only some runs visit and that go with late convergence.

Source: Hu, Chen, Saphra and Cho 2023, arXiv:2308.09543, section 3.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from separatrix.analysis.phases.latent import LatentStates
from separatrix.runs.errors import UsageError

_FEWEST_RUNS = 6
_TELLING = 2


@dataclasses.dataclass(frozen=True)
class Detour:
    """A state that some runs visit: in how many, and by how many steps convergence is later there.

    `delay` is the coefficient of the visit in the regression of convergence time on the visits of all optional states;
    `mean_delay` the plain difference of mean times between the runs that visit it and those that do not.
    """

    state: int
    runs: int
    delay: float
    mean_delay: float


@dataclasses.dataclass(frozen=True)
class Detours:
    """Regression of convergence time on visits of the states that some runs visit and others do not.

    `states` are those with a positive delay, longest first; `optional` all that enter: a state is left out where fewer
    than two runs visit it, miss it, or tell it from another one. `r2` is the share of the variance of times that the
    regression explains, and `p_value` how often shuffled times are explained as well.
    """

    states: tuple[Detour, ...]
    optional: tuple[int, ...]
    r2: float
    p_value: float


def state_shares(states: LatentStates) -> Float[np.ndarray, " runs states"]:
    """Share of its steps that each run spends in each state."""
    return np.stack([np.bincount(path, minlength=states.count) / len(path) for path in states.paths])


def bigram_shares(states: LatentStates) -> Float[np.ndarray, " runs pairs"]:
    """Share of each pair of successive states among those of a run, pairs in row order (states^2 columns)."""
    count = states.count
    pairs = [np.bincount(path[:-1] * count + path[1:], minlength=count * count) for path in states.paths]
    return np.stack([found / max(1, found.sum()) for found in pairs])


def detours(states: LatentStates, times: Float[np.ndarray, " runs"], *, shuffles: int = 500, seed: int = 0) -> Detours:
    """Which optional states go with late convergence.

    Args:
        states: fitted over the runs, best with each path cut at convergence: what follows says nothing about its time.
        times: when each run converged, in steps.
        shuffles: of the times among the runs, for the p-value.
        seed: of the shuffles.

    Raises:
        UsageError: there are fewer than six runs, or not one finite time for each.
    """
    times = np.asarray(times, dtype=np.float64)
    if len(times) != len(states.paths) or len(times) < _FEWEST_RUNS or not np.isfinite(times).all():
        raise UsageError(
            f"{len(times)} times for {len(states.paths)} runs: give one finite time for each of six or more runs"
        )
    visits = state_shares(states) > 0
    optional = [s for s in range(states.count) if _TELLING <= visits[:, s].sum() <= len(times) - _TELLING]
    optional = _distinct(visits, optional, times)
    if not optional:
        return Detours((), (), 0.0, 1.0)
    features = visits[:, optional].astype(np.float64)
    coefficients, explained = _regression(features, times)
    generator = np.random.default_rng(seed)
    chance = [_regression(features, generator.permutation(times))[1] for _ in range(shuffles)]
    found = [
        Detour(state, int(visits[:, state].sum()), float(delay), _difference(times, visits[:, state]))
        for state, delay in zip(optional, coefficients, strict=True)
        if delay > 0
    ]
    return Detours(
        states=tuple(sorted(found, key=lambda each: -each.delay)),
        optional=tuple(optional),
        r2=explained,
        p_value=(1 + sum(value >= explained for value in chance)) / (1 + shuffles),
    )


def explained_held_out(features: Float[np.ndarray, " runs features"], times: Float[np.ndarray, " runs"]) -> float:
    """R^2 of predictions for each run by ridge regression over the other runs; negative where the mean does better."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import LeaveOneOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    times = np.asarray(times, dtype=np.float64)
    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 3, 9)))
    predicted = cross_val_predict(model, np.asarray(features), times, cv=LeaveOneOut())
    total = float(((times - times.mean()) ** 2).sum())
    return 1.0 - float(((times - predicted) ** 2).sum()) / total if total > 0 else math.nan


def _distinct(visits: NDArray[np.bool_], optional: list[int], times: NDArray[np.float64]) -> list[int]:
    """Of states that the same runs visit, or the others, but for one run at most, one that goes with late times.

    A single run cannot tell such states apart: its own time would decide.
    """
    kept: list[int] = []
    for state in sorted(optional, key=lambda s: (-_difference(times, visits[:, s]), s)):
        differing = [int((visits[:, state] != visits[:, other]).sum()) for other in kept]
        if all(_TELLING <= number <= len(times) - _TELLING for number in differing):
            kept.append(state)
    return sorted(kept)


def _regression(features: NDArray[np.float64], times: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Coefficients of least squares with an intercept, and R^2."""
    centred, target = features - features.mean(axis=0), times - times.mean()
    coefficients, *_ = np.linalg.lstsq(centred, target, rcond=None)
    total = float(target @ target)
    residual = target - centred @ coefficients
    return coefficients, 1.0 - float(residual @ residual) / total if total > 0 else 0.0


def _difference(times: NDArray[np.float64], visited: NDArray[np.bool_]) -> float:
    return float(times[visited].mean() - times[~visited].mean())
