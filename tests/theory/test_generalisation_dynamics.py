"""Curves of linear students against sampled spectra, integrated moments, closed forms of least squares and of ridge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate

from separatrix.theory.generalisation_dynamics import (
    LinearStudent,
    curves,
    fitted_eval_loss,
    frozen_share,
    optimal_stopping,
    ridge_eval_loss,
    spectral_mean,
)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.5])
def test_spectral_means_are_those_of_the_density(alpha: float) -> None:
    low, high = ((1 + sign / math.sqrt(alpha)) ** 2 for sign in (-1, 1))

    def density(value: float) -> float:
        return math.sqrt(max(0.0, (high - value) * (value - low))) * alpha / (2 * math.pi * value)

    for function in (lambda e: e * 0 + 1, lambda e: e, lambda e: np.exp(-20 * e), lambda e: (1 - np.exp(-5 * e)) / e):
        # Squares of roots, which take the edge at 0 out of the integrand.
        expected, _ = integrate.quad(
            lambda r, f=function: 2 * r * density(r * r) * float(f(np.array([r * r]))[0]),
            math.sqrt(low) + 1e-12,
            math.sqrt(high),
            epsabs=1e-11,
            limit=400,
        )
        assert float(spectral_mean(function, alpha)) == pytest.approx(expected, rel=1e-6)
    assert float(spectral_mean(lambda e: e**2, alpha)) == pytest.approx(1 + 1 / alpha, rel=1e-9)
    assert float(spectral_mean(lambda e: e * 0 + 1, alpha)) == pytest.approx(1 - frozen_share(alpha), rel=1e-9)


@pytest.mark.parametrize(("examples", "start"), [(100, 0.7), (200, 0.0), (400, 1.5)])
def test_curves_are_those_of_a_sample_solved_exactly(examples: int, start: float) -> None:
    """Expectations over teacher, noise and first weights given the inputs, by matrices instead of eigenvalues."""
    size, noise, rate = 200, 0.4, 0.15
    inputs = np.random.default_rng(0).standard_normal((examples, size))
    student = LinearStudent(size, examples, 1 / noise, start, rate)
    seen = curves(student, range(31))
    kept, gain = np.eye(size), np.zeros((size, examples))  # weights = kept first + gain targets
    for step in range(31):
        if step in (0, 1, 6, 30):
            error = (1 + start**2) * np.square(kept).sum() / size + noise * np.square(gain).sum()
            fit = (1 + start**2) * np.square(inputs @ kept).sum() / size
            fit += noise * np.square(np.eye(examples) - inputs @ gain).sum()
            norm = start**2 * np.square(kept).sum() / size + np.square(gain @ inputs).sum() / size
            norm += noise * np.square(gain).sum()
            assert float(seen["eval_loss"][step]) == pytest.approx((error + noise) / 2, rel=0.02)
            assert float(seen["loss"][step]) == pytest.approx(fit / examples / 2, rel=0.02, abs=1e-3)
            assert float(seen["teacher_overlap"][step]) == pytest.approx(1 - np.trace(kept) / size, abs=0.01)
            assert float(seen["weight_norm"][step]) == pytest.approx(math.sqrt(norm), rel=0.02)
        kept = kept - rate * inputs.T @ (inputs @ kept) / examples
        gain = gain - rate * inputs.T @ (inputs @ gain - np.eye(examples)) / examples


def test_least_squares_and_ridge_end_where_the_literature_says() -> None:
    for alpha in (0.5, 2.0):
        student = LinearStudent(100, round(100 * alpha), 2.0, 0.0, 0.1)
        late = curves(student, [10**5])["eval_loss"]
        assert float(late[0]) == pytest.approx(fitted_eval_loss(student), rel=1e-9)
        # Ridge: the Stieltjes transform m of the density at -penalty solves m = 1 / (1 - c - c z m - z), c = 1 / alpha.
        ratio, penalty = 1 / alpha, student.noise / alpha
        a, b = ratio * penalty, 1 - ratio + penalty
        stieltjes = (-b + math.sqrt(b * b + 4 * a)) / (2 * a)
        assert ridge_eval_loss(student) == pytest.approx((student.noise + penalty * stieltjes) / 2, rel=1e-9)
    assert math.isinf(fitted_eval_loss(LinearStudent(100, 100, 2.0, 0.0, 0.1)))


@pytest.mark.parametrize("alpha", [0.3, 1.0, 3.0])
def test_the_best_step_is_the_best_of_all(alpha: float) -> None:
    student = LinearStudent(200, round(200 * alpha), 3.0, 0.4, 0.1)
    step, loss = optimal_stopping(student)
    losses = curves(student, range(0, 400))["eval_loss"]
    assert loss <= float(losses.min()) + 1e-9
    assert abs(int(losses.argmin()) - step) <= 1
    assert ridge_eval_loss(student) < loss < float(losses[-1])


def test_without_noise_and_with_all_directions_seen_training_longer_is_never_worse() -> None:
    quiet = LinearStudent(100, 100, 1e12, 0.0, 0.1)
    assert (np.diff(curves(quiet, range(0, 1000, 10))["eval_loss"]) < 1e-9).all()
    noisy = LinearStudent(100, 100, 1.0, 0.0, 0.1)
    assert curves(noisy, [3000])["eval_loss"][0] > 3 * curves(noisy, range(0, 100))["eval_loss"].min()
