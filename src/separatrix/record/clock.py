"""Counts the steps of a run, by the optimizer that steps first, and says which to leave out when they are too short."""

from __future__ import annotations

from threading import get_ident
from typing import TYPE_CHECKING

from separatrix.record.budget import Budget
from separatrix.record.tracks import Track
from separatrix.runs.writer import RunWriter

if TYPE_CHECKING:
    from torch.optim import Optimizer

_STEPS_UNTIL_CLOCK_AGAIN = 50


class Clock:
    """The count of steps done, and the optimizer that it follows.

    `resting` steps to come are counted but not recorded, since even the least that is recorded of every step would cost
    more than the budget allows.
    """

    def __init__(self, writer: RunWriter, budget: Budget) -> None:
        self.step = 0
        self.track: Track | None = None
        self.resting = 0
        self.rested = 0
        """Steps that the present or last rest is long."""
        self._writer = writer
        self._budget = budget
        self._begun = False
        self._has_rested = False
        self._rests = 0, 0
        """Identities of the optimizer whose steps are left out, and of its thread."""

    def label(self, track: Track) -> int:
        """The step that what happens to `track` now belongs to: the one in progress, or the last, ended one."""
        return self.step + 1 if track is self.track or self.track is None else self.step

    def follow(self, track: Track) -> None:
        """Make sure that an optimizer is followed: `track` if there is none, or if it steps more often."""
        if self.track is None or self._overtakes(track):
            self._choose(track)

    def lose(self, track: Track) -> None:
        """An optimizer is gone."""
        if track is self.track:
            self.track = None
            self.wake()

    def wake(self) -> None:
        """The next step is to be recorded, however many were still to be left out."""
        self.resting = 0
        self._rests = 0, 0

    def _overtakes(self, track: Track) -> bool:
        """Whether `track` steps again before the clock did, so that its steps would share one number.

        One that was the clock before must wait longer: two that take turns would hand the count to and fro.
        """
        since = track.steps_since_clock if track.clock_step == self.step else 0
        return since >= (_STEPS_UNTIL_CLOCK_AGAIN if track.was_clock else 1)

    def beside(self, track: Track) -> None:
        """Another optimizer than the one followed has stepped."""
        if track.clock_step != self.step:
            track.clock_step, track.steps_since_clock = self.step, 0
        track.steps_since_clock += 1

    def _choose(self, track: Track) -> None:
        self.track = track
        track.was_clock, track.steps_since_clock = True, 0
        if not self._begun:
            self._begun = True
            self.step = self._first_step(track)
        else:
            message = f"steps are counted by the optimizer {track.name or 'constructed last'} from now on"
            self._writer.event("clock", message, step=self.step)

    def _first_step(self, track: Track) -> int:
        """Steps that a resumed run already holds: by the optimizer's own count, else up to the last one recorded."""
        if self._writer.segment == 0:
            return 0
        last = self._writer.last_recorded_step() or 0
        own = track.own_step_count()
        start = last if own is None else own
        how = "the last recorded step" if own is None else "the optimizer's own count"
        data = {"previous": last, "start": start}
        self._writer.event("resumed-at", f"steps go on after {start}, {how}", step=start, data=data)
        return start

    def passes(self, optimizer: Optimizer) -> bool:
        """Count a step that is left out, if it is an ordinary one and not the last: in one call, with cold caches."""
        if self.resting < 2 or self._rests != (id(optimizer), get_ident()) or self.track is None:
            return False
        self.track.steps += 1
        self.step += 1
        self.resting -= 1
        return True

    def rest(self, track: Track) -> bool:
        """Count a step that is left out; whether it was the last one, or `track` is to be followed from now on."""
        track.steps += 1
        if track is self.track:
            self.step += 1
            self.resting -= 1
        else:
            if self._overtakes(track):
                self.wake()
            self.beside(track)
        return self.resting == 0

    def may_rest(self) -> bool:
        """Decide, after a step, whether to leave out the next ones; said once. A loop without optimizer never rests."""
        if self.track is None or self.track.optimizer is None:
            return False
        self.resting = self.rested = self._budget.steps_to_rest(self.step)
        self._rests = id(self.track.optimizer), get_ident()
        if self.resting and not self._has_rested:
            self._has_rested = True
            message = f"steps are too short to record each one within a budget of {self._budget.fraction:.0%}"
            self._writer.event("budget", f"{message}: some are left out", step=self.step)
        return self.resting > 0
