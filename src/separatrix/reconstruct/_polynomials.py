"""Monomials of several variables, and their derivatives."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

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
        values = np.ones((len(points), self.size))
        start = 1
        for parents, last in self._levels:
            values[:, start : start + len(last)] = values[:, parents] * points[:, last]
            start += len(last)
        return values

    def combined(
        self, variables: Sequence[Float[np.ndarray, "*batch"]], coefficients: Float[np.ndarray, "monomial output"]
    ) -> Float[np.ndarray, "*batch output"]:
        """Sums of monomials with these coefficients, a variable an array; those that no sum has are not computed."""
        products: dict[tuple[int, ...], np.ndarray] = {(): np.ones(np.shape(variables[0]))}

        def product(factors: tuple[int, ...]) -> np.ndarray:
            if factors not in products:
                last = variables[factors[-1]]
                products[factors] = product(factors[:-1]) * last if len(factors) > 1 else last
            return products[factors]

        used = np.flatnonzero(coefficients.any(axis=1))
        if not len(used):
            return np.zeros((*products[()].shape, coefficients.shape[1]))
        values = np.stack([product(self.factors[index]) for index in used])
        sums = coefficients[used].T @ values.reshape(len(used), -1)
        return np.asarray(np.moveaxis(sums.reshape(-1, *values.shape[1:]), 0, -1))

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
