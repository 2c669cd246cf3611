"""Grokking in a linear model against known moments of covariances, matrix powers and an exact integral."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad

from separatrix.theory.linear_grokking import (
    Descent,
    Spectrum,
    curves,
    edges,
    grokking_times,
    late_gap,
    marchenko_pastur,
)


@pytest.mark.parametrize("ratio", [0.3, 0.8, 1.5])
def test_the_limiting_spectrum_has_the_known_resolvent(ratio: float) -> None:
    inputs = 600
    spectrum = marchenko_pastur(inputs, round(inputs / ratio), finite_size=False)
    pull = 0.05

    def resolvent(g: float) -> float:
        return (math.sqrt((1 - ratio + g) ** 2 + 4 * ratio * g) - (1 - ratio + g)) / (2 * ratio * g)

    found = float((spectrum.counts / (spectrum.values + pull)).sum()) / inputs
    assert found == pytest.approx(resolvent(pull), rel=1e-9)
    assert float((spectrum.counts * spectrum.values).sum()) / inputs == pytest.approx(1.0, rel=1e-9)


def test_the_correction_for_finite_size_agrees_with_moments_of_wishart_matrices() -> None:
    inputs, examples = 40, 100
    spectrum = marchenko_pastur(inputs, examples)
    ratio = inputs / examples
    second = float((spectrum.counts * spectrum.values**2).sum()) / inputs
    assert second == pytest.approx(1 + ratio + 1 / examples, rel=1e-12)
    inverse = float((spectrum.counts[0, 1:] / spectrum.values[0, 1:]).sum()) / inputs  # the first is 0, of none
    exact = examples / (examples - inputs - 1)
    without = 1 / (1 - ratio)
    assert abs(inverse - exact) < 0.03 * abs(without - exact)


def test_losses_are_those_of_matrix_powers() -> None:
    generator = np.random.default_rng(0)
    inputs, examples, outputs, steps = 6, 9, 2, 7
    rows = generator.normal(size=(examples, inputs))
    covariance = rows.T @ rows / examples
    descent = Descent(rate=0.4, decay=0.05, outputs=outputs, init=0.7)
    of_student, of_teacher = np.eye(inputs), np.zeros((inputs, inputs))
    for _ in range(steps):
        gradient = 2 / outputs * covariance
        of_student = of_student - descent.rate * (gradient @ of_student + descent.decay * of_student)
        of_teacher = of_teacher - descent.rate * (gradient @ (of_teacher - np.eye(inputs)) + descent.decay * of_teacher)
    distance = np.eye(inputs) - of_teacher
    values = np.linalg.eigvalsh(covariance)[None]
    found = curves(Spectrum(values, np.ones_like(values), examples), descent, 0.01, [steps])

    def expected(weight: np.ndarray) -> float:
        parts = ((0.7, of_student), (1.0, distance))
        return float(sum(scale * np.trace(part.T @ weight @ part) for scale, part in parts)) / inputs

    assert found["eval_loss"][0] == pytest.approx(expected(np.eye(inputs)), rel=1e-10)
    assert found["loss"][0] == pytest.approx(expected(covariance), rel=1e-10)


@pytest.mark.parametrize("steps", [0, 10, 60])
@pytest.mark.parametrize("threshold", [0.003, 0.03])
def test_test_accuracy_is_close_to_its_exact_integral(steps: int, threshold: float) -> None:
    """P(|z| <= R) = (2 / pi) int sin(R s) / s prod (1 + r_i s^2)^(-1/2) ds for one output."""
    values = np.linspace(0.05, 2.5, 30)[None]
    descent = Descent(rate=0.2, decay=0.0, outputs=1, init=1.0)
    spectrum = Spectrum(values, np.ones_like(values), 40)
    variances = descent.variances(spectrum, [steps])[0, 0]
    found = curves(spectrum, descent, threshold, [steps])["eval_accuracy"][0]
    unit = math.sqrt(variances.sum())
    reach = math.sqrt(threshold) / unit

    def integrand(s: float) -> float:
        return reach * float(np.sinc(reach * s / np.pi)) * float(np.prod(1 + variances / unit**2 * s**2)) ** -0.5

    exact = 2 / math.pi * quad(integrand, 0, 60, limit=300, epsabs=1e-5)[0]
    assert found == pytest.approx(exact, abs=0.01)


def test_training_accuracy_counts_rows_of_fixed_length() -> None:
    """With two examples and equal variances the rows have all the length there is: V is certain."""
    values = np.array([[1.0, 1.0]])
    descent = Descent(rate=0.1, decay=0.0, outputs=1, init=0.0)
    found = curves(Spectrum(values, np.ones_like(values), 2), descent, 0.5, [0])
    assert found["accuracy"][0] == pytest.approx(math.erf(math.sqrt(0.25)), abs=2e-3)


def test_the_gap_tends_to_its_limit_at_small_thresholds() -> None:
    ratio = 0.7
    descent = Descent(rate=1 / (2 * edges(ratio)[1]), decay=0.0, outputs=1, init=1.0)
    spectrum = marchenko_pastur(700, 1000, finite_size=False)
    errors = []
    for threshold in (1e-3, 1e-8, 1e-24):
        train, test = grokking_times(spectrum, descent, threshold)
        errors.append(abs((test - train) / late_gap(ratio, descent) - 1))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1


def test_a_level_that_is_never_reached_takes_for_ever() -> None:
    descent = Descent(rate=0.1, decay=0.0, outputs=1, init=1.0)
    train, test = grokking_times(marchenko_pastur(40, 20), descent, 1e-3)
    assert math.isfinite(train)
    assert test == math.inf
