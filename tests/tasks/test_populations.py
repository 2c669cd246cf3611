"""Closed forms of tasks against Monte-Carlo and quadrature that know nothing of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from separatrix.tasks import GaussianMixture, LinearTeacher, TaskError, TwoLayerTeacher, XorMixture

N = 200_000


def within(found: float, expected: float, n: int = N) -> bool:
    """Whether a share of n draws is within four standard errors of a probability."""
    return abs(found - expected) <= 4 * math.sqrt(expected * (1 - expected) / n) + 1e-12


@pytest.mark.parametrize("layout", ["simplex", "orthogonal"])
def test_means_are_the_separation_apart(layout: Any) -> None:
    means = GaussianMixture(classes=5, dimension=7, separation=3.0, layout=layout, dtype=torch.float64).means
    distances = torch.pdist(means)
    torch.testing.assert_close(distances, torch.full_like(distances, 3.0), rtol=1e-12, atol=0)
    if layout == "simplex":
        torch.testing.assert_close(means.sum(0), torch.zeros(7, dtype=torch.float64), rtol=0, atol=1e-12)
    else:
        gram = means @ means.T
        torch.testing.assert_close(gram, 4.5 * torch.eye(5, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_random_means_lie_on_the_sphere_and_turn_with_the_seed() -> None:
    one, other = (GaussianMixture(layout="random", separation=2.0, seed=seed).means for seed in (0, 1))
    torch.testing.assert_close(one.norm(dim=1), torch.full((3,), math.sqrt(2.0)))
    assert not torch.allclose(one, other)


def test_a_mixture_has_its_priors_means_and_spread() -> None:
    mixture = GaussianMixture(priors=(0.6, 0.3, 0.1), spread=0.5, dimension=4, dtype=torch.float64)
    inputs, labels = mixture.sample(N, 0)
    for label, prior in enumerate((0.6, 0.3, 0.1)):
        rows = inputs[labels == label]
        assert within(len(rows) / N, prior)
        error = (rows.mean(0) - mixture.means[label]).abs().max()
        assert float(error) < 5 * 0.5 / math.sqrt(len(rows))
        torch.testing.assert_close(rows.T.cov(), 0.25 * torch.eye(4, dtype=torch.float64), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "mixture",
    [
        GaussianMixture(classes=2, separation=2.0, dimension=3, dtype=torch.float64),
        GaussianMixture(classes=2, separation=1.0, spread=0.7, priors=(0.8, 0.2), dimension=3, dtype=torch.float64),
        GaussianMixture(classes=4, separation=2.5, spread=0.9, dimension=6, dtype=torch.float64),
        GaussianMixture(classes=3, separation=1.5, layout="orthogonal", dtype=torch.float64),
    ],
)
def test_the_posterior_reaches_the_bayes_error(mixture: GaussianMixture) -> None:
    inputs, labels = mixture.sample(N, 1)
    posterior = mixture.posterior(inputs)
    assert within(float((posterior.argmax(1) != labels).double().mean()), mixture.bayes_error())
    expected = 1 - posterior.amax(1)
    assert float(expected.mean()) == pytest.approx(mixture.bayes_error(), abs=4 * float(expected.std()) / math.sqrt(N))


def test_the_posterior_is_the_ratio_of_densities() -> None:
    mixture = GaussianMixture(priors=(0.5, 0.2, 0.3), dimension=4, spread=1.3, dtype=torch.float64)
    inputs, _ = mixture.sample(20, 2)
    densities = np.stack(
        [
            prior * stats.multivariate_normal(mean.numpy(), 1.3**2).pdf(inputs.numpy())
            for prior, mean in zip((0.5, 0.2, 0.3), mixture.means, strict=True)
        ],
        axis=1,
    )
    np.testing.assert_allclose(
        mixture.posterior(inputs).numpy(), densities / densities.sum(1, keepdims=True), rtol=1e-10
    )


@pytest.mark.parametrize(("classes", "separation"), [(2, 1.0), (3, 4.0), (10, 6.0), (10, 0.0)])
def test_the_bayes_error_integral_is_exact(classes: int, separation: float) -> None:
    mixture = GaussianMixture(classes=classes, separation=separation)
    margin = separation / math.sqrt(2)
    right, _ = integrate.quad(
        lambda z: stats.norm.pdf(z) * stats.norm.cdf(z + margin) ** (classes - 1), -12, 12, epsabs=1e-13, limit=200
    )
    assert mixture.bayes_error() == pytest.approx(1 - right, abs=1e-11)


def test_a_tiny_bayes_error_keeps_its_digits() -> None:
    two, many = GaussianMixture(classes=2, separation=20.0), GaussianMixture(classes=3, separation=20.0)
    assert two.bayes_error() == pytest.approx(stats.norm.sf(10.0), rel=1e-10)
    assert many.bayes_error() == pytest.approx(2 * stats.norm.sf(10.0), rel=1e-3)


def test_two_classes_at_one_place_are_told_apart_by_their_priors_only() -> None:
    assert GaussianMixture(classes=2, separation=0.0, priors=(0.7, 0.3)).bayes_error() == 0.3


@pytest.mark.parametrize("knobs", [{"layout": "random"}, {"priors": (0.5, 0.3, 0.2)}])
def test_a_bayes_error_without_closed_form_is_refused(knobs: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match="closed only for equal priors and distances: average"):
        GaussianMixture(**knobs).bayes_error()


@pytest.mark.parametrize("snr", [0.5, 4.0])
def test_the_xor_mixture_has_its_bayes_error_and_no_linear_signal(snr: float) -> None:
    mixture = XorMixture(dimension=5, snr=snr, dtype=torch.float64)
    inputs, labels = mixture.sample(N, 0)
    scores = np.stack(
        [
            sum(stats.multivariate_normal(sign * axis.numpy(), 1 / snr).pdf(inputs.numpy()) for sign in (-1, 1))
            for axis in mixture.axes
        ]
    )
    assert within(float(np.mean(scores.argmax(0) != labels.numpy())), mixture.bayes_error)
    correlation = (inputs * (2.0 * labels.unsqueeze(1) - 1.0)).mean(0)
    assert float(correlation.abs().max()) < 5 * float(inputs.std()) / math.sqrt(N)
    torch.testing.assert_close(mixture.axes @ mixture.axes.T, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_linear_teacher_has_its_spectrum_norm_and_noise() -> None:
    teacher = LinearTeacher(dimension=6, decay=1.5, noise=0.3, norm=2.0, dtype=torch.float64)
    inputs, targets = teacher.sample(N, 0)
    assert float(teacher.weights.norm()) == pytest.approx(2.0)
    torch.testing.assert_close(inputs.T.cov(), torch.diag(teacher.spectrum), rtol=0, atol=0.02)
    assert teacher.spectrum[3] == pytest.approx(4**-1.5)
    assert float((targets - inputs @ teacher.weights).std()) == pytest.approx(0.3, rel=0.01)


def test_the_risk_of_a_linear_student_is_its_mean_squared_error() -> None:
    teacher = LinearTeacher(dimension=6, decay=1.0, noise=0.3, dtype=torch.float64)
    inputs, targets = teacher.sample(N, 1)
    student = torch.linspace(-1, 1, 6, dtype=torch.float64)
    errors = (inputs @ student - targets).square()
    assert float(teacher.risk(student)) == pytest.approx(float(errors.mean()), abs=4 * float(errors.std()) / N**0.5)
    assert float(teacher.risk(teacher.weights)) == pytest.approx(0.09)


@pytest.mark.parametrize("activation", ["erf", "relu", "linear"])
def test_the_risk_of_a_two_layer_student_is_its_mean_squared_error(activation: Any) -> None:
    teacher = TwoLayerTeacher(
        dimension=8, units=3, activation=activation, decay=0.5, noise=0.2, seed=4, dtype=torch.float64
    )
    functions = {"erf": lambda u: torch.erf(u / math.sqrt(2)), "relu": torch.relu, "linear": lambda u: u}
    inputs, targets = teacher.sample(N, 1)
    generator = torch.Generator().manual_seed(7)
    weights = torch.randn(5, 8, dtype=torch.float64, generator=generator)
    readout = torch.randn(5, dtype=torch.float64, generator=generator)
    errors = (functions[activation](inputs @ weights.T / math.sqrt(8)) @ readout - targets).square()
    risk = float(teacher.risk(weights, readout))
    assert risk == pytest.approx(float(errors.mean()), abs=4 * float(errors.std()) / N**0.5)
    assert float(teacher.risk(teacher.weights, teacher.readout)) == pytest.approx(0.04, abs=1e-7)
    silent = float(teacher.risk(torch.zeros(1, 8, dtype=torch.float64), torch.ones(1, dtype=torch.float64)))
    square = targets.square()
    assert silent == pytest.approx(float(square.mean()), abs=4 * float(square.std()) / N**0.5)


def test_the_teacher_is_apart_from_samples_of_the_same_seed() -> None:
    for seed in range(5):
        teacher = LinearTeacher(dimension=20, seed=seed)
        first = teacher.sample(1, seed).inputs[0]
        assert abs(float(torch.nn.functional.cosine_similarity(first, teacher.weights, dim=0))) < 0.9
