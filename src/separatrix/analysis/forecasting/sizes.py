"""How the final loss depends on the size of models that were trained alike: the loss of a large one from small ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from separatrix.analysis.forecasting.fitting import Numbers, robust_fit
from separatrix.analysis.forecasting.scaling import Training
from separatrix.runs.errors import UsageError

_FEWEST = 3
_SAME = 0.01
_EXPONENTS = (0.02, 3.0)


@dataclasses.dataclass(frozen=True)
class SizeLaw:
    """loss = floor + scale N^-exponent for models of N parameters that see equal amounts of data.

    `residuals` are logarithms of measured minus those of fitted losses.
    """

    floor: float
    scale: float
    exponent: float
    residuals: Float64[np.ndarray, " trainings"] = dataclasses.field(repr=False)

    def loss(self, parameters: float) -> float:
        """The loss of a model of that size."""
        return float(self.floor + self.scale * parameters**-self.exponent)


def fit_sizes(trainings: Sequence[Training], near: SizeLaw | None = None) -> SizeLaw:
    """Fit the law to trainings of at least three sizes that saw equal amounts of data, several starts of a size or one.

    Scatter between starts is carried far by a fit to few sizes: small models are cheap, so train several of each. Train
    all at the rate that is best for their size, or at one that the maximal update parametrization carries over; leave
    out models too small to be like the large ones, as transformers of one head.

    Raises:
        UsageError: fewer than three sizes, or different amounts of data.

    Sources: Kaplan et al. 2020, arXiv:2001.08361, for losses that fall like a power of the size; Henighan et al. 2020,
    arXiv:2010.14701, for the floor. Fitted as `fit_scaling`.
    """
    sizes, losses = (np.log([getattr(t, name) for t in trainings]) for name in ("parameters", "loss"))
    data = [training.data for training in trainings]
    if len(set(sizes)) < _FEWEST:
        raise UsageError(
            f"{len(trainings)} trainings of {len(set(sizes))} sizes fit no law of the size: give at least {_FEWEST}"
            " sizes"
        )
    if max(data) > (1 + _SAME) * min(data):
        raise UsageError(
            f"trainings saw from {min(data):g} to {max(data):g} data: give those of one amount, or use fit_scaling"
        )
    centre = float(sizes.mean())
    n = sizes - centre

    def terms(p: Numbers) -> Numbers:
        return np.stack([np.full_like(n, p[0]), p[1] - p[2] * n])

    def residuals(p: Numbers) -> Numbers:
        return np.asarray(np.logaddexp.reduce(terms(p), axis=0) - losses, dtype=np.float64)

    def jacobian(p: Numbers) -> Numbers:
        parts = terms(p)
        weights = np.exp(parts - np.logaddexp.reduce(parts, axis=0))
        return np.stack([weights[0], weights[1], -weights[1] * n], 1)

    top = float(losses.max())
    low, high = np.array([top - 20, top - 20, _EXPONENTS[0]]), np.array([top, top + 1, _EXPONENTS[1]])
    if near is not None:
        at = math.log(near.scale) - near.exponent * centre
        starts = [np.array([math.log(near.floor), at, near.exponent])]
    else:
        shares = np.log([0.1, 0.5, 0.9])
        starts = [np.array([top + f, top + s, a]) for f in shares for s in shares for a in (0.1, 0.3, 0.5, 1.0)]
    found = robust_fit(residuals, jacobian, starts, (low, high))
    floor, scale, exponent = found.parameters
    return SizeLaw(
        floor=math.exp(floor),
        scale=math.exp(scale + exponent * centre),
        exponent=float(exponent),
        residuals=-found.residuals,
    )


def size_interval(
    law: SizeLaw,
    trainings: Sequence[Training],
    parameters: float,
    *,
    level: float = 0.9,
    draws: int = 200,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of the law's loss at a size, from fits to trainings drawn again with replacement within every size.

    It tells how far scatter between starts carries; not whether losses go on to follow the law, nor the scatter of the
    one training that is forecast.

    Raises:
        UsageError: the level is no probability, or a size has a single training, so that no scatter is seen.
    """
    if not 0.0 < level < 1.0:
        raise UsageError(f"level {level} is no probability: give a number between 0 and 1")
    groups: dict[float, list[Training]] = {}
    for training in trainings:
        groups.setdefault(training.parameters, []).append(training)
    single = [size for size, group in groups.items() if len(group) < 2]
    if single:
        raise UsageError(f"one training of {single[0]:g} parameters shows no scatter: give two starts of every size")
    random = np.random.default_rng(seed)
    found = [
        fit_sizes([group[i] for group in groups.values() for i in random.integers(len(group), size=len(group))], law)
        for _ in range(draws)
    ]
    low, high = np.quantile([each.loss(parameters) for each in found], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
