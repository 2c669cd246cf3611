"""Iterating maps."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from separatrix.systems.errors import EscapeError
from separatrix.systems.system import System, Values

_BOUND = 1e12


def iterated_states(
    system: System, states: Float[np.ndarray, "copy dimension"], skipped: int, points: int, values: Values
) -> Float[np.ndarray, "copy point dimension"]:
    """States of a map after `skipped` iterations and each of those that follow.

    Raises:
        EscapeError: an orbit leaves every bound.
    """
    function = system.program.rows(values)
    found = np.empty((points, system.dimension, len(states)))
    current, following = np.ascontiguousarray(states.T), np.empty((system.dimension, len(states)))
    with np.errstate(all="ignore"):
        for i in range(skipped + points):
            if i >= skipped:
                found[i - skipped] = current
            if i % 64 == 0 or i == skipped + points - 1:
                _check(system, current, i)
            function(0.0, tuple(current), tuple(following))
            current, following = following, current
    return np.ascontiguousarray(found.transpose(2, 0, 1))


def _check(system: System, states: Float[np.ndarray, "dimension copy"], iteration: int) -> None:
    inside = (np.abs(states) < _BOUND).all(axis=0)  # false for NaN
    if not inside.all():
        copy = int(np.flatnonzero(~inside)[0])
        where = f" (copy {copy})" if states.shape[1] > 1 else ""
        raise EscapeError(
            f"system {system.name} escapes to infinity within {iteration} iterations{where}: change its parameters or"
            " its initial state",
            float(iteration),
            copy,
        )
