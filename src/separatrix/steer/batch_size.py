"""Batch size from the gradient's noise scale: how many steps and examples a batch size costs, and what to use.

To reach a loss with batches of B examples takes S steps and E = B S examples with (S / S_min - 1) (E / E_min - 1) = 1.
The tradeoff is set by one number, the critical batch size B* = E_min / S_min, which the noise scale of the gradient
estimates: S / S_min = 1 + B* / B and E / E_min = 1 + B / B*. At B = B* both cost twice their least. The best rate of
SGD is its largest one over 1 + B* / B: it grows with B while B is small and no more beyond B*; that of Adam grows about
like the root of it.

The noise scale grows as training goes on, by an order of magnitude and more, and depends on the learning rate; it is a
scale, right within a factor of a few, and not a number to be met.

Sources: McCandlish et al. 2018, arXiv:1812.06162, sections 2.2 and 2.3; for Adam Malladi et al.
2022, arXiv:2205.10287.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from separatrix.runs import Run
from separatrix.steer.schedules.errors import ScheduleError

_LATE = 0.5
Kind = Literal["sgd", "adam"]


@dataclasses.dataclass(frozen=True)
class BatchCost:
    """What batches of one size cost, over the least that many small or few large batches would.

    `steps` is S / S_min and `examples` E / E_min for the same loss.
    """

    batch_size: float
    steps: float
    examples: float


@dataclasses.dataclass(frozen=True)
class BatchAdvice:
    """What a run's noise scale says of its batch size.

    `noise_scale` is the median over the later half of the run, in examples, `low` and `high` the medians of its 90 %
    bounds where recorded (0 and infinity else). `now` is the cost of the run's batches, `suggested` that of the power
    of two nearest to the noise scale; `rate_factor` is what to multiply the learning rate by when changing to it.
    """

    noise_scale: float
    low: float
    high: float
    now: BatchCost
    suggested: BatchCost
    rate_factor: float


def batch_cost(batch_size: float, critical: float) -> BatchCost:
    """Cost of batches of a size where the critical one is known.

    Raises:
        ScheduleError: a size is not positive and finite.
    """
    if not (0 < batch_size < math.inf and 0 < critical < math.inf):
        raise ScheduleError(f"batches of {batch_size} with a critical size of {critical}: give positive numbers")
    return BatchCost(batch_size, 1 + critical / batch_size, 1 + batch_size / critical)


def rate_factor(before: float, after: float, critical: float, kind: Kind = "sgd") -> float:
    """What the best learning rate is multiplied by when batches go from one size to another.

    Raises:
        ScheduleError: a size is not positive and finite, or the kind of optimizer unknown.
    """
    if kind not in ("sgd", "adam"):
        raise ScheduleError(f"there is no rule for {kind!r}: choose sgd or adam")
    ratio = batch_cost(before, critical).steps / batch_cost(after, critical).steps
    return ratio if kind == "sgd" else math.sqrt(ratio)


def advise_batch_size(run: Run, *, kind: Kind | None = None) -> BatchAdvice | None:
    """Batch size and learning rate that the recorded noise scale recommends; None where a run lacks it.

    `kind` is that of the optimizer: by default "adam" where the run records `beta2`, else "sgd".

    Raises:
        ScheduleError: the kind of optimizer is unknown.
    """
    if "gradient_noise_scale" not in run:
        return None
    steps = run.series("gradient_noise_scale").steps
    since = steps[0] + _LATE * (steps[-1] - steps[0])
    scale, batch = _median(run, "gradient_noise_scale", since), _median(run, "batch_size", since)
    if scale is None or batch is None or not scale > 0:
        return None
    kind = kind or ("adam" if "beta2" in run else "sgd")
    low, high = (_median(run, f"gradient_noise_scale_{end}", since, finite=False) for end in ("low", "high"))
    suggested = float(2 ** max(0, round(math.log2(scale))))
    return BatchAdvice(
        noise_scale=scale,
        low=0.0 if low is None else low,
        high=math.inf if high is None else high,
        now=batch_cost(batch, scale),
        suggested=batch_cost(suggested, scale),
        rate_factor=rate_factor(batch, suggested, scale, kind),
    )


def _median(run: Run, name: str, since: float, *, finite: bool = True) -> float | None:
    """Median of a series from a step on, of its last value where it has none later; None without a number."""
    if name not in run:
        return None
    data = run.series(name)
    values = np.asarray(data.values, dtype=np.float64).reshape(len(data.steps), -1)
    numbers = values[data.steps >= min(since, data.steps[-1])].ravel()
    numbers = numbers[np.isfinite(numbers)] if finite else numbers[~np.isnan(numbers)]
    return float(np.median(numbers)) if numbers.size else None
