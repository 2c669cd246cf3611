from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch

from separatrix.probes._similarity import cca, linear_cka, pwcca, rbf_cka, svcca
from separatrix.runs.errors import UsageError

SHAPES = [(40, 5, 3), (40, 3, 7), (12, 30, 25), (15, 20, 4)]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(n: int, a: int, b: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two representations with something in common, off centre, of unequal scales."""
    x = draw(n, a, seed=seed)
    return 3.0 * x + 2.0, 0.1 * (x @ draw(a, b, seed=seed + 1) + draw(n, b, seed=seed + 2)) - 1.0


def hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    h = np.eye(len(k)) - 1.0 / len(k)
    return float(np.trace(k @ h @ l @ h))


def cka(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    return float(hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l)))


def gaussian(x: np.ndarray, factor: float) -> np.ndarray:
    distances = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
    sigma = factor * np.median(distances[np.triu_indices(len(x), 1)])
    return np.exp(-(distances**2) / (2 * sigma**2))


def unbiased_hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """The U-statistic as a mean over all ordered quadruples of distinct examples."""
    terms = [
        k[i, j] * l[i, j] + k[i, j] * l[q, r] - 2 * k[i, j] * l[i, q]
        for i, j, q, r in itertools.permutations(range(len(k)), 4)
    ]
    return float(np.mean(terms))


def generalized_correlations(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Canonical correlations and the canonical variates of x, from the generalized symmetric eigenproblem."""
    x, y = x - x.mean(0), y - y.mean(0)
    cross = x.T @ y
    values, vectors = scipy.linalg.eigh(cross @ np.linalg.solve(y.T @ y, cross.T), x.T @ x)
    order = np.argsort(values)[::-1][: min(x.shape[1], y.shape[1])]
    variates = x @ vectors[:, order]
    return np.sqrt(values[order]), variates / np.linalg.norm(variates, axis=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_linear_cka_is_hsic_of_grams(shape: tuple[int, int, int]) -> None:
    x, y = pair(*shape)
    assert float(linear_cka(x, y)) == pytest.approx(cka((x @ x.T).numpy(), (y @ y.T).numpy()), rel=1e-11)


@pytest.mark.parametrize("factor", [0.3, 1.0])
def test_rbf_cka_is_hsic_of_gaussian_kernels(factor: float) -> None:
    for n in (11, 12):
        x, y = pair(n, 4, 6)
        expected = cka(gaussian(x.numpy(), factor), gaussian(y.numpy(), factor))
        assert float(rbf_cka(x, y, bandwidth=factor)) == pytest.approx(expected, rel=1e-11)


def test_debiased_cka_is_the_mean_over_quadruples() -> None:
    x, y = pair(7, 3, 5)
    grams = (x @ x.T).numpy(), (y @ y.T).numpy()
    gaussians = gaussian(x.numpy(), 1.0), gaussian(y.numpy(), 1.0)
    for (k, l), measured in (  # noqa: E741
        (grams, linear_cka(x, y, debiased=True)),
        (gaussians, rbf_cka(x, y, debiased=True)),
    ):
        expected = unbiased_hsic(k, l) / np.sqrt(unbiased_hsic(k, k) * unbiased_hsic(l, l))
        assert float(measured) == pytest.approx(expected, rel=1e-10)


def test_debiased_cka_of_independent_features_averages_to_zero_and_the_biased_one_does_not() -> None:
    pairs = [(draw(20, 50, seed=2 * i), draw(20, 50, seed=2 * i + 1)) for i in range(200)]
    values = np.array([float(linear_cka(x, y, debiased=True)) for x, y in pairs])
    assert abs(values.mean()) < 3 * values.std() / len(values) ** 0.5
    assert min(float(linear_cka(x, y)) for x, y in pairs) > 0.5


@pytest.mark.parametrize("measure", [linear_cka, rbf_cka, lambda x, y: svcca(x, y, variance=0.9).mean])
def test_orthogonal_maps_isotropic_scale_and_shift_change_nothing(measure) -> None:  # type: ignore[no-untyped-def]
    x, y = pair(60, 6, 4)
    rotation = torch.linalg.qr(draw(6, 6, seed=9)).Q
    moved = 17.0 * x @ rotation + draw(6, seed=8)
    assert float(measure(moved, y)) == pytest.approx(float(measure(x, y)), rel=1e-10)
    assert float(measure(x, moved)) == pytest.approx(1.0, rel=1e-10)
    # A map that is only invertible does change it.
    stretched = x @ (draw(6, 6, seed=7) + torch.diag(torch.tensor([30.0, 1, 1, 1, 1, 0.01], dtype=x.dtype)))
    assert abs(float(measure(stretched, y)) - float(measure(x, y))) > 1e-3


def test_cca_solves_the_generalized_eigenproblem() -> None:
    for n, a, b in ((40, 5, 3), (40, 3, 7), (50, 8, 8)):
        x, y = pair(n, a, b)
        expected, variates = generalized_correlations(x.numpy(), y.numpy())
        measured = cca(x, y)
        np.testing.assert_allclose(measured.correlations, expected, rtol=1e-9)
        assert (measured.rank_x, measured.rank_y, measured.forced) == (a, b, 0)
        columns = x.numpy() - x.numpy().mean(0)
        weights = np.array([sum(abs(h @ c) for c in columns.T) for h in variates.T])
        np.testing.assert_allclose(measured.weights, weights / weights.sum(), rtol=1e-8)
        assert float(pwcca(x, y)) == pytest.approx((weights * expected).sum() / weights.sum(), rel=1e-9)


def test_only_cca_ignores_invertible_affine_maps_of_both_sides() -> None:
    x, y = pair(80, 6, 5)
    a, b = draw(6, 6, seed=5), draw(5, 5, seed=6)
    torch.testing.assert_close(cca(x @ a + 3.0, y @ b - 1.0).correlations, cca(x, y).correlations, rtol=1e-9, atol=0)
    assert float(pwcca(x, y @ b)) == pytest.approx(float(pwcca(x, y)), rel=1e-9)
    assert abs(float(pwcca(x @ a, y)) - float(pwcca(x, y))) > 1e-3


def test_svcca_keeps_the_fewest_directions_that_hold_the_variance() -> None:
    x = torch.linalg.qr(draw(50, 4) - draw(50, 4).mean(0)).Q
    x = (x - x.mean(0)) @ torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=x.dtype))
    powers = torch.linalg.svdvals(x).square()
    shares = powers.cumsum(0) / powers.sum()
    for kept in (1, 2, 3, 4):
        below = float(shares[kept - 2]) if kept > 1 else 0.0
        found = svcca(x, draw(50, 3, seed=3), variance=(below + float(shares[kept - 1])) / 2)
        assert found.rank_x == kept and len(found.correlations) == min(kept, found.rank_y)


def test_too_few_examples_force_correlations_of_one() -> None:
    measured = cca(draw(10, 8), draw(10, 6, seed=1))
    assert measured.forced == 5
    assert int((measured.correlations > 1 - 1e-12).sum()) == 5
    assert cca(draw(5, 8), draw(5, 6, seed=1)).forced == 4


def test_repeated_columns_do_not_raise_the_rank() -> None:
    x, y = pair(40, 4, 3)
    doubled = torch.cat([x, x[:, :2] + x[:, 2:]], dim=1)
    torch.testing.assert_close(cca(doubled, y).correlations, cca(x, y).correlations, rtol=1e-9, atol=0)
    # In float32 the rounding of a dependent column is no direction either.
    assert cca(doubled.float(), y.float()).rank_x == 4


def test_a_large_offset_and_extreme_scales_do_not_matter() -> None:
    x, y = pair(30, 5, 4)
    for scale, shift in ((1e120, 0.0), (1e-120, 0.0), (1.0, 1e6)):
        for measure in (linear_cka, rbf_cka, pwcca):
            assert float(measure(scale * x + shift, y)) == pytest.approx(float(measure(x, y)), rel=1e-6)


@pytest.mark.parametrize("measure", [linear_cka, rbf_cka, pwcca, lambda x, y: svcca(x, y).mean])
def test_where_similarity_is_not_defined_it_is_nan(measure) -> None:  # type: ignore[no-untyped-def]
    x, y = pair(20, 4, 3)
    broken = x.clone()
    broken[3, 1] = torch.nan
    infinite = x.clone()
    infinite[0, 0] = torch.inf
    # 0.1 summed and divided is not 0.1: rounding of the mean must not pass for features.
    for other in (broken, infinite, torch.full_like(x, 0.1), torch.zeros_like(x)):
        assert torch.isnan(measure(other, y)) and torch.isnan(measure(y, other))
    assert torch.isnan(measure(x[:1], y[:1]))


def test_debiased_cka_without_enough_or_with_only_equidistant_examples_is_nan() -> None:
    x, y = pair(3, 4, 3)
    assert torch.isnan(linear_cka(x, y, debiased=True))
    assert torch.isnan(linear_cka(torch.eye(12) * 0.3, draw(12, 5), debiased=True))


def test_what_cannot_be_compared_is_refused() -> None:
    x = draw(10, 4)
    for a, b in ((x, x[:9]), (x, x[0]), (x.int(), x), (x[:, :0], x), (x[:0], x[:0])):
        with pytest.raises(UsageError):
            linear_cka(a, b)
    with pytest.raises(UsageError):
        svcca(x, x, variance=0.0)
    with pytest.raises(UsageError):
        rbf_cka(x, x, bandwidth=0.0)
