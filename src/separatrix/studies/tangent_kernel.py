"""The tangent kernel: random but ever less so with width, almost still in training, and the clock of every mode.

Fully connected nets in the kernel parametrization: z = g W a / sqrt(fan-in) + b / 10, all weights from N(0, 1), g^2 = 2
for ReLU and 1 for erf, inputs of norm sqrt(d), one linear output. Gradient descent on half the mean squared error of n
examples; with K the kernel at the start the linearised outputs after t steps of size s are
f_t = f_0 + K(x, X) K^-1 (1 - (1 - s K / n)^t) (y - f_0). Targets are random signs. Step sizes are given as a share of
1 / (largest eigenvalue of K / n).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch

from separatrix.operators import infinite_width_kernels
from separatrix.studies.study import (
    Control,
    Outcome,
    Paper,
    Plan,
    Progress,
    Setting,
    Settings,
    Statement,
    Study,
)
from separatrix.theory.tangent_kernel import linearised_changes

_BIAS = 0.1
_WEIGHT_VARIANCE = {"relu": 2.0, "erf": 1.0}
_FACTORS = (1, 2, 4)
_TESTS = 8
_TOP_MODE_TIMES = 8.0  # how long a training goes on, in decay times of the top mode
_CHUNK = 1 << 22  # weights drawn at once

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Weights (copies, out, in) and biases (copies, out), first layer first."""


def _activation(kind: str, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and derivative."""
    if kind == "relu":
        positive = (z > 0).to(z.dtype)
        return z * positive, positive
    return torch.erf(z), 2.0 / math.sqrt(math.pi) * torch.exp(-z.square())


def _drawn(copies: int, sizes: Sequence[int], generator: torch.Generator) -> Layers:
    return [
        (
            torch.randn(copies, after, before, dtype=torch.float64, generator=generator),
            torch.randn(copies, after, dtype=torch.float64, generator=generator),
        )
        for before, after in itertools.pairwise(sizes)
    ]


@dataclasses.dataclass(frozen=True)
class _Pass:
    """Outputs (copies, n); by layer its scaled inputs (copies, n, in), and derivatives by its z (copies, n, out)."""

    outputs: torch.Tensor
    entering: list[torch.Tensor]
    leaving: list[torch.Tensor]

    def kernel(self) -> torch.Tensor:
        """Empirical tangent kernel, (copies, n, n)."""
        return sum(
            ((a @ a.mT + _BIAS**2) * (d @ d.mT) for a, d in zip(self.entering, self.leaving, strict=True)),
            torch.zeros(()),
        )


def _pass(kind: str, layers: Layers, inputs: torch.Tensor) -> _Pass:
    scales = [math.sqrt(_WEIGHT_VARIANCE[kind] / weight.shape[2]) for weight, _ in layers]
    entering, slopes = [scales[0] * inputs.expand(len(layers[0][0]), -1, -1)], []
    for index, (weight, bias) in enumerate(layers):
        z = entering[-1] @ weight.mT + _BIAS * bias[:, None]
        if index < len(layers) - 1:
            value, slope = _activation(kind, z)
            entering.append(scales[index + 1] * value)
            slopes.append(slope)
    leaving = [torch.ones_like(z)]
    for scale, (weight, _), slope in zip(scales[:0:-1], layers[:0:-1], slopes[::-1], strict=True):
        leaving.insert(0, leaving[0] @ weight * scale * slope)
    return _Pass(z[..., 0], entering, leaving)


def _moved(layers: Layers, seen: _Pass, push: torch.Tensor) -> Layers:
    """Layers after a step that moves them by -`push`, (copies, n), times the derivative of each output."""
    moved = []
    for (weight, bias), entering, leaving in zip(layers, seen.entering, seen.leaving, strict=True):
        pushed = push[..., None] * leaving
        moved.append((weight - pushed.mT @ entering, bias - _BIAS * pushed.sum(1)))
    return moved


@dataclasses.dataclass(frozen=True)
class _Descent:
    """Outputs (steps + 1, copies, n + tests), kernels of all inputs before and after, and the step sizes (copies,)."""

    outputs: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor
    rate: torch.Tensor


def _descend(
    kind: str, layers: Layers, inputs: torch.Tensor, targets: torch.Tensor, share: float, steps: int
) -> _Descent:
    """Train on the first rows of `inputs`, as many as there are targets; the others are looked at only."""
    count = len(targets)
    seen = _pass(kind, layers, inputs)
    before = seen.kernel()
    rate = share / torch.linalg.eigvalsh(before[:, :count, :count])[:, -1]
    outputs = [seen.outputs]
    for _ in range(steps):
        push = torch.zeros_like(seen.outputs)
        push[:, :count] = rate[:, None] * (seen.outputs[:, :count] - targets)
        layers = _moved(layers, seen, push)
        seen = _pass(kind, layers, inputs)
        outputs.append(seen.outputs)
    return _Descent(torch.stack(outputs), before, seen.kernel(), rate)


def _linearised(descent: _Descent, targets: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Outputs (steps + 1, copies, n + tests) that the kernel (copies, n + tests, n + tests) predicts."""
    count = len(targets)
    residual = descent.outputs[0][:, :count] - targets
    steps = range(len(descent.outputs))
    return descent.outputs[0] + linearised_changes(kernel[..., :count], residual, descent.rate, steps)


def _distance(one: torch.Tensor, other: torch.Tensor, scale: torch.Tensor) -> float:
    """Root mean square of the difference over that of `scale`."""
    return float((one - other).square().mean().sqrt() / scale.square().mean().sqrt())


def _deviation(descent: _Descent, targets: torch.Tensor, kernel: torch.Tensor) -> float:
    """Largest distance over time of outputs and their prediction, over the first residuals."""
    predicted = _linearised(descent, targets, kernel)
    residual = descent.outputs[0][:, : len(targets)] - targets
    gap = (descent.outputs - predicted).square().mean((1, 2)).sqrt().max()
    return float(gap / residual.square().mean().sqrt())


def _decays(descent: _Descent, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Expected and measured decay rates a unit of step size, of the modes that can be measured, largest first.

    Those are modes of the first kernel that decay by e^(1/2) at least, with at least half their share of the residual;
    a mode is followed until it has decayed by e, or to the end.
    """
    count, steps = len(targets), len(descent.outputs) - 1
    values, vectors = torch.linalg.eigh(descent.before[:, :count, :count])
    residual = torch.einsum("tcn,cnk->tck", descent.outputs[..., :count] - targets, vectors)
    speed = descent.rate[:, None] * values
    until = (1.0 / speed).round().clamp(1, steps).long()
    last = residual.gather(0, until[None])[0]
    rate = (residual[0] / last).abs().log() / until
    fair = (speed * steps >= 0.5) & (residual[0].abs() >= 0.5 * residual[0].square().mean(1, keepdim=True).sqrt())
    order = speed[fair].argsort(descending=True)
    return speed[fair][order], rate[fair][order]


def _slope(widths: Sequence[int], values: Sequence[float]) -> float:
    """Least-squares slope of log value over log width."""
    x, y = torch.tensor(widths).double().log(), torch.tensor(values).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def _kernels(
    kind: str, depth: int, width: int, copies: int, inputs: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tangent kernels (copies, n, n) and outputs (copies, n) of fresh nets, drawn in chunks that bound the memory."""
    sizes = [inputs.shape[1], *[width] * depth, 1]
    chunk = max(1, _CHUNK // sum(a * b for a, b in itertools.pairwise(sizes)))
    parts = [min(chunk, copies - start) for start in range(0, copies, chunk)]
    kernels, outputs = [], []
    for part in parts:
        seen = _pass(kind, _drawn(part, sizes, generator), inputs)
        kernels.append(seen.kernel())
        outputs.append(seen.outputs)
    return torch.cat(kernels), torch.cat(outputs)


def _fluctuation(kernels: torch.Tensor, scale: torch.Tensor) -> float:
    """Root mean square deviation from the mean over copies, over that of `scale`."""
    return _distance(kernels, kernels.mean(0), scale)


def _drift(descent: _Descent) -> float:
    """Relative change of the kernel in training, geometric mean over copies."""
    change = (descent.after - descent.before).square().sum((1, 2)) / descent.before.square().sum((1, 2))
    return float(change.log().mean().div(2).exp())


def _plan(settings: Settings, quick: bool) -> Plan:
    work = settings["depth"] * settings["width"] ** 2 * (1.0 if quick else 4.0)
    return Plan(runs=10, seconds=0.1 + 4e-5 * work)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    kind, depth, share = settings["activation"], settings["depth"], settings["step"]
    count, dimension, narrow = settings["examples"], settings["dimension"], settings["width"]
    drawn, trained = (256, 20) if quick else (1024, 96)
    steps = math.ceil(_TOP_MODE_TIMES / share)
    widths = [narrow * factor for factor in _FACTORS]

    def descend(width: int, copies: int, scale: float = 1.0) -> _Descent:
        layers = _drawn(copies, [dimension, *[width] * depth, 1], generator)
        descent = _descend(kind, layers, inputs, scale * targets, share, steps)
        progress()
        return descent

    points = torch.randn(count + _TESTS, dimension, dtype=torch.float64, generator=generator)
    inputs = math.sqrt(dimension) * torch.nn.functional.normalize(points, dim=1)
    targets = torch.randn(count, dtype=torch.float64, generator=generator).sign()
    at_infinity = infinite_width_kernels(
        inputs,
        nonlinearity=kind,
        hidden_layers=depth,
        weight_variance=_WEIGHT_VARIANCE[kind],
        bias_variance=_BIAS**2,
    )
    limit, covariance = at_infinity.ntk, at_infinity.nngp

    fluctuations, spreads = [], []
    for width in widths:
        copies = drawn * widths[-1] // width
        kernels, outputs = _kernels(kind, depth, width, copies, inputs, generator)
        fluctuations.append(_fluctuation(kernels, limit))
        spreads.append(_fluctuation(outputs, covariance.diagonal().sqrt()))
        progress()

    drifts = [_drift(descend(width, trained)) for width in widths]
    rich = [_drift(descend(width, trained // 4, (width / narrow) ** 2)) for width in widths]
    wide = descend(2 * widths[-1], 4)
    expected, rates = _decays(wide, targets)
    shuffle = torch.randperm(count + _TESTS, generator=generator)
    strange = expected[torch.randperm(len(expected), generator=generator)]
    return Outcome(
        measured={
            "kernel_fluctuation_exponent": _slope(widths, fluctuations),
            "mean_kernel_is_the_limit": _distance(kernels.mean(0), limit, limit),
            "kernel_drift_exponent": _slope(widths, drifts),
            "outputs_are_linear": _deviation(wide, targets, wide.before),
            "modes_decay_at_their_eigenvalues": float((rates / expected - 1).abs().median()),
            "top_modes_decay_fastest": [float(part.mean()) for part in rates.tensor_split(3)],
        },
        controls={
            "outputs_at_the_start": _slope(widths, spreads),
            "output_covariance": _distance(kernels.mean(0), covariance, limit),
            "targets_grow_with_width": _slope(widths, rich),
            "shuffled_kernel": _deviation(wide, targets, wide.before[:, shuffle][:, :, shuffle]),
            "shuffled_modes": float((rates / strange - 1).abs().median()),
        },
        series={
            "width": [float(width) for width in widths],
            "kernel_fluctuation": fluctuations,
            "kernel_drift": drifts,
            "eigenvalue_times_step": expected.tolist(),
            "decay_rate": rates.tolist(),
        },
    )


study = Study(
    id="44",
    slug="tangent-kernel",
    paper=Paper(
        title="Neural Tangent Kernel: Convergence and Generalization in Neural Networks",
        authors=("Arthur Jacot", "Franck Gabriel", "Clément Hongler"),
        year=2018,
        url="https://arxiv.org/abs/1806.07572",
    ),
    summary="Wide nets follow the gradient of a kernel that is the same for all and hardly moves, top modes first.",
    settings=(
        Setting("activation", "str", "relu", "of the hidden layers", choices=("relu", "erf")),
        Setting("depth", "int", 2, "hidden layers", 1, 4),
        Setting(
            "width",
            "int",
            64,
            "units of a hidden layer of the narrowest nets; the widest have 8 times as many",
            32,
            128,
        ),
        Setting("examples", "int", 12, "examples trained on", 6, 24),
        Setting("dimension", "int", 8, "inputs", 4, 16),
        Setting("step", "float", 0.1, "step size over 1 / largest eigenvalue of the kernel by n", 0.05, 0.2),
    ),
    statements=(
        Statement(
            "kernel_fluctuation_exponent",
            "interval",
            (-0.6, -0.4),
            "Exponent with which the kernel's spread over initialisations goes with width.",
        ),
        Statement(
            "mean_kernel_is_the_limit",
            "at_most",
            0.06,
            "Relative distance of the mean kernel at the greatest of these widths from the one at infinite width.",
        ),
        Statement(
            "kernel_drift_exponent",
            "interval",
            (-1.2, -0.4),
            "Exponent with which the kernel's relative change in training goes with width.",
        ),
        Statement(
            "outputs_are_linear",
            "at_most",
            0.08,
            "Largest distance of the widest nets' outputs from the linearised ones, over that of outputs from targets.",
        ),
        Statement(
            "modes_decay_at_their_eigenvalues",
            "at_most",
            0.15,
            "Relative error, median over modes, of exp(-eigenvalue * time) as the law of each residual's decay.",
        ),
        Statement(
            "top_modes_decay_fastest",
            "monotone",
            "decreasing",
            "Mean decay rate of the modes with large, middle and small eigenvalues.",
        ),
    ),
    controls=(
        Control("outputs_at_the_start", "kernel_fluctuation_exponent", "The outputs' spread instead of the kernel's."),
        Control("output_covariance", "mean_kernel_is_the_limit", "The covariance of outputs as the limit."),
        Control("targets_grow_with_width", "kernel_drift_exponent", "Targets that grow like the square of the width."),
        Control("shuffled_kernel", "outputs_are_linear", "The same kernel with its examples in another order."),
        Control("shuffled_modes", "modes_decay_at_their_eigenvalues", "The same eigenvalues in another order."),
    ),
    plan=_plan,
    run=_run,
    smoke={"depth": 1, "width": 32},
)
