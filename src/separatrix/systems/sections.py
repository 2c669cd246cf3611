"""Events along trajectories: when and where an expression of the state crosses zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from separatrix.runs.errors import UsageError
from separatrix.systems._steps import Stepper, dense_basis
from separatrix.systems.simulation import TOLERANCE, initial_states
from separatrix.systems.system import System, Values

_ITERATIONS = 60


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
    """Crossings of one copy: their times (crossing), and the states there (crossing, dimension)."""

    times: Float[np.ndarray, " crossing"]
    states: Float[np.ndarray, "crossing dimension"]


def crossings(
    system: System,
    expression: str,
    time: float,
    *,
    direction: int = 0,
    initial: np.ndarray | Sequence[float] | None = None,
    copies: int | None = None,
    parameters: Values | None = None,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> list[Section]:
    """When each copy's `expression`, such as `z - 27`, becomes zero up to `time`: a Poincare section.

    `direction` is 1 for crossings upwards, -1 downwards, 0 for both. Crossings are found on the dense output of each
    step; two of them within one step, which is a fraction of the fastest motion, are not seen. Copies are as in
    `simulate`.

    Raises:
        UsageError: the time or direction does not fit, the system is no flow, or states do not fit.
        DescriptionError: the expression is none of the system's variables and parameters.
        EscapeError: a trajectory leaves every bound.
    """
    if system.kind != "flow" or not 0.0 < time < np.inf or direction not in (-1, 0, 1):
        raise UsageError(
            f"crossings need a flow (system {system.name} is a {system.kind}), a positive time (not {time}) and a"
            f" direction of -1, 0 or 1 (not {direction})"
        )
    values = system.values(parameters)
    states = initial_states(system, initial, copies, values, np.random.default_rng(seed), tolerance)
    function = system.program.expression(expression, values)
    stepper = Stepper(
        system.program.rows(values),
        np.ascontiguousarray(states.T),
        name=system.name,
        relative=tolerance,
        absolute=tolerance,
    )
    found: list[tuple[list[float], list[np.ndarray]]] = [([], []) for _ in states]
    before = _value(function, 0.0, stepper.state)
    while stepper.time < time:
        stepper.step(time)
        after = _value(function, stepper.time, stepper.state)
        rising, falling = (before < 0) & (after >= 0), (before > 0) & (after <= 0)
        chosen = np.flatnonzero((rising & (direction >= 0)) | (falling & (direction <= 0)))
        if chosen.size:
            times, places = _located(stepper, function, chosen, before, after, system.dimension)
            for copy, at, place in zip(chosen, times, places, strict=True):
                found[copy][0].append(float(at))
                found[copy][1].append(place)
        before = after
    return [Section(np.array(times), np.array(places).reshape(-1, system.dimension)) for times, places in found]


def _value(function: Callable[..., None], time: float, state: Float[np.ndarray, "dimension copy"]) -> np.ndarray:
    result = np.empty(state.shape[1])
    function(time, tuple(state), (result,))
    return result


def _located(
    stepper: Stepper,
    function: Callable[..., None],
    chosen: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    dimension: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Times (crossing) and states (crossing, dimension), by bisection and secants (the Illinois rule), all at once."""
    size = stepper.time - stepper.previous
    coefficients = stepper.coefficients(dimension).reshape(7, dimension, -1)[:, :, chosen]
    start = stepper.before[:, chosen]

    def state(theta: np.ndarray) -> np.ndarray:
        return start + np.einsum("cj,jdc->dc", dense_basis(theta), coefficients)  # type: ignore[no-any-return]

    low, high = np.zeros(len(chosen)), np.ones(len(chosen))
    f_low, f_high = before[chosen].copy(), after[chosen].copy()
    theta = high.copy()
    for i in range(_ITERATIONS):
        width = high - low
        # a secant may creep: each third step halves the bracket instead
        slope = np.where(f_high == f_low, 1.0, f_high - f_low)
        theta = np.where(i % 3 == 2, low + 0.5 * width, np.clip(high - f_high * width / slope, low, high))
        value = np.empty(len(chosen))
        for column in range(len(chosen)):
            # times differ from copy to copy, and an expression may speak of time
            function(
                stepper.previous + theta[column] * size,
                tuple(state(theta)[:, column : column + 1]),
                (value[column : column + 1],),
            )
        same = (value < 0) == (f_low < 0)
        low, f_low = np.where(same, theta, low), np.where(same, value, f_low)
        high, f_high = np.where(same, high, theta), np.where(same, f_high, value)
        if (width < 1e-15).all() or (value == 0.0).all():
            break
    return stepper.previous + theta * size, state(theta).T
