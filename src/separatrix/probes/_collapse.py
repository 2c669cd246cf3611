"""Neural collapse: how near last-layer features and classifier are to one point a class, arranged as a simplex.

Classes count equally: the global mean is the mean of the class means, the within-class covariance the mean of the
classes' covariances, each divided by the number of its examples; on balanced data this is the paper's definition.
"""

from __future__ import annotations

import dataclasses

import torch

from separatrix.probes._features import as_features, is_finite, undefined
from separatrix.runs.errors import UsageError


@dataclasses.dataclass(frozen=True)
class ClassMeans:
    """Features by class, for the classes that have at least two examples.

    Attributes:
        means: (classes, d) float64, not centred.
        residuals: (n, d) float64, features minus the mean of their class.
        members: (n,) int64, row of `means` each example belongs to.
        labels: (classes,) the label of each row, rising.
        precision: machine epsilon of the features as they came.
    """

    means: torch.Tensor
    residuals: torch.Tensor
    members: torch.Tensor
    labels: torch.Tensor
    precision: float

    @property
    def centred(self) -> torch.Tensor:
        """(classes, d): means minus their own mean; rows that are nothing but rounding are zero."""
        difference = self.means - self.means.mean(dim=0)
        scale = torch.linalg.vector_norm(self.means, dim=1, keepdim=True)
        rounding = len(self.members) * torch.finfo(self.means.dtype).eps * scale.sum()
        return difference.masked_fill(torch.linalg.vector_norm(difference, dim=1, keepdim=True) <= rounding, 0.0)


def class_means(features: torch.Tensor, labels: torch.Tensor) -> ClassMeans:
    """Means of features (n, d) by label (n,). Examples with negative labels, and classes of one example, are left out.

    Raises:
        UsageError: shapes that do not fit, or labels that are not integers.
    """
    x = as_features(features)
    if labels.shape != x.shape[:1] or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UsageError(
            f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype} for features {tuple(x.shape)}:"
            " give one integer class an example."
        )
    labels = labels.detach().to(x.device, torch.int64)
    x, labels = x[labels >= 0], labels[labels >= 0]
    present, members, counts = labels.unique(  # type: ignore[no-untyped-call]
        return_inverse=True, return_counts=True
    )
    enough = counts >= 2
    kept = enough[members]
    x, members = x[kept], (enough.cumsum(0) - 1)[members[kept]]
    means = x.new_zeros(int(enough.sum()), x.shape[1]).index_add_(0, members, x) / counts[enough, None]
    return ClassMeans(means, x - means[members], members, present[enough], torch.finfo(features.dtype).eps)


def variability_collapse(classes: ClassMeans) -> torch.Tensor:
    """NC1: tr(S_W pinv(S_B)) / K, the within-class covariance measured in the units of that between the K class means.

    Zero where every example sits on its class mean. Directions without between-class variance are left out by the
    pseudo-inverse, so classes whose means coincide do not raise it. NaN with fewer than two classes of two examples,
    coinciding means or non-finite features. Cost: O(n d K); no (d, d) matrix is built.

    Source: Papyan, Han, Donoho 2020, arXiv:2008.08186, eq. for NC1.
    """
    m, count = classes.centred, len(classes.means)
    if count < 2 or not is_finite(classes.residuals, m):
        return undefined(m)
    _, s, vt = torch.linalg.svd(m, full_matrices=False)
    s, vt = s[: count - 1], vt[: count - 1]
    stands_out = s > s[0] * max(m.shape) * classes.precision
    if not bool(stands_out.any()):
        return undefined(m)
    projections = (classes.residuals @ vt[stands_out].T).square()
    within = projections.new_zeros(count, projections.shape[1]).index_add_(0, classes.members, projections)
    within = within / torch.bincount(classes.members, minlength=count)[:, None]
    # S_B has eigenvalues s^2 / K, S_W has v' S_W v = mean over classes: both divisions by K cancel but for one.
    ratios: torch.Tensor = within.mean(dim=0) / s[stands_out].square()
    return ratios.sum()


@dataclasses.dataclass(frozen=True)
class MeanGeometry:
    """NC2 and its parts: how the K class means are arranged. All float64 scalars, zero for a simplex.

    Attributes:
        simplex: Frobenius distance between the Gram of the centred means and that of the simplex equiangular tight
            frame, both at Frobenius norm 1. In [0, 2].
        orthogonal: the same for means that are not centred and an orthogonal frame (what a bias-free squared loss and
            ReLU features tend to).
        equinorm: standard deviation of the centred means' norms, over their mean.
        equiangularity: standard deviation of the cosines between pairs of centred means.
        angle_excess: mean of |cosine + 1 / (K - 1)| over pairs.
    """

    simplex: torch.Tensor
    orthogonal: torch.Tensor
    equinorm: torch.Tensor
    equiangularity: torch.Tensor
    angle_excess: torch.Tensor


def mean_geometry(classes: ClassMeans) -> MeanGeometry:
    """NC2: distance of the class means from a simplex equiangular tight frame, and from an orthogonal frame.

    NaN with fewer than two classes of two examples, a mean at the origin of its frame, or non-finite features. Two
    centred means always form a simplex: with K = 2 only `orthogonal` says anything. Cost: O(K^2 d).

    Source: Papyan, Han, Donoho 2020, arXiv:2008.08186 (equinorm, angles); Zhu et al. 2021, arXiv:2105.02375 (Gram
    distance); Dang et al. 2023, arXiv:2301.00437 (orthogonal frame).
    """
    m, count = classes.centred, len(classes.means)
    if count < 2 or not is_finite(m):
        return MeanGeometry(*[undefined(m)] * 5)
    norms = torch.linalg.vector_norm(m, dim=1)
    directions = m / norms[:, None]
    pairs = torch.triu_indices(count, count, offset=1, device=m.device)
    cosines = (directions @ directions.T)[pairs[0], pairs[1]]
    identity = torch.eye(count, dtype=m.dtype, device=m.device)
    return MeanGeometry(
        simplex=_gram_distance(m, identity - 1.0 / count),
        orthogonal=_gram_distance(classes.means, identity),
        equinorm=norms.std(correction=0) / norms.mean(),
        equiangularity=cosines.std(correction=0),
        angle_excess=(cosines + 1.0 / (count - 1)).abs().mean(),
    )


def _gram_distance(m: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
    gram = m @ m.T
    difference = gram / torch.linalg.vector_norm(gram) - frame / torch.linalg.vector_norm(frame)
    distance: torch.Tensor = torch.linalg.vector_norm(difference)
    return distance


def self_duality(classes: ClassMeans, classifier: torch.Tensor) -> torch.Tensor:
    """NC3: ||W / ||W||_F - M / ||M||_F||_F^2 between classifier rows (labels, d) and centred class means. In [0, 4].

    Only rows of the classes present count. NaN as for `mean_geometry`, and for a classifier of zeros.

    Raises:
        UsageError: the classifier has not one row of d weights for every label.

    Source: Papyan, Han, Donoho 2020, arXiv:2008.08186, figure 5.
    """
    w, m = as_features(classifier, "classifier").to(classes.means.device), classes.centred
    largest = int(classes.labels.max()) if len(classes.labels) else -1
    if w.shape[1] != m.shape[1] or largest >= len(w):
        raise UsageError(
            f"classifier has shape {tuple(w.shape)} for {m.shape[1]} features and labels up to {largest}:"
            " give the last layer's weight (classes, features), and the features that enter it."
        )
    if len(m) < 2:
        return undefined(m)
    w = w[classes.labels]
    difference: torch.Tensor = w / torch.linalg.vector_norm(w) - m / torch.linalg.vector_norm(m)
    return difference.square().sum()


def centre_disagreement(classes: ClassMeans, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """NC4: share of examples whose largest of the logits (n, labels) is not the class with the nearest mean.

    All n examples count, whatever their label; a decision for a class without a mean never agrees. NaN with fewer than
    two classes of two examples, or where features or logits are not finite. Cost: O(n d K).

    Raises:
        UsageError: shapes that do not fit.

    Source: Papyan, Han, Donoho 2020, arXiv:2008.08186, NC4.
    """
    x, scores = as_features(features), as_features(logits, "logits")
    if len(x) != len(scores) or x.shape[1] != classes.means.shape[1]:
        raise UsageError(
            f"features {tuple(features.shape)} and logits {tuple(logits.shape)} do not fit class means"
            f" {tuple(classes.means.shape)}: give features and logits of the same examples."
        )
    if len(classes.means) < 2 or not is_finite(x, scores, classes.means):
        return undefined(x)
    origin = classes.means.mean(dim=0)
    means = classes.means - origin
    # |x - m|^2 without |x|^2, which is the same for every class.
    nearest = (means.square().sum(dim=1) - 2 * (x - origin) @ means.T).argmin(dim=1)
    return (classes.labels[nearest] != scores.argmax(dim=1)).double().mean()
