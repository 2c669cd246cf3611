"""Statistics of gradients that scatter around their mean, from what can be summed one gradient at a time."""

from __future__ import annotations

import dataclasses
import math

import torch

_LEVEL = 1.6448536269514722
"""Quantile of the normal distribution for an interval of 90 %."""

_FEWEST_SAMPLES = 100


@dataclasses.dataclass(frozen=True)
class NoiseScale:
    """What k gradients of batches of b examples tell of one example's: all but `scale` and bounds without bias.

    `variance` is the trace of the covariance of one example's gradient, `signal` the squared length of the mean
    gradient (which may come out negative), `scale` their ratio, in examples, NaN where the signal is not positive.
    `low` and `high` bound the ratio of what the two estimate, with 90 % confidence; `high` is infinite where the signal
    cannot be told from 0.
    """

    variance: float
    signal: float
    scale: float
    low: float
    high: float


def noise_scale(squares: torch.Tensor, products: torch.Tensor, examples: int) -> NoiseScale:
    """Noise scale from k gradients g of batches of `examples` independent examples each.

    `squares` (k,) holds g'Ag and `products` (k,) g'As, s the sum of all k: A = 1 gives the simple noise scale, A the
    Hessian that which weights every direction by its curvature. The bounds are those of a ratio of two means (Fieller)
    with the covariance of the jackknife. NaN everywhere with fewer than three gradients.

    Source: McCandlish et al. 2018, arXiv:1812.06162, section 2.2 and appendix A.1; Efron, Stein 1981.
    """
    count = len(squares)
    if count < 3:
        return NoiseScale(*[math.nan] * 5)
    squares, products = squares.double(), products.double()
    diagonal, total = squares.sum(), products.sum()
    variance, signal = _unbiased(diagonal, total, count, examples)
    without = _unbiased(diagonal - squares, total - 2.0 * products + squares, count - 1, examples)
    spread = torch.stack(without)
    spread = spread - spread.mean(1, keepdim=True)
    covariance = (count - 1) / count * (spread @ spread.T)
    low, high = _ratio_bounds(float(variance), float(signal), covariance.tolist(), count - 1)
    scale = float(variance / signal) if signal > 0 else math.nan
    return NoiseScale(float(variance), float(signal), scale, low, high)


def _unbiased(
    diagonal: torch.Tensor, total: torch.Tensor, count: int, examples: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """One example's variance and the squared mean, from the sum of squares and the square of the sum."""
    variance = examples * (diagonal - total / count) / (count - 1)
    signal = (total - diagonal) / (count * (count - 1))
    return variance, signal


def _ratio_bounds(top: float, bottom: float, covariance: list[list[float]], freedom: int) -> tuple[float, float]:
    """All ratios r >= 0 for which top - r bottom is within its error of 0."""
    quantile = _LEVEL + (_LEVEL**3 + _LEVEL) / (4 * freedom)
    (v, c), (_, w) = [[quantile**2 * entry for entry in row] for row in covariance]
    a, b, d = bottom**2 - w, bottom * top - c, top**2 - v
    inside = b * b - a * d
    if not math.isfinite(inside):
        return math.nan, math.nan
    if a > 0 and bottom > 0:
        root = math.sqrt(max(inside, 0.0))
        return max((b - root) / a, 0.0), max((b + root) / a, 0.0)
    if inside <= 0 or a == 0:
        return 0.0, math.inf
    roots = sorted(((b - math.sqrt(inside)) / a, (b + math.sqrt(inside)) / a))
    return max(roots[1], 0.0) if d > 0 else 0.0, math.inf


def tail_index(samples: torch.Tensor) -> float:
    """Index in (0, 2] of the symmetric stable law that samples, taken as independent and alike, come from: 2 is normal.

    With sums Y of blocks of m samples X, 1 / index = (mean log|Y| - mean log|X|) / log m; m is the root of the number
    of samples. Zeros are left out. NaN with fewer than 100 others, or any that is not finite. Values above 2, which
    the estimate takes by chance or for samples with lighter tails than their dependence allows, are given as 2. The
    standard error of 1 / index is pi sqrt((1 / index^2 + 1 / 2) / 6) / (sqrt(m) log m) for stable samples, nearly.

    Assumption: gradients' entries are neither independent nor alike; a mixture of normal entries of different size also
    gives an index below 2. Compare values along a run, or between runs of one model.

    Source: Mohammadi, Mohammadpour, Ogata 2015, corollary 2.4, as used by Simsekli et al. 2019, arXiv:1901.06053.
    """
    samples = samples.double().flatten()
    samples = samples[samples != 0.0]
    if len(samples) < _FEWEST_SAMPLES or not bool(torch.isfinite(samples).all()):
        return math.nan
    block = math.isqrt(len(samples))
    samples = samples[: block * block]
    sums = samples.reshape(block, block).sum(1)
    inverse = float((sums.abs().log().mean() - samples.abs().log().mean()) / math.log(block))
    return 1.0 / max(inverse, 0.5)
