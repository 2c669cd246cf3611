from __future__ import annotations

import numpy as np
import pytest
import torch

from separatrix.probes._collapse import (
    centre_disagreement,
    class_means,
    mean_geometry,
    self_duality,
    variability_collapse,
)
from separatrix.runs.errors import UsageError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def simplex(count: int, size: int) -> torch.Tensor:
    """Vertices (count, size) of a randomly turned simplex of norm 1 around the origin."""
    frame = torch.eye(count, dtype=torch.float64) - 1.0 / count
    turned = torch.linalg.qr(torch.randn(size, count, generator=generator(), dtype=torch.float64)).Q
    return (frame @ turned.T) * (count / (count - 1)) ** 0.5


def scattered(means: torch.Tensor, spread: float, each: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(len(means)).repeat(each)
    noise = torch.randn(len(labels), means.shape[1], generator=generator(1), dtype=torch.float64)
    return means[labels] + spread * noise, labels


@pytest.mark.parametrize("count", [2, 3, 10])
def test_a_simplex_is_collapse(count: int) -> None:
    vertices = simplex(count, 12)
    features, labels = scattered(2.5 * vertices + 0.7, spread=0.0)
    classes = class_means(features, labels)
    geometry = mean_geometry(classes)
    logits = features @ vertices.T
    for value in (
        variability_collapse(classes),
        geometry.simplex,
        geometry.equinorm,
        geometry.equiangularity,
        geometry.angle_excess,
        self_duality(classes, 9.0 * vertices),
        centre_disagreement(classes, features, logits),
    ):
        assert float(value) == pytest.approx(0.0, abs=1e-12)


def test_nc1_is_the_trace_of_the_covariances() -> None:
    features, labels = scattered(torch.randn(4, 9, generator=generator(3), dtype=torch.float64), spread=0.5)
    # Unequal class sizes, so that equal weight of classes shows.
    features, labels = features[7:], labels[7:]
    x, y = features.numpy(), labels.numpy()
    means = np.stack([x[y == c].mean(0) for c in range(4)])
    within = np.mean([np.cov(x[y == c].T, bias=True) for c in range(4)], axis=0)
    between = (means - means.mean(0)).T @ (means - means.mean(0)) / 4
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 4
    measured = variability_collapse(class_means(features, labels))
    assert float(measured) == pytest.approx(expected, rel=1e-10)
    moved = features @ torch.linalg.qr(torch.randn(9, 9, generator=generator(5), dtype=torch.float64)).Q * 4.0 + 1.0
    assert float(variability_collapse(class_means(moved, labels))) == pytest.approx(expected, rel=1e-9)


def test_nc1_closed_form_on_two_points_a_class() -> None:
    # Class means at +-a on the first axis, members at +-s around them: S_W = s^2, S_B = a^2, K = 2.
    features = torch.tensor([[3.2, 1.0], [2.8, 1.0], [-3.2, 1.0], [-2.8, 1.0]], dtype=torch.float64)
    classes = class_means(features, torch.tensor([0, 0, 1, 1]))
    assert float(variability_collapse(classes)) == pytest.approx(0.2**2 / 3.0**2 / 2, rel=1e-12)


@pytest.mark.parametrize("count", [3, 6])
def test_an_orthogonal_frame_is_told_from_a_simplex(count: int) -> None:
    frame = 3.0 * torch.eye(count, 8, dtype=torch.float64)
    features, labels = scattered(frame, spread=0.0)
    geometry = mean_geometry(class_means(features, labels))
    assert float(geometry.orthogonal) == pytest.approx(0.0, abs=1e-12)
    # Centred, an orthogonal frame is a simplex.
    assert float(geometry.simplex) == pytest.approx(0.0, abs=1e-12)
    features, labels = scattered(simplex(count, 8), spread=0.0)
    # <I, I - J/K> / (sqrt(K) sqrt(K - 1)) = sqrt((K - 1) / K) is the cosine of the two Grams.
    expected = (2 - 2 * ((count - 1) / count) ** 0.5) ** 0.5
    assert float(mean_geometry(class_means(features, labels)).orthogonal) == pytest.approx(expected, rel=1e-10)


def test_geometry_of_unequal_means_by_hand() -> None:
    # Centred means (2, 0), (-1, 1), (-1, -1): norms 2, sqrt 2, sqrt 2; cosines -1/sqrt 2, -1/sqrt 2, 0.
    means = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64) + 5.0
    features, labels = scattered(means, spread=0.0)
    geometry = mean_geometry(class_means(features, labels))
    norms, cosines = np.array([2, 2**0.5, 2**0.5]), np.array([-(0.5**0.5), -(0.5**0.5), 0.0])
    assert float(geometry.equinorm) == pytest.approx(norms.std() / norms.mean(), rel=1e-12)
    assert float(geometry.equiangularity) == pytest.approx(cosines.std(), rel=1e-12)
    assert float(geometry.angle_excess) == pytest.approx(np.abs(cosines + 0.5).mean(), rel=1e-12)
    gram = np.array([[4.0, -2, -2], [-2, 2, 0], [-2, 0, 2]]) / 40**0.5
    target = (np.eye(3) - 1 / 3) / 2**0.5
    assert float(geometry.simplex) == pytest.approx(np.linalg.norm(gram - target), rel=1e-12)


def test_self_duality_closed_forms_and_rows_of_absent_classes() -> None:
    vertices = simplex(4, 6)
    features, labels = scattered(vertices, spread=0.0)
    classes = class_means(features, labels)
    assert float(self_duality(classes, -vertices)) == pytest.approx(4.0, rel=1e-12)
    away = torch.linalg.qr(vertices.T, mode="complete").Q[:, 3:].T
    orthogonal = torch.ones(4, 1, dtype=torch.float64) @ away[:1]
    assert float(self_duality(classes, orthogonal)) == pytest.approx(2.0, rel=1e-12)
    present = labels != 1
    some = class_means(features[present], labels[present])
    assert some.labels.tolist() == [0, 2, 3]
    kept = vertices[[0, 2, 3]] - vertices[[0, 2, 3]].mean(0)
    classifier = torch.full((4, 6), 7.0, dtype=torch.float64)
    classifier[[0, 2, 3]] = 3.0 * kept
    assert float(self_duality(some, classifier)) == pytest.approx(0.0, abs=1e-12)


def test_nc4_counts_decisions_against_the_nearest_mean() -> None:
    features, labels = scattered(simplex(3, 5) * 0.8, spread=0.6, each=40)
    classes = class_means(features, labels)
    logits = torch.randn(len(features), 3, generator=generator(8), dtype=torch.float64)
    nearest = torch.cdist(features, classes.means).argmin(1)
    expected = (nearest != logits.argmax(1)).double().mean()
    assert 0.1 < float(expected) < 0.9
    assert float(centre_disagreement(classes, features, logits)) == float(expected)
    # A far origin must not drown the differences of distances.
    far = class_means(features + 1e6, labels)
    assert float(centre_disagreement(far, features + 1e6, logits)) == pytest.approx(float(expected), abs=1e-12)


def test_ignored_labels_and_lone_examples_count_nowhere() -> None:
    features, labels = scattered(simplex(3, 5), spread=0.3)
    strangers = torch.full((2, 5), 100.0, dtype=torch.float64)
    more = class_means(torch.cat([strangers, features]), torch.cat([torch.tensor([-100, 7]), labels]))
    assert more.labels.tolist() == [0, 1, 2]
    classes = class_means(features, labels)
    torch.testing.assert_close(variability_collapse(more), variability_collapse(classes), rtol=1e-12, atol=0)


def test_where_collapse_is_not_defined_it_is_nan() -> None:
    features, labels = scattered(simplex(3, 5), spread=0.3)
    one = class_means(features, torch.zeros_like(labels))
    # Sums of 7, 13 and 40 times 0.1 are rounded differently.
    sizes = torch.tensor([7, 13, 40])
    coinciding = class_means(torch.full((60, 5), 0.1, dtype=torch.float64), torch.arange(3).repeat_interleave(sizes))
    lone = class_means(features[:3], torch.arange(3))
    broken = features.clone()
    broken[0] = torch.nan
    for classes in (one, coinciding, lone, class_means(broken, labels)):
        assert torch.isnan(variability_collapse(classes))
        geometry = mean_geometry(classes)
        assert torch.isnan(geometry.simplex) and torch.isnan(geometry.angle_excess)
        assert torch.isnan(self_duality(classes, torch.eye(3, 5)))


def test_a_mean_at_the_centre_has_no_direction() -> None:
    features, labels = scattered(torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64) + 0.1, 0.0)
    geometry = mean_geometry(class_means(features, labels))
    assert torch.isnan(geometry.equiangularity) and torch.isnan(geometry.angle_excess)
    assert not torch.isnan(geometry.simplex)


def test_what_does_not_fit_is_refused() -> None:
    features, labels = scattered(simplex(3, 5), spread=0.3)
    for bad in (labels[1:], labels.double(), labels[:, None], labels > 0):
        with pytest.raises(UsageError):
            class_means(features, bad)
    classes = class_means(features, labels)
    with pytest.raises(UsageError):
        self_duality(classes, torch.zeros(3, 4))
    with pytest.raises(UsageError):
        self_duality(classes, torch.zeros(2, 5))
    with pytest.raises(UsageError):
        centre_disagreement(classes, features, torch.zeros(3, 3))
