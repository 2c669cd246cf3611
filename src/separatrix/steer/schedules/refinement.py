"""A schedule refined by the gradient norms of a training that is done: warm-up and annealing where they belong.

With weights w_t and any start at distance D, rates eta_t = w_t (w_{t+1} + ... + w_T) / (w_1 + ... + w_T) bound the last
iterate of subgradient steps by (D^2 + sum_t w_t^2 ||g_t||^2) / (2 sum_t w_t). Weights c / ||g_t||^2 make that least:
then it is D / sqrt(sum_t ||g_t||^-2). For optimizers that scale every coordinate, as Adam, the l1 norm takes the place
of the squared l2 norm. Equal norms give linear decay.

Source: Defazio et al. 2023, arXiv:2310.07831, sections 2 and 3 and algorithm 1; smoothing as in the authors' published
code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from separatrix.runs import Run
from separatrix.steer.schedules.bound import BaseRate
from separatrix.steer.schedules.errors import ScheduleError
from separatrix.steer.schedules.schedule import Schedule, tabulated

Norm = Literal["l2", "l1"]

_POWERS: dict[str, float] = {"l2": -2.0, "l1": -1.0}
_FEWEST = 8


def refine(
    source: Run | Sequence[float] | NDArray[np.floating],
    *,
    steps: int | None = None,
    smoothing: float = 0.1,
    norm: Norm = "l2",
    series: str = "gradient_norm",
) -> Schedule:
    """The schedule that the gradient norms of a training recommend for the next one like it.

    `source` is a recorded run, of which the scalar series is read, or the norms of all its steps. Norms that a run
    holds of some steps only are interpolated in the logarithm. `norm` says which they are: "l2" for SGD, "l1" for Adam
    and its kin (the recorder's `gradient_norm` is the l2 norm; log the other under a name of its own). A running median
    over a share `smoothing` of all steps takes the noise out. `steps` stretches the schedule to another length.

    Raises:
        ScheduleError: fewer than eight norms, norms that are negative or not finite, a median of 0 (the gradient
            vanished), `smoothing` outside 0 to 1, an unknown norm, or a run with several optimizers.
        UnknownSeriesError: the run lacks the series.
    """
    if norm not in _POWERS:
        raise ScheduleError(f"there is no norm {norm!r} to refine by: choose l2 (SGD) or l1 (Adam)")
    if not 0 <= smoothing <= 1:
        raise ScheduleError(
            f"smoothing={smoothing}: give the share of all steps that the running median covers, 0 to 1"
        )
    norms = _recorded(source, series) if isinstance(source, Run) else np.asarray(source, dtype=np.float64)
    if norms.ndim != 1 or len(norms) < _FEWEST or not np.isfinite(norms).all() or (norms < 0).any():
        raise ScheduleError(
            f"gradient norms of shape {norms.shape}: give at least {_FEWEST} in a row, finite and none negative"
        )
    smooth = smoothed(norms, smoothing)
    if not (smooth > 0).all():
        raise ScheduleError(
            "the gradient norm is 0 for a while: the training had ended there; give the norms before it"
        )
    # Scaled to a largest weight of 1, so that squares of tiny norms do not overflow.
    rates = decreasing_tails((smooth / smooth.min()) ** _POWERS[norm])
    count = len(rates) if steps is None else steps
    if count < 1:
        raise ScheduleError(f"steps={steps}: give the number of steps to come, 1 or more")
    if count != len(rates):
        rates = np.interp(np.linspace(0, len(rates) - 1, count), np.arange(len(rates)), rates)
    return tabulated("refined", rates / rates.max())


def smoothed(norms: Float[np.ndarray, " steps"], share: float) -> Float[np.ndarray, " steps"]:
    """Running median over an odd number of steps, about a share of all; beyond the first step its value is repeated.

    Beyond the last step the norms are mirrored, so that the end, where norms rise or fall fast, is not held back.
    """
    from scipy.ndimage import median_filter

    width = 2 * (int(share * len(norms)) // 2) + 1
    mirrored = np.pad(norms, (0, width), mode="reflect")
    return np.asarray(median_filter(mirrored, size=width, mode="nearest")[: len(norms)], dtype=np.float64)


def decreasing_tails(weights: Float[np.ndarray, " steps"]) -> Float[np.ndarray, " steps"]:
    """Rates w_t times the share of all weight that comes after t; the last is 0."""
    tails = np.append(np.cumsum(weights[::-1])[-2::-1], 0.0)
    return np.asarray(weights * tails / weights.sum(), dtype=np.float64)


def refined_base_rate(norms: Sequence[float] | NDArray[np.floating], distance: float) -> BaseRate:
    """The largest rate of the schedule that these l2 norms (T,) make best unsmoothed, and its bound on the last loss.

    Raises:
        ScheduleError: norms are not positive and finite, or the distance is not positive.
    """
    given = np.asarray(norms, dtype=np.float64)
    if given.ndim != 1 or len(given) < 2 or not (np.isfinite(given).all() and (given > 0).all() and distance > 0):
        raise ScheduleError(
            f"norms of shape {given.shape}, distance {distance}: give a row of positive, finite numbers"
        )
    total = float(np.sum(given**-2))
    weights = distance / total**0.5 * given**-2
    return BaseRate(float(decreasing_tails(weights).max()), distance / total**0.5)


def _recorded(run: Run, name: str) -> NDArray[np.float64]:
    """Norms of all steps of a run, interpolated between those it holds."""
    data = run.series(name)
    if data.coords:
        raise ScheduleError(f"{name} of {run.name} has {', '.join(data.coords)}: pass the norms of one of them")
    keep = np.isfinite(data.values) & (data.values > 0)
    if not keep.any():
        raise ScheduleError(f"{name} of {run.name} holds no positive number: record it (--probes default,gradients)")
    steps = np.asarray(data.steps)[keep]
    every = run.series("loss").steps if "loss" in run else data.steps
    wanted = np.arange(min(every[0], data.steps[0]), max(every[-1], data.steps[-1]) + 1)
    return np.asarray(np.exp(np.interp(wanted, steps, np.log(data.values[keep].astype(np.float64)))))
