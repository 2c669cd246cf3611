"""Policies: functions from states to inputs; small networks, sparse polynomials, and chance."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from separatrix.reconstruct._polynomials import Monomials
from separatrix.reconstruct.control.plants import Inputs, Plant, States
from separatrix.reconstruct.sparse import sparse_ensemble


class Policy(Protocol):
    """What to do in a state."""

    def __call__(self, states: States) -> Inputs:
        """Inputs (..., input) for states (..., state); they need not respect the plant's limit."""
        ...


class Family(Protocol):
    """Policies that differ by `size` numbers; searches begin with so large a `deviation` of these."""

    @property
    def size(self) -> int:
        """How many numbers."""
        ...

    @property
    def deviation(self) -> float:
        """Of numbers of which nothing is known."""
        ...

    def policy(self, weights: Float[np.ndarray, "*candidates size"]) -> Policy:
        """The policy with these; of several candidates one for states with a leading dimension of candidates."""
        ...


@dataclasses.dataclass(frozen=True)
class Networks:
    """Networks of one hidden layer of tanh units that turn their sign in the plant's mirror."""

    plant: Plant
    units: int = 8
    deviation: float = 1.5

    @property
    def size(self) -> int:
        """Weights and biases."""
        return (len(self.plant.names) + 1 + len(self.plant.inputs)) * self.units

    def policy(self, weights: Float[np.ndarray, "*candidates size"]) -> NeuralPolicy:
        """The network with these."""
        return NeuralPolicy(weights, self.units, self.plant)


@dataclasses.dataclass(frozen=True)
class OddPolynomials:
    """Polynomials up to a degree that turn their sign in the plant's mirror; of all such terms those of `places`."""

    plant: Plant
    degree: int = 3
    deviation: float = 3.0
    places: tuple[int, ...] | None = None

    @functools.cached_property
    def monomials(self) -> Monomials:
        """All monomials of the states."""
        return Monomials(len(self.plant.names), self.degree)

    @functools.cached_property
    def kept(self) -> Int[np.ndarray, " term"]:
        """Those that a policy has."""
        every = np.flatnonzero(independent(self.monomials, self.plant) & turning_sign(self.monomials, self.plant))
        return every if self.places is None else every[list(self.places)]

    @property
    def size(self) -> int:
        """A coefficient for each term and input."""
        return len(self.kept) * len(self.plant.inputs)

    def policy(self, weights: Float[np.ndarray, "*candidates size"]) -> Policy:
        """The polynomial with these coefficients of states over `scales`, times the limit."""
        plant = self.plant
        products = self.monomials.only(self.kept)
        rows = [list(products.indices).index(index) for index in self.kept]
        lead = weights.shape[:-1]
        shares = weights.reshape(*lead, len(plant.inputs), len(rows))

        def policy(states: np.ndarray) -> np.ndarray:
            scaled = np.moveaxis(states / plant.scales, -1, 0)
            flat = scaled.reshape(len(scaled), *lead, -1)
            values = np.moveaxis(products(flat)[rows], 0, -2)
            chosen = plant.limit * np.moveaxis(shares @ values, -2, -1)
            inputs: np.ndarray = np.clip(chosen.reshape(*states.shape[:-1], -1), -plant.limit, plant.limit)
            return inputs

        return policy

    def polynomial(self, weights: Float[np.ndarray, " size"]) -> PolynomialPolicy:
        """The same policy, to be read."""
        coefficients = np.zeros((self.monomials.size, len(self.plant.inputs)))
        sizes = self.monomials.values(self.plant.scales[None])[0, self.kept]
        coefficients[self.kept] = self.plant.limit * weights.reshape(-1, len(self.kept)).T / sizes[:, None]
        return PolynomialPolicy(self.monomials, coefficients, self.plant.limit, self.plant.names)


@dataclasses.dataclass(frozen=True)
class NeuralPolicy:
    """limit tanh((g(x) - g(x'))/2), x' the mirror image of x and g(x) = V tanh(W x + b); `weights` are W, b and V.

    With weights (candidates, size) states have a leading dimension of candidates, each with its own network. Networks
    see states over the plant's `scales`.
    """

    weights: Float[np.ndarray, "*candidates size"]
    units: int
    plant: Plant

    @functools.cached_property
    def _parts(self) -> tuple[np.ndarray, ...]:
        """W for what turns its sign in the mirror, W for the rest, b, and V; both W for states that are not scaled."""
        count = len(self.plant.names)
        lead = self.weights.shape[:-1]
        parts = np.split(self.weights, [count * self.units, (count + 1) * self.units], axis=-1)
        rows = (count, 1, self.units)
        first, bias, last = (part.reshape(*lead, row, -1) for part, row in zip(parts, rows, strict=True))
        turned = np.isin(np.arange(count), self.plant.mirrored)[:, None]
        scaled = first / self.plant.scales[:, None]
        return scaled * turned, scaled * ~turned, bias, last

    def __call__(self, states: States) -> Inputs:
        """Inputs for states (candidates..., batch, state)."""
        turning, staying, bias, last = self._parts
        odd, even = states @ turning, states @ staying + bias
        hidden = np.tanh(even + odd) - np.tanh(even - odd)
        return np.asarray(self.plant.limit * np.tanh(0.5 * hidden @ last))


@dataclasses.dataclass(frozen=True)
class PolynomialPolicy:
    """A polynomial of the state for each input, clipped at the limit."""

    monomials: Monomials
    coefficients: Float[np.ndarray, "monomial input"]
    limit: float
    names: tuple[str, ...]

    @property
    def terms(self) -> int:
        """Terms that are there."""
        return int((self.coefficients != 0).sum())

    @functools.cached_property
    def _sums(self) -> Callable[[np.ndarray], np.ndarray]:
        return self.monomials.sums(self.coefficients)

    def __call__(self, states: States) -> Inputs:
        """Inputs for states (..., state)."""
        values = self._sums(states.T).T
        inputs: Inputs = np.clip(values, -self.limit, self.limit)
        return inputs

    def __str__(self) -> str:
        parts = zip(self.coefficients.T, strict=True)
        terms = self.monomials.named(self.names)
        return "; ".join(" ".join(f"{c:+.3g} {t}" for c, t in zip(row[0], terms, strict=True) if c) for row in parts)


@dataclasses.dataclass(frozen=True)
class RandomPolicy:
    """Inputs drawn evenly within the limit, whatever the state; each is held for a few steps by whoever collects."""

    limit: float
    generator: np.random.Generator
    inputs: int = 1

    def __call__(self, states: States) -> Inputs:
        """Inputs for states (..., state)."""
        return self.generator.uniform(-self.limit, self.limit, (*states.shape[:-1], self.inputs))


def distilled(
    policy: Policy,
    states: Float[np.ndarray, "point state"],
    plant: Plant,
    *,
    degree: int = 3,
    threshold: float = 0.02,
    seed: int = 0,
    rounds: int = 10,
) -> PolynomialPolicy:
    """A sparse polynomial that does what `policy` does in these states.

    Only terms that turn their sign in the plant's mirror are taken, as the best policies do; of equal powers the
    cosine's are left out, since they follow from the sine's. `threshold` is the least root mean square of a term, as a
    share of the policy's own. Where the policy is at its limit the polynomial may go beyond:
    states in which it does are left out of the next round of regressions, which ends when none comes or goes (the
    conditions of a least squares that asks for no less than the limit there).

    Raises:
        MissingExtraError: pysindy is not installed.

    Source: Zolman, Lagemann, Fasel, Kutz & Brunton 2024, arXiv:2403.09110, section on dictionary policies.
    """
    monomials = Monomials(states.shape[1], degree)
    kept = independent(monomials, plant) & turning_sign(monomials, plant)
    values, wanted = monomials.values(states)[:, kept], np.clip(policy(states), -plant.limit, plant.limit)
    sizes = np.sqrt(np.mean(values**2, axis=0)) + 1e-12
    scale = float(np.sqrt(np.mean(wanted**2))) + 1e-12
    free = np.ones(len(wanted), dtype=bool)
    for _ in range(rounds):
        found = sparse_ensemble(
            values[free] / sizes,
            wanted[free] / scale,
            threshold=threshold,
            penalty=1e-9,
            members=1,
            generator=np.random.default_rng(seed),
        )[0]
        done, last = values / sizes @ found * scale, free
        beyond = (np.abs(wanted) > 0.99 * plant.limit) & (done * np.sign(wanted) > plant.limit)
        free = ~beyond.all(axis=1)
        if (free == last).all():
            break
    coefficients = np.zeros((monomials.size, wanted.shape[1]))
    coefficients[kept] = found * scale / sizes[:, None]
    return PolynomialPolicy(monomials, coefficients, plant.limit, plant.names)


def independent(monomials: Monomials, plant: Plant) -> np.ndarray:
    """Which monomials are kept so that cos^2 + sin^2 = 1 leaves no two ways to write a function."""
    cosines = {cosine for cosine, _ in plant.circles}
    return np.array([all(factors.count(cosine) < 2 for cosine in cosines) for factors in monomials.factors])


def turning_sign(monomials: Monomials, plant: Plant) -> np.ndarray:
    """Which monomials turn their sign in the plant's mirror; all where it has none."""
    if not plant.mirrored:
        return np.ones(monomials.size, dtype=bool)
    return np.array([sum(index in plant.mirrored for index in factors) % 2 == 1 for factors in monomials.factors])
