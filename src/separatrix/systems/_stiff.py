"""Implicit integration of stiff flows: scipy's Radau IIA of order 5, with generated right-hand side and Jacobian."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
from jaxtyping import Float
from scipy.integrate import Radau

from separatrix.systems.errors import EscapeError, IntegrationError
from separatrix.systems.system import System, Values


def stiff_states(
    system: System,
    states: Float[np.ndarray, "copy dimension"],
    times: Float[np.ndarray, " time"],
    values: Values,
    tolerance: float,
) -> Float[np.ndarray, "copy time dimension"]:
    """States of a flow at increasing times, a copy at a time.

    Raises:
        EscapeError: a trajectory leaves every bound.
        IntegrationError: it cannot be followed for another reason, which is told.
    """
    found = np.empty((len(states), len(times), system.dimension))
    if times[-1] <= 0.0:
        found[:] = states[:, None]
        return found
    for copy, state in enumerate(states):
        own = {name: _own(value, copy) for name, value in values.items()}
        function, jacobian = system.program.floats(own), system.program.jacobian(own, "floats")

        def slopes(t: float, y: np.ndarray, function: object = function) -> list[float]:
            return function(t, y.tolist())  # type: ignore[operator,no-any-return]

        def derivatives(t: float, y: np.ndarray, jacobian: object = jacobian) -> np.ndarray:
            return np.array(jacobian(t, y.tolist())).reshape(len(y), len(y))  # type: ignore[operator]

        options = {"jac": derivatives, "rtol": max(tolerance, 3e-14), "atol": tolerance}
        solver = Radau(slopes, 0.0, state, float(times[-1]), **options)
        done = int(np.searchsorted(times, 0.0, side="right"))
        found[copy, :done] = state
        while solver.status == "running":
            try:
                message = solver.step()
            except (OverflowError, ValueError, ZeroDivisionError) as error:
                solver.status, message = "failed", str(error)
            if solver.status == "failed":
                _fail(system, copy, solver.t, solver.y, str(message))
            reached = int(np.searchsorted(times, solver.t, side="right"))
            if reached > done:
                found[copy, done:reached] = solver.dense_output()(times[done:reached]).T
                done = reached
    return found


def _fail(system: System, copy: int, time: float, state: np.ndarray, message: str) -> NoReturn:
    if np.abs(state).max() > 1e6 or not np.isfinite(state).all():
        raise EscapeError(
            f"system {system.name} escapes to infinity at t = {time:.6g} (copy {copy}): change its parameters or its"
            " initial state",
            time,
            copy,
        )
    raise IntegrationError(
        f"system {system.name} cannot be followed beyond t = {time:.6g} (copy {copy}; {message}): loosen the tolerance,"
        " or change its parameters or its initial state"
    )


def _own(value: object, copy: int) -> float:
    array = np.asarray(value, dtype=np.float64)
    return float(array[copy]) if array.ndim and len(array) > 1 else float(array)
