from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from separatrix.probes._spectra import EXACT_SIZE, weight_spectrum, weight_travel
from separatrix.runs.errors import UsageError


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_spectrum(values: torch.Tensor, rows: int, seed: int = 0) -> torch.Tensor:
    u = torch.linalg.qr(draw(rows, len(values), seed=seed)).Q
    v = torch.linalg.qr(draw(len(values), len(values), seed=seed + 1)).Q
    return (u * values) @ v.T


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (3, 2, 4, 4), (EXACT_SIZE, 300)])
def test_small_matrices_are_exact(shape: tuple[int, ...]) -> None:
    w = draw(*shape)
    values = np.linalg.svd(w.reshape(shape[0], -1).numpy(), compute_uv=False)
    found = weight_spectrum(w)
    assert float(found.spectral_norm) == pytest.approx(values[0], rel=1e-12)
    assert float(found.frobenius_norm) == pytest.approx(np.sqrt((values**2).sum()), rel=1e-12)
    assert float(found.stable_rank) == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-12)
    assert float(found.residual) == 0.0 and found.direction is None


@pytest.mark.parametrize("rows", [200, 600])
def test_power_iteration_stays_within_its_own_error(rows: int) -> None:
    values = torch.linspace(1.0, 0.1, 200, dtype=torch.float64)
    values[0] = 1.2
    w = with_spectrum(values, rows)
    for tolerance in (1e-1, 1e-2, 1e-4, 1e-8):
        found = weight_spectrum(w, tolerance=tolerance, most_products=2000)
        norm, residual = float(found.spectral_norm), float(found.residual)
        assert residual <= tolerance
        assert norm <= 1.2 * (1 + 1e-12)
        assert float((values - norm).abs().min()) <= residual * norm * (1 + 1e-9)
    assert norm == pytest.approx(1.2, rel=1e-14)
    assert float(torch.linalg.vector_norm(w @ found.direction)) == pytest.approx(1.2, rel=1e-14)
    single = weight_spectrum(w.float(), tolerance=1e-4, most_products=2000)
    assert float(single.spectral_norm) == pytest.approx(1.2, rel=1e-5)


def test_products_are_bounded_and_the_residual_says_so() -> None:
    found = weight_spectrum(with_spectrum(torch.linspace(1.0, 0.99, 150, dtype=torch.float64), 150), most_products=4)
    assert float(found.residual) > 1e-3
    assert 0.99 <= float(found.spectral_norm) < 1.0


def test_a_warm_start_needs_fewer_products_and_sees_another_direction_overtake() -> None:
    values = torch.linspace(1.0, 0.1, 150, dtype=torch.float64)
    w = with_spectrum(values, 200)
    cold = weight_spectrum(w, tolerance=1e-8, most_products=10_000)
    moved = w + 1e-4 * draw(200, 150, seed=7)
    exact = float(torch.linalg.matrix_norm(moved, ord=2))
    budget = 40
    warm = weight_spectrum(moved, cold.direction, tolerance=0.0, most_products=budget)
    fresh = weight_spectrum(moved, tolerance=0.0, most_products=budget)
    assert exact - float(warm.spectral_norm) < 0.1 * (exact - float(fresh.spectral_norm))
    # The old direction stays an exact singular vector while another, exactly orthogonal, becomes the largest.
    diagonal = torch.diag(torch.linspace(0.5, 0.1, 150, dtype=torch.float64))
    diagonal[0, 0] = 1.0
    before = weight_spectrum(diagonal, tolerance=1e-10, most_products=1000)
    diagonal[5, 5] = 1.5
    assert float(weight_spectrum(diagonal, before.direction).spectral_norm) == pytest.approx(1.5, rel=1e-5)


def test_the_start_is_drawn_from_a_generator_of_its_own() -> None:
    w, state = draw(200, 200), torch.get_rng_state()
    first = weight_spectrum(w)
    torch.manual_seed(5)
    assert float(weight_spectrum(w).spectral_norm) == float(first.spectral_norm)
    torch.set_rng_state(state)
    weight_spectrum(w)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [10, 200])
def test_zeros_broken_and_extreme_weights(size: int) -> None:
    zero = weight_spectrum(torch.zeros(size, size))
    assert float(zero.spectral_norm) == 0.0 and torch.isnan(zero.stable_rank)
    for bad in (torch.nan, torch.inf):
        w = draw(size, size)
        w[3, 4] = bad
        assert torch.isnan(weight_spectrum(w).spectral_norm) and torch.isnan(weight_spectrum(w).stable_rank)
    w = draw(size, size).float()
    plain = weight_spectrum(w)
    for scale in (1e-30, 1e30):
        scaled = weight_spectrum(w * scale)
        assert float(scaled.stable_rank) == pytest.approx(float(plain.stable_rank), rel=1e-5)
        assert float(scaled.spectral_norm) == pytest.approx(scale * float(plain.spectral_norm), rel=1e-5)
    half = weight_spectrum(w.half())
    assert half.spectral_norm.dtype == torch.float32
    assert float(half.spectral_norm) == pytest.approx(float(plain.spectral_norm), rel=1e-2)


def test_what_has_no_spectrum_is_refused() -> None:
    for bad in (draw(5), torch.zeros(3, 0), torch.zeros(3, 3, dtype=torch.int64)):
        with pytest.raises(UsageError):
            weight_spectrum(bad)
    with pytest.raises(UsageError):
        weight_spectrum(draw(200, 200), draw(100))


def test_travel_along_a_path_by_hand() -> None:
    start = [torch.zeros(2), torch.tensor([3.0, 4.0])]
    middle = [torch.tensor([3.0, 0.0]), torch.tensor([3.0, 4.0])]
    end = [torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0])]
    first = weight_travel(middle, start)
    second = weight_travel(end, start, middle, first.path)
    for measured, expected in (
        (first.path, [3.0, 0.0]),
        (first.distance, [3.0, 0.0]),
        (second.norm, [5.0, 10.0]),
        (second.distance, [5.0, 5.0]),
        (second.path, [7.0, 5.0]),
    ):
        np.testing.assert_allclose(measured, expected, rtol=1e-6)
    assert float(second.growth[1]) == pytest.approx(2.0) and float(second.relative_distance[1]) == pytest.approx(1.0)
    assert torch.isnan(second.growth[0]) and torch.isnan(second.relative_distance[0])


def test_path_is_never_shorter_than_distance_and_small_moves_are_not_lost() -> None:
    walk = [[draw(4, 3), draw(5)]]
    for step in range(20):
        walk.append([w + 0.1 * draw(*w.shape, seed=step) for w in walk[-1]])
    path, previous = None, None
    for place in walk:
        travel = weight_travel(place, walk[0], previous, path)
        path, previous = travel.path, place
        assert bool((travel.path >= travel.distance * (1 - 1e-12)).all())
    steps = [[float(torch.linalg.vector_norm(b - a)) for a, b in zip(*two, strict=True)] for two in pairwise(walk)]
    np.testing.assert_allclose(path, np.sum(steps, axis=0), rtol=1e-12)
    # In bfloat16 a difference of neighbours is exact, its square would not be.
    a = torch.full((4,), 1.0, dtype=torch.bfloat16)
    b = torch.full((4,), 1.0078125, dtype=torch.bfloat16)
    assert float(weight_travel([b], [a]).distance) == pytest.approx(2 * 0.0078125)


def test_other_parameters_are_refused() -> None:
    for other in ([draw(2)], [draw(2), draw(3)], []):
        with pytest.raises(UsageError):
            weight_travel([draw(2), draw(2)], other)
