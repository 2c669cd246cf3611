"""A plant's equations, found in transitions: sparse polynomials by an ensemble, a surrogate to search policies in.

Bodies that push each other have equations of motion that are no polynomials, but quotients: solved for one
acceleration, the mass matrix stands in the denominator. With the accelerations of the others among the terms, as in
implicit regressions (Mangan et al. 2016; Kaheman, Kutz & Brunton 2020, arXiv:2004.02322), they are sparse again.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
from jaxtyping import Float

from separatrix.reconstruct._polynomials import Monomials
from separatrix.reconstruct.control.plants import Field, Inputs, Plant, States, advance
from separatrix.reconstruct.control.policies import independent
from separatrix.reconstruct.control.rollouts import Transitions
from separatrix.reconstruct.sparse import sparse_ensemble


@dataclasses.dataclass(frozen=True)
class Surrogate:
    """x' = W p(x, u) + C(x) x', p all monomials of states and inputs up to a degree.

    C is zero but between the plant's `accelerated` variables, where it is `coupling` times 1 and the cosines and sines
    of the plant's `circles`, in this order. `coefficients` and `coupling` are the median over the ensemble of the terms
    that more than half of it has; `spread` is the ensemble's standard deviation of the coefficients.
    """

    plant: Plant
    monomials: Monomials
    coefficients: Float[np.ndarray, "monomial state"]
    spread: Float[np.ndarray, "monomial state"]
    coupling: Float[np.ndarray, "accelerated accelerated factor"]

    @functools.cached_property
    def field(self) -> Field:
        """X' (state, ...) at states (state, ...) under inputs (input, ...)."""
        sums, bodies = self.monomials.sums(self.coefficients), list(self.plant.accelerated)
        places = [(i, j, f) for i, j, f in np.argwhere(self.coupling)]
        around = turning(self.plant)
        if not places:
            return lambda states, inputs: sums(np.concatenate([states, inputs]))

        def field(states: np.ndarray, inputs: np.ndarray) -> np.ndarray:
            rates = sums(np.concatenate([states, inputs]))
            matrix = np.zeros((len(bodies), len(bodies), *states.shape[1:]))
            for i, j, f in places:
                matrix[i, j] -= self.coupling[i, j, f] * (states[around[f - 1]] if f else 1.0)
            for i in range(len(bodies)):
                matrix[i, i] += 1.0
            rates[bodies] = _solved(matrix, rates[bodies])
            return rates

        return field

    def step(self, states: States, inputs: Inputs) -> States:
        """The states a sampling interval later, by one step of the classical Runge-Kutta method."""
        limited = np.clip(inputs, -self.plant.limit, self.plant.limit)
        return advance(self.field, states, limited, self.plant, 1)

    def terms(self) -> dict[str, dict[str, float]]:
        """The coefficient of each term that is there, by variable; velocity' is the rate at which velocity changes."""
        names, bodies = self.plant.names, self.plant.accelerated
        words = self.monomials.named((*names, *self.plant.inputs))
        found = {
            name: {word: float(value) for word, value in zip(words, column, strict=True) if value}
            for name, column in zip(names, self.coefficients.T, strict=True)
        }
        around = turning(self.plant)
        for i, j, f in np.argwhere(self.coupling):
            word = f"{names[bodies[j]]}'" + (f" {names[around[f - 1]]}" if f else "")
            found[names[bodies[i]]][word] = float(self.coupling[i, j, f])
        return found

    def equations(self) -> tuple[str, ...]:
        """One readable equation a state."""
        return tuple(
            f"d{name}/dt = " + (" ".join(f"{value:+.4g} {word}" for word, value in terms.items()) or "0")
            for name, terms in self.terms().items()
        )


def turning(plant: Plant) -> tuple[int, ...]:
    """Positions of the cosines and sines of a plant."""
    return tuple(index for pair in plant.circles for index in pair)


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """X with matrix x = right, for matrices (i, j, ...) and right sides (i, ...), by elimination without pivots.

    Mass matrices need none; where another matrix does, division by zero leads to numbers that are not finite. Both
    arguments are overwritten.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for row in range(len(right)):
            for other in range(len(right)):
                if other != row:
                    share = matrix[other, row] / matrix[row, row]
                    matrix[other] -= share * matrix[row]
                    right[other] -= share * right[row]
        return np.stack([right[row] / matrix[row, row] for row in range(len(right))])


def learn_surrogate(
    transitions: Transitions,
    plant: Plant,
    *,
    degree: int = 2,
    threshold: float = 0.02,
    members: int = 10,
    seed: int = 0,
    implicit: bool = True,
) -> Surrogate:
    """Learn a plant from transitions under inputs that were held over each sampling interval.

    What a state gains over an interval is the integral of its derivative, for which the mean of both ends stands
    (trapezium rule): linear in the coefficients, and right to second order in `dt` though inputs jump. `threshold` is
    the least root mean square of a term, as a share of the derivative's. Of equal powers the cosine's are left out.
    Intervals that end at a bound of the plant are left out. With `implicit`, other accelerations are terms of those
    of the plant's `accelerated`.

    Raises:
        MissingExtraError: pysindy is not installed.

    Source: Zolman et al. 2024, arXiv:2403.09110; ensembles: Fasel et al. 2022, arXiv:2111.10992.
    """
    monomials = Monomials(len(plant.names) + len(plant.inputs), degree)
    kept = independent(monomials, plant)
    free = (np.abs(transitions.after) < 0.999 * np.array(plant.bounds)).all(axis=1)
    before, after = transitions.before[free], transitions.after[free]
    ends = [
        monomials.values(np.concatenate([states, transitions.inputs[free]], axis=1))[:, kept]
        for states in (before, after)
    ]
    values, gained = (ends[0] + ends[1]) / 2.0, (after - before) / plant.dt
    bodies, around = plant.accelerated, turning(plant)
    factors = np.concatenate([np.ones((len(values), 1)), (before + after)[:, around] / 2.0], axis=1)
    generator = np.random.default_rng(seed)

    coefficients, spread = np.zeros((2, monomials.size, len(plant.names)))
    coupling = np.zeros((len(bodies), len(bodies), factors.shape[1]))
    for index in range(len(plant.names)):
        others = [body for body in bodies if body != index] if implicit and index in bodies else []
        columns = np.concatenate([values, *(gained[:, other, None] * factors for other in others)], axis=1)
        found = _ensemble(columns, gained[:, index], threshold, members, generator)
        usual = np.where((found != 0).mean(axis=0) > 0.5, np.median(found, axis=0), 0.0)
        own = int(kept.sum())
        coefficients[kept, index], spread[kept, index] = usual[:own], found.std(axis=0)[:own]
        for other, part in zip(others, usual[own:].reshape(len(others), factors.shape[1]), strict=True):
            coupling[bodies.index(index), bodies.index(other)] = part
    return Surrogate(plant, monomials, coefficients, spread, coupling)


def _ensemble(
    columns: Float[np.ndarray, "row feature"],
    target: Float[np.ndarray, " row"],
    threshold: float,
    members: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, "member feature"]:
    sizes = np.sqrt(np.mean(columns**2, axis=0)) + 1e-12
    scale = float(np.sqrt(np.mean(target**2))) + 1e-12
    found = sparse_ensemble(
        columns / sizes,
        target[:, None] / scale,
        threshold=threshold,
        penalty=1e-9,
        members=members,
        generator=generator,
    )
    return np.asarray(found[:, :, 0] * scale / sizes)
