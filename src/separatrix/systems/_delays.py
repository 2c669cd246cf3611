"""Flows with one constant delay, by the method of steps.

The step divides the delay, so that a step never needs its own end: the classical method of order 4 takes the past from
cubic Hermite interpolants of the steps before, which are as accurate as it is.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from separatrix.runs.errors import UsageError
from separatrix.systems.errors import EscapeError
from separatrix.systems.system import System, Values

_BOUND = 1e12


def delayed_states(
    system: System,
    states: Float[np.ndarray, "copy dimension"],
    times: Float[np.ndarray, " time"],
    values: Values,
    tolerance: float,
) -> Float[np.ndarray, "copy time dimension"]:
    """States at increasing times, the state having been constant before 0.

    Kinks of the solution recur with the delay and so fall between steps. The number of steps in a delay grows with the
    fourth root of the inverse tolerance, times the length of the delay.

    Raises:
        UsageError: the delay is not positive, or not the same for all copies.
        EscapeError: a trajectory leaves every bound.
    """
    delay = values[system.delay or ""]
    if np.ptp(delay) > 0 or np.min(delay) <= 0:
        raise UsageError(
            f"the delay {system.delay} of system {system.name} must be positive and the same for all copies"
        )
    delay = float(np.ravel(delay)[0])
    function = system.program.rows(values)
    shape = system.dimension, len(states)
    parts = max(8, int(np.ceil(delay / (2.0 * tolerance**0.25))))
    step = delay / parts
    total = int(np.ceil(times[-1] / step)) + 1
    past = np.empty((parts + total + 1, *shape))
    slopes = np.zeros_like(past)
    past[: parts + 1] = states.T

    def derivative(state: np.ndarray, delayed: np.ndarray) -> np.ndarray:
        out = np.empty(shape)
        function(0.0, [*state, *delayed], list(out))
        return out

    for i in range(parts, parts + total):
        then, next_ = past[i - parts], past[i - parts + 1]
        # the constant past ends at 0 with slope 0, whatever slope the solution starts with there
        before = slopes[i - parts]
        after = slopes[i - parts + 1] if i - parts + 1 != parts else np.zeros(shape)
        middle = 0.5 * (then + next_) + step / 8 * (before - after)
        state = past[i]
        k1 = derivative(state, then)
        slopes[i] = k1
        k2 = derivative(state + 0.5 * step * k1, middle)
        k3 = derivative(state + 0.5 * step * k2, middle)
        k4 = derivative(state + step * k3, next_)
        past[i + 1] = state + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        if i % 64 == 0 and not np.abs(past[i + 1]).max() < _BOUND:
            copy = int(np.abs(np.nan_to_num(past[i + 1], nan=np.inf)).max(axis=0).argmax())
            at = (i + 1 - parts) * step
            raise EscapeError(
                f"system {system.name} escapes to infinity at t = {at:.6g} (copy {copy}): change its parameters or its"
                " initial state",
                at,
                copy,
            )
    slopes[parts + total] = derivative(past[parts + total], past[total])
    found: np.ndarray = _interpolated(past[parts:], slopes[parts:], step, times)
    return found.transpose(2, 0, 1)


def _interpolated(
    states: Float[np.ndarray, "step dimension copy"],
    slopes: Float[np.ndarray, "step dimension copy"],
    step: float,
    times: Float[np.ndarray, " time"],
) -> Float[np.ndarray, "time dimension copy"]:
    index = np.minimum((times / step).astype(np.int64), len(states) - 2)
    s = (times / step - index)[:, None, None]
    left, right = states[index], states[index + 1]
    found: np.ndarray = (
        (1 + 2 * s) * (1 - s) ** 2 * left
        + s * s * (3 - 2 * s) * right
        + step * s * (1 - s) * ((1 - s) * slopes[index] - s * slopes[index + 1])
    )
    return found
