"""A plant's equations, found in transitions: sparse polynomials by an ensemble, a surrogate to search policies in."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from separatrix.reconstruct._polynomials import Monomials
from separatrix.reconstruct.control.plants import Inputs, Plant, States, advance
from separatrix.reconstruct.control.policies import independent
from separatrix.reconstruct.control.rollouts import Transitions
from separatrix.reconstruct.sparse import sparse_ensemble


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """x' = W p(x, u), p all monomials of states and inputs up to a degree.

    `coefficients` is the median over the ensemble of the terms that more than half of it has; `spread` the ensemble's
    standard deviation.
    """

    plant: Plant
    monomials: Monomials
    coefficients: Float[np.ndarray, "monomial state"]
    spread: Float[np.ndarray, "monomial state"]

    def field(self, states: States, inputs: Inputs) -> States:
        """X'."""
        variables = [*np.moveaxis(states, -1, 0), *np.moveaxis(inputs, -1, 0)]
        return self.monomials.combined(variables, self.coefficients)

    def step(self, states: States, inputs: Inputs) -> States:
        """The states a sampling interval later, by one step of the classical Runge-Kutta method."""
        limited = np.clip(inputs, -self.plant.limit, self.plant.limit)
        return advance(self.field, states, limited, self.plant, 1)

    def equations(self) -> tuple[str, ...]:
        """One readable equation a state."""
        terms = self.monomials.named((*self.plant.names, *self.plant.inputs))
        return tuple(
            f"d{name}/dt = " + (" ".join(f"{c:+.4g} {t}" for c, t in zip(column, terms, strict=True) if c) or "0")
            for name, column in zip(self.plant.names, self.coefficients.T, strict=True)
        )


def learn_surrogate(
    transitions: Transitions,
    plant: Plant,
    *,
    degree: int = 2,
    threshold: float = 0.02,
    members: int = 10,
    seed: int = 0,
) -> Surrogate:
    """Learn a plant from transitions under inputs that were held over each sampling interval.

    What a state gains over an interval is the integral of its derivative, for which the mean of both ends stands
    (trapezium rule): linear in the coefficients, and right to second order in `dt` though inputs jump. `threshold` is
    the least root mean square of a term, as a share of the derivative's. Of equal powers the cosine's are left out.
    Intervals that end at a bound of the plant are left out.

    Raises:
        MissingExtraError: pysindy is not installed.

    Source: Zolman et al. 2024, arXiv:2403.09110; ensembles: Fasel et al. 2022, arXiv:2111.10992.
    """
    monomials = Monomials(len(plant.names) + len(plant.inputs), degree)
    kept = independent(monomials, plant)
    free = (np.abs(transitions.after) < 0.999 * np.array(plant.bounds)).all(axis=1)
    ends = [
        monomials.values(np.concatenate([states[free], transitions.inputs[free]], axis=1))[:, kept]
        for states in (transitions.before, transitions.after)
    ]
    values = (ends[0] + ends[1]) / 2.0
    gained = (transitions.after - transitions.before)[free] / plant.dt
    sizes = np.sqrt(np.mean(values**2, axis=0)) + 1e-12
    scales = np.sqrt(np.mean(gained**2, axis=0)) + 1e-12
    found = sparse_ensemble(
        values / sizes,
        gained / scales,
        threshold=threshold,
        penalty=1e-9,
        members=members,
        generator=np.random.default_rng(seed),
    )
    often = (found != 0).mean(axis=0) > 0.5
    coefficients, spread = np.zeros((2, monomials.size, len(plant.names)))
    coefficients[kept] = np.where(often, np.median(found, axis=0), 0.0) * scales / sizes[:, None]
    spread[kept] = found.std(axis=0) * scales / sizes[:, None]
    return Surrogate(plant, monomials, coefficients, spread)
