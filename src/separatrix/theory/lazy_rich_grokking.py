"""From lazy to rich: quadratic features on a single-index target, solved by the mean and the covariance of the weights.

The model of Kumar et al. (2024): inputs x of d standard normal entries, a target that depends on u = x.beta, and a net
f(x) = scale (h(x; W) - h(x; W_0)), h = mean_i phi(w_i.x / sqrt(d)), phi(z) = z + bend z^2 / 2, whose N rows w_i train
from standard normal values. A small `bend` turns the initial features away from a target of even degree, a large
`scale` keeps the net near its start. With residuals r = f - y on the n examples, and

    m = mean_i w_i,  M = mean_i w_i w_i',  g = X' r / (n sqrt(d)),  S = X' diag(r) X / (n d),  h = rate scale / N,

outputs depend on the weights through m and M alone, f(x) = scale (x.(m - m_0) / sqrt(d) + bend x'(M - M_0) x / (2 d)),
and gradient descent on half the mean squared residual moves every row by one and the same affine map,
w <- G w - h g with G = 1 - h bend S. Hence m <- G m - h g and M <- G M G' - h (G m g' + g m' G') + h^2 g g':
the pair is closed, for any number of neurons and examples, at any rate. As N grows m_0 = 0 and M_0 = 1.

The expected loss follows from the expansion of f - y in Hermite polynomials of degree 0, 1, 2 and those of the target
above; the tangent kernel is (scale^2 / N) (1 + bend (a_x + a_y) + bend^2 x'My / d) x.y / d with a = x.m / sqrt(d), at
the start, for N = infinity, x.y / d + bend^2 (x.y / d)^2. The paper states the infinite width and gradient flow; that
nothing has to be small or large was derived here.

A simulation is the training of the one net whose weights the statistics are of.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from separatrix.operators import tangent_kernel
from separatrix.probes.tangent import kernel_alignment
from separatrix.runs import SeriesSpec
from separatrix.tasks.single_index import SingleIndex
from separatrix.theory._kernel_descent import linearised_changes
from separatrix.theory.theory import (
    Band,
    Curves,
    Law,
    Paper,
    Prediction,
    Setting,
    Settings,
    Simulation,
    Theory,
)

__all__ = [
    "THEORY",
    "QuadraticProblem",
    "Statistics",
    "initial_kernel",
    "outputs",
    "risk",
    "stable_rate",
    "step",
    "wide",
]

_LAST = 600
_TESTS = 4096
_LAZY = 1e7


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Mean (..., d) and second moment (..., d, d) of the rows of the weights."""

    mean: Float[Tensor, "*copies d"]
    moment: Float[Tensor, "*copies d d"]


@dataclasses.dataclass(frozen=True)
class QuadraticProblem:
    """A training of quadratic features; leading dimensions of all tensors are copies, or there are none.

    `inputs` (..., n, d), `targets` (..., n), `start` of the rows, `scale` and `bend` as in the module, and
    `pace` = learning rate * scale^2 / N, the rate of the outputs under a kernel of order 1. `width` is N. `task` knows
    the expected loss.
    """

    task: SingleIndex
    inputs: Float[Tensor, "*copies n d"]
    targets: Float[Tensor, "*copies n"]
    start: Statistics
    scale: Float[Tensor, "*copies"]
    bend: Float[Tensor, "*copies"]
    pace: Float[Tensor, "*copies"]
    weights: Float[Tensor, "*copies width d"] | None = None


def wide(dimension: int) -> Statistics:
    """The start of infinitely many standard normal rows."""
    return Statistics(torch.zeros(dimension, dtype=torch.float64), torch.eye(dimension, dtype=torch.float64))


def statistics(weights: Float[Tensor, "*copies width d"]) -> Statistics:
    """Of these rows."""
    return Statistics(weights.mean(-2), weights.mT @ weights / weights.shape[-2])


def outputs(
    problem: QuadraticProblem, now: Statistics, inputs: Float[Tensor, "*some k d"]
) -> Float[Tensor, "*copies k"]:
    """Of the net with these statistics, at inputs of each copy or the same of all."""
    size = inputs.shape[-1]
    linear = (inputs @ (now.mean - problem.start.mean)[..., None])[..., 0] / math.sqrt(size)
    quadratic = ((inputs @ (now.moment - problem.start.moment)) * inputs).sum(-1) / (2.0 * size)
    found: Tensor = problem.scale[..., None] * (linear + problem.bend[..., None] * quadratic)
    return found


def step(problem: QuadraticProblem, now: Statistics) -> Statistics:
    """After one step of gradient descent."""
    examples, size = problem.inputs.shape[-2:]
    residual = outputs(problem, now, problem.inputs) - problem.targets
    rate = (problem.pace / problem.scale)[..., None, None]
    push = -rate * problem.inputs.mT @ residual[..., None] / (examples * math.sqrt(size))
    bent = problem.inputs.mT * residual[..., None, :] @ problem.inputs / (examples * size)
    grow = torch.eye(size, dtype=bent.dtype) - rate * problem.bend[..., None, None] * bent
    moved = grow @ now.mean[..., None]
    cross = moved @ push.mT
    moment = grow @ now.moment @ grow + cross + cross.mT + push @ push.mT
    return Statistics((moved + push)[..., 0], moment)


def risk(problem: QuadraticProblem, now: Statistics) -> Float[Tensor, "*copies"]:
    """Half the expected squared error on fresh examples, noise included."""
    task, size = problem.task, problem.inputs.shape[-1]
    constant, slope, bend = task.moments
    linear = problem.scale[..., None] * (now.mean - problem.start.mean) / math.sqrt(size)
    factor = (problem.scale * problem.bend / (2.0 * size))[..., None, None]
    quadratic = factor * (now.moment - problem.start.moment)
    beyond = task.power + task.noise**2 - constant**2 - slope.square().sum() - 2.0 * bend.square().sum()
    middle = quadratic.diagonal(dim1=-2, dim2=-1).sum(-1) - constant
    spread = (linear - slope).square().sum(-1) + 2.0 * (quadratic - bend).square().sum((-2, -1))
    return 0.5 * (middle.square() + spread + beyond)


def kernel(
    problem: QuadraticProblem, now: Statistics, inputs: Float[Tensor, "*copies k d"]
) -> Float[Tensor, "*copies k k"]:
    """Tangent kernel with these statistics, times N / scale^2."""
    size = inputs.shape[-1]
    bend = problem.bend[..., None, None]
    along = inputs @ now.mean[..., None] / math.sqrt(size)
    features = 1.0 + bend * (along + along.mT) + bend.square() * inputs @ now.moment @ inputs.mT / size
    return features * (inputs @ inputs.mT) / size


def initial_kernel(problem: QuadraticProblem, inputs: Float[Tensor, "*copies k d"]) -> Float[Tensor, "*copies k k"]:
    """Tangent kernel at the start, times N / scale^2: that of the lazy limit."""
    return kernel(problem, problem.start, inputs)


def stable_rate(problem: QuadraticProblem) -> Float[Tensor, "*copies"]:
    """The pace at which descent becomes unstable: 2 over the larger of two curvatures, of the start and of the end.

    At the end the quadratic form of u is learnt, which takes a moment along beta that is larger than that of the start
    by sqrt(2) c_2 d / (scale bend); the curvature is that of the output u^2 under the kernel that this adds.
    """
    examples, size = problem.inputs.shape[-2:]
    first = torch.linalg.eigvalsh(initial_kernel(problem, problem.inputs))[..., -1] / examples
    needed = math.sqrt(2.0) * abs((*problem.task.coefficients, 0.0, 0.0)[2]) * size / (problem.scale * problem.bend)
    fields = problem.inputs @ problem.task.direction
    grown = problem.bend.square() / size**2 * needed
    gram = (fields[..., :, None] * fields[..., None, :]) * (problem.inputs @ problem.inputs.mT)
    return 2.0 / torch.maximum(first, first + grown * torch.linalg.eigvalsh(gram)[..., -1] / examples)


def _trajectory(problem: QuadraticProblem, steps: Sequence[int]) -> list[Statistics]:
    now, wanted, found = problem.start, set(steps), {}
    for count in range(max(steps, default=-1) + 1):
        if count in wanted:
            found[count] = now
        now = step(problem, now)
    return [found[count] for count in steps]


def predict(problem: QuadraticProblem, steps: Sequence[int]) -> Curves:
    """Losses, tangent-kernel measures and the share of the rows' squared length along the hidden direction."""
    at = _trajectory(problem, steps)
    wanted = torch.outer(problem.targets, problem.targets)
    kernels = [kernel(problem, now, problem.inputs) for now in at]
    first = initial_kernel(problem, problem.inputs)
    losses = [(outputs(problem, now, problem.inputs) - problem.targets).square().mean() / 2.0 for now in at]
    return {
        "loss": _floats(losses),
        "eval_loss": _floats([risk(problem, now) for now in at]),
        "label_alignment": _floats([kernel_alignment(one, wanted, centred=True) for one in kernels]),
        "kernel_distance": _floats([1.0 - kernel_alignment(one, first) for one in kernels]),
        "feature_alignment": _floats([_feature_alignment(problem, now) for now in at]),
    }


def _feature_alignment(problem: QuadraticProblem, now: Statistics) -> Tensor:
    beta = problem.task.direction
    return beta @ now.moment @ beta / now.moment.trace()


def _floats(values: Sequence[Tensor]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([float(value) for value in values])


class QuadraticNet(nn.Module):
    """The net itself, with its rows as its only parameter."""

    first: Tensor
    scale: Tensor
    bend: Tensor

    def __init__(self, weights: Float[Tensor, "width d"], scale: float, bend: float) -> None:
        super().__init__()
        # Built without values, which torch would draw from its global generator.
        self.hidden = nn.Linear(weights.shape[1], weights.shape[0], bias=False, dtype=weights.dtype, device="meta")
        self.hidden.weight = nn.Parameter(weights.clone())
        for name, value in (("first", weights.clone()), ("scale", scale), ("bend", bend)):
            self.register_buffer(name, torch.as_tensor(value, dtype=weights.dtype))

    def forward(self, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n 1"]:
        inputs = inputs / math.sqrt(inputs.shape[1])
        with torch.no_grad():
            start = self._features(nn.functional.linear(inputs, self.first))
        found: Tensor = self.scale * (self._features(self.hidden(inputs)) - start)
        return found

    def _features(self, fields: Float[Tensor, "n width"]) -> Float[Tensor, "n 1"]:
        return (fields + 0.5 * self.bend * fields * fields).mean(1, keepdim=True)


def _simulate(problem: QuadraticProblem, steps: Sequence[int], seed: int) -> Simulation:
    assert problem.weights is not None
    net = QuadraticNet(problem.weights, float(problem.scale), float(problem.bend))
    rate = float(problem.pace * len(problem.weights) / problem.scale**2)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate)
    fresh = problem.task.sample(_TESTS, torch.Generator().manual_seed(seed))
    wanted = torch.outer(problem.targets, problem.targets)
    at, errors, first, found = set(steps), [], None, []
    for count in range(max(steps) + 1):
        loss = 0.5 * (net(problem.inputs)[:, 0] - problem.targets).square().mean()
        if count in at:
            with torch.no_grad():
                squares = 0.5 * (net(fresh.inputs)[:, 0] - fresh.targets).square()
                along = (net.hidden.weight @ problem.task.direction).square().sum() / net.hidden.weight.square().sum()
            now = tangent_kernel(net, problem.inputs)
            assert isinstance(now, Tensor)
            first = now if first is None else first
            errors.append(float(squares.std() / math.sqrt(_TESTS)))
            measures = kernel_alignment(now, wanted, centred=True), 1.0 - kernel_alignment(now, first), along
            found.append([float(value.detach()) for value in (loss, squares.mean(), *measures)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    names = [spec.name for spec in THEORY.series]
    curves = dict(zip(names, np.array(found).T, strict=True))
    return Simulation(curves, {"eval_loss": np.array(errors)})


def _problem(settings: Settings, seed: int) -> QuadraticProblem:
    generator = torch.Generator().manual_seed(seed)
    task = SingleIndex(dimension=settings["dimension"], seed=seed, dtype=torch.float64)
    batch = task.sample(round(settings["examples_per_dimension"] * task.dimension), generator)
    weights = torch.randn(settings["width"], task.dimension, dtype=torch.float64, generator=generator)
    scale, bend, one = (
        torch.tensor(value, dtype=torch.float64) for value in (settings["scale"], settings["bend"], 1.0)
    )
    problem = QuadraticProblem(task, *batch, statistics(weights), scale, bend, one, weights)
    return dataclasses.replace(problem, pace=settings["rate_share"] * stable_rate(problem))


def _steps(problem: QuadraticProblem) -> list[int]:
    return sorted({0, *(round(count) for count in np.geomspace(1, _LAST, 32))})


def _at_start(problem: QuadraticProblem, seen: Prediction) -> float:
    first = float(problem.targets.square().mean()) / 2.0, (problem.task.power + problem.task.noise**2) / 2.0
    return max(abs(float(seen["loss"][0]) / first[0] - 1.0), abs(float(seen["eval_loss"][0]) / first[1] - 1.0))


def _rotated(problem: QuadraticProblem, seen: Prediction) -> float:
    """Largest change of outputs when inputs and weights are turned together."""
    size = problem.task.dimension
    turn, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    start = Statistics(problem.start.mean @ turn, turn.T @ problem.start.moment @ turn)
    turned = dataclasses.replace(problem, inputs=problem.inputs @ turn, start=start)
    pair = [outputs(one, _trajectory(one, [100])[0], one.inputs) for one in (problem, turned)]
    return float((pair[0] - pair[1]).abs().max() / pair[0].abs().max())


def _positive(problem: QuadraticProblem, seen: Prediction) -> float:
    """How far the covariance of the rows falls below 0, which an affine map of rows cannot do."""
    now = _trajectory(problem, [int(seen.steps[-1])])[0]
    covariance = now.moment - torch.outer(now.mean, now.mean)
    return float(-torch.linalg.eigvalsh(covariance)[0].clamp(max=0.0) / now.moment.trace())


def _lazy(problem: QuadraticProblem, seen: Prediction) -> float:
    """Distance from kernel descent at an immense scale, over the size of the outputs."""
    far = dataclasses.replace(problem, scale=torch.full_like(problem.scale, _LAZY))
    steps = [1, 10, 100]
    rate = problem.pace / len(problem.targets)
    expected = linearised_changes(initial_kernel(far, far.inputs), -problem.targets, rate, steps)
    found = torch.stack([outputs(far, now, far.inputs) for now in _trajectory(far, steps)])
    return float((found - expected).abs().max() / expected.abs().max())


def _wrong(settings: Settings) -> dict[str, Any]:
    scale = settings["scale"]
    return {**settings, "scale": scale / 3.0 if scale > 1.0 else 3.0 * scale}


_EXACT = "the reduction is exact: rounding alone is left"

THEORY = Theory(
    name="lazy-rich-grokking",
    question="Why does the test loss fall long after the training loss, and would a smaller output scale help?",
    assumptions=(
        "One hidden layer with a quadratic activation, of which the first weights train, on Gaussian inputs.",
        "All examples are seen at every step, by gradient descent on squared errors, without weight decay.",
    ),
    papers=(
        Paper(
            title="Grokking as the Transition from Lazy to Rich Training Dynamics",
            authors=("Tanishq Kumar", "Blake Bordelon", "Samuel J. Gershman", "Cengiz Pehlevan"),
            year=2023,
            url="https://arxiv.org/abs/2310.06110",
        ),
    ),
    settings=(
        Setting("dimension", "int", 20, "inputs", 8, 32),
        Setting("examples_per_dimension", "float", 4.0, "training examples over inputs", 2.0, 8.0),
        Setting("width", "int", 100, "hidden units", 25, 100),
        Setting("scale", "float", 1.0, "factor of the outputs: large is lazy", 0.3, 10.0),
        Setting(
            "bend", "float", 0.3, "curvature of the activation: small turns features away from the target", 0.1, 1.0
        ),
        Setting("rate_share", "float", 0.4, "learning rate over the largest stable one", 0.1, 0.5),
    ),
    series=(
        SeriesSpec("loss", description="half the mean squared error on training examples"),
        SeriesSpec("eval_loss", description="half the expected squared error on fresh ones"),
        SeriesSpec("label_alignment", description="cosine of the centred tangent kernel and that of the targets"),
        SeriesSpec("kernel_distance", description="1 - cosine of the tangent kernels here and at the start"),
        SeriesSpec("feature_alignment", description="share of the rows' squared length along the hidden direction"),
    ),
    problem=_problem,
    steps=_steps,
    predict=predict,
    simulate=_simulate,
    bands=(
        Band("loss", 1e-9, _EXACT),
        Band("eval_loss", 0.02, "trainings are tested on 4096 examples, whose squared errors have heavy tails"),
        Band("label_alignment", 1e-9, _EXACT),
        Band("kernel_distance", 1e-9, _EXACT),
        Band("feature_alignment", 1e-9, _EXACT),
    ),
    laws=(
        Law("start", "the first losses are those of an output of 0", _at_start),
        Law("rotation", "inputs and weights that are turned together train alike", _rotated, 1e-7),
        Law("covariance", "the covariance of the rows stays positive", _positive, 1e-12),
        Law("lazy-limit", "at an immense scale training is descent under the kernel of the start", _lazy, 1e-5),
    ),
    wrong=_wrong,
)
