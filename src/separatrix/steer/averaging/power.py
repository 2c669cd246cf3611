"""Averages of weights whose length grows with the training, and how to combine them into one of another length.

The profile of an average with exponent g at time t weights what the parameters were at time s by
(g + 1) s^g / t^(g + 1): a power of time instead of an exponential, so that the start is forgotten whatever the length.
Its standard deviation, as a share of t, is (g + 1)^(1/2) / ((g + 2) (g + 3)^(1/2)), that of the Beta(g + 1, 1)
distribution; it names the average better than the exponent does. Since averages are linear in the weights, those of a
few exponents stored a few times during the training give, by least squares over profiles, one of any other width.

Source: Karras et al. 2024, Analyzing and Improving the Training Dynamics of Diffusion Models, arXiv:2312.02696,
section 3 and appendix C (equation 127, algorithm 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.steer.averaging.errors import AveragingError

LONGEST = 1 / math.sqrt(12)
"""The width of the plain mean over all steps, which no width reaches: that of exponent 0."""

Tensors = tuple[Tensor, ...] | list[Tensor]
Average = Callable[[Tensors, Tensors, Tensor | int], None]


def relative_width(exponent: float) -> float:
    """Standard deviation of the profile of an exponent, as a share of the training so far.

    Raises:
        AveragingError: the exponent is not finite and above -1, below which the profile has no integral.
    """
    if not -1.0 < exponent < math.inf:
        raise AveragingError(f"exponent {exponent} gives no average: choose a finite one above -1")
    return math.sqrt((exponent + 1) / (exponent + 3)) / (exponent + 2)


def exponent(width: float) -> float:
    """The exponent whose profile has the relative width `width`; the inverse of `relative_width`.

    Widths at or above `LONGEST` belong to exponents of 0 or less, which weight the start most: they are refused.

    Raises:
        AveragingError: the width is not above 0 and below `LONGEST`.
    """
    if not 0.0 < width < LONGEST:
        raise AveragingError(f"width {width} is no width of an average: choose one above 0 and below {LONGEST:.4f}")
    # (g + 2)^2 (g + 3) width^2 = g + 1, one root of which is positive.
    ratio = width**-2
    roots = np.roots([1.0, 7.0, 16.0 - ratio, 12.0 - ratio])
    return float(roots.real[np.abs(roots.imag) < 1e-6 * np.abs(roots)].max())


def decay(exponent: float, step: int) -> float:
    """What an average keeps of itself at `step`, counted from 1: (1 - 1/step)^(exponent + 1); nothing at the first.

    With it the weight of step s after t steps is (s/t)^(exponent + 1) - ((s - 1)/t)^(exponent + 1), the profile's
    integral over that step.

    Raises:
        AveragingError: the step is below 1.
    """
    if step < 1:
        raise AveragingError(f"step {step} comes before the first: steps are counted from 1")
    return float((1.0 - 1.0 / step) ** (exponent + 1.0))


def profile(exponent: float, steps: int) -> Float[np.ndarray, " steps"]:
    """The weights of steps 1, ..., `steps` in an average after the last of them; they add up to 1."""
    edges = (np.arange(steps + 1) / steps) ** (exponent + 1.0)
    return np.diff(edges)


def narrow(dtype: torch.dtype) -> bool:
    """Whether a floating-point type has fewer bits than float32, too few for an average."""
    return dtype.is_floating_point and torch.finfo(dtype).bits < 32


def power_average(width: float) -> Average:
    """An averaging function for `torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=...)` of a relative width.

    It averages in the types of the averaged model. What a step adds is soon less than the spacing of numbers of fewer
    bits than float32, so that an average in bfloat16 would stand still: it is refused.

    Raises:
        AveragingError: see `exponent`; when averaging, the averaged model is in bfloat16 or another narrow type.
    """
    power = exponent(width)

    @torch.no_grad()
    def average(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        # torch copies the first time, and from then on gives the number of models that were averaged so far.
        share = 1.0 - decay(power, int(count) + 1)
        for mean, value in zip(averaged, current, strict=True):
            if narrow(mean.dtype):
                raise AveragingError(
                    f"an average in {mean.dtype} would stand still: use AverageSnapshots, which keeps float32"
                )
            if torch.is_floating_point(mean) or torch.is_complex(mean):
                mean.lerp_(value.detach().to(mean.device, mean.dtype), share)
            else:
                mean.copy_(value)

    return average


def coefficients(
    steps: Sequence[float], widths: Sequence[float], step: float, width: float
) -> Float[np.ndarray, " snapshots"]:
    """What to multiply stored averages with, so that their sum is nearest to one of `width` at `step`.

    Args:
        steps: after how many steps each was stored, none later than `step`.
        widths: relative width of each.
        step: when the wanted average ends.
        width: its relative width.

    Returns:
        One number for each stored average, adding up to 1, that minimise the squared distance between profiles,
        integrated over time.

    Raises:
        AveragingError: nothing is stored, lengths differ, a step is not positive or lies after `step`, an average is
            given twice, or a width is out of range.
    """
    if not len(steps) or len(steps) != len(widths):
        raise AveragingError(
            f"{len(steps)} steps and {len(widths)} widths of stored averages: give one of each, or more"
        )
    if not 0 < min(steps) <= max(steps) <= step:
        raise AveragingError(f"averages of steps {min(steps):g} to {max(steps):g} cannot give one of step {step:g}")
    if len(set(zip(steps, widths, strict=True))) < len(steps):
        raise AveragingError("an average of one step and width is given twice: give each once")
    times, powers = np.asarray(steps, dtype=np.float64), np.array([exponent(each) for each in widths])
    between = _overlap(times[:, None], powers[:, None], times[None], powers[None])
    wanted = _overlap(times, powers, np.array(step, dtype=np.float64), np.array(exponent(width)))
    solution: np.ndarray = np.linalg.lstsq(between, wanted, rcond=None)[0]
    return np.asarray(solution / solution.sum())


def _overlap(first: np.ndarray, power: np.ndarray, second: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Integral over time of the product of two profiles, given by their ends and exponents."""
    early, late = np.minimum(first, second), np.maximum(first, second)
    of_the_late = np.where(first < second, other, power)
    product = (power + 1) * (other + 1) / (power + other + 1) * (early / late) ** of_the_late / late
    return np.asarray(product)
