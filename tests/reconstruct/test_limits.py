"""Convergence reports and the twins of the torus, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special

from separatrix.reconstruct.limits import TorusTwins, convergence
from separatrix.runs import UsageError


def test_the_report_shows_both_limits() -> None:
    generator = np.random.default_rng(0)
    points = generator.uniform(0, 2 * np.pi, (3000, 1))
    pairs, unseen = (points[:2000], points[:2000] + 0.7), (points[2000:], points[2000:] + 0.7)

    def lift(angles: np.ndarray, size: int) -> np.ndarray:
        # evenly spaced bumps hold exp(i x) up to their next alias: Bessel's I(size - 1) / I(1) of 1
        return np.exp(np.cos(angles - 2 * np.pi * np.arange(size) / size))

    report = convergence(lift, pairs, unseen, np.exp(0.7j), samples=(4, 100, 2000), sizes=(3, 5, 7))
    assert np.isnan(report.residuals[0, 1:]).all()  # four samples for five features and more
    aliases = scipy.special.iv([2, 4, 6], 1.0) / scipy.special.iv(1, 1.0)
    assert (report.residuals[-1] < 3 * aliases).all()
    assert (report.residuals[-1] > aliases / 3).all()
    assert abs(report.eigenvalues[-1, -1] - np.exp(0.7j)) < abs(report.eigenvalues[-1, 0] - np.exp(0.7j))
    with pytest.raises(UsageError, match="2000 given"):
        convergence(lift, pairs, unseen, 1.0, samples=(2001,), sizes=(1,))


def test_the_hidden_function_is_an_eigenfunction_of_one_twin_only() -> None:
    twins = TorusTwins(gap=1e-4)
    resonant, shifted = twins.angles
    assert twins.residual_of_hidden(shifted) < 1e-9
    # of the other the image is a turn by the push: |exp(i push cos) - 1| has the mean square 2 - 2 J0(push)
    exact = np.sqrt(2 - 2 * scipy.special.j0(twins.push))
    np.testing.assert_allclose(twins.residual_of_hidden(resonant), exact, rtol=1e-6)


def test_the_twin_is_certified_where_its_eigenfunction_fits_into_the_dictionary() -> None:
    twins = TorusTwins(gap=0.02)  # h reaches 5: twenty orders hold its exponential
    found = twins.compression(twins.angles[1], 40).spectrum()
    best = int(np.argmin(found.residuals))
    assert found.residuals[best] < 1e-8
    orders = twins.turns * np.arange(-40, 41)
    assert np.abs(found.eigenvalues[best] - np.exp(1j * orders * twins.angles[1])).min() < 1e-8


def test_the_compression_is_the_operator_of_the_sector() -> None:
    twins = TorusTwins()
    learnt = twins.compression(twins.angles[0], 6)
    # exp(i push cos t) has the Fourier coefficients i^k J_k(push): a Toeplitz matrix, up to the phases of the basis
    orders = np.arange(-6, 7)
    gaps = orders[:, None] - orders
    toeplitz = (1j**gaps) * scipy.special.jv(gaps, twins.push) * np.exp(1j * twins.turns * orders * twins.angles[0])
    np.testing.assert_allclose(
        np.sort(np.abs(np.linalg.eigvals(learnt.inside))), np.sort(np.abs(np.linalg.eigvals(toeplitz))), atol=1e-10
    )


@pytest.mark.parametrize("order", [10, 40])
def test_pictures_of_the_twins_differ_by_no_more_than_their_operators(order: int) -> None:
    twins = TorusTwins(gap=1e-6)
    circle = np.exp(2j * np.pi * np.arange(8) / 8)
    one, other = (twins.compression(angle, order).smallest_residuals(circle) for angle in twins.angles)
    assert np.abs(one - other).max() <= twins.turns * order * twins.gap * 1.01 + 1e-12
