"""Kernels of fully connected networks of infinite width: the NNGP covariance and the neural tangent kernel."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from separatrix.operators.errors import OperatorUsageError

if TYPE_CHECKING:
    from jaxtyping import Float

Dual = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Variances p, q and covariance r of (u, v) -> E[phi(u) phi(v)] and E[phi'(u) phi'(v)]."""


@dataclasses.dataclass(frozen=True)
class InfiniteWidthKernels:
    """Prior covariance `nngp` and tangent kernel `ntk` of one output at infinite width, both (n, m)."""

    nngp: Float[Tensor, "n m"]
    ntk: Float[Tensor, "n m"]


def infinite_width_kernels(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "m d"] | None = None,
    *,
    nonlinearity: str = "relu",
    hidden_layers: int = 1,
    weight_variance: float = 1.0,
    bias_variance: float = 0.0,
) -> InfiniteWidthKernels:
    """NNGP and NTK of a fully connected network between inputs x and y (default: x), in float64.

    The network, in NTK parametrization with standard normal parameters: h_1 = s_w W_1 x / sqrt(d) + s_b b_1,
    h_{l+1} = s_w W_{l+1} phi(h_l) / sqrt(width) + s_b b_{l+1}, `hidden_layers` nonlinearities, linear output;
    s_w^2 and s_b^2 are the variances given. The kernels are those of one output; outputs are independent. Tangent
    kernels
    of weights that carry the factors themselves (torch's default) differ by layer-wise learning rates.

    `nonlinearity`: "erf", "relu", "gelu" (x Phi(x), not its tanh approximation) or "sin", all in closed form. Costs
    O(n m (d + hidden_layers)). The angle of nearly parallel inputs is known to 1e-8 only, and with it the ReLU's
    tangent kernel.

    Raises:
        OperatorUsageError: an unknown nonlinearity, no hidden layer, a negative variance, or inputs that are not finite
            matrices of equal width.

    Source: Jacot et al. 2018, arXiv:1806.07572; Lee et al. 2019, arXiv:1902.06720, appendix E.
    """
    other = x if y is None else y
    _check(x, other, nonlinearity, hidden_layers, weight_variance, bias_variance)
    x, other = x.detach().double(), other.detach().double()
    dual = DUALS[nonlinearity]

    def affine(second_moment: Tensor) -> Tensor:
        return weight_variance * second_moment + bias_variance

    width = x.shape[1]
    p, q = affine(x.square().sum(1, keepdim=True) / width), affine(other.square().sum(1, keepdim=True).T / width)
    r = affine(x @ other.T / width)
    ntk = r
    for _ in range(hidden_layers):
        r = _bounded(r, p, q)
        moment, slope = dual(p, q, r)
        ntk = affine(moment) + weight_variance * ntk * slope
        p, q, r = affine(dual(p, p, p)[0]), affine(dual(q, q, q)[0]), affine(moment)
    return InfiniteWidthKernels(r, ntk)


def _erf(p: Tensor, q: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Williams 1997, "Computing with infinite networks", equation 11."""
    scale = (1 + 2 * p) * (1 + 2 * q)
    return 2 / math.pi * (2 * r / scale.sqrt()).asin(), 4 / math.pi / (scale - 4 * r.square()).sqrt()


def _relu(p: Tensor, q: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Cho and Saul 2009, "Kernel methods for deep learning", orders 1 and 0; the slope at 0 is 0, as in torch."""
    sine = (p * q - r.square()).clamp(min=0).sqrt()
    reach = math.pi - torch.atan2(sine, r)
    slope = torch.where(p * q > 0, reach / (2 * math.pi), torch.zeros_like(reach))
    return (sine + reach * r) / (2 * math.pi), slope


def _gelu(p: Tensor, q: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Gaussian integration by parts; agrees with Tsuchida et al. 2021, arXiv:2002.08517."""
    scale = (1 + p) * (1 + q)
    determinant = scale - r.square()
    both = 0.25 + (r / scale.sqrt()).asin() / (2 * math.pi)
    density = 1 / (2 * math.pi * determinant.sqrt())
    moment = r * both + density * (p * q + r.square() * (1 - p * q) / scale)
    return moment, both + density * r * (1 / (1 + p) + 1 / (1 + q) + 1 / determinant)


def _sin(p: Tensor, q: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Characteristic functions of u - v and u + v."""
    mean = (p + q) / 2
    difference, total = (r - mean).exp(), (-r - mean).exp()
    return (difference - total) / 2, (difference + total) / 2


DUALS: dict[str, Dual] = {"erf": _erf, "relu": _relu, "gelu": _gelu, "sin": _sin}
"""Closed-form Gaussian expectations of each nonlinearity, by name."""


def _check(
    x: Tensor, y: Tensor, nonlinearity: str, hidden_layers: int, weight_variance: float, bias_variance: float
) -> None:
    if nonlinearity not in DUALS:
        raise OperatorUsageError(f"Nonlinearity {nonlinearity!r} has no known dual: use one of {', '.join(DUALS)}.")
    if hidden_layers < 1:
        raise OperatorUsageError(f"{hidden_layers} hidden layers make a linear model: ask for at least 1.")
    if not (weight_variance > 0 and bias_variance >= 0 and math.isfinite(weight_variance + bias_variance)):
        raise OperatorUsageError(
            f"Variances {weight_variance} of weights and {bias_variance} of biases: use finite ones above 0, from 0 on."
        )
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or x.shape[1] == 0:
        raise OperatorUsageError(
            f"Inputs of shapes {tuple(x.shape)} and {tuple(y.shape)}: pass matrices of equal width."
        )
    if not (x.isfinite().all() and y.isfinite().all()):
        raise OperatorUsageError("Inputs hold values that are not finite: clean them first.")


def _bounded(r: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """A covariance within what its variances allow, against rounding."""
    bound = (p * q).sqrt()
    return torch.minimum(torch.maximum(r, -bound), bound)
