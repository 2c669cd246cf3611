"""Policies: functions from states to inputs; small networks, sparse polynomials, and chance."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
from jaxtyping import Float

from separatrix.reconstruct._polynomials import Monomials
from separatrix.reconstruct.control.plants import Inputs, Plant, States
from separatrix.reconstruct.sparse import sparse_ensemble


class Policy(Protocol):
    """What to do in a state."""

    def __call__(self, states: States) -> Inputs:
        """Inputs (..., input) for states (..., state); they need not respect the plant's limit."""
        ...


@dataclasses.dataclass(frozen=True)
class NeuralPolicy:
    """One hidden layer of tanh units and a tanh at the end, times the limit; `weights` are all numbers in a row.

    With weights (candidates, size) states have a leading dimension of candidates, each with its own network.
    """

    weights: Float[np.ndarray, "*candidates size"]
    states: int
    units: int
    limit: float
    outputs: int = 1

    @staticmethod
    def size(states: int, units: int, outputs: int = 1) -> int:
        """Numbers of such a network."""
        return (states + 1) * units + (units + 1) * outputs

    def __call__(self, states: States) -> Inputs:
        """Inputs for states (candidates..., batch, state)."""
        inner = (self.states + 1) * self.units
        lead = self.weights.shape[:-1]
        first = self.weights[..., :inner].reshape(*lead, self.states + 1, self.units)
        last = self.weights[..., inner:].reshape(*lead, self.units + 1, self.outputs)
        hidden = np.tanh(states @ first[..., :-1, :] + first[..., -1:, :])
        return np.asarray(self.limit * np.tanh(hidden @ last[..., :-1, :] + last[..., -1:, :]))


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

    def __call__(self, states: States) -> Inputs:
        """Inputs for states (..., state)."""
        values = self.monomials.combined(list(np.moveaxis(states, -1, 0)), self.coefficients)
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
) -> PolynomialPolicy:
    """A sparse polynomial that does what `policy` does in these states.

    Of equal powers the cosine's are left out, since they follow from the sine's. `threshold` is the least root mean
    square of a term, as a share of the policy's own.

    Raises:
        MissingExtraError: pysindy is not installed.

    Source: Zolman, Lagemann, Fasel, Kutz & Brunton 2024, arXiv:2403.09110, section on dictionary policies.
    """
    monomials = Monomials(states.shape[1], degree)
    kept = independent(monomials, plant)
    values, wanted = monomials.values(states), np.clip(policy(states), -plant.limit, plant.limit)
    sizes = np.sqrt(np.mean(values**2, axis=0)) + 1e-12
    scale = float(np.sqrt(np.mean(wanted**2))) + 1e-12
    found = sparse_ensemble(
        values[:, kept] / sizes[kept],
        wanted / scale,
        threshold=threshold,
        penalty=1e-9,
        members=1,
        generator=np.random.default_rng(seed),
    )[0]
    coefficients = np.zeros((monomials.size, wanted.shape[1]))
    coefficients[kept] = found * scale / sizes[kept, None]
    return PolynomialPolicy(monomials, coefficients, plant.limit, plant.names)


def independent(monomials: Monomials, plant: Plant) -> np.ndarray:
    """Which monomials are kept so that cos^2 + sin^2 = 1 leaves no two ways to write a function."""
    cosines = {cosine for cosine, _ in plant.circles}
    return np.array([all(factors.count(cosine) < 2 for cosine in cosines) for factors in monomials.factors])
