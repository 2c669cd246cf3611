"""Stochastic systems on a line whose transfer operators are known to rounding, with samples from their law."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import scipy.special
from jaxtyping import Complex, Float


@dataclasses.dataclass(frozen=True)
class KnownSystem:
    """A Markov process at quadrature points of its state space, in equilibrium.

    `transition` (point, point) averages a function over the next state; `stationary` sums to one. `now` and `later` are
    pairs of states, (pair, 1), drawn from the process itself.
    """

    points: Float[np.ndarray, " point"]
    stationary: Float[np.ndarray, " point"]
    transition: Float[np.ndarray, "point point"]
    now: Float[np.ndarray, "pair 1"]
    later: Float[np.ndarray, "pair 1"]

    def leading(self, count: int) -> tuple[Complex[np.ndarray, " mode"], Complex[np.ndarray, "point mode"]]:
        """The largest eigenvalues of the operator, and their eigenfunctions at the points."""
        values, vectors = self._eigenpairs
        order = np.argsort(-np.abs(values), kind="stable")[:count]
        return values[order].astype(np.complex128), vectors[:, order].astype(np.complex128)

    @functools.cached_property
    def _eigenpairs(self) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = np.linalg.eig(self.transition)
        return values, vectors

    def covariances(
        self, features: Float[np.ndarray, "point feature"]
    ) -> tuple[Float[np.ndarray, "feature feature"], Float[np.ndarray, "feature feature"]]:
        """Exact covariances of features, uncentred: of the present, and of the present with the future."""
        weighted = features * self.stationary[:, None]
        return weighted.T @ features, weighted.T @ (self.transition @ features)


def noisy_logistic(power: int, pairs: int, generator: np.random.Generator, count: int = 400) -> KnownSystem:
    """X -> 4 x (1 - x) + noise modulo 1, with the density of the noise proportional to cos(pi noise)^power.

    The power is even; the operator then has the rank power + 1 (Ostruszka et al. 2000). Points and weights are those of
    Gauss and Legendre, which integrate its trigonometric kernel to rounding.
    """
    nodes, weights = np.polynomial.legendre.leggauss(count)
    points, weights = (nodes + 1.0) / 2.0, weights / 2.0
    size = np.pi / scipy.special.beta(power / 2 + 0.5, 0.5)
    transition = size * np.cos(np.pi * (points - _logistic(points)[:, None])) ** power * weights
    stationary = _stationary(transition)
    now = _logistic_path(power, pairs, generator)
    return KnownSystem(points, stationary, transition, now[:-1, None], now[1:, None])


def logistic_spectrum(power: int, count: int = 400) -> Complex[np.ndarray, " mode"]:
    """All eigenvalues that are not zero, from Fourier series: cos^power has power + 1 terms, each of rank one."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    points, weights = (nodes + 1.0) / 2.0, weights / 2.0
    orders = np.arange(power + 1) - power // 2
    sizes = scipy.special.binom(power, np.arange(power + 1)) / scipy.special.binom(power, power // 2)
    image = np.exp(-2j * np.pi * np.outer(orders, _logistic(points)))
    matrix = (np.exp(2j * np.pi * np.outer(orders, points)) * weights) @ image.T * sizes
    values = np.linalg.eigvals(matrix)
    return values[np.argsort(-np.abs(values), kind="stable")]


def _logistic(points: np.ndarray) -> np.ndarray:
    return 4.0 * points * (1.0 - points)


def _logistic_path(power: int, pairs: int, generator: np.random.Generator) -> np.ndarray:
    squares = generator.beta(0.5, (power + 1) / 2, pairs + 100)  # sin(pi noise)^2 has this law
    noise = np.arcsin(np.sqrt(squares)) / np.pi * generator.choice((-1.0, 1.0), pairs + 100)
    path = np.empty(pairs + 101)
    path[0] = 0.5
    for index, each in enumerate(noise.tolist()):
        path[index + 1] = (4.0 * path[index] * (1.0 - path[index]) + each) % 1.0
    return path[100:]


def _stationary(transition: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eig(transition.T)
    density = np.abs(vectors[:, int(np.argmax(values.real))].real)
    return np.asarray(density / density.sum())


def double_well(
    barrier: float, lag: float, pairs: int, generator: np.random.Generator, count: int = 300
) -> KnownSystem:
    """Overdamped Langevin motion dx = -V'(x) dt + sqrt(2) dW in V(x) = barrier (x^2 - 1)^2, over a time `lag`.

    On an even grid as a reversible jump process whose rates keep the exact equilibrium; pairs are drawn from that, so
    that what is estimated is what is known.
    """
    points = np.linspace(-2.2, 2.2, count)
    spacing = points[1] - points[0]
    energy = barrier * (points**2 - 1.0) ** 2
    stationary = np.exp(-(energy - energy.min()))
    stationary /= stationary.sum()
    between = np.exp(-(energy[1:] - energy[:-1]) / 2.0) / spacing**2  # rate upwards; downwards its inverse
    back = np.exp((energy[1:] - energy[:-1]) / 2.0) / spacing**2
    diagonal = np.zeros(count)
    diagonal[:-1] -= between
    diagonal[1:] -= back
    symmetric = np.diag(diagonal) + np.diag(np.full(count - 1, 1.0 / spacing**2), 1)
    symmetric += np.diag(np.full(count - 1, 1.0 / spacing**2), -1)
    values, vectors = np.linalg.eigh(symmetric)
    root = np.sqrt(stationary)
    transition = (vectors * np.exp(lag * values)) @ vectors.T * root / root[:, None]
    transition = np.maximum(transition, 0.0)
    transition /= transition.sum(axis=1, keepdims=True)
    now = generator.choice(count, pairs, p=stationary)
    later = (np.cumsum(transition, axis=1)[now] < generator.random(pairs)[:, None]).sum(axis=1).clip(max=count - 1)
    return KnownSystem(points, stationary, transition, points[now][:, None], points[later][:, None])
