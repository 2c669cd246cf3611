"""Dynamical stability: what SGD converges to has a trace of the Hessian below 2 / rate; gradient descent does not.

Diagonal linear nets u^2 - v^2 interpolate a sparse teacher; single examples, squared loss. With K the tangent kernel at
a minimum, residuals r of SGD follow r <- r - rate K e_i r_i. Their second moment stops growing where rate M has the
largest eigenvalue 1, for M = sum_kl (l_k l_l / (l_k + l_l)) z_kl z_kl^T, z_kl the entrywise product of eigenvectors k
and l of K. The vector of ones gives that eigenvalue at least the mean of K's diagonal over 2: rate tr(H) <= 2.

The trace is a norm of the weights, so the rate bounds that norm. That the test error falls with it is no claim here: it
did so only where the norm came near the least one that interpolates.
"""

from __future__ import annotations

import dataclasses
import math

import torch

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

_SETTLED = 1e-6
_ZERO = 1e-15
_NUDGE = 1e-5
_NEAR = 1e-2  # losses to which an escape is followed, before it leaves the reach of the linearised dynamics


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Inputs (copies, n, d) and targets (copies, n) of a sparse teacher (copies, d)."""

    inputs: torch.Tensor
    targets: torch.Tensor
    teacher: torch.Tensor


def _problem(copies: int, examples: int, dimension: int, generator: torch.Generator) -> _Problem:
    inputs = torch.randn(copies, examples, dimension, dtype=torch.float64, generator=generator)
    teacher = torch.zeros(copies, dimension, dtype=torch.float64)
    teacher[:, 0] = 1.0
    return _Problem(inputs, inputs[..., 0], teacher)


def _residuals(problem: _Problem, weights: torch.Tensor) -> torch.Tensor:
    """Errors (copies, n) at weights u, v (copies, 2, d)."""
    squares = weights.square()
    return (problem.inputs @ (squares[:, 0] - squares[:, 1])[..., None])[..., 0] - problem.targets


def _kernel(problem: _Problem, weights: torch.Tensor) -> torch.Tensor:
    """Tangent kernel (copies, n, n); over n its eigenvalues are those of the Hessian at a minimum."""
    return 4 * (problem.inputs * weights.square().sum(1)[:, None]) @ problem.inputs.mT


def _trace(problem: _Problem, weights: torch.Tensor) -> torch.Tensor:
    return _kernel(problem, weights).diagonal(dim1=1, dim2=2).mean(1)


def _top(problem: _Problem, weights: torch.Tensor) -> torch.Tensor:
    top: torch.Tensor = torch.linalg.eigvalsh(_kernel(problem, weights))[:, -1]
    return top / problem.inputs.shape[1]


def _threshold(kernel: torch.Tensor) -> torch.Tensor:
    """Rate (copies,) from which SGD on single examples is unstable in mean square, for kernels (copies, n, n)."""
    values, vectors = torch.linalg.eigh(kernel)
    weight = values[:, :, None] * values[:, None] / (values[:, :, None] + values[:, None])
    products = vectors[..., :, None] * vectors[..., None, :]
    matrix = (products * weight[:, None]).flatten(2) @ products.flatten(2).mT
    largest: torch.Tensor = torch.linalg.eigvalsh(matrix)[:, -1]
    return 1.0 / largest


def _descend(
    problem: _Problem,
    weights: torch.Tensor,
    rate: torch.Tensor,
    steps: int,
    generator: torch.Generator | None = None,
    gone: float = 1e6,
) -> torch.Tensor:
    """Follow SGD on single examples, or gradient descent without a generator, until all converge or exceed `gone`."""
    copies, examples, _ = problem.inputs.shape
    rows = torch.arange(copies)
    for step in range(steps):
        if generator is None or step % 100 == 0:
            loss = _residuals(problem, weights).square().mean(1) / 2
            resting = (loss < _ZERO) | ~(loss < gone)
            if bool(resting.all()):
                break
            moving = torch.where(resting, 0.0, rate)[:, None, None]
        if generator is None:
            pull = (_residuals(problem, weights)[:, None] @ problem.inputs)[:, 0] / examples
        else:
            chosen = torch.randint(examples, (copies,), generator=generator)
            row = problem.inputs[rows, chosen]
            squares = weights.square()
            pull = ((row * (squares[:, 0] - squares[:, 1])).sum(1) - problem.targets[rows, chosen])[:, None] * row
        weights = weights - 2 * moving * weights * torch.stack((pull, -pull), 1)
    return weights


def _raised(
    problem: _Problem,
    weights: torch.Tensor,
    rate: torch.Tensor,
    strength: float,
    steps: int,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Nudge minima, and descend at rates that grow by steps of about a tenth from half of `rate` to `strength` x it."""
    stages = math.ceil(math.log(2 * strength) / math.log(1.1))
    noise = torch.Generator().manual_seed(stages)
    for stage in range(stages + 1):
        nudged = weights * (1 + _NUDGE * torch.randn(weights.shape, dtype=weights.dtype, generator=noise))
        factor = 0.5 * (2 * strength) ** (stage / stages)
        weights = _descend(problem, nudged, factor * rate, steps * (5 if stage == stages else 1), generator)
    return weights


def _loss(problem: _Problem, weights: torch.Tensor) -> torch.Tensor:
    return _residuals(problem, weights).square().mean(1) / 2


def _escape(
    problem: _Problem, weights: torch.Tensor, rate: torch.Tensor, steps: int, generator: torch.Generator | None
) -> torch.Tensor:
    """Growth of the loss (copies,) from near a minimum."""
    return _loss(problem, _descend(problem, weights, rate, steps, generator, gone=_NEAR)) / _loss(problem, weights)


def _plan(settings: Settings, quick: bool) -> Plan:
    return Plan(runs=5, seconds=(2.0 if quick else 12.0) * settings["examples"] / 16)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    copies, steps = (12, 2000) if quick else (48, 6000)
    generator = torch.Generator().manual_seed(seed)
    examples, strength = settings["examples"], settings["strength"]
    dimension = round(examples * settings["ratio"])
    problem = _problem(copies, examples, dimension, generator)
    start = torch.full((copies, 2, dimension), settings["initial"], dtype=torch.float64)
    minimum = _descend(problem, start, 0.5 / _top(problem, start), 20 * steps)
    progress()

    limit = 2 / _trace(problem, minimum)
    by_sgd = _raised(problem, minimum, limit, strength, steps, generator)
    progress()
    by_gd = _raised(problem, minimum, limit, strength, steps)
    progress()
    settled = _loss(problem, by_sgd) < _SETTLED
    rate = strength * limit

    threshold = _threshold(_kernel(problem, minimum))
    nudge = torch.randn(minimum.shape, dtype=torch.float64, generator=generator)
    nudged = minimum * (1 + _NUDGE * nudge)
    beyond = settings["beyond"] * threshold
    escaped, stayed = (_escape(problem, nudged, beyond, 2 * steps, source) for source in (generator, None))
    progress()
    below = settings["below"] * threshold
    calm = _escape(problem, nudged, below, round(2 * steps / settings["below"]), generator)
    progress()
    held = (rate * _trace(problem, by_sgd) / 2)[settled]
    loose = rate * _trace(problem, by_gd) / 2
    return Outcome(
        measured={
            "threshold_under_the_trace_bound": float((threshold / limit).max()),
            "sgd_settles": float(settled.double().mean()),
            "sgd_minima_under_the_trace_bound": float(held.max()) if len(held) else math.nan,
            "gd_minima_under_the_top_bound": float((rate * _top(problem, by_gd) / 2).max()),
            "rate_lowers_the_norm": float(
                (by_sgd.square().sum((1, 2)) / minimum.square().sum((1, 2)))[settled].max() * strength
            )
            if len(held)
            else math.nan,
            "stays_below_the_threshold": float(calm.max()),
            "escapes_above_the_threshold": float(escaped.min()),
        },
        controls={
            "gradient_descent_under_the_trace_bound": float(loose.max()),
            "gradient_descent_keeps_the_norm": float(
                (by_gd.square().sum((1, 2)) / minimum.square().sum((1, 2))).max() * strength
            ),
            "gradient_descent_at_that_rate": float(stayed.max()),
        },
        series={"sgd_trace_times_rate": (2 * held).tolist(), "gd_trace_times_rate": (2 * loose).tolist()},
    )


study = Study(
    id="22",
    slug="dynamical-stability",
    paper=Paper(
        title="The Implicit Regularization of Dynamical Stability in Stochastic Gradient Descent",
        authors=("Lei Wu", "Weijie J. Su"),
        year=2023,
        url="https://arxiv.org/abs/2305.17490",
    ),
    summary="Minima of SGD have a Hessian of trace below 2 / rate; gradient descent bounds only its top eigenvalue.",
    settings=(
        Setting("examples", "int", 16, "training examples", 8, 32),
        Setting("ratio", "float", 3.0, "inputs of the net over examples", 2.0, 8.0),
        Setting("initial", "float", 0.5, "first value of every weight", 0.5, 2.0),
        Setting(
            "strength",
            "float",
            1.6,
            "final rate, over 2 / trace at the minimum of slow gradient descent",
            1.2,
            2.0,
            reason="below 1 the bound binds nobody; far above, the least norm that interpolates breaks it",
        ),
        Setting(
            "beyond",
            "float",
            1.6,
            "rate of the escapes, over the threshold",
            1.3,
            2.2,
            reason="near 1 they take ever longer; gradient descent has a limit, too, a few times higher",
        ),
        Setting("below", "float", 0.5, "rate of the calm trainings, over the threshold", 0.2, 0.8),
    ),
    statements=(
        Statement(
            "threshold_under_the_trace_bound",
            "at_most",
            1.0,
            "Rate from which SGD is unstable in mean square, over 2 / trace, largest of all copies.",
        ),
        Statement("sgd_settles", "at_least", 0.75, "Share of the copies that still interpolate at the final rate."),
        Statement(
            "sgd_minima_under_the_trace_bound",
            "at_most",
            1.0,
            "Rate times trace over 2 where SGD on single examples settles, largest of all copies.",
        ),
        Statement(
            "gd_minima_under_the_top_bound",
            "at_most",
            1.0,
            "Rate times largest eigenvalue over 2 where gradient descent settles, largest of all copies.",
        ),
        Statement(
            "rate_lowers_the_norm",
            "at_most",
            1.15,
            "Squared norm of SGD's weights over that at the first minimum, times the factor in the rate.",
        ),
        Statement(
            "stays_below_the_threshold",
            "at_most",
            0.1,
            "Growth of the loss near a minimum at rates below the threshold, largest of all copies.",
        ),
        Statement(
            "escapes_above_the_threshold",
            "at_least",
            100.0,
            "Growth of the loss near a minimum at rates above the threshold, smallest of all copies.",
        ),
    ),
    controls=(
        Control(
            "gradient_descent_under_the_trace_bound",
            "sgd_minima_under_the_trace_bound",
            "Where gradient descent settles at the same rates.",
        ),
        Control("gradient_descent_keeps_the_norm", "rate_lowers_the_norm", "Gradient descent at the same rates."),
        Control(
            "gradient_descent_at_that_rate",
            "escapes_above_the_threshold",
            "Gradient descent from the same place at the same rate, its largest growth.",
        ),
    ),
    plan=_plan,
    run=_run,
    smoke={"examples": 8},
)
