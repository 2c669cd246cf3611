"""Loss curves with the learning rates that made them, from runs or from arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from separatrix.analysis.forecasting.areas import Rates
from separatrix.analysis.progress import rates
from separatrix.analysis.trends import Track, loss_tracks, tracks
from separatrix.runs import Run
from separatrix.runs.errors import UsageError

SETTLED = 0.1
"""Share of a curve that is left out at its start, where losses follow no power law yet (warm-up included)."""

_BINS = 300
_FEWEST = 12


@dataclasses.dataclass(frozen=True)
class Curve:
    """Losses (points,) after `updates` (points,) of a training whose updates had the learning `rates` (updates,).

    `series` names what the losses are, empty if unknown; `note` says what is missing of them.

    Raises:
        UsageError: shapes differ, updates do not increase from 1 within the rates, or losses are not positive.
    """

    updates: Int64[np.ndarray, " points"]
    losses: Float64[np.ndarray, " points"]
    rates: Rates
    name: str = ""
    series: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.updates.shape != self.losses.shape or self.updates.ndim != 1 or not len(self.updates):
            raise UsageError(
                f"curve {self.name!r} has {self.losses.shape} losses at {self.updates.shape} steps: give one for each"
            )
        if self.updates[0] < 1 or (np.diff(self.updates) <= 0).any() or self.updates[-1] > len(self.rates):
            raise UsageError(
                f"steps of curve {self.name!r} must increase from 1 or more to at most {len(self.rates)}, the number of"
                " its learning rates"
            )
        if not (np.isfinite(self.losses).all() and (self.losses > 0).all()):
            raise UsageError(
                f"losses of curve {self.name!r} are not all positive numbers: forecasts are of logarithms of losses"
            )

    @property
    def warmup(self) -> int:
        """Updates before the first at the rate from which it first falls."""
        falls = np.flatnonzero(np.diff(self.rates) < 0)
        ramp = self.rates[: falls[0] + 1] if falls.size else self.rates
        return int(np.argmax(ramp >= ramp.max()))

    def first(self, share: float) -> Curve:
        """The part of the curve up to that share of its updates."""
        last = round(share * len(self.rates))
        keep = self.updates <= last
        return dataclasses.replace(self, updates=self.updates[keep], losses=self.losses[keep], rates=self.rates[:last])

    def settled(self, share: float = SETTLED) -> Curve:
        """The curve without its start: without that share of its updates, and without its warm-up.

        Raises:
            UsageError: nothing is left.
        """
        keep = self.updates > max(share * len(self.rates), self.warmup)
        if not keep.any():
            raise UsageError(f"curve {self.name!r} holds no loss after its warm-up: record more steps")
        return dataclasses.replace(self, updates=self.updates[keep], losses=self.losses[keep])


def common_series(runs: Sequence[Run], last: int | None = None) -> str:
    """What to compare runs by: `eval_loss` where each has one with enough values, up to step `last`, else `loss`."""
    for run in runs:
        evaluated = [_until(track.finite(), last) for track in tracks(run, "eval_loss")]
        if len(evaluated) != 1 or len(evaluated[0]) < 2 * _FEWEST:
            return "loss"
    return "eval_loss"


def recorded_rates(run: Run) -> Track:
    """The learning rate of every recorded step of a run, of the group whose rate was highest.

    Raises:
        UsageError: the run holds none.
    """
    rate = rates(run)
    if rate is None:
        raise UsageError(f"run {run.name} holds no learning_rate: record it with separatrix watch or record")
    return rate


def curve_of(run: Run, *, series: str | None = None, last: int | None = None) -> Curve:
    """The loss curve of a run, with its learning rates; `last` cuts it after that step.

    `series` is `eval_loss` where that has enough values, else `loss`, whose batches scatter: it is averaged over at
    most 300 stretches of equal length. Curves of several runs need one `series` for all, see `common_series`. Losses
    that are not finite are left out; where none is finite from some step on, the curve ends there and its note says so.

    Raises:
        UsageError: the run lacks losses or learning rates, has several losses, or too few of them.
    """
    rate = recorded_rates(run)
    series = series or common_series([run], last)
    lost = _lost(run, series, last)
    said = "" if lost is None else f"{series} of run {run.name} is not finite from step {lost} on"
    track = _until(_losses(run, series, said), last)
    offset = int(rate.steps[0]) - 1
    keep = (track.steps > offset) & (track.steps <= offset + len(rate))
    steps, losses = track.steps[keep] - offset, track.values[keep]
    if len(steps) < _FEWEST:
        why = f", since {said}" if said else ""
        raise UsageError(f"run {run.name} holds {len(steps)} losses{why}: a forecast needs at least {_FEWEST}")
    known = np.asarray(rate.values, dtype=np.float64)
    end = int(steps[-1]) if last is None or lost is not None else min(last - offset, len(known))
    if len(steps) > _BINS:
        steps, losses = _averaged(steps, losses)
    note = f"{said}: only what came before is used" if said else ""
    updates = np.asarray(steps, dtype=np.int64)
    return Curve(updates, losses, known[: max(end, int(steps[-1]))], run.name, series, note)


def _until(track: Track, last: int | None) -> Track:
    return track if last is None else track.before(last + 1)


def _lost(run: Run, series: str, last: int | None) -> int | None:
    """The step from which on no value is finite; None where the last one is."""
    for track in (_until(each, last) for each in tracks(run, series)):
        finite = np.flatnonzero(np.isfinite(track.values))
        after = int(finite[-1]) + 1 if finite.size else 0
        if after < len(track):
            return int(track.steps[after])
    return None


def _losses(run: Run, series: str, said: str) -> Track:
    if series != "loss":
        found: Sequence[Track] = [track.finite() for track in tracks(run, series)]
    else:
        found, opposed = loss_tracks(run)
        found = found if opposed else found[:1]
    if len(found) != 1 or not len(found[0]):
        why = f" ({said})" if said else ""
        raise UsageError(f"run {run.name} holds {len(found)} curves of {series}{why}: a forecast needs exactly one")
    return found[0]


def _averaged(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over stretches of equal length; steps are rounded means."""
    edges = np.linspace(0, len(steps), _BINS + 1).astype(int)[:-1]
    counts = np.diff(np.append(edges, len(steps)))
    return (
        np.rint(np.add.reduceat(steps.astype(np.float64), edges) / counts).astype(np.int64),
        np.add.reduceat(values, edges) / counts,
    )
