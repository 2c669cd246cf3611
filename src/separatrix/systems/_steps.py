"""Adaptive explicit steps of a batch of trajectories: Dormand and Prince's pair of order 8, with its dense output.

All trajectories of a batch share the step, which the most demanding one sets: a stage is then one product of a matrix
with the stages before it and one call of the generated right-hand side, whatever the size of the batch.
Coefficients are those of `scipy.integrate.DOP853`; error estimate and step control follow Hairer, Norsett, Wanner,
"Solving Ordinary Differential Equations I", sections II.4 and II.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy.integrate import DOP853

from separatrix.systems.errors import EscapeError, IntegrationError

Rows = Sequence[np.ndarray]
Field = Callable[[float, Rows, Rows], None]
"""f(t, rows of states, rows to write derivatives into)."""
Split = Callable[[np.ndarray], Rows]
"""The rows of an array (component, copy), as views."""

_STAGES = 12
_A = [np.ascontiguousarray(DOP853.A[i, :i]) for i in range(_STAGES)]
_A_EXTRA = [np.ascontiguousarray(row[: _STAGES + 1 + i]) for i, row in enumerate(DOP853.A_EXTRA)]
_B = np.ascontiguousarray(DOP853.B)
_ERRORS = np.ascontiguousarray(np.stack([DOP853.E5, DOP853.E3]))
_DENSE = np.ascontiguousarray(DOP853.D)
_BOUND = 1e12
_EPSILON = float(np.finfo(np.float64).eps)


class Stepper:
    """Follows a batch of trajectories step by step.

    `state` has shape (component, copy) and is that at `time`; `step` moves on. `state` may be changed between steps if
    `restart` is called.

    Raises:
        EscapeError: from `step`, when a trajectory leaves every bound.
        IntegrationError: from `step`, when it would have to be too small.
    """

    def __init__(
        self,
        field: Field,
        state: Float[np.ndarray, "component copy"],
        *,
        name: str,
        time: float = 0.0,
        split: Split = tuple,
        relative: float,
        absolute: float,
        largest: float = np.inf,
    ) -> None:
        self._field, self._name = field, name
        self._relative, self._absolute, self._largest = relative, absolute, largest
        shape = state.shape
        self._flat = shape[0] * shape[1]
        self._stages = np.empty((_STAGES + 4, self._flat))
        blocks = self._stages.reshape(_STAGES + 4, *shape)
        self._outs = [split(block) for block in blocks]
        self._trial = np.empty(self._flat)
        self._trial_rows = split(self._trial.reshape(shape))
        self._old = np.empty(self._flat)
        self._new = np.array(state, dtype=np.float64).reshape(self._flat)
        self._split = split
        self._rows_of = {id(each): split(each.reshape(shape)) for each in (self._old, self._new)}
        self._shape = shape
        self.time = self.previous = time
        self.steps = self.rejected = 0
        self.restart()
        self._size = min(self._first(), largest)

    @property
    def state(self) -> Float[np.ndarray, "component copy"]:
        """The state at `time`, as a view."""
        return self._new.reshape(self._shape)

    @property
    def rows(self) -> Rows:
        """Its rows."""
        return self._rows_of[id(self._new)]

    def restart(self) -> None:
        """Take the state as it is now: its derivative is computed anew."""
        self._field(self.time, self.rows, self._outs[0])
        self._fresh = True

    def step(self, end: float = np.inf) -> None:
        """One step, not beyond `end`."""
        # a trial step may leave the domain of the equations: it is then rejected
        with np.errstate(all="ignore"):
            self._advance(end)

    def _advance(self, end: float) -> None:
        if not self._fresh:
            self._stages[0] = self._stages[_STAGES]
        self._fresh = False
        self._old, self._new = self._new, self._old
        shrunk = False
        while True:
            size = min(self._size, end - self.time, self._largest)
            if size < 10 * _EPSILON * max(abs(self.time), 1e-3) and size < end - self.time:
                self._fail()
            error = self._attempt(size)
            if error <= 1.0:
                break
            self.rejected += 1
            shrunk = True
            # NaN and infinities, which have no size, shrink the step most
            self._size = size * (max(0.2, 0.9 * error**-0.125) if error < 1e30 else 0.1)
        factor = 10.0 if error == 0.0 else min(10.0, 0.9 * error**-0.125)
        if shrunk:
            factor = min(factor, 1.0)
        self.previous, self.time = self.time, self.time + size
        # a step cut short by `end` says little about the next one
        if size == self._size or factor < 1.0:
            self._size = size * max(factor, 0.2)
        self._taken = size
        self.steps += 1
        if self.steps % 16 == 0 and not np.abs(self._new).max() < _BOUND:
            self._fail()

    def dense(self, times: Float[np.ndarray, " points"], components: int) -> Float[np.ndarray, "points part copy"]:
        """The first `components` of the state at times within the last step."""
        part = components * self._shape[1]
        basis = dense_basis((np.asarray(times) - self.previous) / self._taken)
        found: np.ndarray = basis @ self.coefficients(components) + self._old[:part]
        return found.reshape(len(basis), components, self._shape[1])

    def coefficients(self, components: int) -> Float[np.ndarray, "7 part"]:
        """Coefficients of the last step's dense output: weighted by the basis, they add up to the change of state."""
        size, stages, old = self._taken, self._stages, self._old
        for i, weights in enumerate(_A_EXTRA):
            index = _STAGES + 1 + i
            np.dot(weights, stages[: len(weights)], out=self._trial)
            self._trial *= size
            self._trial += old
            self._field(self.previous + DOP853.C_EXTRA[i] * size, self._trial_rows, self._outs[index])
        part = components * self._shape[1]
        change = self._new[:part] - old[:part]
        first, last = stages[0, :part], stages[_STAGES, :part]
        coefficients = np.empty((7, part))
        coefficients[0] = change
        coefficients[1] = size * first - change
        coefficients[2] = 2 * change - size * (first + last)
        np.matmul(_DENSE, stages[:, :part], out=coefficients[3:])
        coefficients[3:] *= size
        return coefficients

    @property
    def before(self) -> Float[np.ndarray, "component copy"]:
        """The state at `previous`, where the last step began, as a view."""
        return self._old.reshape(self._shape)

    def _attempt(self, size: float) -> float:
        stages, trial, old = self._stages, self._trial, self._old
        start = self.time
        for i in range(1, _STAGES):
            np.dot(_A[i], stages[:i], out=trial)
            trial *= size
            trial += old
            self._field(start + DOP853.C[i] * size, self._trial_rows, self._outs[i])
        new = self._new
        np.dot(_B, stages[:_STAGES], out=new)
        new *= size
        new += old
        self._field(start + size, self._rows_of[id(new)], self._outs[_STAGES])
        errors = _ERRORS @ stages[: _STAGES + 1]
        scale = np.maximum(np.abs(old), np.abs(new))
        scale *= self._relative
        scale += self._absolute
        errors /= scale
        errors *= errors
        fifth, third = errors.reshape(2, *self._shape).sum(axis=1)
        total = fifth + 0.01 * third
        worst = float((fifth * fifth / (total + 1e-300)).max())
        return size * (worst / self._shape[0]) ** 0.5 if worst == worst else np.inf

    def _first(self) -> float:
        scale = self._absolute + self._relative * np.abs(self._new)
        slope = np.abs(self._stages[0] / scale).max()
        level = np.abs(self._new / scale).max()
        return float(0.01 * level / slope) if level > 1e-5 and slope > 1e-5 else 1e-6

    def _fail(self) -> None:
        values = self._old.reshape(self._shape)
        sizes = np.where(np.isfinite(values), np.abs(values), np.inf).max(axis=0)
        copy = int(sizes.argmax())
        where = f" (copy {copy})" if self._shape[1] > 1 else ""
        if sizes[copy] > 1e4 * max(1.0, float(np.median(sizes))) or sizes[copy] > 1e6:
            raise EscapeError(
                f"system {self._name} escapes to infinity at t = {self.time:.6g}{where}: change its parameters or its"
                " initial state",
                self.time,
                copy,
            )
        raise IntegrationError(
            f"system {self._name} needs steps below {self._size:.1g} at t = {self.time:.6g}{where}: it may have a"
            " singularity there; loosen the tolerance, or change its parameters or its initial state"
        )


def dense_basis(theta: Float[np.ndarray, " points"]) -> Float[np.ndarray, "points 7"]:
    """Weights of the coefficients at shares of a step."""
    basis = np.empty((len(theta), 7))
    rest = 1.0 - theta
    basis[:, 0] = theta
    for i in range(1, 7):
        basis[:, i] = basis[:, i - 1] * (rest if i % 2 else theta)
    return basis
