"""How alike two representations of the same examples are: centred kernel alignment and canonical correlations.

All take features (n, d) of the same n examples, in the same order; d may differ. A result is NaN (or holds no
correlations) where an input is not finite or constant: similarity is not defined there.
"""

from __future__ import annotations

import dataclasses

import torch

from separatrix.probes._features import as_features, centred, is_finite, rank_tolerance, undefined
from separatrix.runs.errors import UsageError


def _pair(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both centred and, to keep fourth powers in range, divided by their largest entry."""
    if x.shape[:1] != y.shape[:1]:
        raise UsageError(
            f"features of {len(x)} and of {len(y)} examples: give both of the same examples, in one order."
        )
    a, b = centred(as_features(x, "x")), centred(as_features(y, "y"))
    return a / a.abs().amax(), b / b.abs().amax()


def _alignment(k: torch.Tensor, l: torch.Tensor) -> torch.Tensor:  # noqa: E741
    sizes: torch.Tensor = torch.linalg.vector_norm(k) * torch.linalg.vector_norm(l)
    return (k * l).sum() / sizes


def _double_centred(k: torch.Tensor) -> torch.Tensor:
    return k - k.mean(dim=0, keepdim=True) - k.mean(dim=1, keepdim=True) + k.mean()


def _u_centred(k: torch.Tensor) -> torch.Tensor:
    """Kernel (n, n) with zero diagonal whose off-diagonal rows and columns sum to zero; zero where that is rounding."""
    n = len(k)
    k = k.clone().fill_diagonal_(0.0)
    rows = k.sum(dim=1) / (n - 2)
    u = k - rows - rows[:, None] + k.sum() / ((n - 1) * (n - 2))
    u.fill_diagonal_(0.0)
    negligible = torch.linalg.vector_norm(u) <= n * torch.finfo(k.dtype).eps * torch.linalg.vector_norm(k)
    return u.masked_fill(negligible, 0.0)


def _kernel_alignment(k: torch.Tensor, l: torch.Tensor, debiased: bool) -> torch.Tensor:  # noqa: E741
    if not debiased:
        return _alignment(_double_centred(k), _double_centred(l))
    return _alignment(_u_centred(k), _u_centred(l)) if len(k) >= 4 else undefined(k)


def linear_cka(x: torch.Tensor, y: torch.Tensor, *, debiased: bool = False) -> torch.Tensor:
    """Centred kernel alignment of linear kernels: ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F) with centred columns.

    A scalar in [0, 1]; 1 if and only if the centred Grams are proportional, so invariant to orthogonal maps, isotropic
    scale and shift of either side. With few examples for the features it is biased towards 1; `debiased` takes the
    unbiased estimators of the three HSIC instead (from four examples on, NaN below; independent features give 0 on
    average, single values may be negative).

    Cost: O(n d min(n, d)); debiased O(n^2 d).

    Raises:
        UsageError: not two floating-point matrices with the same number of rows.

    Source: Kornblith et al. 2019, arXiv:1905.00414, eq. 5; Song et al. 2012, JMLR 13, eq. 5 for `debiased`.
    """
    a, b = _pair(x, y)
    n, wide = len(a), a.shape[1] * b.shape[1] + a.shape[1] ** 2 + b.shape[1] ** 2
    if debiased or n * (a.shape[1] + b.shape[1]) < wide:
        return _kernel_alignment(a @ a.T, b @ b.T, debiased)
    sizes: torch.Tensor = torch.linalg.vector_norm(a.T @ a) * torch.linalg.vector_norm(b.T @ b)
    return (a.T @ b).square().sum() / sizes


def rbf_cka(x: torch.Tensor, y: torch.Tensor, *, bandwidth: float = 1.0, debiased: bool = False) -> torch.Tensor:
    """Centred kernel alignment of Gaussian kernels exp(-r^2 / (2 s^2)), s = `bandwidth` times the median distance.

    A scalar in [0, 1] (see `linear_cka` for `debiased`), invariant to orthogonal maps, isotropic scale and shift. The
    median is over pairs of examples; NaN where it is zero, as when most examples coincide. Cost: O(n^2 d).

    Raises:
        UsageError: not two floating-point matrices with the same number of rows, or a bandwidth not above zero.

    Source: Kornblith et al. 2019, arXiv:1905.00414, section 3.
    """
    if not bandwidth > 0:
        raise UsageError(f"bandwidth is {bandwidth}: give a factor of the median distance above 0, such as 1.0.")
    a, b = _pair(x, y)
    if len(a) < 2 or not is_finite(a, b):
        return undefined(a)
    return _kernel_alignment(_gaussian_kernel(a, bandwidth), _gaussian_kernel(b, bandwidth), debiased)


def _gaussian_kernel(a: torch.Tensor, bandwidth: float) -> torch.Tensor:
    gram = a @ a.T
    sizes = gram.diagonal()
    squares = (sizes + sizes[:, None] - 2 * gram).clamp_(min=0.0).fill_diagonal_(0.0)
    upper = torch.triu_indices(len(a), len(a), offset=1, device=a.device)
    distances = squares[upper[0], upper[1]].sqrt().sort().values
    median = (distances[(len(distances) - 1) // 2] + distances[len(distances) // 2]) / 2
    return torch.exp(-squares / (2 * (bandwidth * median) ** 2))


@dataclasses.dataclass(frozen=True)
class CanonicalCorrelations:
    """Canonical correlations between two sets of features.

    Attributes:
        correlations: (k,) float64 in [0, 1], falling; k = min(rank_x, rank_y); none where a side is constant or not
            finite.
        weights: (k,) float64, share of x that each canonical direction accounts for; sums to 1.
        rank_x: directions of x that were compared.
        rank_y: directions of y that were compared.
        forced: how many correlations are 1 whatever the data, rank_x + rank_y - (n - 1) if positive. Where it reaches
            k, the examples are too few to say anything.
    """

    correlations: torch.Tensor
    weights: torch.Tensor
    rank_x: int
    rank_y: int
    forced: int

    @property
    def mean(self) -> torch.Tensor:
        """Mean correlation (CCA or SVCCA similarity); NaN without correlations."""
        return self.correlations.mean()

    @property
    def weighted_mean(self) -> torch.Tensor:
        """Correlations weighted by the share of x each accounts for (PWCCA); NaN without correlations."""
        return (self.correlations * self.weights).sum() if len(self.correlations) else self.correlations.mean()


def _directions(
    a: torch.Tensor, dtype: torch.dtype, variance: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    u, s, vt = torch.linalg.svd(a, full_matrices=False)
    count = int((s > rank_tolerance(a.shape, dtype) * s[0]).sum())
    if variance < 1.0 and count:
        shares = s.square().cumsum(0) / s.square().sum()
        count = min(count, int((shares < variance).sum()) + 1)
    return u[:, :count], s[:count], vt[:count]


def svcca(x: torch.Tensor, y: torch.Tensor, *, variance: float = 0.99) -> CanonicalCorrelations:
    """Canonical correlations between the leading principal directions that hold `variance` of each side.

    Its `mean` is the SVCCA similarity: invariant to orthogonal maps, isotropic scale and shift; not to invertible maps
    in general, since what is cut off depends on scale. Cost: O(n d^2).

    Raises:
        UsageError: not two floating-point matrices with the same number of rows, or `variance` outside (0, 1].

    Source: Raghu et al. 2017, arXiv:1706.05806, section 2.
    """
    if not 0.0 < variance <= 1.0:
        raise UsageError(f"variance is {variance}: give the share of variance to keep, above 0 and at most 1.")
    a, b = _pair(x, y)
    if not is_finite(a, b):
        empty = a.new_zeros(0)
        return CanonicalCorrelations(empty, empty, 0, 0, 0)
    (u, s, vt), (w, _, _) = _directions(a, x.dtype, variance), _directions(b, y.dtype, variance)
    rotation, correlations, _ = torch.linalg.svd(u.T @ w, full_matrices=False)
    # Canonical variates of x are u @ rotation; their products with the columns of x, summed without sign.
    weights = (rotation.T @ (s[:, None] * vt)).abs().sum(dim=1)
    return CanonicalCorrelations(
        correlations=correlations.clamp(max=1.0),
        weights=weights / weights.sum(),
        rank_x=u.shape[1],
        rank_y=w.shape[1],
        forced=max(0, u.shape[1] + w.shape[1] - (len(a) - 1)),
    )


def cca(x: torch.Tensor, y: torch.Tensor) -> CanonicalCorrelations:
    """Canonical correlations between all directions of both sides that stand out of rounding.

    Invariant to invertible affine maps of either side. Directions below max(n, d) times the precision of the input's
    dtype are rounding and left out. Its `weighted_mean` is the PWCCA similarity, which is not symmetric: weights come
    from x, and only maps of y leave it alone; where correlations tie, so that directions may turn among themselves, the
    weights are one choice of many. Cost: O(n d^2).

    Raises:
        UsageError: not two floating-point matrices with the same number of rows.

    Source: Hotelling 1936; Morcos et al. 2018, arXiv:1806.05759, section 2.2 for PWCCA.
    """
    return svcca(x, y, variance=1.0)


def pwcca(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Projection-weighted mean of the canonical correlations, weights from x: `cca(x, y).weighted_mean`."""
    return cca(x, y).weighted_mean
