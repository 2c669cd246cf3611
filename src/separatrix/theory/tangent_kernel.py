"""Training as kernel descent: outputs of a net that stays near its start follow the tangent kernel of the start.

Replace a model by its first-order expansion at the initial parameters. With J the Jacobian of its outputs there and
K = J J' the tangent kernel, gradient descent with momentum m and rate h on a loss L moves the outputs f on the training
examples, and f* on others, by

    v_{t+1} = m v_t + dL/df (f_t),    f_{t+1} = f_t - h K v_{t+1},    f*_{t+1} = f*_t - h K* v_{t+1},    v_0 = 0,

because the parameters move by -h J' v. This is exact for the expanded model: no step size is small. For squared errors
dL/df = c (f - y), and each eigenvector of K, with eigenvalue l, obeys a recursion of its own, the powers of a matrix of
order 3; without momentum the residual decays as (1 - h c l)^t, and at the end f* has moved by K* K^-1 (y - f_0) (Jacot
et al. 2018, section 5; Lee et al. 2019, equations 8 to 11, in discrete time and with momentum). Other losses are
followed step by step, which costs the square of the number of outputs each.

What a real net adds is the change of its kernel, which vanishes with the width and, where outputs are scaled up by a
factor after those of the start were subtracted, as 1 / factor (Chizat et al. 2019). With ReLU a unit that switches
changes the kernel by a step, which the factor makes rarer but not smaller; the trainings here are of nets with erf.

A simulation is the training of the one net whose kernel was computed.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from separatrix.operators import tangent_kernel
from separatrix.runs import SeriesSpec
from separatrix.theory._kernel_descent import Loss, TangentProblem, linearised_changes, mode_response, outputs_at
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
    TheoryError,
)

__all__ = [
    "THEORY",
    "Loss",
    "TangentProblem",
    "from_model",
    "half_squared_error",
    "linearised_changes",
    "mode_response",
    "outputs_at",
    "predict",
]

_LAST = 200
_TESTS = 12
_DIMENSION = 6
_CLASSES = 3
_FOREVER = 1 << 50


def half_squared_error(outputs: Float[Tensor, "n c"], targets: Float[Tensor, "n c"]) -> Float[Tensor, ""]:
    """Half the squared distance of outputs from targets, mean over examples."""
    return 0.5 * (outputs - targets).square().sum() / len(outputs)


def from_model(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    test_inputs: Tensor,
    test_targets: Tensor,
    learning_rate: float,
    *,
    momentum: float = 0.0,
    loss: Loss = nn.functional.mse_loss,
) -> TangentProblem:
    """The problem that full-batch training of `model`, as it is now, poses: `compare(run, THEORY, problem=...)`.

    `loss` is a mean over examples, mean squared errors or any other that torch can differentiate; the optimizer is
    `torch.optim.SGD` without dampening, Nesterov steps and weight decay. The kernels are computed as
    `operators.tangent_kernel` does, in float64 afterwards, at a cost of memory 8 (n + t) n c^2 bytes.

    Raises:
        TheoryError: targets do not fit the outputs.
        OperatorError: see `operators.tangent_kernel`.
    """
    with torch.no_grad():
        outputs, test_outputs = model(inputs).double(), model(test_inputs).double()
    if outputs.dim() != 2:
        raise TheoryError(
            f"outputs of shape {tuple(outputs.shape)}: wrap the model so that they are (examples, outputs)"
        )
    if targets.is_floating_point():
        targets, test_targets = targets.double(), test_targets.double()
        if targets.shape != outputs.shape:
            raise TheoryError(
                f"targets of shape {tuple(targets.shape)} for outputs {tuple(outputs.shape)}: give them the same shape"
            )
    squared = loss is nn.functional.mse_loss or (isinstance(loss, nn.MSELoss) and loss.reduction == "mean")
    return TangentProblem(
        _flat(tangent_kernel(model, inputs, form="full")),
        _flat(tangent_kernel(model, test_inputs, inputs, form="full")),
        outputs,
        test_outputs,
        targets,
        test_targets,
        loss,
        learning_rate,
        momentum,
        2.0 / outputs.numel() if squared else None,
    )


def _flat(kernel: Tensor | dict[str, Tensor]) -> Float[Tensor, "nc mc"]:
    assert isinstance(kernel, Tensor)
    n, m, c, _ = kernel.shape
    return kernel.double().transpose(1, 2).reshape(n * c, m * c)


def predict(problem: TangentProblem, steps: Sequence[int]) -> Curves:
    """Losses on training and test examples, and the push on the outputs along each eigenvector of the kernel."""
    outputs, test_outputs = outputs_at(problem, steps)
    return _curves(problem, list(outputs), list(test_outputs), steps if problem.curvature is not None else None)


def _curves(
    problem: TangentProblem, outputs: list[Tensor], test_outputs: list[Tensor], exact: Sequence[int] | None = None
) -> Curves:
    values, vectors = problem.spectrum()
    scale = math.sqrt(len(problem.outputs))
    if exact is None or problem.curvature is None:
        modes = torch.stack([problem.push(at).flatten() @ vectors for at in outputs])
    else:
        left, _ = mode_response(problem.learning_rate * problem.curvature * values, exact, problem.momentum)
        modes = left * (problem.push(problem.outputs).flatten() @ vectors)
    return {
        "loss": np.array([float(problem.loss(at, problem.targets)) for at in outputs]),
        "eval_loss": np.array([float(problem.loss(at, problem.test_targets)) for at in test_outputs]),
        "mode_residual": (scale * modes).numpy(),
    }


class _Mlp(nn.Module):
    """Kernel parametrisation, with erf; its outputs are `scale` times their change since the start."""

    def __init__(self, sizes: Sequence[int], scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.scale = scale
        self.weights = nn.ParameterList(
            torch.randn(after, before, dtype=torch.float64, generator=generator)
            for before, after in itertools.pairwise(sizes)
        )
        self.first = [weight.detach().clone() for weight in self.weights]

    def forward(self, inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        with torch.no_grad():
            start = _passed(self.first, inputs)
        return self.scale * (_passed(list(self.weights), inputs) - start)


def _passed(weights: Sequence[Tensor], inputs: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
    layer = inputs @ weights[0].T / math.sqrt(inputs.shape[1])
    for weight in weights[1:]:
        layer = torch.erf(layer) @ weight.T / math.sqrt(weight.shape[1])
    return layer


def _problem(settings: Settings, seed: int) -> TangentProblem:
    generator = torch.Generator().manual_seed(seed)
    count, classify = settings["examples"], settings["loss"] == "cross_entropy"
    sizes = [_DIMENSION, *[settings["width"]] * settings["depth"], _CLASSES if classify else 1]
    points = torch.randn(count + _TESTS, _DIMENSION, dtype=torch.float64, generator=generator)
    points = math.sqrt(_DIMENSION) * nn.functional.normalize(points, dim=1)
    net = _Mlp(sizes, settings["scale"], generator)
    scores = points @ torch.randn(_DIMENSION, sizes[-1], dtype=torch.float64, generator=generator)
    targets = scores.argmax(1) if classify else scores.sign()
    loss: Loss = nn.functional.cross_entropy if classify else half_squared_error
    parts = targets[:count], targets[count:]
    problem = from_model(net, points[:count], parts[0], points[count:], parts[1], 0.0, loss=loss)
    steepest = float(torch.linalg.eigvalsh(problem.kernel)[-1]) / count  # largest curvature of a squared error
    edge = 2.0 * (1.0 + settings["momentum"]) / steepest
    return dataclasses.replace(
        problem,
        learning_rate=settings["rate_share"] * edge,
        momentum=settings["momentum"],
        curvature=None if classify else 1.0 / count,
        net=net,
        inputs=(points[:count], points[count:]),
    )


def _simulate(problem: TangentProblem, steps: Sequence[int], seed: int) -> Simulation:
    if problem.net is None or problem.inputs is None:
        raise TheoryError("a problem taken from a model is not simulated: record its training")
    net = copy.deepcopy(problem.net)
    optimizer = torch.optim.SGD(net.parameters(), lr=problem.learning_rate, momentum=problem.momentum)
    inputs, test_inputs = problem.inputs
    outputs, test_outputs, wanted = [], [], set(steps)
    for step in range(max(steps) + 1):
        found = net(inputs)
        if step in wanted:
            outputs.append(found.detach())
            with torch.no_grad():
                test_outputs.append(net(test_inputs))
        optimizer.zero_grad()
        problem.loss(found, problem.targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Simulation(_curves(problem, outputs, test_outputs))


def _steps(problem: TangentProblem) -> list[int]:
    return sorted({0, *(round(step) for step in np.geomspace(1, _LAST, 40))})


def _start(problem: TangentProblem, seen: Prediction) -> float:
    first = (
        float(problem.loss(problem.outputs, problem.targets)),
        float(problem.loss(problem.test_outputs, problem.test_targets)),
    )
    return max(abs(float(seen["loss"][0]) / first[0] - 1.0), abs(float(seen["eval_loss"][0]) / first[1] - 1.0))


def _pythagoras(problem: TangentProblem, seen: Prediction) -> float:
    """Sum over modes of squared pushes against the loss, or against the pushes themselves where it is none of them."""
    pushes = np.square(seen["mode_residual"]).sum(1)
    if problem.curvature is not None:
        wanted = 2.0 * seen["loss"] * problem.curvature * len(problem.outputs)
    else:
        outputs, _ = outputs_at(problem, seen.steps.tolist())
        probabilities = outputs.softmax(2)
        surprise = probabilities - nn.functional.one_hot(problem.targets, outputs.shape[2])
        wanted = (surprise.square().sum((1, 2)) / len(problem.outputs)).numpy()
    return float(np.abs(pushes - wanted).max() / pushes[0])


def _representer(problem: TangentProblem, seen: Prediction) -> float:
    outputs, test_outputs = outputs_at(problem, [0, 1, int(seen.steps[-1])])
    moved = (outputs - problem.outputs).flatten(1)
    carried = moved @ torch.linalg.pinv(problem.kernel, hermitian=True) @ problem.test_kernel.T
    gap = (test_outputs - problem.test_outputs).flatten(1) - carried
    return float(gap.abs().max() / (1.0 + problem.test_outputs.abs().max() + carried.abs().max()))


def _end(problem: TangentProblem, seen: Prediction) -> float:
    """Distance of the last test outputs from ridgeless kernel regression; 0 for losses that have no such end."""
    if problem.curvature is None:
        return 0.0
    outputs, test_outputs = outputs_at(problem, [_FOREVER])
    residual = (problem.targets - problem.outputs).flatten()
    regression = problem.test_outputs.flatten() + problem.test_kernel @ torch.linalg.solve(problem.kernel, residual)
    gap = (test_outputs[0].flatten() - regression).abs().max() / regression.abs().max()
    return float(torch.maximum(gap, (outputs[0] - problem.targets).abs().max()))


def _first_step(problem: TangentProblem, seen: Prediction) -> float:
    """The first step is a plain one: f_1 = f_0 - rate K dL/df, whatever the momentum."""
    outputs, _ = outputs_at(problem, [1])
    push = problem.push(problem.outputs).flatten()
    stepped = problem.outputs.flatten() - problem.learning_rate * problem.kernel @ push
    return float((outputs[0].flatten() - stepped).abs().max() / stepped.abs().max())


def _wrong(settings: Settings) -> dict[str, Any]:
    share = settings["rate_share"]
    return {**settings, "rate_share": 0.4 * share if share > 0.25 else 2.0 * share}


_LEFT = "the kernel of a net of finite width moves, by a share of order 1 / (scale sqrt(width)): "

THEORY = Theory(
    name="tangent-kernel",
    question="What would this training do if the net kept its initial features?",
    assumptions=(
        "The net moves so little that it equals its first-order expansion: it is wide, or its outputs are scaled up.",
        "All examples are seen at every step, by gradient descent with or without momentum.",
    ),
    papers=(
        Paper(
            title="Neural Tangent Kernel: Convergence and Generalization in Neural Networks",
            authors=("Arthur Jacot", "Franck Gabriel", "Clément Hongler"),
            year=2018,
            url="https://arxiv.org/abs/1806.07572",
        ),
        Paper(
            title="Wide Neural Networks of Any Depth Evolve as Linear Models Under Gradient Descent",
            authors=("Jaehoon Lee", "Lechao Xiao", "Samuel S. Schoenholz", "Yasaman Bahri"),
            year=2019,
            url="https://arxiv.org/abs/1902.06720",
        ),
        Paper(
            title="On Lazy Training in Differentiable Programming",
            authors=("Lénaïc Chizat", "Edouard Oyallon", "Francis Bach"),
            year=2019,
            url="https://arxiv.org/abs/1812.07956",
        ),
    ),
    settings=(
        Setting("width", "int", 128, "units of each hidden layer", 64, 256),
        Setting("depth", "int", 2, "hidden layers, with erf", 1, 4),
        Setting("examples", "int", 8, "examples trained on, in 6 dimensions", 4, 16),
        Setting(
            "scale", "float", 40.0, "factor of the outputs, from which those of the start were subtracted", 25.0, 100.0
        ),
        Setting("rate_share", "float", 0.2, "learning rate over the largest stable one for squared errors", 0.1, 0.5),
        Setting("momentum", "float", 0.0, "of the optimizer", 0.0, 0.9),
        Setting(
            "loss", "str", "squared_error", "on signs, or on three classes", choices=("squared_error", "cross_entropy")
        ),
    ),
    series=(
        SeriesSpec("loss", description="half the mean squared error, or the cross-entropy, on training examples"),
        SeriesSpec("eval_loss", description="the same on other examples"),
        SeriesSpec(
            "mode_residual",
            ("mode",),
            description="derivative of the loss by the outputs, along an eigenvector of the kernel, times sqrt(n)",
        ),
    ),
    problem=_problem,
    steps=_steps,
    predict=predict,
    simulate=_simulate,
    bands=(
        Band("loss", 0.005, _LEFT + "at most 0.0022 in 200 draws"),
        Band(
            "eval_loss",
            0.06,
            _LEFT + "at most 0.030 in 200 draws, where this loss hardly changes and its span is small",
        ),
        Band("mode_residual", 0.01, _LEFT + "at most 0.0039 in 200 draws"),
    ),
    laws=(
        Law("start", "the first losses are those of the initial outputs", _start),
        Law("first-step", "the first step moves the outputs by the kernel times the push alone", _first_step, 1e-10),
        Law("pythagoras", "squared pushes along the modes add up to those on all outputs", _pythagoras, 1e-9),
        Law("representer", "test outputs follow from training outputs by the kernels at all times", _representer, 1e-6),
        Law("end", "squared errors end in ridgeless kernel regression from the initial outputs", _end, 1e-6),
    ),
    wrong=_wrong,
)
