"""Deep linear networks: every mode of the data is learned by itself, along a curve that is known.

A net of N layers computes W x with W = W_N ... W_1 and descends L = E|y - W x|^2 / 2. Let E[y x'] = U diag(s) V' and
let the columns of V be eigenvectors of E[x x'] with eigenvalues d (whitened inputs, one-hot items). From layers
W_l = R_l diag(a) R_(l-1)' with R_0 = V, R_N = U and any orthonormal R between, gradient flow changes the numbers a
only: all modes are decoupled, and layers that start equal stay equal (a_l^2 - a_k^2 is conserved). The strength
u = a^N of a mode then obeys (Saxe et al. 2013, sections 1.1 and 1.3, for d = 1)

    du/dt = N u^(2 - 2/N) (s - d u),    L = floor + sum_modes (d / 2) (u - s/d)^2.

In the log-odds h of the share w = u d / s this is dh/dt = k w^(1 - 2/N), k = N s (s/d)^(1 - 2/N), so that
k t = T(h(t)) - T(h(0)) with T(h) = integral of (1 + e^-h)^(1 - 2/N) dh, a hypergeometric function ("clock" below):
log(1 + e^h) for one layer, h for two (the logistic curve u = s e^(2st) / (e^(2st) - 1 + s/u_0)), and h - e^-h for
infinitely many when time is counted as N times the learning rate. Curves invert it by bisection.

Time is learning rate times step; gradient descent follows the flow to first order in the learning rate.

A simulation is the training of one net, on second moments that are exact: there is nothing to average.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import special
from torch import Tensor

from separatrix.runs.settings import Settings
from separatrix.runs.types import SeriesSpec
from separatrix.theory._deep_linear_layers import (
    Descent,
    Layers,
    aligned_layers,
    decoupled_layers,
    descend,
    gaussian_layers,
    gradients,
    orthogonal_layers,
    pretrained_layers,
    product,
    random_orthogonal,
)
from separatrix.theory.theory import (
    Band,
    Curves,
    Floats,
    Law,
    Paper,
    Prediction,
    Setting,
    Simulation,
    Theory,
    TheoryError,
)

__all__ = [
    "THEORY",
    "DeepLinear",
    "Descent",
    "Layers",
    "Modes",
    "aligned_layers",
    "clock",
    "coupled_map",
    "decoupled_layers",
    "descend",
    "gaussian_layers",
    "gradients",
    "input_output_modes",
    "mode_strengths",
    "orthogonal_layers",
    "pretrained_layers",
    "product",
    "random_orthogonal",
    "time_to_share",
]

_HALVINGS = 80
_TERMS = 64


@dataclasses.dataclass(frozen=True)
class Modes:
    """Second moments of data where they are diagonal: E[y x'] = left diag(correlation) right', largest first.

    `left` (outputs, modes), `correlation` (modes,), `right` (inputs, modes); `variance` (modes,) is that of the inputs
    along the columns of `right`, and `floor` the loss E|y - W x|^2 / 2 of the best linear map.
    """

    left: Float[Tensor, "outputs modes"]
    correlation: Float[Tensor, " modes"]
    right: Float[Tensor, "inputs modes"]
    variance: Float[Tensor, " modes"]
    floor: float

    @property
    def target(self) -> Float[Tensor, " modes"]:
        """Strengths of the best linear map."""
        return self.correlation / self.variance


def input_output_modes(
    inputs: Float[Tensor, "n inputs"], targets: Float[Tensor, "n outputs"], *, tolerance: float = 1e-6
) -> Modes:
    """The modes of a data set, those of correlation 0 left out; moments are not centred.

    Raises:
        TheoryError: the input moments mix the modes by more than `tolerance` of their size, so that no mode is learned
            by itself: whiten the inputs.
    """
    x, y = inputs.double(), targets.double()
    moment, cross = x.T @ x / len(x), y.T @ x / len(x)
    left, values, right = torch.linalg.svd(cross, full_matrices=False)
    kept = values > values[0] * 1e-10
    left, values, right = left[:, kept], values[kept], right[kept].T
    variance = (right * (moment @ right)).sum(0)
    mixing = float((moment @ right - right * variance).norm() / moment.norm())
    if not mixing <= tolerance:
        raise TheoryError(
            f"input moments mix the input-output modes ({mixing:.2g} of their size): whiten the inputs first"
        )
    floor = float(y.square().sum() / len(y) - (values.square() / variance).sum()) / 2
    return Modes(left, values, right, variance, max(floor, 0.0))


def clock(log_odds: Floats, depth: float) -> Floats:
    """Time, up to a constant, at which a mode of unit rate has a share of these log-odds of its target; any shape.

    Integral of (1 + e^-h)^(1 - b), b = 2 / depth. With w = 1 / (1 + e^-h) it is
    w^(b - 1) / (b - 1) + (w^b / b) 2F1(1, b; 1 + b; w), and near w = 1 the same in powers of 1 - w (Abramowitz and
    Stegun 15.3.10). `depth` may be infinite: h - e^-h.
    """
    h = np.asarray(log_odds, dtype=np.float64)
    if depth == 1:
        return np.asarray(np.logaddexp(0.0, h), dtype=np.float64)
    if depth == 2:
        return h
    if math.isinf(depth):
        return np.asarray(h - np.exp(-h), dtype=np.float64)
    b = 2.0 / depth
    share, left = special.expit(h), special.expit(-h)
    below = np.minimum(share, 0.5)
    early = below**b / b * special.hyp2f1(1.0, b, 1.0 + b, below)
    order = np.arange(_TERMS)
    weight = special.poch(b, order) / special.factorial(order)
    powers = np.minimum(left, 0.5)[..., None] ** order
    log_left = -np.logaddexp(0.0, h)[..., None]
    late = share**b * (weight * (special.digamma(order + 1.0) - special.digamma(b + order) - log_left) * powers).sum(-1)
    return np.asarray(share ** (b - 1.0) / (b - 1.0) + np.where(share < 0.5, early, late), dtype=np.float64)


def _rate(correlation: Floats, target: Floats, depth: float) -> Floats:
    """The factor between time and `clock`; a layer's share of it at infinite depth."""
    layers = 1.0 if math.isinf(depth) else depth
    return np.asarray(layers * correlation * target ** (1.0 - 2.0 / depth), dtype=np.float64)


def mode_strengths(start: Floats, correlation: Floats, variance: Floats, depth: float, time: Floats) -> Floats:
    """Strengths u (times, modes) at `time` (times,), from `start`, `correlation` and `variance`, each (modes,).

    All layers of a mode start from start^(1/depth), with 0 < start < correlation / variance. At infinite `depth` time
    is depth times learning rate times step.

    Raises:
        TheoryError: a start does not lie between 0 and its target.
    """
    target = correlation / variance
    if not ((start > 0.0) & (start < target)).all():
        raise TheoryError(f"starts {start} must lie between 0 and the targets {target}")
    first = np.broadcast_to(special.logit(start / target), (len(time), len(start)))
    elapsed = np.outer(time, _rate(correlation, target, depth))
    if depth == 1:  # below log-odds of 0 their growth is not bounded by the rate
        return np.asarray(target + (start - target) * np.exp(-elapsed), dtype=np.float64)
    goal = clock(first, depth) + elapsed
    low, high = first, first + elapsed
    for _ in range(0 if depth == 2 else _HALVINGS):
        middle = (low + high) / 2.0
        early = clock(middle, depth) < goal
        low, high = np.where(early, middle, low), np.where(early, high, middle)
    return np.asarray(target * special.expit(high), dtype=np.float64)


def time_to_share(share: float, start: Floats, correlation: Floats, variance: Floats, depth: float) -> Floats:
    """Times (modes,) at which modes have risen to `share` of their targets, as in `mode_strengths`.

    At share 1/2 this is the transition that ends a mode's plateau; for two layers log(s / (d u_0) - 1) / (2 s).
    """
    target = correlation / variance
    ends = clock(np.full_like(target, special.logit(share)), depth) - clock(special.logit(start / target), depth)
    return np.asarray(ends / _rate(correlation, target, depth), dtype=np.float64)


def coupled_map(
    start: Float[Tensor, "modes modes"],
    correlation: Float[Tensor, " modes"],
    variance: float,
    times: Sequence[float],
) -> Float[Tensor, "times modes modes"]:
    """The map U' W V of two balanced layers that start with coupled modes, inputs of one `variance` in all directions.

    With W_1 = Z V' and W_2 = U Z' the map Z'Z solves W' = S W + W S - 2 d W^2, S = diag(correlation), hence (Fukumizu
    1998) W^-1 = e^-St W_0^-1 e^-St + (d / S) (1 - e^-2St). `start` W_0 is symmetric and positive definite. Small random
    layers come to this form before they learn, with Z = (W_1 V + W_2' U) / 2, as the difference of both dies away.
    """
    inverse = torch.linalg.inv(start)
    shrunk = torch.exp(-torch.outer(torch.tensor(times, dtype=torch.float64), correlation))
    bound = torch.diag_embed(variance / correlation * (1.0 - shrunk.square()))
    found: Tensor = torch.linalg.inv(shrunk[:, :, None] * inverse * shrunk[:, None] + bound)
    return found


@dataclasses.dataclass(frozen=True)
class DeepLinear:
    """Data of known modes, a net of `depth` layers whose modes start at `start` (modes,), and a learning rate."""

    modes: Modes
    inputs: Float[Tensor, "n inputs"]
    targets: Float[Tensor, "n outputs"]
    depth: int
    start: Floats
    rate: float

    @property
    def correlation(self) -> Floats:
        """Singular values of E[y x'], (modes,)."""
        return self.modes.correlation.numpy()

    @property
    def variance(self) -> Floats:
        """Variances of the inputs along the modes, (modes,)."""
        return self.modes.variance.numpy()

    def transitions(self, share: float = 0.5) -> Floats:
        """Steps (modes,), not rounded, at which modes have risen to `share` of their targets."""
        return time_to_share(share, self.start, self.correlation, self.variance, self.depth) / self.rate


def _problem(settings: Settings, seed: int) -> DeepLinear:
    """Data whose moments are exactly those wanted: correlations and variances evenly spaced in their logarithm."""
    draw = torch.Generator().manual_seed(seed)
    count, depth = int(settings["modes"]), int(settings["depth"])
    inputs, outputs = count + 1, count + 2
    examples = 2 * (inputs + outputs)
    correlation = torch.logspace(0.0, -math.log10(settings["contrast"]), count, dtype=torch.float64)
    order = torch.randperm(count, generator=draw)
    variance = torch.logspace(0.0, math.log10(settings["input_contrast"]), count, dtype=torch.float64)[order]
    frame = random_orthogonal(examples, inputs + outputs, draw) * math.sqrt(examples)
    left, right = random_orthogonal(outputs, count, draw), random_orthogonal(inputs, inputs, draw)
    scale = torch.cat([variance, torch.ones(inputs - count, dtype=torch.float64)]).sqrt()
    x = frame[:, :inputs] * scale @ right.T
    y = frame[:, :count] * (correlation / scale[:count]) @ left.T + settings["noise"] * frame[:, inputs:]
    floor = settings["noise"] ** 2 * outputs / 2
    modes = Modes(left, correlation, right[:, :count].contiguous(), variance, floor)
    start = float(settings["start"] * modes.target.min()) * np.ones(count)
    fastest = float(_rate(modes.correlation.numpy(), modes.target.numpy(), depth).max())
    return DeepLinear(modes, x, y, depth, start, settings["step"] / fastest)


_MOST_STEPS = 5000


def _steps(problem: DeepLinear) -> list[int]:
    last = min(_MOST_STEPS, math.ceil(float(problem.transitions(0.99).max())))
    return sorted({round(last * index / 100) for index in range(101)})


def _predict(problem: DeepLinear, steps: Sequence[int]) -> Curves:
    time = problem.rate * np.asarray(steps, dtype=np.float64)
    strengths = mode_strengths(problem.start, problem.correlation, problem.variance, problem.depth, time)
    return {"loss": _loss(problem, strengths), "mode_strength": strengths}


def _loss(problem: DeepLinear, strengths: Floats) -> Floats:
    target = problem.correlation / problem.variance
    missing = problem.variance * (strengths - target) ** 2
    return np.asarray(problem.modes.floor + 0.5 * missing.sum(-1), dtype=np.float64)


def _simulate(problem: DeepLinear, steps: Sequence[int], seed: int) -> Simulation:
    draw = torch.Generator().manual_seed(seed)
    modes = problem.modes
    count = len(problem.start)
    widths = [count + int(torch.randint(3, (), generator=draw)) for _ in range(problem.depth - 1)]
    layers = aligned_layers(modes.left, torch.from_numpy(problem.start), modes.right, widths, draw)
    way = descend([layer[None] for layer in layers], problem.inputs, problem.targets, problem.rate, steps)
    seen = torch.einsum("om,tcoi,im->tm", modes.left, way.maps, modes.right)
    return Simulation({"loss": way.losses[:, 0].numpy(), "mode_strength": seen.numpy()})


def _start_law(problem: DeepLinear, seen: Prediction) -> float:
    return float(np.abs(seen["mode_strength"][0] / problem.start - 1.0).max())


def _end_law(problem: DeepLinear, seen: Prediction) -> float:
    late = 3.0 * float(problem.transitions(1.0 - 1e-9).max())
    end = _predict(problem, [math.ceil(late)])
    target = problem.correlation / problem.variance
    return max(float(np.abs(end["mode_strength"] / target - 1.0).max()), float(end["loss"][0] - problem.modes.floor))


def _rise_law(problem: DeepLinear, seen: Prediction) -> float:
    target = problem.correlation / problem.variance
    falls = np.maximum(-np.diff(seen["mode_strength"], axis=0), 0.0).max()
    return float(max(falls, np.maximum(seen["mode_strength"] / target - 1.0, 0.0).max()))


def _slope_law(problem: DeepLinear, seen: Prediction) -> float:
    """Central differences of the prediction beside the right-hand side of its equation, over the largest such."""
    steps = seen.steps[1:-1]
    near = np.stack([steps - 0.01, steps + 0.01]) * problem.rate
    before, after = (
        mode_strengths(problem.start, problem.correlation, problem.variance, problem.depth, time) for time in near
    )
    u, power = seen["mode_strength"][1:-1], 2.0 - 2.0 / problem.depth
    slope = problem.depth * u**power * (problem.correlation - problem.variance * u)
    return float(np.abs((after - before) / (0.02 * problem.rate) - slope).max() / slope.max())


def _wrong(settings: Settings) -> dict[str, Any]:
    return {**settings, "depth": settings["depth"] + (1 if settings["depth"] < 3 else -1)}


THEORY = Theory(
    name="deep-linear",
    question="When does each mode of the data appear in a deep linear net, and how long are the plateaus between?",
    assumptions=(
        "The net is a product of linear layers, trained by full-batch gradient descent on half the squared error.",
        "Right singular vectors of E[y x'] are eigenvectors of E[x x'].",
        "Layers start aligned with the modes and balanced, or small and random in a wide net: then nearly so.",
        "The learning rate is small beside 1 / curvature.",
    ),
    papers=(
        Paper(
            "Exact solutions to the nonlinear dynamics of learning in deep linear neural networks",
            ("Andrew M. Saxe", "James L. McClelland", "Surya Ganguli"),
            2013,
            "https://arxiv.org/abs/1312.6120",
        ),
    ),
    settings=(
        Setting("depth", "int", 3, "layers of weights", 1, 6),
        Setting("modes", "int", 4, "modes of the data", 2, 8),
        Setting("contrast", "float", 2.5, "largest over smallest correlation of input and output", 1.2, 6.0),
        Setting("input_contrast", "float", 1.0, "largest over smallest variance of the inputs", 1.0, 4.0),
        Setting("start", "float", 0.02, "first strength of all modes, over the smallest target", 0.01, 0.1),
        Setting("noise", "float", 0.1, "standard deviation of what no linear map explains, an output", 0.0, 0.5),
        Setting("step", "float", 0.01, "learning rate over 1 / the largest curvature at the end", 0.005, 0.02),
    ),
    series=(
        SeriesSpec("loss", description="half the mean squared error"),
        SeriesSpec("mode_strength", ("mode",), description="u' W v of the whole net, strongest correlation first"),
    ),
    problem=_problem,
    steps=_steps,
    predict=_predict,
    simulate=_simulate,
    bands=(
        Band("loss", 0.01, "gradient descent lags behind the flow by about half a step a growth time"),
        Band("mode_strength", 0.01, "gradient descent lags behind the flow by about half a step a growth time"),
    ),
    laws=(
        Law("start", "modes start where the layers were put", _start_law),
        Law("end", "modes end at the least-squares map, and the loss at its floor", _end_law),
        Law("rise", "strengths never fall and never exceed their targets", _rise_law),
        Law("slope", "strengths solve their differential equation", _slope_law, 1e-6),
    ),
    wrong=_wrong,
    smoke={"depth": 2, "contrast": 2.0, "step": 0.02},
)
