"""Spectra of transfer (Koopman) operators from snapshot pairs, each value with the residual that verifies it.

Extended dynamic mode decomposition projects the operator onto the span of a dictionary. Where the span is not invariant
some eigenvalues are artefacts of the projection. The residual of a candidate pair (lambda, g),

    res^2 = |K g - lambda g|^2 / |g|^2 = v* (L - lambda A* - conj(lambda) A + |lambda|^2 G) v / v* G v,

with g = Psi v, G = Psi(x)* W Psi(x), A = Psi(x)* W Psi(y) and L = Psi(y)* W Psi(y), needs no invariance: it tends to
its true value as data grow, whatever the dictionary (Colbrook & Townsend 2024, section 3; Colbrook, Mezic & Stepanenko
2024). A residual below eps puts lambda into the eps-pseudospectrum, for a normal operator within eps of its spectrum;
an artefact keeps a large one. The smallest residual over all g of the span gives the pseudospectrum from inside.

Numbers come from a QR factorisation of (Psi(x), Psi(y)) instead of the formula, which would lose half the digits: with
orthonormal features Q, Psi(y) = Q K + P R and P orthogonal to Q, res^2 = |(K - lambda) v|^2 + |R v|^2 for unit v.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.linalg
from jaxtyping import Complex, Float, Inexact

from separatrix.reconstruct.errors import TrajectoryError

_RANK = 1e-10  # share of the largest singular value below which features are taken for dependent


@dataclasses.dataclass(frozen=True)
class VerifiedSpectrum:
    """Eigenvalues for one sampling interval by falling size, with eigenfunctions and residuals.

    `vectors` has the coefficients of each eigenfunction in the dictionary as columns. `residuals` are those of the
    pairs, on the data they were asked for: the distance of K g from lambda g as a share of |g|.
    """

    eigenvalues: Complex[np.ndarray, " mode"]
    vectors: Complex[np.ndarray, "feature mode"]
    residuals: Float[np.ndarray, " mode"]

    def certified(self, tolerance: float) -> Complex[np.ndarray, " certified"]:
        """The eigenvalues whose residual is below the tolerance."""
        return self.eigenvalues[self.residuals < tolerance]


@dataclasses.dataclass(frozen=True)
class Compression:
    """A transfer operator on the span of a dictionary, in orthonormal features.

    `inside` (rank, rank) is the part of the operator's image in the span, `outside` (rank, rank) what leaves it;
    `basis` (feature, rank) gives the orthonormal features in terms of the dictionary.
    """

    inside: Inexact[np.ndarray, "rank rank"]
    outside: Inexact[np.ndarray, "rest rank"]
    basis: Inexact[np.ndarray, "feature rank"]

    def spectrum(self) -> VerifiedSpectrum:
        """Eigenvalues of the compressed operator with their residuals."""
        values, vectors = np.linalg.eig(self.inside)
        order = np.argsort(-np.abs(values), kind="stable")
        values, vectors = values[order].astype(np.complex128), vectors[:, order].astype(np.complex128)
        ahead = (self.inside @ vectors) - values * vectors
        sizes = np.sqrt(np.sum(np.abs(ahead) ** 2, axis=0) + np.sum(np.abs(self.outside @ vectors) ** 2, axis=0))
        return VerifiedSpectrum(values, self.basis @ vectors, sizes / np.linalg.norm(vectors, axis=0))

    def smallest_residuals(self, points: Inexact[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
        """At each complex number the smallest residual that any function of the span has there.

        The set where it is below eps is inside the eps-pseudospectrum of the operator, and fills it as the dictionary
        grows.
        """
        rank = self.inside.shape[1]
        rest = scipy.linalg.qr(self.outside, mode="r")[0][:rank] if len(self.outside) else self.outside
        form, unitary = scipy.linalg.schur(self.inside.astype(np.complex128), output="complex")
        rest = rest @ unitary
        found = np.empty(len(points))
        for index, point in enumerate(points):
            stacked = np.vstack([form - point * np.eye(rank), rest])
            found[index] = np.linalg.svd(stacked, compute_uv=False)[-1]
        return found


def compress(
    now: Inexact[np.ndarray, "pair feature"],
    later: Inexact[np.ndarray, "pair feature"],
    weights: Float[np.ndarray, " pair"] | None = None,
    *,
    rank_tolerance: float = _RANK,
) -> Compression:
    """The operator that takes a dictionary's values `now` to those one interval `later`, on the dictionary's span.

    `weights` are those of a quadrature rule, equal when left out. Dependent features are dropped: directions whose
    share of the largest singular value is below `rank_tolerance`.

    Raises:
        TrajectoryError: there are fewer pairs than independent features, so that no residual could be anything but
            zero, or the dictionary vanishes on the data.
    """
    share = np.full(len(now), 1.0 / len(now)) if weights is None else weights / np.sum(weights)
    # all that follows depends on inner products alone, which the triangle has too: no orthonormal columns are formed
    triangle = np.asarray(np.linalg.qr(np.hstack([now, later]) * np.sqrt(share)[:, None], mode="r"))
    features, size = now.shape[1], min(now.shape)
    left, sizes, right = np.linalg.svd(triangle[:size, :features], full_matrices=False)
    kept = sizes > rank_tolerance * sizes[0] if sizes.size and sizes[0] > 0 else np.zeros(len(sizes), dtype=bool)
    if not kept.any():
        raise TrajectoryError("the dictionary is zero on all samples: choose another one")
    if kept.sum() >= len(now):
        raise TrajectoryError(
            f"there are {len(now)} pairs of samples for {kept.sum()} independent features: give more, or ask for fewer"
        )
    left, basis = left[:, kept], right[kept].conj().T / sizes[kept]
    images = triangle[:, features:] @ basis
    inside = left.conj().T @ images[:size]
    rest = np.vstack([images[:size] - left @ inside, images[size:]])
    return Compression(inside, np.asarray(np.linalg.qr(rest, mode="r")), basis)


def compress_moments(
    gram: Inexact[np.ndarray, "feature feature"],
    cross: Inexact[np.ndarray, "feature feature"],
    later: Inexact[np.ndarray, "feature feature"],
    *,
    rank_tolerance: float = 1e-12,
) -> Compression:
    """The same from the matrices G, A and L alone, as for data that stream by: residuals then hold to about 1e-8."""
    sizes, vectors = np.linalg.eigh((gram + gram.conj().T) / 2)
    kept = sizes > rank_tolerance * sizes[-1]
    basis = vectors[:, kept] / np.sqrt(sizes[kept])
    inside = basis.conj().T @ cross @ basis
    square = basis.conj().T @ later @ basis - inside.conj().T @ inside
    values, directions = np.linalg.eigh((square + square.conj().T) / 2)
    outside = np.sqrt(np.maximum(values, 0.0))[:, None] * directions.conj().T
    return Compression(inside, outside, basis)


def residuals(
    now: Inexact[np.ndarray, "pair feature"],
    later: Inexact[np.ndarray, "pair feature"],
    eigenvalues: Inexact[np.ndarray, " mode"],
    vectors: Inexact[np.ndarray, "feature mode"],
) -> Float[np.ndarray, " mode"]:
    """Residuals of given pairs on other data than they were found on, which no overfit can make small."""
    here = now @ vectors
    gap = later @ vectors - here * eigenvalues
    sizes = np.linalg.norm(here, axis=0)
    return np.asarray(np.linalg.norm(gap, axis=0) / np.where(sizes > 0, sizes, 1.0) + np.where(sizes > 0, 0.0, np.inf))


def verified(
    learnt: Compression,
    now: Inexact[np.ndarray, "pair feature"],
    later: Inexact[np.ndarray, "pair feature"],
) -> VerifiedSpectrum:
    """The spectrum of a compression with its residuals on other pairs of samples."""
    found = learnt.spectrum()
    return dataclasses.replace(found, residuals=residuals(now, later, found.eigenvalues, found.vectors))
