"""The nets that studies write out by hand, against autograd and dense derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch.func import grad, hessian, jacrev

from separatrix.studies import class_imbalance, quadratic_models, tangent_kernel

DOUBLE = torch.float64


def _relu_net(weights: torch.Tensor, inputs: torch.Tensor, width: int) -> torch.Tensor:
    """Outputs (n,) of the net of study 477 for its weights in a row: hidden ones, then output ones."""
    dimension = inputs.shape[1]
    hidden, output = weights[:-width].view(width, dimension), weights[-width:]
    return torch.relu(inputs @ hidden.T) @ output / math.sqrt(width * dimension)


@pytest.mark.parametrize("model", ["net", "quadratic", "linear"])
def test_the_taylor_models_are_those_of_the_net(model: quadratic_models.Model) -> None:
    problem = quadratic_models._problem(2, 5, 3, 4, seed=0)
    generator = torch.Generator().manual_seed(1)
    moved = [
        part + 0.7 * torch.randn(part.shape, dtype=DOUBLE, generator=generator)
        for part in (problem.hidden, problem.output)
    ]
    outputs, _, _ = quadratic_models._evaluated(model, problem, *moved, problem.inputs)
    for copy in range(2):
        inputs = problem.inputs[copy]
        start, end = (
            torch.cat([hidden[copy].flatten(), output[copy]])
            for hidden, output in ((problem.hidden, problem.output), moved)
        )
        step = end - start
        first = jacrev(_relu_net)(start, inputs, 5) @ step
        second = torch.stack(
            [step @ hessian(lambda w, x: _relu_net(w, x[None], 5)[0])(start, x) @ step for x in inputs]
        )
        expected = {
            "net": _relu_net(end, inputs, 5),
            "linear": _relu_net(start, inputs, 5) + first,
            "quadratic": _relu_net(start, inputs, 5) + first + second / 2,
        }[model]
        torch.testing.assert_close(outputs[copy], expected, rtol=1e-12, atol=1e-12)


def test_a_step_of_the_net_is_gradient_descent_and_its_unit_the_curvature() -> None:
    problem = quadratic_models._problem(1, 6, 3, 4, seed=2)
    start = torch.cat([problem.hidden[0].flatten(), problem.output[0]])
    inputs, targets = problem.inputs[0], problem.targets[0]
    jacobian = jacrev(_relu_net)(start, inputs, 6)
    curvature = torch.linalg.eigvalsh(jacobian.T @ jacobian / 4)[-1]
    gradient = grad(lambda w: (_relu_net(w, inputs, 6) - targets).square().mean() / 2)(start)
    expected = start - 1.3 / curvature * gradient
    fate = quadratic_models._train("net", problem, 1.3, 1)
    moved = torch.cat([fate.hidden[0].flatten(), fate.output[0]])
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("kind", ["relu", "erf"])
def test_the_empirical_kernel_is_the_product_of_jacobians(kind: str, depth: int) -> None:
    generator = torch.Generator().manual_seed(0)
    layers = tangent_kernel._drawn(2, [3, *[5] * depth, 1], generator)
    inputs = torch.randn(4, 3, dtype=DOUBLE, generator=generator)
    found = tangent_kernel._pass(kind, layers, inputs)
    for copy in range(2):
        flat = torch.cat([part[copy].flatten() for layer in layers for part in layer])

        def net(weights: torch.Tensor) -> torch.Tensor:
            shapes = [part[0].shape for layer in layers for part in layer]
            parts = iter(torch.split(weights, [shape.numel() for shape in shapes]))
            signal = inputs
            for index, shape in enumerate(shapes[::2]):
                weight, bias = next(parts).view(shape), next(parts)
                gain = math.sqrt(2.0) if kind == "relu" else 1.0
                signal = gain * signal @ weight.T / math.sqrt(shape[1]) + 0.1 * bias
                if index < depth:
                    signal = torch.relu(signal) if kind == "relu" else torch.erf(signal)
            return signal[:, 0]

        jacobian = jacrev(net)(flat)
        torch.testing.assert_close(found.outputs[copy], net(flat), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.kernel()[copy], jacobian @ jacobian.T, rtol=1e-12, atol=1e-12)


def test_a_step_in_the_kernel_parametrization_is_gradient_descent() -> None:
    generator = torch.Generator().manual_seed(3)
    layers = tangent_kernel._drawn(1, [3, 6, 6, 1], generator)
    inputs = torch.randn(5, 3, dtype=DOUBLE, generator=generator)
    targets = torch.ones(3, dtype=DOUBLE)
    descent = tangent_kernel._descend("erf", layers, inputs, targets, 0.5, 1)
    leaves = [part.clone().requires_grad_() for layer in layers for part in layer]
    pairs = list(zip(leaves[::2], leaves[1::2], strict=True))
    outputs = tangent_kernel._pass("erf", pairs, inputs).outputs
    loss = (outputs[0, :3] - targets).square().sum() / 2
    moved = [
        leaf - descent.rate * gradient for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True)
    ]
    after = tangent_kernel._pass("erf", list(zip(moved[::2], moved[1::2], strict=True)), inputs)
    torch.testing.assert_close(descent.outputs[1], after.outputs.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(descent.after, after.kernel().detach(), rtol=1e-12, atol=1e-12)
    largest = torch.linalg.eigvalsh(descent.before[0, :3, :3])[-1]
    torch.testing.assert_close(descent.rate[0], 0.5 / largest)


def test_class_gradients_add_up_to_that_of_the_whole_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = class_imbalance._initial(2, 4, 3, generator)
    classes = tuple(torch.randn(count, 3, dtype=DOUBLE, generator=generator) for count in (6, 2))
    gradients = class_imbalance._gradients(weights, classes)
    shares = class_imbalance._shares((6, 2))(gradients)
    labels = torch.tensor([0] * 6 + [1] * 2)
    for copy in range(2):
        first, bias = weights[copy, :12].view(4, 3), weights[copy, 12:16]
        second, offset = weights[copy, 16:24].view(4, 2), weights[copy, 24:]
        leaves = [part.clone().requires_grad_() for part in (first, bias, second, offset)]
        outputs = torch.tanh(torch.cat(classes) @ leaves[0].T + leaves[1]) @ leaves[2] + leaves[3]
        loss = torch.nn.functional.cross_entropy(outputs, labels)
        expected = torch.cat([part.flatten() for part in torch.autograd.grad(loss, leaves)])
        found = shares[0][copy] * gradients[0][copy] + shares[1][copy] * gradients[1][copy]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_a_recovery_is_counted_after_the_peak() -> None:
    losses = torch.tensor([[1.0, 0.9, 2.0, 1.5, 0.8, 0.7], [1.0, 3.0, 2.0, 1.5, 1.2, 1.1]], dtype=DOUBLE).T
    training = class_imbalance._Training(torch.stack([losses, losses], 2), losses)
    assert class_imbalance._recovery(training) == (4 + 6) / 2
    assert class_imbalance._peak(training) == 2.0
