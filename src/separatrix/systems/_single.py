"""The same method of order 8 for one trajectory alone, unrolled into a function of plain numbers.

A call of numpy costs a microsecond whatever the size of its arrays; for three numbers that is thirty times the
arithmetic. The weighted sums of a step, without the zeros of the tableau, are therefore written out once for each
dimension and compiled by python. Coefficients, error estimate and step control are those of `_steps`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float
from scipy.integrate import DOP853

from separatrix.systems.errors import EscapeError, IntegrationError
from separatrix.systems.system import System, Values

LARGEST = 12
"""Dimension up to which the unrolled function is the faster one."""
_STAGES = 12
_BOUND = 1e12
_EPSILON = float(np.finfo(np.float64).eps)
_FAILURES = (OverflowError, ZeroDivisionError, ValueError, TypeError)
# a fractional power of a negative number is complex in python: comparing its size with a bound is the TypeError

Slopes = Callable[[float, Sequence[float]], list[float]]


def single_states(
    system: System,
    state: Float[np.ndarray, " dimension"],
    times: Float[np.ndarray, " time"],
    values: Values,
    tolerance: float,
) -> Float[np.ndarray, "time dimension"]:
    """States of a flow at increasing times, which start at 0 or later.

    Raises:
        EscapeError: the trajectory leaves every bound.
        IntegrationError: it cannot be followed with steps of any use.
    """
    own = {name: float(np.ravel(value)[0]) for name, value in values.items()}
    slopes = system.program.floats(own)
    attempt, dense = _unrolled(system.dimension)
    wanted = times.tolist()
    end = wanted[-1]
    y: tuple[float, ...] = tuple(state.tolist())
    found = [y for each in wanted if each <= 0.0]
    time = 0.0
    k0 = _first_slopes(system, slopes, y)
    size = _first_size(y, k0, tolerance)
    rejected = False
    while len(found) < len(wanted):
        step = min(size, end - time)
        if step < 10 * _EPSILON * max(abs(time), 1e-3) and step < end - time:
            _fail(system, time, size, y)
        try:
            error, new, k_new, stages = attempt(slopes, time, step, y, k0, tolerance)
            error = error if error == error else math.inf
        except _FAILURES:
            error = math.inf
        if error > 1.0:
            size = step * (max(0.2, 0.9 * error**-0.125) if error < 1e30 else 0.1)
            rejected = True
            continue
        factor = min(10.0, 0.9 * error**-0.125) if error > 0.0 else 10.0
        if step == size or factor < 1.0:
            size = step * max(factor if not rejected else min(factor, 1.0), 0.2)
        rejected = False
        if wanted[len(found)] <= time + step:
            coefficients = dense(slopes, time, step, y, new, stages, k_new)
            while len(found) < len(wanted) and wanted[len(found)] <= time + step:
                found.append(_inside(y, coefficients, (wanted[len(found)] - time) / step))
        time, y, k0 = time + step, new, k_new
        if not max(map(abs, y)) < _BOUND:
            _fail(system, time, size, y)
    return np.array(found)


def _first_slopes(system: System, slopes: Slopes, y: Sequence[float]) -> Sequence[float]:
    try:
        return tuple(slopes(0.0, y))
    except _FAILURES as error:
        raise IntegrationError(
            f"system {system.name} has no derivative at its initial state ({error}): give another one"
        ) from None


def _first_size(y: Sequence[float], slopes: Sequence[float], tolerance: float) -> float:
    scales = [tolerance + tolerance * abs(each) for each in y]
    slope = max(abs(each / scale) for each, scale in zip(slopes, scales, strict=True))
    level = max(abs(each / scale) for each, scale in zip(y, scales, strict=True))
    return 0.01 * level / slope if level > 1e-5 and slope > 1e-5 else 1e-6


def _inside(y: Sequence[float], coefficients: Sequence[Sequence[float]], theta: float) -> tuple[float, ...]:
    rest, weight, weights = 1.0 - theta, theta, []
    for i in range(7):
        weights.append(weight)
        weight *= theta if i % 2 else rest
    w0, w1, w2, w3, w4, w5, w6 = weights
    return tuple(
        start + w0 * a + w1 * b + w2 * c + w3 * d + w4 * e + w5 * f + w6 * g
        for start, a, b, c, d, e, f, g in zip(y, *coefficients, strict=True)
    )


def _fail(system: System, time: float, size: float, y: Sequence[float]) -> NoReturn:
    if not max(map(abs, y)) < 1e6:
        raise EscapeError(
            f"system {system.name} escapes to infinity at t = {time:.6g}: change its parameters or its initial state",
            time,
            0,
        )
    raise IntegrationError(
        f"system {system.name} needs steps below {size:.1g} at t = {time:.6g}: it may have a singularity there; loosen"
        " the tolerance, or change its parameters or its initial state"
    )


@functools.cache
def _unrolled(dimension: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A step and its dense output, for numbers, at a dimension."""
    n = range(dimension)
    last = _STAGES

    def row(name: str) -> str:
        return f"({', '.join(f'{name}_{j}' for j in n)},)"

    def weighted(weights: np.ndarray, j: int) -> str:
        return " + ".join(f"{float(w)!r}*k{s}_{j}" for s, w in enumerate(weights) if w != 0.0)

    def stage(index: int, weights: np.ndarray, c: float) -> str:
        inner = ", ".join(f"y_{j} + h*({weighted(weights, j)})" for j in n)
        return f"    {row(f'k{index}')} = f(t + {float(c)!r}*h, ({inner},))"

    lines = ["def attempt(f, t, h, y, k0, tolerance):", f"    {row('y')} = y", f"    {row('k0')} = k0"]
    lines += [stage(i, DOP853.A[i, :i], DOP853.C[i]) for i in range(1, _STAGES)]
    lines += [f"    new_{j} = y_{j} + h*({weighted(DOP853.B, j)})" for j in n]
    lines += [f"    {row(f'k{last}')} = f(t + h, {row('new')})", "    fifth = third = 0.0"]
    for j in n:
        lines += [
            f"    scale = 1.0/(tolerance + tolerance*max(abs(y_{j}), abs(new_{j})))",
            f"    error = ({weighted(DOP853.E5, j)})*scale",
            "    fifth += error*error",
            f"    error = ({weighted(DOP853.E3, j)})*scale",
            "    third += error*error",
        ]
    stages = f"({', '.join(row(f'k{s}') for s in range(_STAGES))},)"
    lines += [
        "    total = fifth + 0.01*third",
        f"    error = h*fifth*(1.0/(total*{dimension}.0))**0.5 if total > 0.0 else total",
        f"    return error, {row('new')}, {row(f'k{last}')}, {stages}",
        "def dense(f, t, h, y, new, stages, k_new):",
        f"    {row('y')} = y",
        f"    {row('new')} = new",
        f"    {stages} = stages",
        f"    {row(f'k{last}')} = k_new",
    ]
    for i, (weights, c) in enumerate(zip(DOP853.A_EXTRA, DOP853.C_EXTRA, strict=True)):
        lines.append(stage(last + 1 + i, weights[: last + 1 + i], c))
    for j in n:
        lines += [
            f"    change_{j} = new_{j} - y_{j}",
            f"    first_{j} = h*k0_{j} - change_{j}",
            f"    second_{j} = 2.0*change_{j} - h*(k0_{j} + k{last}_{j})",
        ]
    higher = [f"({', '.join(f'h*({weighted(weights, j)})' for j in n)},)" for weights in DOP853.D]
    lines.append(f"    return {', '.join([row('change'), row('first'), row('second'), *higher])}")
    namespace: dict[str, Any] = {}
    exec(compile("\n".join(lines), f"<order 8, dimension {dimension}>", "exec"), namespace)
    return namespace["attempt"], namespace["dense"]
