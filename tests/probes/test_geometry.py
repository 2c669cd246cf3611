from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from separatrix.probes._geometry import (
    duplicate_units,
    effective_rank,
    feature_spectrum,
    intrinsic_dimension,
    participation_ratio,
    spectral_bias,
    stable_rank,
)
from separatrix.runs.errors import UsageError


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_ranks_from_the_covariance() -> None:
    x = draw(50, 6) @ draw(6, 6, seed=1) + 4.0
    eigenvalues = np.linalg.eigvalsh(np.cov(x.numpy().T, bias=True))
    roots = np.sqrt(eigenvalues) / np.sqrt(eigenvalues).sum()
    values = feature_spectrum(x)
    np.testing.assert_allclose(values.numpy() ** 2 / 50, eigenvalues[::-1], rtol=1e-10)
    assert float(effective_rank(values)) == pytest.approx(math.exp(-(roots * np.log(roots)).sum()), rel=1e-10)
    assert float(stable_rank(values)) == pytest.approx(eigenvalues.sum() / eigenvalues.max(), rel=1e-10)
    ratio = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert float(participation_ratio(values)) == pytest.approx(ratio, rel=1e-10)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_ranks_of_equal_directions_count_them_at_every_scale(scale: float) -> None:
    values = torch.tensor([scale] * 5 + [0.0] * 3, dtype=torch.float64)
    for measure in (effective_rank, stable_rank, participation_ratio):
        assert float(measure(values)) == pytest.approx(5.0, rel=1e-12)


def test_ranks_are_ordered_and_scale_free() -> None:
    values = feature_spectrum(draw(30, 12, seed=3) * torch.linspace(0.1, 3.0, 12, dtype=torch.float64))
    assert 1.0 <= float(stable_rank(values)) <= float(participation_ratio(values)) <= 12.0
    assert float(effective_rank(7.0 * values)) == pytest.approx(float(effective_rank(values)), rel=1e-12)


def test_constant_and_broken_features_have_no_rank() -> None:
    broken = draw(10, 4)
    broken[2, 2] = torch.inf
    for x in (torch.full((10, 4), 0.1, dtype=torch.float64), draw(1, 4), broken):
        values = feature_spectrum(x)
        for measure in (effective_rank, stable_rank, participation_ratio):
            assert torch.isnan(measure(values))


def torus(n: int, dimension: int, seed: int, embedding: int = 12) -> torch.Tensor:
    """Uniform points on a flat torus, which has neither edge nor density to mislead, turned into a larger space."""
    random = torch.Generator().manual_seed(seed)
    angles = torch.rand(n, dimension, generator=random, dtype=torch.float64) * 2 * torch.pi
    turned = torch.linalg.qr(draw(embedding, 2 * dimension, seed=99)).Q
    return torch.cat([angles.cos(), angles.sin()], dim=1) @ turned.T


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_two_nearest_neighbours_tell_the_dimension_of_a_torus(dimension: int) -> None:
    found = [intrinsic_dimension(torus(500, dimension, seed)) for seed in range(30)]
    deviations = np.array([(f.value - dimension) / f.standard_error for f in found])
    # Chords shorten distances a little: a quarter of a standard error on top of three of the mean's.
    assert abs(deviations.mean()) < 0.25 + 3 * deviations.std() / 30**0.5
    assert 0.6 < deviations.std() < 1.6
    assert np.std([f.value for f in found]) < 0.12 * dimension


def test_the_censored_estimate_agrees_with_exponential_ratios() -> None:
    # On a line with points at distances drawn so that r2 / r1 is known, brute force gives the ratios.
    x = draw(60, 3, seed=5)
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf).sort(1).values
    logs = np.sort(np.log((distances[:, 1] / distances[:, 0]).numpy()))
    expected = 53 / (logs[:54].sum() + 6 * logs[53])
    found = intrinsic_dimension(x)
    assert found.value == pytest.approx(expected, rel=1e-10) and found.points == 60
    assert intrinsic_dimension(x, discard=0.0).value == pytest.approx(59 / logs.sum(), rel=1e-10)


def test_dimension_survives_shift_scale_and_repeated_points() -> None:
    x = torus(300, 2, seed=1)
    found = intrinsic_dimension(x)
    assert intrinsic_dimension(torch.cat([x, x[:50]])) == found
    assert intrinsic_dimension(1e-3 * x + 1e3).value == pytest.approx(found.value, rel=1e-6)


def test_an_outlier_far_away_does_not_blur_the_neighbours() -> None:
    x = torus(200, 2, seed=1)
    # Products of coordinates of size 1e10 leave nothing of distances of size 0.1.
    far = torch.cat([x, torch.full((1, 12), 1e12, dtype=torch.float64)])
    # One ratio near 1 and one more point in 200 change the estimate by about a hundredth.
    assert intrinsic_dimension(far).value == pytest.approx(intrinsic_dimension(x).value, rel=0.02)


def test_dimension_that_cannot_be_told_is_nan() -> None:
    lattice = torch.cartesian_prod(torch.arange(6.0), torch.arange(6.0))
    broken = draw(40, 3)
    broken[0, 0] = torch.nan
    for x in (draw(9, 3), draw(1, 3).expand(50, 3), lattice, broken):
        assert math.isnan(intrinsic_dimension(x).value)
    with pytest.raises(UsageError):
        intrinsic_dimension(draw(40, 3), discard=1.0)


def test_duplicates_are_units_with_a_twin_up_to_scale_sign_and_shift() -> None:
    x = draw(200, 6)
    noisy = x[:, 1:2] + 0.3 * draw(200, 1, seed=4)
    units = torch.cat([x, -3.0 * x[:, :1] + 5.0, noisy, torch.full((200, 2), 0.1, dtype=torch.float64)], dim=1)
    found = duplicate_units(units)
    assert (found.share, found.pairs, found.constant) == (2 / 8, 1, 2)
    correlation = abs(np.corrcoef(x[:, 1].numpy(), noisy[:, 0].numpy())[0, 1])
    assert duplicate_units(units, threshold=correlation - 1e-6).pairs == 2
    assert duplicate_units(units, threshold=correlation + 1e-6).pairs == 1
    assert duplicate_units(units.float(), threshold=1.0).pairs == 1


def test_duplicates_without_enough_to_compare_are_nan() -> None:
    for x in (draw(2, 5), draw(20, 1), torch.full((20, 5), 0.1), torch.full((20, 5), torch.nan)):
        assert math.isnan(duplicate_units(x).share)
    with pytest.raises(UsageError):
        duplicate_units(draw(5, 5), threshold=0.0)


def test_spectral_bias_on_a_grid_is_the_discrete_fourier_transform() -> None:
    n, k = 64, torch.arange(1.0, 9.0, dtype=torch.float64)[:, None]
    x = torch.arange(n, dtype=torch.float64)[:, None] / n
    targets, predictions = draw(n, 2, seed=1), draw(n, 2, seed=2)
    found = spectral_bias(x, predictions, targets, k)
    t, e = (np.abs(np.fft.rfft(v.numpy(), axis=0)[1:9]) ** 2 for v in (targets, predictions - targets))
    np.testing.assert_allclose(found.errors, e.sum(1) / t.sum(1), rtol=1e-9)
    # A cosine of amplitude a has power a^2 / 2.
    np.testing.assert_allclose(found.target_power, (4 / n**2 * t / 2).sum(1), rtol=1e-9)


def test_spectral_bias_at_scattered_points_in_the_plane() -> None:
    x = torch.rand(300, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    k = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, -1.0], [4.0, 4.0]], dtype=torch.float64)
    waves = torch.cos(2 * torch.pi * x @ k.T + 0.4)
    learnt = torch.tensor([1.0, 0.9, 0.2, 0.0], dtype=torch.float64)
    targets = waves.sum(1, keepdim=True) + 2.0
    found = spectral_bias(x, (waves * learnt).sum(1, keepdim=True) - 1.0, targets, k)
    np.testing.assert_allclose(found.errors, (1 - learnt.numpy()) ** 2, atol=1e-10)
    np.testing.assert_allclose(found.magnitudes, np.linalg.norm(k.numpy(), axis=1))
    assert float(found.bandwidth) == 2.0
    assert float(spectral_bias(x, torch.zeros_like(targets), targets, k).bandwidth) == 0.0
    assert float(spectral_bias(x, targets, targets, k).bandwidth) == pytest.approx(32**0.5)


def test_frequencies_the_target_lacks_have_no_error() -> None:
    x = torch.arange(32, dtype=torch.float64)[:, None] / 32
    k = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    targets = torch.cos(2 * torch.pi * x)
    found = spectral_bias(x, targets * 0.5, targets, k)
    assert float(found.errors[0]) == pytest.approx(0.25) and torch.isnan(found.errors[1])
    broken = targets.clone()
    broken[0] = torch.nan
    assert bool(torch.isnan(spectral_bias(x, broken, targets, k).errors).all())


def test_frequencies_that_points_cannot_tell_apart_are_refused() -> None:
    x = torch.arange(16, dtype=torch.float64)[:, None] / 16
    y = draw(16, 1)
    for k in ([[0.0]], [[2.0], [-2.0]], [[3.0], [19.0]], [[float(i)] for i in range(1, 9)]):
        with pytest.raises(UsageError):
            spectral_bias(x, y, y, torch.tensor(k, dtype=torch.float64))
