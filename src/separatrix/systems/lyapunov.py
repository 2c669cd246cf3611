"""Lyapunov spectra of flows and maps, with error bars."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from separatrix.runs.errors import UsageError
from separatrix.systems._steps import Rows, Stepper
from separatrix.systems.dimensions import kaplan_yorke
from separatrix.systems.errors import EscapeError
from separatrix.systems.simulation import scattered
from separatrix.systems.system import System, Values

BLOCKS = 8
"""Blocks of time into which each copy is cut."""


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Lyapunov exponents in decreasing order, per time unit (per iteration of a map), natural logarithms.

    `errors` are standard errors: the spread of the means of independent stretches (copies, or blocks of time where
    there are fewer copies than blocks) over the root of their number. `blocks` has shape (block, exponent): the means
    over copies in each block of time, to see the convergence. `time` is what each of `copies` was followed for.
    """

    system: System
    exponents: Float[np.ndarray, " exponent"]
    errors: Float[np.ndarray, " exponent"]
    blocks: Float[np.ndarray, "block exponent"]
    time: float
    copies: int

    @property
    def kaplan_yorke(self) -> float:
        """The Kaplan-Yorke dimension; NaN where only a part of the spectrum was computed and does not tell it."""
        return kaplan_yorke(self.exponents, complete=len(self.exponents) == self.system.dimension)

    @property
    def entropy(self) -> float:
        """The sum of the positive exponents: the Kolmogorov-Sinai entropy where Pesin's identity holds (nats/time)."""
        return float(self.exponents[self.exponents > 0].sum())


def lyapunov_spectrum(
    system: System,
    *,
    count: int | None = None,
    time: float | None = None,
    copies: int = 32,
    transient: float | None = None,
    parameters: Values | None = None,
    seed: int = 0,
    tolerance: float = 1e-8,
) -> Spectrum:
    """The first `count` exponents (all by default) by orthonormalised tangent vectors.

    Copies start close to random times of the trajectory from the system's initial state. They are followed for `time`
    (200 periods, or 5,000 iterations, by default) after a `transient` (a tenth of it by default) in which the vectors
    turn into place. A flow's vectors are integrated with it and orthonormalised after every step: stability of the
    explicit method bounds what a step can contract, so that no vector is ever lost in rounding (Benettin et al. 1980;
    Eckmann and Ruelle 1985, section V).

    Raises:
        UsageError: numbers do not fit, or the system has a delay.
        EscapeError: a copy leaves every bound.
        IntegrationError: a copy cannot be followed.
    """
    if system.kind == "delay":
        raise UsageError(
            f"system {system.name} has a delay: its state is a function, and its exponents are not computed"
        )
    count = system.dimension if count is None else count
    if not 1 <= count <= system.dimension or copies < 1:
        raise UsageError(
            f"system {system.name} has {system.dimension} exponents: ask for 1 to {system.dimension}, not {count}, of"
            f" at least one copy, not {copies}"
        )
    default = 5000.0 if system.kind == "map" else 200.0 * system.period
    time = default if time is None else float(time)
    transient = time / 10 if transient is None else float(transient)
    if not (0.0 < time < math.inf and 0.0 <= transient < math.inf):
        raise UsageError(f"the time must be positive and the transient not negative, not {time} and {transient}")
    values = system.values(parameters)
    generator = np.random.default_rng(seed)
    follow = _of_map if system.kind == "map" else _of_flow
    edges, logarithms = follow(system, count, time, copies, transient, values, generator, tolerance)
    rates = np.diff(logarithms, axis=0) / np.diff(edges)[:, None, None]
    return _summarised(system, rates, np.diff(edges), copies)


def _summarised(
    system: System, rates: Float[np.ndarray, "block exponent copy"], lengths: Float[np.ndarray, " block"], copies: int
) -> Spectrum:
    blocks = rates.mean(axis=2)
    means = np.average(rates, axis=0, weights=lengths)
    exponents = means.mean(axis=1)
    samples = means if copies >= len(lengths) else rates.transpose(1, 0, 2).reshape(len(means), -1)
    errors = samples.std(axis=1, ddof=1) / math.sqrt(samples.shape[1])
    order = np.argsort(-exponents, kind="stable")
    return Spectrum(system, exponents[order], errors[order], blocks[:, order], float(lengths.sum()), copies)


Logarithms = tuple[np.ndarray, np.ndarray]
"""Times (edge), and sums of logarithms of stretching up to these (edge, exponent, copy)."""


def _of_flow(
    system: System,
    count: int,
    time: float,
    copies: int,
    transient: float,
    values: Values,
    generator: np.random.Generator,
    tolerance: float,
) -> Logarithms:
    n = system.dimension
    states = scattered(system, copies, generator, values=values, tolerance=tolerance)
    block = np.empty((n + n * count, copies))
    block[:n] = states.T
    vectors = block[n:].reshape(n, count, copies)
    vectors[...] = np.linalg.qr(generator.standard_normal((copies, n, count)))[0].transpose(1, 2, 0)

    def split(array: np.ndarray) -> Rows:
        return (*array[:n], *(array[n + i * count : n + (i + 1) * count] for i in range(n)))

    stepper = Stepper(
        system.program.tangent(values), block, name=system.name, split=split, relative=tolerance, absolute=tolerance
    )
    total = np.zeros((count, copies))
    wanted = transient + time * np.arange(BLOCKS + 1) / BLOCKS
    edges: list[float] = []
    logarithms: list[np.ndarray] = []
    while len(edges) <= BLOCKS:
        if stepper.time >= wanted[len(edges)]:
            edges.append(stepper.time)
            logarithms.append(total.copy())
            continue
        stepper.step(wanted[-1])
        vectors = stepper.state[n:].reshape(n, count, copies)
        total += np.log(orthonormalise(vectors))
        stepper.restart()
    return np.array(edges), np.array(logarithms)


def _of_map(
    system: System,
    count: int,
    time: float,
    copies: int,
    transient: float,
    values: Values,
    generator: np.random.Generator,
    tolerance: float,
) -> Logarithms:
    n, per_block = system.dimension, max(1, round(time / BLOCKS))
    current = np.ascontiguousarray(scattered(system, copies, generator, values=values).T)
    following = np.empty_like(current)
    vectors = np.linalg.qr(generator.standard_normal((copies, n, count)))[0].transpose(1, 2, 0).copy()
    images = np.empty_like(vectors)
    function = system.program.tangent(values)
    total = np.zeros((count, copies))
    logarithms: list[np.ndarray] = []
    for length in (round(transient), *[per_block] * BLOCKS):
        for _ in range(length):
            function(0.0, (*current, *vectors), (*following, *images))
            current, following, vectors, images = following, current, images, vectors
            total += np.log(orthonormalise(vectors))
        if not np.isfinite(total).all():
            raise EscapeError(
                f"system {system.name} escapes to infinity, or to where its derivative does not exist: change"
                " its parameters or its initial state",
                float(len(logarithms) * per_block),
                0,
            )
        logarithms.append(total.copy())
    return np.arange(BLOCKS + 1.0) * per_block, np.array(logarithms)


def orthonormalise(vectors: Float[np.ndarray, "dimension vector copy"]) -> Float[np.ndarray, "vector copy"]:
    """Orthonormalise the vectors of each copy in place, in order; returns the lengths that each had left."""
    count = vectors.shape[1]
    lengths = np.empty((count, vectors.shape[2]))
    for j in range(count):
        own = vectors[:, j]
        np.sqrt((own * own).sum(axis=0), out=lengths[j])
        own /= lengths[j]
        if j + 1 < count:
            rest = vectors[:, j + 1 :]
            rest -= own[:, None] * (own[:, None] * rest).sum(axis=0)
    return lengths
