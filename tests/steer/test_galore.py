"""GaLore against plain Adam, a literal version of its algorithm in float64, and the memory that the paper counts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from separatrix.steer.optim import GaLore, OptimizerError, projected_state_bytes


def _gradients(shape: tuple[int, ...], steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(steps)]


def _moved(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, gradients: list[Tensor]) -> Tensor:
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()


def _literal(start: Tensor, gradients: list[Tensor], rank: int, gap: int, lr: float, scale: float) -> Tensor:
    """Algorithm 2 of the paper for m <= n, with the transpose for m > n; the basis from an eigendecomposition."""
    weights, transposed = start.clone(), start.shape[0] > start.shape[1]
    mean, square, basis = torch.zeros(()), torch.zeros(()), torch.empty(0)
    for step, each in enumerate(gradients):
        gradient = each.T if transposed else each
        if step % gap == 0:
            basis = torch.linalg.eigh(gradient @ gradient.T).eigenvectors.flip(1)[:, :rank]
            if step == 0:
                mean = square = torch.zeros(rank, gradient.shape[1], dtype=torch.float64)
        projected = basis.T @ gradient
        mean = 0.9 * mean + 0.1 * projected
        square = 0.999 * square + 0.001 * projected**2
        direction = (mean / (1 - 0.9 ** (step + 1))) / ((square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
        change = scale * basis @ direction
        weights = weights - lr * (change.T if transposed else change)
    return weights


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
def test_it_is_the_papers_algorithm_within_one_subspace(shape: tuple[int, int]) -> None:
    # Later subspaces meet moments whose signs depend on the decomposition's, so only the first can be compared.
    start, gradients = torch.ones(shape, dtype=torch.float64), _gradients(shape, 6)
    parameter = nn.Parameter(start.clone())
    found = _moved(GaLore([parameter], lr=0.1, rank=3, update_gap=10, scale=0.5), parameter, gradients)
    torch.testing.assert_close(found, _literal(start, gradients, 3, 10, 0.1, 0.5), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("shape", "rank"), [((5, 9), 5), ((5, 9), None), ((7,), 3), ((2, 3, 4), 1)])
def test_what_is_not_projected_is_plain_adam(shape: tuple[int, ...], rank: int | None) -> None:
    gradients = _gradients(shape, 6)
    ours, theirs = (nn.Parameter(torch.ones(shape, dtype=torch.float64)) for _ in range(2))
    expected = _moved(torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.2), theirs, gradients)
    found = _moved(GaLore([ours], lr=0.1, rank=rank, weight_decay=0.2), ours, gradients)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients_in_a_fixed_span_are_all_kept() -> None:
    generator = torch.Generator().manual_seed(0)
    span = torch.linalg.qr(torch.randn(8, 2, dtype=torch.float64, generator=generator)).Q
    gradients = [span @ part for part in _gradients((2, 12), 7)]
    parameter = nn.Parameter(torch.zeros(8, 12, dtype=torch.float64))
    optimizer = GaLore([parameter], rank=2, update_gap=3)
    moved = _moved(optimizer, parameter, gradients)
    torch.testing.assert_close(span @ (span.T @ moved), moved)  # it never leaves the span
    (seen,) = optimizer.subspaces()
    assert seen.captured == pytest.approx(1.0, abs=1e-12)
    assert seen.drift == pytest.approx(0.0, abs=1e-12)
    assert (seen.step, seen.rank, seen.shape) == (7, 2, (8, 12))


def test_an_orthogonal_subspace_is_drift_one() -> None:
    first, second = torch.zeros(2, 8, 12, dtype=torch.float64)
    first[:2], second[4:6] = 1.0, 1.0
    first[1, :6], second[5, :6] = -1.0, -1.0
    parameter = nn.Parameter(torch.zeros(8, 12, dtype=torch.float64))
    optimizer = GaLore([parameter], rank=2, update_gap=1)
    _moved(optimizer, parameter, [first, second])
    assert optimizer.subspaces()[0].drift == pytest.approx(1.0, abs=1e-12)


def test_stable_rank_is_that_of_planted_singular_values() -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.linalg.qr(torch.randn(n, 4, dtype=torch.float64, generator=generator)).Q for n in (6, 9))
    values = torch.tensor([3.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    parameter = nn.Parameter(torch.zeros(6, 9, dtype=torch.float64))
    optimizer = GaLore([parameter], rank=2)
    _moved(optimizer, parameter, [left * values @ right.T])
    (seen,) = optimizer.subspaces()
    assert seen.stable_rank == pytest.approx((9 + 4 + 1 + 0.25) / 9)
    assert seen.captured == pytest.approx((9 + 4) / (9 + 4 + 1 + 0.25))
    assert seen.drift is None


def test_state_is_as_large_as_the_paper_counts() -> None:
    network = nn.Sequential(nn.Linear(12, 20), nn.Linear(20, 7), nn.Linear(7, 3))
    optimizer = GaLore(network.parameters(), rank=4)
    network(torch.ones(2, 12)).sum().backward()
    optimizer.step()
    matrices = (4 * 12 + 2 * 4 * 20) + (4 * 7 + 2 * 4 * 20) + 2 * 7 * 3  # r m + 2 r n, and Adam's 2 m n for m <= r
    assert optimizer.state_bytes() == 4 * (matrices + 2 * (20 + 7 + 3))
    shapes = [tuple(layer.weight.shape) for layer in network]
    assert sum(projected_state_bytes(shape, 4) for shape in shapes) == 4 * matrices


def test_half_precision_is_decomposed_in_single() -> None:
    parameter = nn.Parameter(torch.zeros(6, 9, dtype=torch.bfloat16))
    optimizer = GaLore([parameter], rank=2)
    moved = _moved(optimizer, parameter, [gradient.bfloat16() for gradient in _gradients((6, 9), 3)])
    assert moved.dtype == torch.bfloat16
    assert bool(moved.isfinite().all())
    assert optimizer.state_bytes() == projected_state_bytes((6, 9), 2, element_size=2)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"rank": 0}, "rank=0"),
        ({"rank": 2.0}, "rank=2.0"),
        ({"update_gap": 0}, "update_gap=0"),
        ({"scale": 0.0}, "scale=0.0"),
        ({"scale": math.inf}, "scale=inf"),
        ({"eps": -1.0}, "eps=-1.0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"betas": (0.9, 1.0)}, "betas="),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], part: str) -> None:
    with pytest.raises(OptimizerError, match=part):
        GaLore([nn.Parameter(torch.ones(2))], **options)


def test_a_gradient_that_is_not_finite_has_no_subspace() -> None:
    parameter = nn.Parameter(torch.ones(4, 5))
    parameter.grad = torch.full((4, 5), math.nan)
    with pytest.raises(OptimizerError, match=r"\(4, 5\) that is not finite at step 1"):
        GaLore([parameter], rank=2).step()
    assert bool((parameter == 1).all())
