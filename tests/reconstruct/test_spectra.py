"""Verified spectra against the formula, closed forms, and eigenvalues that are artefacts by construction."""

from __future__ import annotations

import numpy as np
import pytest

from separatrix.reconstruct import TrajectoryError, fit, trajectories
from separatrix.reconstruct.spectra import compress, compress_moments, residuals, verified

ANGLE = np.sqrt(2.0)


def rotation(size: int, pairs: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Fourier functions at evenly spaced points of the circle and after a rotation."""
    points = 2 * np.pi * np.arange(pairs) / pairs
    orders = np.arange(-size, size + 1)
    return np.exp(1j * np.outer(points, orders)), np.exp(1j * np.outer(points + ANGLE, orders))


def arbitrary(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    now = generator.standard_normal((60, 7)) + 1j * generator.standard_normal((60, 7))
    later = now @ generator.standard_normal((7, 7)) * 0.3 + 0.2 * generator.standard_normal((60, 7))
    return now, later, generator.uniform(0.5, 2.0, 60)


def by_formula(now: np.ndarray, later: np.ndarray, weights: np.ndarray, value: complex, vector: np.ndarray) -> float:
    """The residual from G, A and L, literally."""
    weight = np.diag(weights)
    gram, cross, square = now.conj().T @ weight @ now, now.conj().T @ weight @ later, later.conj().T @ weight @ later
    form = square - value * cross.conj().T - np.conj(value) * cross + abs(value) ** 2 * gram
    return float(np.sqrt((vector.conj() @ form @ vector).real / (vector.conj() @ gram @ vector).real))


def test_residuals_are_those_of_the_formula() -> None:
    now, later, weights = arbitrary()
    found = compress(now, later, weights).spectrum()
    for value, vector, residual in zip(found.eigenvalues, found.vectors.T, found.residuals, strict=True):
        np.testing.assert_allclose(residual, by_formula(now, later, weights, value, vector), rtol=1e-10)
    assert found.residuals.min() > 1e-3


def test_eigenvalues_are_those_of_least_squares() -> None:
    now, later, weights = arbitrary(1)
    roots = np.sqrt(weights)[:, None]
    operator = np.linalg.lstsq(now * roots, later * roots, rcond=None)[0]
    expected = np.linalg.eigvals(operator)
    found = compress(now, later, weights).spectrum()
    np.testing.assert_allclose(np.sort_complex(found.eigenvalues), np.sort_complex(expected), atol=1e-10)
    products = operator @ found.vectors
    np.testing.assert_allclose(products, found.vectors * found.eigenvalues, atol=1e-9)


def test_moments_give_what_the_samples_give() -> None:
    now, later, weights = arbitrary(2)
    weight = np.diag(weights / weights.sum())
    gram, cross, square = now.conj().T @ weight @ now, now.conj().T @ weight @ later, later.conj().T @ weight @ later
    one, other = compress(now, later, weights).spectrum(), compress_moments(gram, cross, square).spectrum()
    np.testing.assert_allclose(other.eigenvalues, one.eigenvalues, rtol=1e-9)
    np.testing.assert_allclose(other.residuals, one.residuals, rtol=1e-7)


def test_the_smallest_residual_is_least_over_all_functions() -> None:
    now, later, _ = arbitrary(3)
    learnt = compress(now, later)
    points = np.array([0.3 + 0.1j, -0.8, 1.5j])
    generator = np.random.default_rng(4)
    unit = np.ones(len(now))
    for point, least in zip(points, learnt.smallest_residuals(points), strict=True):
        operator = later - point * now
        # the quotient |(Y - z X) v| / |X v| by a generalised eigenvalue problem, and never below it at random
        form = np.linalg.solve(now.conj().T @ now, operator.conj().T @ operator)
        np.testing.assert_allclose(least, np.sqrt(np.linalg.eigvals(form).real.min()), rtol=1e-8)
        for _ in range(20):
            vector = generator.standard_normal(7) + 1j * generator.standard_normal(7)
            assert by_formula(now, later, unit, point, vector) >= least * (1 - 1e-12)


def test_a_rotation_is_certified_to_rounding() -> None:
    found = compress(*rotation(10)).spectrum()
    expected = np.exp(1j * ANGLE * np.arange(-10, 11))
    gaps = np.abs(found.eigenvalues[:, None] - expected).min(axis=1)
    assert gaps.max() < 1e-12
    assert found.residuals.max() < 1e-12
    assert len(found.certified(1e-10)) == 21


def test_artefacts_of_the_projection_are_told_by_their_residual() -> None:
    now, later = rotation(10)
    bent = now + 0.3 * np.roll(now, 1, axis=1)
    bent = np.hstack([bent, np.abs(now[:, 11:12].real)])  # |cos| has all orders: its image leaves the span
    points = 2 * np.pi * np.arange(400) / 400
    image = np.hstack([later + 0.3 * np.roll(later, 1, axis=1), np.abs(np.cos(points + ANGLE))[:, None]])
    found = compress(bent, image).spectrum()
    artefacts = np.abs(np.abs(found.eigenvalues) - 1.0) > 1e-6
    assert artefacts.sum() == 1
    assert found.residuals[artefacts].min() > 0.1
    assert (found.residuals < 1e-9).sum() >= 20


def test_a_unitary_operator_binds_the_eigenvalue_to_the_circle_by_its_residual() -> None:
    generator = np.random.default_rng(0)
    points = generator.uniform(0, 2 * np.pi, 4000)
    centres = generator.uniform(0, 2 * np.pi, 30)

    def features(angles: np.ndarray) -> np.ndarray:
        return np.exp(3 * (np.cos(angles[:, None] - centres) - 1))

    found = compress(features(points), features(points + ANGLE)).spectrum()
    # || lambda | - 1| <= residual holds for the exact operator; sampled norms differ by about 1 / sqrt(4000)
    assert (np.abs(np.abs(found.eigenvalues) - 1.0) <= found.residuals + 0.05).all()


def test_unseen_data_show_what_was_only_learnt_by_heart() -> None:
    generator = np.random.default_rng(5)
    noise = generator.standard_normal((2, 50, 45))
    fitted = compress(noise[0], noise[1])
    fresh = generator.standard_normal((2, 400, 45))
    checked = verified(fitted, fresh[0], fresh[1])
    assert np.median(fitted.spectrum().residuals) < np.median(checked.residuals)
    np.testing.assert_allclose(
        checked.residuals, residuals(fresh[0], fresh[1], checked.eigenvalues, checked.vectors), rtol=1e-12
    )
    assert checked.residuals.min() > 0.5


def test_too_few_pairs_and_empty_dictionaries_are_refused() -> None:
    with pytest.raises(TrajectoryError, match="5 pairs of samples for 5 independent features"):
        compress(np.eye(5), np.eye(5))
    with pytest.raises(TrajectoryError, match="zero on all samples"):
        compress(np.zeros((9, 2)), np.zeros((9, 2)))
    assert compress(np.ones((9, 2)), np.ones((9, 2))).inside.shape == (1, 1)  # dependent features are dropped


def linear(samples: int = 300) -> tuple[np.ndarray, np.ndarray]:
    matrix = np.array([[0.95, 0.1], [-0.1, 0.9]])
    generator = np.random.default_rng(0)
    parts = []
    for start in generator.standard_normal((5, 2)):
        points = [start]
        for _ in range(samples // 5 - 1):
            points.append(matrix @ points[-1])
        parts.append(np.array(points))
    return np.array(parts), np.linalg.eigvals(matrix)


@pytest.mark.parametrize("model", ["edmd", "kernel-edmd"])
def test_members_find_the_products_of_linear_eigenvalues(model: str) -> None:
    parts, own = linear()
    expected = np.array([own[0] ** i * own[1] ** j for i in range(5) for j in range(5 - i)])
    settings = {"degree": 2} if model == "edmd" else {"kernel": "polynomial"}
    analysis = fit(list(parts), model, dt=0.5, **settings).analyse()
    sure = analysis.eigenvalues[analysis.residuals < 1e-6]
    assert len(sure) >= 6
    assert np.abs(sure[:, None] - expected).min(axis=1).max() < 1e-5
    leading = analysis.eigenvalues[np.argmin(np.abs(analysis.eigenvalues - own[0]))]
    rates = analysis.codes["growth_rates"] + 1j * analysis.codes["angular_frequencies"]
    assert np.abs(rates - np.log(leading) / 0.5).min() < 1e-9


def test_a_forecast_may_stay_in_the_lifted_space() -> None:
    parts, _ = linear()
    for relift in (True, False):
        model = fit(list(parts), "edmd", dt=1.0, degree=2, relift=relift)
        np.testing.assert_allclose(model.forecast(parts[1][:3], 8), parts[1][3:11], atol=1e-8)


def test_eigenfunctions_evolve_by_their_eigenvalue() -> None:
    parts, _ = linear()
    model = fit(list(parts), "edmd", dt=1.0, degree=2).model
    values = model.eigenfunctions(parts[0][:6])
    np.testing.assert_allclose(values[1:], values[:-1] * model.spectrum.eigenvalues, atol=1e-7)


def test_dictionaries_larger_than_the_data_are_refused() -> None:
    with pytest.raises(TrajectoryError, match="for a dictionary of"):
        fit(trajectories(np.random.default_rng(0).standard_normal((40, 2)), 1.0), "edmd", degree=10)
