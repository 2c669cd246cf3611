"""Learning-rate schedules as functions of the step.

A schedule gives the factor on the base rate for the steps 0, 1, ..., `steps` - 1, the first of which is the optimizer's
first step; from `steps` on it keeps the value it ends with. A schedule that decays to zero reaches it at `steps`, so
that no step is wasted on it.

Warm-up of w steps is linear, (step + 1) / (w + 1), so that no step has rate 0 and step w the full one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal, overload

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

from separatrix.steer.schedules.errors import ScheduleError

Floats = NDArray[np.float64]
Shape = Callable[[Floats], Floats]
"""From steps between 0 and the schedule's end to factors."""

Decay = Literal["linear", "square root", "cosine"]
"""How a share u of a decay that is over lowers the rate: 1 - u, 1 - sqrt(u) or (1 + cos(pi u)) / 2."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A named factor on the learning rate over `steps` optimizer steps.

    `schedule(step)` is a float for one step and an array for an array of steps; steps count from 0. `momentum`, where a
    schedule has one, gives momentum (not a factor) in the same way.
    """

    name: str
    steps: int
    shape: Shape = dataclasses.field(repr=False)
    momentum: Shape | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int | np.integer) or self.steps < 1:
            raise ScheduleError(f"schedule {self.name!r} over steps={self.steps!r}: give a whole number of 1 or more")
        object.__setattr__(self, "steps", int(self.steps))

    @overload
    def __call__(self, step: float) -> float: ...

    @overload
    def __call__(self, step: Sequence[float] | NDArray[np.generic]) -> Floats: ...

    def __call__(self, step: ArrayLike) -> float | Floats:
        """The factor at a step, or at each of an array of steps.

        Raises:
            ScheduleError: a step is negative.
        """
        return self._evaluated(self.shape, step)

    def values(self) -> Float[np.ndarray, " steps"]:
        """The factors of all steps in order."""
        return self._array(self.shape, np.arange(self.steps, dtype=np.float64))

    def momentum_at(self, step: ArrayLike) -> float | Floats:
        """The momentum at a step, or at each of an array of steps.

        Raises:
            ScheduleError: the schedule has none, or a step is negative.
        """
        if self.momentum is None:
            raise ScheduleError(f"schedule {self.name!r} has no momentum: use one_cycle, or leave momentum as it is")
        return self._evaluated(self.momentum, step)

    def _evaluated(self, shape: Shape, step: ArrayLike) -> float | Floats:
        steps = np.asarray(step, dtype=np.float64)
        if not (steps >= 0).all():
            raise ScheduleError(f"schedule {self.name!r} at step {np.min(steps):g}: steps count from 0")
        factors = self._array(shape, np.minimum(np.atleast_1d(steps), self.steps))
        return factors.reshape(steps.shape) if steps.ndim else float(factors[0])

    def _array(self, shape: Shape, steps: Floats) -> Floats:
        return np.asarray(shape(steps), dtype=np.float64)


def constant(steps: int, *, warmup: int = 0) -> Schedule:
    """The full rate after warm-up.

    Raises:
        ScheduleError: as `wsd`.
    """
    _check(steps, warmup=warmup)
    return Schedule("constant", steps, functools.partial(_warmed, np.ones_like, warmup))


def linear(steps: int, *, warmup: int = 0, final: float = 0.0) -> Schedule:
    """Linear decay to `final` from the end of the warm-up on: the worst-case optimum for the last iterate.

    Raises:
        ScheduleError: as `wsd`.

    Source: Defazio et al. 2023, arXiv:2310.07831, section 2.
    """
    _check(steps, warmup=warmup)
    return dataclasses.replace(wsd(steps, warmup=warmup, cooldown=steps - warmup, final=final), name="linear")


def cosine(steps: int, *, warmup: int = 0, final: float = 0.0) -> Schedule:
    """Half a cosine from the end of the warm-up to `final`.

    Raises:
        ScheduleError: as `wsd`.

    Source: Loshchilov, Hutter 2017, arXiv:1608.03983, without restarts.
    """
    _check(steps, warmup=warmup)
    whole = steps - warmup
    return dataclasses.replace(wsd(steps, warmup=warmup, cooldown=whole, final=final, decay="cosine"), name="cosine")


def wsd(
    steps: int, *, warmup: int = 0, cooldown: int | None = None, final: float = 0.0, decay: Decay = "linear"
) -> Schedule:
    """Warm-up, the full rate, and a decay to `final` over the last `cooldown` steps, a fifth of all by default.

    Raises:
        ScheduleError: steps are no whole number above 0, warm-up and cooldown negative or longer than all steps
            together, `final` outside 0 to 1, or the decay unknown.

    Source: Zhai et al. 2022, arXiv:2106.04560; Haegele et al. 2024, arXiv:2405.18392, for "square root".
    """
    cooldown = round(steps / 5) if cooldown is None else cooldown
    _check(steps, warmup=warmup, cooldown=cooldown)
    if not 0 <= final <= 1:
        raise ScheduleError(f"final={final}: give the last factor as a share of the full rate, 0 to 1")
    if decay not in _DECAYS:
        raise ScheduleError(f"there is no decay {decay!r}: choose from {', '.join(_DECAYS)}")
    shape = functools.partial(_cooled, steps=steps, cooldown=cooldown, final=final, decay=decay)
    return Schedule("wsd", steps, functools.partial(_warmed, shape, warmup))


def square_root(steps: int, *, warmup: int = 0, cooldown: int = 0) -> Schedule:
    """Rates like 1 / sqrt(step) after warm-up, 1 at step `warmup`; over the last `cooldown` steps times a linear decay.

    Raises:
        ScheduleError: as `wsd`.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 5.3; Zhai et al. 2022, arXiv:2106.04560, for the cooldown.
    """
    _check(steps, warmup=warmup, cooldown=cooldown)
    shape = functools.partial(_root, warmup=warmup, steps=steps, cooldown=cooldown)
    return Schedule("square root", steps, functools.partial(_warmed, shape, warmup))


def step_decay(steps: int, *, warmup: int = 0, at: Sequence[float] = (0.5, 0.75), factor: float = 0.1) -> Schedule:
    """The full rate after warm-up, times `factor` at each of the shares `at` of all steps.

    Raises:
        ScheduleError: as `wsd`; shares outside 0 to 1, or a factor that is not positive.
    """
    _check(steps, warmup=warmup)
    if not all(0 <= share <= 1 for share in at) or not factor > 0:
        raise ScheduleError(f"step decay by {factor} at {tuple(at)}: give shares of all steps and a positive factor")
    falls = tuple(share * steps for share in at)
    return Schedule("step", steps, functools.partial(_warmed, functools.partial(_fallen, falls, factor), warmup))


def one_cycle(
    steps: int,
    *,
    rise: float = 0.3,
    start: float = 1 / 25,
    end: float = 1 / 250_000,
    decay: Literal["linear", "cosine"] = "cosine",
    momentum: tuple[float, float] = (0.85, 0.95),
) -> Schedule:
    """One rise from `start` to the full rate over a share `rise` of the steps, and one fall to `end`.

    Momentum goes the other way, from its upper to its lower value and back. These are the numbers of
    `torch.optim.lr_scheduler.OneCycleLR`, whose defaults are the defaults here.

    Raises:
        ScheduleError: as `wsd`; the rise or fall holds no step, start or end are outside 0 to 1, momentum outside 0 to
            1 or its lower value above the upper one.

    Source: Smith 2018, arXiv:1803.09820; Smith, Topin 2018, arXiv:1708.07120.
    """
    _check(steps)
    top = rise * steps - 1
    if not 0 < top < steps - 1:
        raise ScheduleError(f"rise={rise} of {steps} steps: leave at least two steps to the rise and one to the fall")
    if not (0 <= start <= 1 and 0 <= end <= 1 and 0 <= momentum[0] <= momentum[1] < 1) or decay not in _EASES:
        raise ScheduleError(
            f"1cycle with start={start}, end={end}, momentum={momentum}, decay={decay!r}: give shares of the full rate,"
            " momentum as (low, high) below 1, and the decay as linear or cosine"
        )
    low, high = momentum
    cycle = functools.partial(_cycle, top=top, last=steps - 1, decay=decay)
    return Schedule(
        "1cycle",
        steps,
        functools.partial(cycle, ends=(start, 1.0, end)),
        functools.partial(cycle, ends=(high, low, high)),
    )


def tabulated(name: str, factors: ArrayLike) -> Schedule:
    """A schedule with these factors (steps,); it keeps the last one from its end on.

    Raises:
        ScheduleError: they are no finite, non-negative numbers in one row, or all are 0.
    """
    table = np.array(factors, dtype=np.float64)
    if table.ndim != 1 or not table.size or not np.isfinite(table).all() or (table < 0).any() or not table.any():
        raise ScheduleError(
            f"schedule {name!r} from factors of shape {table.shape}: give a row of finite numbers, none negative and"
            " one of them positive"
        )
    return Schedule(name, len(table), functools.partial(_looked_up, table))


def _check(steps: int, warmup: int = 0, cooldown: int = 0) -> None:
    counts = {"steps": steps, "warmup": warmup, "cooldown": cooldown}
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < (name == "steps"):
            raise ScheduleError(f"{name}={count!r}: give a whole number of steps")
    if warmup > steps:
        raise ScheduleError(f"warmup={warmup} exceeds steps={steps}: shorten the warm-up")
    if warmup + cooldown > steps:
        raise ScheduleError(f"warmup={warmup} and cooldown={cooldown} exceed steps={steps}: shorten one of them")


def _warmed(shape: Shape, warmup: int, at: Floats) -> Floats:
    return np.asarray(np.minimum(1.0, (at + 1) / (warmup + 1)) * shape(at), dtype=np.float64)


def _cooled(at: Floats, *, steps: int, cooldown: int, final: float, decay: Decay) -> Floats:
    """1 until the last `cooldown` steps, then down to `final` at `steps`."""
    over = np.clip((at - (steps - cooldown)) / max(cooldown, 1), 0.0, 1.0)
    return final + (1.0 - final) * _DECAYS[decay](over)


def _root(at: Floats, *, warmup: int, steps: int, cooldown: int) -> Floats:
    fallen = np.sqrt((warmup + 1) / np.maximum(at + 1, warmup + 1))
    return fallen * _cooled(at, steps=steps, cooldown=cooldown, final=0.0, decay="linear")


def _fallen(falls: tuple[float, ...], factor: float, at: Floats) -> Floats:
    return factor ** np.searchsorted(np.sort(falls), at, side="right").astype(np.float64)


def _cycle(at: Floats, *, top: float, last: float, decay: str, ends: tuple[float, float, float]) -> Floats:
    """From the first of `ends` to the second at step `top`, and to the third at step `last`."""
    ease = _EASES[decay]
    up, down = ease(np.clip(at / top, 0, 1)), ease(np.clip((at - top) / (last - top), 0, 1))
    return np.where(at <= top, ends[0] + (ends[1] - ends[0]) * up, ends[1] + (ends[2] - ends[1]) * down)


def _looked_up(table: Floats, at: Floats) -> Floats:
    return np.interp(at, np.arange(len(table)), table)


def _half_cosine(share: Floats) -> Floats:
    return np.asarray((1 + np.cos(np.pi * share)) / 2, dtype=np.float64)


def _straight(share: Floats) -> Floats:
    return 1 - share


def _one_minus_root(share: Floats) -> Floats:
    return 1 - np.sqrt(share)


def _rising_straight(share: Floats) -> Floats:
    return share


def _rising_cosine(share: Floats) -> Floats:
    return 1 - _half_cosine(share)


_DECAYS: dict[str, Shape] = {"linear": _straight, "square root": _one_minus_root, "cosine": _half_cosine}
_EASES: dict[str, Shape] = {"linear": _rising_straight, "cosine": _rising_cosine}
