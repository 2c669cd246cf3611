"""Systems with known operators: what is called exact is so, and samples have its law."""

from __future__ import annotations

import numpy as np
import pytest

from separatrix.studies._transfer_operators import KnownSystem, double_well, logistic_spectrum, noisy_logistic


@pytest.fixture(scope="module", params=["logistic", "well"])
def system(request: pytest.FixtureRequest) -> KnownSystem:
    generator = np.random.default_rng(0)
    if request.param == "logistic":
        return noisy_logistic(20, 20_000, generator)
    return double_well(2.0, 0.5, 20_000, generator)


def test_it_is_a_markov_process_in_equilibrium(system: KnownSystem) -> None:
    np.testing.assert_allclose(system.transition.sum(axis=1), 1.0, atol=1e-10)
    assert (system.transition >= 0).all()
    np.testing.assert_allclose(system.stationary @ system.transition, system.stationary, atol=1e-10)
    values, _ = system.leading(3)
    assert abs(values[0] - 1) < 1e-10
    assert abs(values[1]) < 0.999


def test_samples_have_the_law_of_the_operator(system: KnownSystem) -> None:
    # means of cos(k x) and their covariances with the future, within five standard errors of about 0.007
    for order in (1, 2, 3):
        wave, known = np.cos(order * system.now[:, 0]), np.cos(order * system.points)
        assert abs(wave.mean() - system.stationary @ known) < 0.05
        exact = system.stationary @ (known * (system.transition @ known))
        assert abs(np.mean(wave * np.cos(order * system.later[:, 0])) - exact) < 0.05


def test_the_logistic_spectrum_is_that_of_its_fourier_series() -> None:
    found = noisy_logistic(20, 10, np.random.default_rng(0)).leading(3)[0]
    exact = logistic_spectrum(20)
    assert len(exact) == 21
    gaps = np.abs(found[:, None] - exact[None, :3])
    # Sorting would order a conjugate pair by the rounding of its real parts.
    assert max(gaps.min(axis=0).max(), gaps.min(axis=1).max()) < 1e-10


def test_the_double_well_is_reversible_and_its_grid_is_fine_enough() -> None:
    system = double_well(2.0, 0.5, 10, np.random.default_rng(0))
    flux = system.stationary[:, None] * system.transition
    np.testing.assert_allclose(flux, flux.T, atol=1e-12)
    coarse, fine = (double_well(2.0, 0.5, 10, np.random.default_rng(0), count).leading(2)[0] for count in (150, 300))
    np.testing.assert_allclose(coarse, fine, rtol=2e-3)
