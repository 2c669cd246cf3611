"""When a snapshot is due, and which of its probes the budget pays for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from separatrix.record.budget import Budget, next_due
from separatrix.runs.probe import Probe

_LEARNING = 0.3
_LISTENING = 0.02
"""Overhead that listening to every step may come to: snapshots share what the budget allows beyond it."""
_SHARE, _LEAST_SHARE = 0.5, 0.1
"""Part of that, and at least this part of the whole allowance, is set aside where there are probes of snapshots."""
_RATION = 0.5
"""Part of what is saved for a dear probe that cheap ones may use up meanwhile."""
_CHEAP = 2.0
"""Probes that cost at most this many times what any snapshot costs are looked at together."""


@dataclasses.dataclass
class Standing:
    """What is known of a probe's cost and when it ran."""

    probe: Probe
    seconds: float | None = None
    last: int = -1
    failures: int = 0

    def learn(self, seconds: float) -> None:
        """It took this long."""
        known = self.seconds
        self.seconds = seconds if known is None else known + _LEARNING * (seconds - known)


class Schedule:
    """Plans snapshots within their purse of the budget; `step` is the one that was planned last."""

    def __init__(self, probes: Sequence[Probe], budget: Budget) -> None:
        self.standings = [Standing(probe) for probe in sorted(probes, key=lambda probe: probe.priority)]
        self.step = 1
        self._budget = budget
        self._due = self._asleep = 1
        self._ration = 1.0
        self._gradient_seconds: float | None = None
        self._fixed_seconds: float | None = None
        self._share = max(_LEAST_SHARE, _SHARE * (1.0 - _LISTENING / budget.fraction))
        if self.standings:
            budget.set_aside(self._share)

    def plan(self, step: int) -> bool:
        """Whether `step` is to be caught: one is due and its next probe can be paid."""
        self.step = step
        self._asleep = self._due
        if not self.standings or step < self._due:
            return False
        next_one = self._fixed() + self._worth_saving_for()
        saved = self._budget.purse(next_one)
        missing = min(next_one, self._of_cheap_ones() / _RATION) - saved
        if missing > 0.0:
            self._asleep = step + self._budget.steps_until(missing / self._share, step)
            return False
        self._ration = 1.0 if saved >= next_one else _RATION
        return True

    def asleep_until(self, step: int) -> int:
        """No step before this one will be caught."""
        return max(step + 1, self._asleep) if self.standings else step + (1 << 30)

    def skip(self) -> None:
        """The step planned last was caught, or could not be: the next one is due in its turn."""
        self._due = next_due(self.step)

    def learn(self, *, gradient: float, fixed: float) -> None:
        """A gradient took so many seconds, and what every snapshot needs, that gradient with it, so many."""
        self._gradient_seconds, self._fixed_seconds = gradient, fixed

    def upcoming(self) -> list[Standing]:
        """Probes in the order in which they have a claim: the one that ran longest ago first, the cheaper of two."""
        return sorted(self.standings, key=lambda standing: (standing.last, self.expected(standing)))

    def pays(self, standing: Standing, spent: float) -> bool:
        """Whether the purse pays for a probe in a snapshot that has taken `spent` seconds so far."""
        expected = self.expected(standing)
        return expected <= self._ration * self._budget.purse(expected) - spent

    def expected(self, standing: Standing) -> float:
        """Seconds that a probe will take, as learnt or else guessed."""
        if standing.seconds is not None:
            return standing.seconds
        return standing.probe.cost * (self._gradient_seconds or self._budget.seconds_a_step(self.step))

    def _fixed(self) -> float:
        return self._fixed_seconds if self._fixed_seconds is not None else 2.0 * self._budget.seconds_a_step(self.step)

    def _of_cheap_ones(self) -> float:
        """Seconds expected of a snapshot with the probes that cost little beside what any snapshot costs."""
        fixed, costs = self._fixed(), [self.expected(standing) for standing in self.standings]
        return fixed + (sum(cost for cost in costs if cost <= _CHEAP * fixed) or min(costs))

    def _worth_saving_for(self) -> float:
        """Seconds expected of the next probe that would be paid if the training went on for as long as it did so far.

        A dearer one waits until then, lest a short training saves for what it never gets.
        """
        costs = [self.expected(standing) for standing in self.upcoming()]
        reach = self._budget.put_by() - self._fixed()
        return next((cost for cost in costs if cost <= reach), min(costs))
