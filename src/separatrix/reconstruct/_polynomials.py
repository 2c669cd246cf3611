"""Monomials of several variables, and their derivatives."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from separatrix.reconstruct.errors import TrajectoryError

MOST_FEATURES = 6000  # a Gram matrix of 288 MB


class Monomials:
    """All monomials of up to a degree, the constant first, then by degree.

    Each is a monomial of one degree less, its parent, times one more variable, whose index is no smaller than those
    before: so values and derivatives cost one product a monomial.

    Raises:
        TrajectoryError: there are more than `MOST_FEATURES`.
    """

    def __init__(self, variables: int, degree: int) -> None:
        self.variables, self.degree = variables, degree
        self.size = math.comb(variables + degree, degree)
        if self.size > MOST_FEATURES:
            raise TrajectoryError(
                f"{variables} variables have {self.size} monomials up to degree {degree}, and {MOST_FEATURES} are"
                " borne: ask for a lower degree or fewer lags"
            )

    @functools.cached_property
    def factors(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the variables in each monomial, with repetition, rising."""
        degrees = range(self.degree + 1)
        each = (itertools.combinations_with_replacement(range(self.variables), degree) for degree in degrees)
        return tuple(itertools.chain.from_iterable(each))

    @functools.cached_property
    def _levels(self) -> list[tuple[Int[np.ndarray, " level"], Int[np.ndarray, " level"]]]:
        """Parents and last variables of the monomials of degree 1, 2, ..."""
        place = {factors: index for index, factors in enumerate(self.factors)}
        levels = []
        for degree in range(1, self.degree + 1):
            ours = [factors for factors in self.factors if len(factors) == degree]
            parents = np.array([place[factors[:-1]] for factors in ours])
            levels.append((parents, np.array([factors[-1] for factors in ours])))
        return levels

    def values(self, points: Float[np.ndarray, "point variable"]) -> Float[np.ndarray, "point monomial"]:
        """Each monomial at each point."""
        return self.unchecked(points)

    def unchecked(self, points: np.ndarray) -> np.ndarray:
        """The same, to be called often: shapes are not checked."""
        values = np.ones((len(points), self.size))
        start = 1
        for parents, last in self._levels:
            values[:, start : start + len(last)] = values[:, parents] * points[:, last]
            start += len(last)
        return values

    def sums(self, coefficients: Float[np.ndarray, "monomial output"]) -> Callable[[np.ndarray], np.ndarray]:
        """Sums of monomials (output, ...) as a function of variables (variable, ...), which may be called often.

        Monomials that no sum needs are not computed, and shapes not checked.
        """
        products = self.only(np.flatnonzero(coefficients.any(axis=1)))
        weights = np.ascontiguousarray(coefficients[products.indices].T)

        def sums(variables: np.ndarray) -> np.ndarray:
            values = products(variables)
            total: np.ndarray = weights @ values.reshape(len(values), math.prod(variables.shape[1:]))
            return total.reshape(len(weights), *variables.shape[1:])

        return sums

    def only(self, indices: Int[np.ndarray, " some"]) -> Products:
        """Some of the monomials, with those that they are made of."""
        needed = {self.factors[index][:end] for index in indices for end in range(len(self.factors[index]) + 1)}
        place = {factors: index for index, factors in enumerate(self.factors)}
        ordered = sorted(needed, key=lambda factors: place[factors])
        row = {factors: index for index, factors in enumerate(ordered)}
        return Products(
            np.array([place[factors] for factors in ordered], dtype=np.int64),
            tuple((row[factors[:-1]], factors[-1]) for factors in ordered[1:]),
        )

    def derivatives(self, points: Float[np.ndarray, "point variable"]) -> Float[np.ndarray, "point monomial variable"]:
        """Derivative of each monomial by each variable at each point."""
        return self.with_derivatives(points)[1]

    def with_derivatives(
        self, points: Float[np.ndarray, "point variable"]
    ) -> tuple[Float[np.ndarray, "point monomial"], Float[np.ndarray, "point monomial variable"]]:
        """Values and derivatives at once."""
        values = self.values(points)
        slopes = np.zeros((len(points), self.size, self.variables))
        start = 1
        for parents, last in self._levels:
            here = np.arange(start, start + len(last))
            slopes[:, here] = slopes[:, parents] * points[:, last, None]
            slopes[:, here, last] += values[:, parents]
            start += len(last)
        return values, slopes

    def named(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Each monomial in words, such as "1", "x", "x y"."""
        return tuple(" ".join(names[index] for index in factors) or "1" for factors in self.factors)


@dataclasses.dataclass(frozen=True)
class Products:
    """Monomials at `indices` of all, the constant first: each later one a product of an earlier and a variable."""

    indices: Int[np.ndarray, " row"]
    made_of: tuple[tuple[int, int], ...]

    def __call__(self, variables: np.ndarray) -> np.ndarray:
        """Values (row, ...) for variables (variable, ...)."""
        values = np.empty((len(self.indices), *variables.shape[1:]))
        values[:1] = 1.0
        for row, (earlier, variable) in enumerate(self.made_of, 1):
            np.multiply(values[earlier], variables[variable], out=values[row, ...])
        return values
