"""Time that a recording may take from a training, and when it is spent."""

from __future__ import annotations

import dataclasses
import math
import time

_SHARE_TO_SPEND = 0.55
"""Part of the allowance that measured work may take; the rest covers what cannot be measured from inside: caches, the
interpreter lock shared with the writing thread, slower calls while hooks are armed."""

_CREDIT_SECONDS = 0.6
"""Training time taken for granted at the start, because early dynamics are fast and must be seen."""

_ADVANCE_SECONDS, _ADVANCE_OF = 0.3, 6.0
"""What may be spent beyond the allowance in the first seconds of training, at most, and of how many seconds of training
it is the budget: nobody notices so little, and scripts of a few seconds would else tell nothing. It is paid back once
the allowance is twice that."""

_ADVANCE_WITHIN = 1.0
"""Seconds of training in which most of the advance becomes available, so that it is not spent on the first steps."""

_STEPS_NEVER_LEFT_OUT = 2000
"""First steps that are recorded whatever the allowance, as long as they cost no more than the advance."""

_AFTER_A_REST = 0.5
"""Share of what a rest has earned that recording the steps after it may take; what is left pays the debt."""

_LONGEST_REST = 64
_SHORT_REST = 4
_LONGEST_WAIT = 16

_LONGEST_SAVING_SECONDS = 60.0
"""Training time whose unspent allowance is kept at most, so that a pause is not followed by a burst."""

_MOST_KEPT = 2.0
"""Pieces of the work that was asked for that the allowance kept always suffices for."""


@dataclasses.dataclass
class Purse:
    """A share of the allowance kept apart: what was spent of it, and what was earned but not kept.

    One that does not `save` keeps no more than a few of what it is asked for.
    """

    share: float
    saves: bool = True
    spent: float = 0.0
    forgotten: float = 0.0


class Budget:
    """Keeps measured overhead, (time in Separatrix) / (time outside it), at or below `fraction`."""

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction
        self.spent = 0.0
        self.ordinary_step = math.inf
        """Seconds that recording an ordinary step takes, once there was one."""
        self._rate = _SHARE_TO_SPEND * fraction
        self._advance = min(_ADVANCE_SECONDS, _ADVANCE_OF * fraction)
        self._started: float | None = None
        self._forgotten = 0.0
        self._purses: dict[str, Purse] = {}

    def start(self) -> None:
        """Begin to count training time; later calls change nothing."""
        if self._started is None:
            self._started = time.perf_counter()

    def charge(self, seconds: float) -> None:
        """Note time spent inside Separatrix on the training thread."""
        self.spent += seconds

    def exclude(self, seconds: float) -> None:
        """Leave out time in which nothing was recorded."""
        if self._started is not None:
            self._started += seconds

    def training_seconds(self) -> float:
        """Time since the start that was not spent inside Separatrix."""
        return 0.0 if self._started is None else time.perf_counter() - self._started - self.spent

    def _allowance(self) -> float:
        """Seconds that all work together may have taken by now."""
        seconds = self.training_seconds()
        earned = self._rate * (seconds + _CREDIT_SECONDS)
        unpaid = max(0.0, 1.0 - self._rate * seconds / (2.0 * self._advance))
        return earned - self._advance * unpaid * math.expm1(-seconds / _ADVANCE_WITHIN)

    def balance(self, wanted: float = 0.0) -> float:
        """Seconds that may be spent now; negative when the allowance is overdrawn.

        What is kept of unspent allowance is bounded, but always suffices for work of `wanted` seconds.
        """
        saved = self._kept_together() * self._allowance() - self._spent_on_steps() - self._forgotten
        excess = saved - max(self._rate * _LONGEST_SAVING_SECONDS, _MOST_KEPT * wanted)
        if excess > 0.0:
            self._forgotten += excess
            saved -= excess
        return saved

    def _kept_together(self) -> float:
        """Share of the allowance that no purse has."""
        return 1.0 - sum(purse.share for purse in self._purses.values())

    def _earned_by_a_step(self, step: int) -> float:
        return max(1e-12, self._rate * self.training_seconds() / max(1, step))

    def _spent_on_steps(self) -> float:
        """Seconds spent that no purse paid for."""
        return self.spent - sum(purse.spent for purse in self._purses.values())

    def set_aside(self, share: float, name: str = "snapshots", *, saves: bool = True) -> None:
        """Keep this share of the allowance apart, in a purse for work that what is done at every step must not starve.

        What was set aside before is a share of what is left. Work that is rare and long needs a purse that saves.
        """
        for purse in self._purses.values():
            purse.share *= 1.0 - share
        self._purses[name] = Purse(share, saves)

    def purse(self, wanted: float = 0.0, name: str = "snapshots") -> float:
        """Seconds of what is set aside that may be spent now, bounded like `balance`; the excess is for anything."""
        purse = self._purses.get(name)
        if purse is None:
            return 0.0
        saved = purse.share * self._allowance() - purse.spent - purse.forgotten
        longest = purse.share * self._rate * _LONGEST_SAVING_SECONDS if purse.saves else 0.0
        excess = saved - max(longest, _MOST_KEPT * wanted)
        if excess > 0.0:
            purse.forgotten += excess
            self._forgotten -= excess
            saved -= excess
        return saved

    def put_by(self, name: str = "snapshots") -> float:
        """Seconds that were ever set aside in that purse."""
        purse = self._purses.get(name)
        return 0.0 if purse is None else purse.share * self._allowance()

    def take_from_purse(self, seconds: float, name: str = "snapshots") -> None:
        """Of the time charged, or soon to be charged, this was spent on what the purse is for."""
        purse = self._purses.get(name)
        if purse is not None:
            purse.spent += seconds

    def seconds_a_step(self, step: int) -> float:
        """Mean time of the training of `step` steps, at least a microsecond."""
        return max(1e-6, self.training_seconds() / max(1, step))

    def steps_to_rest(self, step: int) -> int:
        """How many steps to leave out wholly after `step`: 0 unless the allowance is overdrawn by short steps.

        A few, while that is made up for by what purses save; as many as it takes, when all together is overdrawn. The
        first steps are recorded as long as all of them together cost a fraction of a second.
        """
        deficit = -self.balance()
        early = step <= _STEPS_NEVER_LEFT_OUT and self._spent_on_steps() <= self._advance
        if early or deficit <= 0.0:
            return 0
        longest = _LONGEST_REST if self.spent > self._allowance() else _SHORT_REST
        return max(1, int(min(longest, deficit / self._earned_by_a_step(step))))

    def steps_after(self, rest: int, step: int) -> int:
        """How many ordinary steps to record, at least one, after a rest of so many, before another is considered."""
        earned = rest * self._kept_together() * self._earned_by_a_step(step)
        return max(1, int(_AFTER_A_REST * earned / self.ordinary_step))

    def steps_until(self, seconds: float, step: int) -> int:
        """In how many steps, at least one, `seconds` more will have been earned; a few at most, since steps vary."""
        return max(1, int(min(_LONGEST_WAIT, seconds / self._earned_by_a_step(step))))

    def overhead(self) -> float | None:
        """Measured overhead so far; None while too little time has passed for the ratio to mean anything."""
        outside = self.training_seconds()
        return self.spent / outside if outside >= _CREDIT_SECONDS else None


_GROWTH = 1.12
_LONGEST_GAP = 200


def next_due(step: int) -> int:
    """The step after `step` that is due for a sample: every step at first, then spaced evenly in log(step)."""
    return max(step + 1, min(int(step * _GROWTH), step + _LONGEST_GAP))


def shortest_gap(step: int) -> int:
    """Steps that at least lie between samples when the allowance would pay for more: a thousandth of the run so far."""
    return max(1, step // 1000)


class Stopwatch:
    """Times a piece of work; charges it to a budget if one is given."""

    def __init__(self, budget: Budget | None = None) -> None:
        self._budget = budget
        self.seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self._begin = time.perf_counter()
        return self

    def __exit__(self, *exception: object) -> None:
        self.seconds = time.perf_counter() - self._begin
        if self._budget is not None:
            self._budget.charge(self.seconds)
