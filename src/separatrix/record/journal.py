"""Writes the series that belong to no probe: losses, optimizer options, clipping, and values of the user's own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from separatrix.record.series import RECORDER_SERIES
from separatrix.record.tracks import Term, Track
from separatrix.runs.types import SeriesSpec
from separatrix.runs.writer import RunWriter

_MOST_TERMS = 64


class Journal:
    """Hands scalars to the writer under the right series; those of an optimizer carry its name as a label."""

    def __init__(self, writer: RunWriter, taken: frozenset[str]) -> None:
        self._writer = writer
        self._taken = taken | RECORDER_SERIES.keys()
        self._series: dict[tuple[str, str, int | None], int] = {}
        self._logged: dict[str, int | None] = {}
        self._mark: tuple[float | None, float] = (None, 0.0)
        self._seconds_series = self._id("step_seconds", None)

    def put(self, name: str, step: int, value: float, track: Track | None = None, group: int | None = None) -> None:
        """Write one value of a series of the recorder's own."""
        self._writer.scalar(self._id(name, track, group), step, value)

    def _id(self, name: str, track: Track | None, group: int | None = None) -> int:
        """The series of this name; those of several optimizers or groups are labelled and read back as one."""
        key = (name, "" if track is None else track.name, group)
        known = self._series.get(key)
        if known is None:
            labels = {} if track is None else {"optimizer": track.name}
            labels |= {} if group is None else {"group": str(group)}
            spec = dataclasses.replace(RECORDER_SERIES[name], labels=labels)
            known = self._series[key] = self._writer.series(spec)
        return known

    def ordinary_step(self, track: Track, step: int, loss: float, now: float, spent: float) -> None:
        """All that is written of a step with one backward pass that is not sampled."""
        if track.loss_series is None:
            track.loss_series = self._id("loss", track)
        # As `step_ended` and `put` do it, in fewer calls: this runs at every step, between cold caches.
        point = self._writer.point
        point((track.loss_series, step, loss))
        mark, spent_at_mark = self._mark
        if mark is not None:
            seconds = now - mark - (spent - spent_at_mark)
            point((self._seconds_series, step, seconds if seconds > 0.0 else 0.0))
        self._mark = now, spent
        changed = track.changed_options()
        if changed:
            self._options(track, step, changed)
        if track.clips:
            self.clipping(track, step)

    def step_ended(self, step: int, now: float, spent: float) -> None:
        """Write the time since the last step's end, at `now`; `spent` is what Separatrix has taken in all so far."""
        mark, spent_at_mark = self._mark
        if mark is not None:
            self._writer.scalar(self._seconds_series, step, max(0.0, now - mark - (spent - spent_at_mark)))
        self._mark = now, spent

    def forget_time(self) -> None:
        """The time since the last step's end belongs to no step."""
        self._mark = None, 0.0

    def loss(self, track: Track, step: int, terms: Sequence[Term], closures: int) -> None:
        """Write the sum of the losses that a step used, the losses apart if there were several, and its closures."""
        if terms:
            values = [float(term.value) for term in terms]
            self.put("loss", step, sum(values), track)
            if len(values) > 1:
                kept = np.array(values[:_MOST_TERMS])
                self._writer.positions("term", [str(i) for i in range(len(kept))])
                self._writer.vector(self._id("loss_terms", track), step, kept)
        if closures:
            self.put("closure_calls", step, float(closures), track)

    def options(self, track: Track, step: int) -> None:
        """Write the options of the optimizer's groups that changed."""
        self._options(track, step, track.changed_options())

    def _options(self, track: Track, step: int, changed: Sequence[tuple[str, int, float]]) -> None:
        for name, group, value in changed:
            self.put(name, step, value, track, group)

    def clipping(self, track: Track, step: int) -> None:
        """Write the norm before clipping and the smallest factor applied, where gradients were clipped."""
        clips, track.clips = track.clips, []
        if clips:
            track.clipped = True
            norms = [clip.norm() for clip in clips]
            factors = [clip.coefficient() for clip in clips]
            self.put("gradient_norm", step, math.sqrt(sum(n * n for n in norms)), track)
            self.put("clip_coefficient", step, min(factors, key=lambda f: (f == f, f)), track)

    def log(self, name: str, step: int, value: float) -> None:
        """Write a value of the user's own; under `logged_NAME` where the recorder writes a series of that name itself.

        What fits no series, since the run holds one of another kind under that name, is left out with one event.
        """
        if name not in self._logged:
            self._logged[name] = self._series_for(name, step)
        series = self._logged[name]
        if series is not None:
            self._writer.scalar(series, step, value)

    def _series_for(self, name: str, step: int) -> int | None:
        own = f"logged_{name}" if name in self._taken else name
        if own != name:
            message = f"the recorder writes {name} itself: values logged under that name are stored as {own}"
            self._writer.event("renamed", message, step=step, data={"series": [own]})
        try:
            return self._writer.series(
                SeriesSpec(own, dtype="float64", description="logged by the script", source="user")
            )
        except ValueError as error:
            message = f"values logged as {name} are left out: {error}"
            self._writer.event("unseen", message, step=step, severity="warning", data={"series": [name]})
            return None
