"""Shape of a cloud of features: how many directions it fills, its intrinsic dimension, and what units repeat.

Also the spectral bias of networks on coordinates: which frequencies of the target are learnt.
"""

from __future__ import annotations

import dataclasses

import torch

from separatrix.probes._features import as_features, centred, is_finite, undefined
from separatrix.runs.errors import UsageError

_FEWEST_POINTS = 10
_CANDIDATES = 4


def feature_spectrum(features: torch.Tensor) -> torch.Tensor:
    """Singular values (min(n, d),) of the centred features (n, d), float64, falling; all NaN where one is not finite.

    Their squares over n are the eigenvalues of the covariance. Cost: O(n d min(n, d)).

    Raises:
        UsageError: not a floating-point matrix.
    """
    x = as_features(features)
    if not is_finite(x):
        return x.new_full((min(x.shape),), torch.nan)
    values: torch.Tensor = torch.linalg.svdvals(centred(x))
    return values


def effective_rank(singular_values: torch.Tensor) -> torch.Tensor:
    """Exponential of the entropy of the singular values (k,) scaled to sum 1: at least 1, at most k; NaN for zeros.

    Source: Roy and Vetterli 2007, "The effective rank", EUSIPCO, definition 1.
    """
    entropy: torch.Tensor = torch.special.entr(singular_values / singular_values.sum()).sum()
    return entropy.exp()


def stable_rank(singular_values: torch.Tensor) -> torch.Tensor:
    """Sum of the squared singular values (k,) over the largest square: between 1 and the rank; NaN where all are zero.

    Source: Rudelson and Vershynin 2007, arXiv:math/0503442.
    """
    return (singular_values / singular_values.amax()).square().sum()


def participation_ratio(singular_values: torch.Tensor) -> torch.Tensor:
    """(sum l)^2 / sum l^2 for l the squared singular values (k,): between 1 and the rank; NaN where all are zero.

    Source: Gao et al. 2017, bioRxiv 214262, eq. for dimensionality.
    """
    powers = (singular_values / singular_values.amax()).square()
    return powers.sum().square() / powers.square().sum()


@dataclasses.dataclass(frozen=True)
class IntrinsicDimension:
    """A TwoNN estimate.

    Attributes:
        value: the dimension; NaN where it cannot be told.
        standard_error: of the value, as if the ratios of distances were independent; on flat tori the true one is 0.8
            to 1.3 times this.
        points: distinct points it rests on.
    """

    value: float
    standard_error: float
    points: int


def intrinsic_dimension(features: torch.Tensor, *, discard: float = 0.1) -> IntrinsicDimension:
    """Dimension of the manifold that features (n, d) lie on, from each point's two nearest neighbours (TwoNN).

    Where density is even over the distance r2 of the second neighbour, log(r2 / r1) is exponential with rate equal to
    the dimension. The `discard` share of largest ratios, which see the uneven density, counts as censored: with k of n
    ratios kept, (k - 1) / (sum of the kept logs + (n - k) times the largest kept). (The paper fits a line to the
    empirical distribution instead.) Few points in high dimensions mislead: edges lower, curvature raises the estimate
    (4 % at 1,000 points on a torus of dimension 5 in 10). Points that
    coincide are taken once; NaN with fewer than 10 distinct points, with r2 = r1 everywhere (a lattice), or where an
    entry is not finite. Cost: O(n^2 d), memory O(n^2).

    Raises:
        UsageError: not a floating-point matrix, or `discard` outside [0, 1).

    Source: Facco et al. 2017, arXiv:1803.06992, eqs. 3-5.
    """
    if not 0.0 <= discard < 1.0:
        raise UsageError(f"discard is {discard}: give the share of ratios to leave out, from 0 to below 1.")
    x = as_features(features)
    if not is_finite(x):
        return IntrinsicDimension(torch.nan, torch.nan, 0)
    x = x.unique(dim=0)  # type: ignore[no-untyped-call]
    n = len(x)
    if n < _FEWEST_POINTS:
        return IntrinsicDimension(torch.nan, torch.nan, n)
    nearest = _nearest_two(x - x.mean(dim=0))
    logs = (nearest[:, 1] / nearest[:, 0]).log().sort().values
    kept = max(3, round(n * (1.0 - discard)))
    total = float(logs[:kept].sum() + (n - kept) * logs[kept - 1])
    if not 0.0 < total < torch.inf:
        return IntrinsicDimension(torch.nan, torch.nan, n)
    value = (kept - 1) / total
    return IntrinsicDimension(value, float(value / (kept - 2) ** 0.5), n)


def _nearest_two(x: torch.Tensor) -> torch.Tensor:
    """Distances (n, 2) of each of the distinct points (n, d) to its two nearest others."""
    gram = x @ x.T
    sizes = gram.diagonal()
    squares = (sizes + sizes[:, None] - 2 * gram).fill_diagonal_(torch.inf)
    candidates = squares.topk(_CANDIDATES, largest=False)
    # Products of large coordinates cancel in `squares`; differences do not.
    exact: torch.Tensor = torch.linalg.vector_norm(x[candidates.indices] - x[:, None], dim=2).sort(dim=1).values[:, :2]
    rounding = 4 * x.shape[1] * torch.finfo(x.dtype).eps * sizes.amax()
    if bool((candidates.values[:, -1] - rounding >= exact[:, 1].square()).all()):
        return exact
    # Points that were not candidates may be as near: slower, distances of all pairs by differences.
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").fill_diagonal_(torch.inf)
    return distances.topk(2, largest=False).values


@dataclasses.dataclass(frozen=True)
class DuplicateUnits:
    """Units that repeat others.

    Attributes:
        share: of the units that vary, those with a duplicate among them; NaN where fewer than two vary.
        pairs: pairs of duplicates.
        constant: units that do not vary over the examples.
    """

    share: float
    pairs: int
    constant: int


def duplicate_units(features: torch.Tensor, *, threshold: float = 0.99) -> DuplicateUnits:
    """Units, columns of features (n, d), whose correlation over examples with another is `threshold` or more in size.

    A linear layer above can do with one of the two. Fewer examples than 3 make every unit a duplicate, hence a share of
    NaN; so does an entry that is not finite. Cost: O(n d^2).

    Raises:
        UsageError: not a floating-point matrix, or `threshold` outside (0, 1].
    """
    if not 0.0 < threshold <= 1.0:
        raise UsageError(f"threshold is {threshold}: give a correlation above 0 and at most 1.")
    x = as_features(features)
    if not is_finite(x):
        return DuplicateUnits(torch.nan, 0, 0)
    x = centred(x)
    x = x / x.abs().amax(dim=0)
    varies = torch.isfinite(x[0])
    constant = int((~varies).sum())
    units = x[:, varies] / torch.linalg.vector_norm(x[:, varies], dim=0)
    if units.shape[1] < 2 or len(units) < 3:
        return DuplicateUnits(torch.nan, 0, constant)
    rounding = len(units) * torch.finfo(features.dtype).eps
    alike = (units.T @ units).abs().fill_diagonal_(0.0) >= threshold - rounding
    return DuplicateUnits(float(alike.any(dim=0).double().mean()), int(alike.sum()) // 2, constant)


@dataclasses.dataclass(frozen=True)
class SpectralBias:
    """How well each frequency of a target is learnt.

    Attributes:
        magnitudes: (f,) length of each frequency vector, cycles per unit of the coordinates.
        target_power: (f,) power of the target at each.
        errors: (f,) power of (prediction - target) over that of the target: 0 learnt, 1 as good as nothing; NaN where
            the target has less than 1e-10 of its power.
    """

    magnitudes: torch.Tensor
    target_power: torch.Tensor
    errors: torch.Tensor

    @property
    def bandwidth(self) -> torch.Tensor:
        """Largest magnitude up to which every frequency of the target has an error below 1/2; 0 where none has."""
        learnt, order = self.errors < 0.5, self.magnitudes.argsort()
        known = order[~torch.isnan(self.errors[order])]
        failed = (~learnt[known]).cumsum(0) > 0
        reached = self.magnitudes[known][~failed]
        return reached.amax() if len(reached) else self.magnitudes.new_zeros(())


def spectral_bias(
    coordinates: torch.Tensor, predictions: torch.Tensor, targets: torch.Tensor, frequencies: torch.Tensor
) -> SpectralBias:
    """Error of predictions (n, c) of targets (n, c) at coordinates (n, d), by frequency vector (f, d).

    Cosines and sines of 2 pi k.x and a constant are fitted to both by least squares: on a grid over whole periods this
    is the discrete Fourier transform, and points may lie anywhere. Power a frequency has outside those listed leaks
    into them unless the points are such a grid. Cost: O(n f^2).

    Raises:
        UsageError: shapes that do not fit, fewer points than 2 f + 1, or frequencies that the points cannot tell apart
            (zero, k and -k, aliases).

    Source: Rahaman et al. 2019, arXiv:1806.08734, section 3.
    """
    x, k = as_features(coordinates, "coordinates"), as_features(frequencies, "frequencies")
    p, t = as_features(predictions, "predictions"), as_features(targets, "targets")
    k, p, t = k.to(x.device), p.to(x.device), t.to(x.device)
    if p.shape != t.shape or len(p) != len(x) or k.shape[1] != x.shape[1] or len(x) < 2 * len(k) + 1:
        raise UsageError(
            f"coordinates {tuple(x.shape)}, predictions {tuple(p.shape)}, targets {tuple(t.shape)} and frequencies"
            f" {tuple(k.shape)} do not fit: give rows for the same points, at least 2 f + 1 of them."
        )
    magnitudes = torch.linalg.vector_norm(k, dim=1)
    if not is_finite(x, p, t, k):
        return SpectralBias(magnitudes, undefined(x).expand(len(k)), undefined(x).expand(len(k)))
    phases = 2 * torch.pi * x @ k.T
    waves = torch.cat([torch.ones_like(x[:, :1]), phases.cos(), phases.sin()], dim=1)
    basis, triangle = torch.linalg.qr(waves)
    widths = torch.linalg.svdvals(triangle)
    if bool(widths[-1] <= 1e-8 * widths[0]):
        raise UsageError(
            f"{len(k)} frequencies are not told apart by {len(x)} points:"
            " give no zero, no opposite pair, no aliases, or more points."
        )
    solved = torch.linalg.solve_triangular(triangle, basis.T @ torch.stack([t, p - t], dim=0), upper=True)
    cosines, sines = solved[:, 1 : len(k) + 1], solved[:, len(k) + 1 :]
    power, missed = (cosines.square() + sines.square()).sum(dim=2) / 2
    known = power > 1e-10 * power.sum()
    return SpectralBias(magnitudes, power, torch.where(known, missed / power, undefined(x)))
