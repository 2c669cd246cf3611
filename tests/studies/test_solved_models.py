"""What studies predict in closed form, against the things themselves."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from separatrix.studies import _collapse_lengths, gradient_snr, initial_rank, loss_curvature

DOUBLE = torch.float64


def _cost(means: torch.Tensor, layers: list[torch.Tensor], decay: float) -> float:
    """Cross-entropy of one example a class, and decay, written out."""
    outputs = means
    for layer in layers:
        outputs = outputs @ layer.T
    loss = functional.cross_entropy(outputs, torch.arange(len(means)))
    return float(loss + decay / 2 * (means.square().sum() / len(means) + sum(layer.square().sum() for layer in layers)))


def _balanced(logits: torch.Tensor, layers: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Means and layers whose outputs are `logits` (classes, classes), every mode shared equally."""
    count = len(logits)
    left, values, right = torch.linalg.svd(logits)
    share = (values.square() / count) ** (1 / (layers + 1))
    factor = share.sqrt().diag()
    means = left @ (share * count).sqrt().diag()
    return means, [*[factor] * (layers - 1), right.T @ factor]


@pytest.mark.parametrize("layers", [1, 3])
def test_costs_under_cross_entropy_are_those_of_nets(layers: int) -> None:
    classes, decay = 6, 0.01
    simplex = torch.eye(classes, dtype=DOUBLE) - 1 / classes
    block = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=DOUBLE) / 2
    pairs = torch.block_diag(block, block, block)
    lengths = torch.linspace(0.5, 25.0, 491, dtype=DOUBLE)
    for frame, expected in (
        (simplex, _collapse_lengths.simplex_cost(decay, classes, layers)),
        (pairs, _collapse_lengths.pairs_cost(decay, classes, layers)),
    ):
        costs = [_cost(*_balanced(float(length) * frame, layers), decay) for length in lengths]
        assert min(costs) == pytest.approx(expected, rel=1e-4)


def test_lengths_of_classes_solve_their_equation_and_vanish_past_the_threshold() -> None:
    for layers in (1, 2, 4):
        for share in (0.02, 0.3):
            edge = _collapse_lengths.vanishing_decay(share, layers)
            assert _collapse_lengths.squared_length(1.001 * edge, share, layers) == 0.0
            length = torch.tensor(_collapse_lengths.squared_length(0.9 * edge, share, layers), dtype=DOUBLE)
            length.requires_grad_()
            cost = share * (1 - length).square() / 2
            cost = cost + (layers + 1) / 2 * 0.9 * edge * (share * length.square()) ** (1 / (layers + 1))
            (slope,) = torch.autograd.grad(cost, length, create_graph=True)
            (bend,) = torch.autograd.grad(slope, length)
            assert abs(float(slope.detach())) < 1e-12
            assert float(bend) > 0


def test_the_end_of_the_flow_of_one_unit() -> None:
    """With d = 1, W a = b and W^2 - a^2 = W(0)^2 give both kernels; numbers always align."""
    target = torch.tensor([0.7], dtype=DOUBLE)
    found = initial_rank.alignment_at_the_end(3.0, 1, 1, target**2, target**2)
    assert float(found) == pytest.approx(1.0, abs=1e-12)


def test_a_step_of_the_recurrent_nets_is_gradient_descent_and_the_kernel_that_of_jacobians() -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=DOUBLE, generator=generator)

    leaves = [normal(1, 4, 4).requires_grad_(), normal(1, 4, 2).requires_grad_(), normal(1, 4).requires_grad_()]
    sequences, push = normal(3, 5, 2), normal(1, 5)
    state = torch.zeros(5, 4, dtype=DOUBLE)
    for seen in sequences:
        state = torch.tanh(state @ leaves[0][0].T + seen @ leaves[1][0].T)
    outputs = state @ leaves[2][0]
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(o, leaves, retain_graph=True)]) for o in outputs]
    jacobian = torch.stack(rows)
    net = initial_rank._Recurrent(*(leaf.detach() for leaf in leaves))
    way = initial_rank._through(net, sequences)
    torch.testing.assert_close(way.outputs[0], outputs.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(way.kernel()[0], jacobian @ jacobian.T, rtol=1e-12, atol=1e-12)
    moved = net.moved(push, way)
    step = torch.cat([part.flatten() for part in (moved.recurrent, moved.entry, moved.readout)])
    before = torch.cat([leaf.detach().flatten() for leaf in leaves])
    torch.testing.assert_close(step, before - push[0] @ jacobian, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("normalised", [False, True])
def test_the_curvature_is_the_largest_eigenvalue_of_the_hessian(normalised: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    data = loss_curvature._drawn(2, generator)
    weights = loss_curvature._initial(2, 1, 3, generator)
    found = loss_curvature._curvature(weights, data, normalised, generator)
    for copy in range(2):
        flat = torch.cat([weight[copy].flatten() for weight in weights])
        one = loss_curvature._Data(data.images[copy : copy + 1], data.digits[copy : copy + 1])

        def loss(row: torch.Tensor, one: loss_curvature._Data = one) -> torch.Tensor:
            parts = torch.split(row, [weight[0].numel() for weight in weights])
            shaped = [part.view(1, *weight.shape[1:]) for part, weight in zip(parts, weights, strict=True)]
            return loss_curvature._loss(shaped, one, normalised)[0]

        dense = torch.autograd.functional.hessian(loss, flat)
        assert float(found[copy]) == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=2e-2)


def test_group_gradients_are_those_of_the_loss_and_their_ratio_is_unbiased() -> None:
    generator = torch.Generator().manual_seed(2)
    problem = gradient_snr._problem(400, 64, 3, 1, 0.5, generator)
    weights = torch.randn(400, 3, dtype=DOUBLE, generator=generator).requires_grad_()
    (gradient,) = torch.autograd.grad(problem.residual(weights).square().mean(1).sum() / 2, weights)
    groups = problem.group_gradients(problem.residual(weights.detach()), 16)
    torch.testing.assert_close(groups.mean(1), gradient, rtol=1e-12, atol=1e-12)
    noise = torch.randn(20000, 16, 1, dtype=DOUBLE, generator=generator)
    # Of normal means with ratio 1 / 4 each, E[1 / variance] is 15 / 13: 13 / 15 of the mean is the ratio.
    found = gradient_snr.signal_to_noise(0.5 + noise, 1)
    assert float(found.mean()) * 13 / 15 == pytest.approx(0.25, abs=4 * float(found.std()) / math.sqrt(20000))
