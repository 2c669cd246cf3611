"""How far a training has come: the levels of its loss in equal parts of the run, and the learning rate in force."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from separatrix.analysis.profiles import table
from separatrix.analysis.trends import Floats, Integers, Track, loss_tracks, start, tracks
from separatrix.runs import Run

PARTS = 10
"""Parts of equal length that a run is cut into."""

FEWEST = 40
"""Losses below which a run is not cut."""

_FIRST = 5
_EARLY = 0.1
_TINY = float(np.finfo(np.float64).tiny)


@dataclasses.dataclass(frozen=True)
class Progress:
    """A loss in parts: `levels` (parts,) are their means, `errors` (parts,) the standard errors of the means.

    `noise` is the standard deviation of a loss around its level at the end of the run, from the differences of
    neighbours, so that no trend is taken for noise. `start` is the mean of the first few losses. `scatter` is the
    least noise of a part over its level: what batches alone explain.
    """

    track: Track
    start: float
    levels: Floats
    errors: Floats
    noise: float
    scatter: float

    @property
    def end(self) -> float:
        """The level of the last part."""
        return float(self.levels[-1])

    @property
    def left(self) -> float:
        """The level at the end over the start: 1 where nothing was learnt, 0 where everything was."""
        return self.end / self.start if self.start > 0 else math.nan

    @property
    def gained(self) -> float:
        """What the loss lost from its start to its end."""
        return self.start - self.end

    def step_of(self, part: int) -> int:
        """The step at which a part begins."""
        return int(self.track.steps[len(self.track) * part // PARTS])

    def gain(self, first: int, last: int) -> tuple[float, float]:
        """What the loss lost between the means of two parts, and in units of its standard error."""
        lost = float(self.levels[first] - self.levels[last])
        error = float(np.hypot(self.errors[first], self.errors[last]))
        return lost, lost / max(error, _TINY)


def progress(run: Run) -> Progress | None:
    """Progress of the loss; None for opposed losses (a GAN), negative ones, or fewer than 40 finite values."""
    losses, opposed = loss_tracks(run)
    if opposed or not losses or len(losses[0]) < FEWEST or losses[0].values.min() < 0:
        return None
    track = losses[0]
    parts = [track.values[len(track) * k // PARTS : len(track) * (k + 1) // PARTS] for k in range(PARTS)]
    levels = np.array([part.mean() for part in parts])
    noises = np.array([_noise(part) for part in parts])
    errors = noises / np.sqrt([len(part) for part in parts])
    scatter = float((noises / np.maximum(levels, _TINY)).min())
    return Progress(track, float(start(track).mean()), levels, errors, float(noises[-1]), scatter)


def _noise(values: Floats) -> float:
    """Standard deviation of independent noise around a slow trend, from the differences of neighbours."""
    return float(np.sqrt(np.mean(np.diff(values) ** 2) / 2)) if len(values) > 1 else 0.0


def rates(run: Run, last: int | None = None) -> Track | None:
    """The learning rate at every step up to the last one, of the group whose rate was highest; None if not recorded."""
    found = [track.finite() for track in tracks(run, "learning_rate")]
    found = [track for track in found if len(track)]
    if not found:
        return None
    main = max(found, key=lambda track: float(track.values.max()))
    if last is None:
        last = max((int(t.steps[-1]) for t in tracks(run, "loss") if len(t)), default=int(main.steps[-1]))
    steps: Integers = np.arange(int(main.steps[0]), max(last, int(main.steps[0])) + 1)
    return Track(main.label, steps, main.values[np.searchsorted(main.steps, steps, side="right") - 1])


def relative_step(run: Run, rate: Track, early: bool = False, before: int | None = None) -> float | None:
    """Median over weights of update over weight in a step at the typical learning rate; None if not measured.

    `before` leaves out what was measured from that step on.

    Weights that do not move at all (behind a zero initialisation, at first) are left out. `early`: of the first five
    measurements within the first tenth of the run alone, before long steps have made the weights large. Under momentum
    what is seen in the first steps is divided by the part of the sum of gradients that has built up by then.
    """
    momentum = max((float(t.values.max()) for t in tracks(run, "momentum") if len(t)), default=0.0)
    momentum = 0.0 if "beta2" in run else min(momentum, 0.999)
    found = []
    for step, ratio in _step_sizes(run, before):
        now = rate.at(step)
        if now:
            found.append((step, ratio / (1.0 - momentum ** max(step, 1)) * typical(rate) / now))
    if not found:
        return None
    last = int(rate.steps[0]) + _EARLY * len(rate)
    first = [size for step, size in found if step <= last][:_FIRST] or [found[0][1]]
    return float(np.median(first if early else [size for _, size in found]))


def longest_step(run: Run, before: int | None = None) -> float:
    """Largest median over weights of update over weight that was measured, `before` a step if given; 0 if none was."""
    return max((ratio for _, ratio in _step_sizes(run, before)), default=0.0)


def _step_sizes(run: Run, before: int | None) -> list[tuple[int, float]]:
    """Step, and median over weights that move of update over weight, of each measurement before a step."""
    ratios = table(run, "update_ratio")
    columns = [ratios.labels.index(label) for label in matrices(run) if label in ratios.labels]
    found = []
    for row, step in enumerate(map(int, ratios.steps)):
        values = ratios.values[row, columns]
        values = values[np.isfinite(values) & (values > 0)]
        if values.size and (before is None or step < before):
            found.append((step, float(np.median(values))))
    return found


def highest(rate: Track) -> float:
    """The highest learning rate: the number that whoever set the schedule knows."""
    return float(rate.values.max())


def typical(rate: Track) -> float:
    """The learning rate that three quarters of the steps do not exceed."""
    return float(np.quantile(rate.values, 0.75))


def matrices(run: Run) -> list[str]:
    """Names of the weights of two or more dims that are no embeddings: what gives a network its size and shape."""
    kinds = {str(m.get("name")): str(m.get("kind", "")).lower() for m in run.modules}
    held = [p for p in run.parameters if p.get("optimizer")] or run.parameters
    return [
        str(p["name"])
        for p in held
        if len(p["shape"]) >= 2 and "embedding" not in kinds.get(str(p.get("module", "")), "")
    ]
