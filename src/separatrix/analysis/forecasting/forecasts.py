"""Forecasts of a loss under any schedule, with prediction intervals from blocks of residuals drawn again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from separatrix.analysis.forecasting.areas import Rates, Schedule, rates_of
from separatrix.analysis.forecasting.curve import SETTLED, Curve
from separatrix.analysis.forecasting.laws import Fitted, fit
from separatrix.runs.errors import UsageError

DEFAULT_LAW = "relaxation"

_DRAWS = 200
_BASELINES = ("power", "last")


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The loss of a training to come; `losses`, `low` and `high` are (updates,).

    `low` to `high` holds a measured loss with the probability `level`, as far as the law holds. `baselines` are final
    losses by the plain power law and by the last value; `curves` are those that were fitted, whole. Where these hold no
    fall of the rate (`annealed` is False) a schedule that falls ends lower than forecast.
    """

    rates: Rates
    losses: Float64[np.ndarray, " updates"]
    low: Float64[np.ndarray, " updates"]
    high: Float64[np.ndarray, " updates"]
    level: float
    fitted: Fitted
    baselines: Mapping[str, float]
    curves: tuple[Curve, ...]

    @property
    def annealed(self) -> bool:
        """Whether what annealing brings was seen in the curves."""
        return self.fitted.annealed

    @property
    def series(self) -> str:
        """The series that is forecast, `loss` if the curves do not name it."""
        return next((curve.series for curve in self.curves if curve.series), "loss")

    @property
    def notes(self) -> tuple[str, ...]:
        """What is missing of the curves."""
        return tuple(curve.note for curve in self.curves if curve.note)

    @property
    def final(self) -> tuple[float, float, float]:
        """The loss at the end, and the ends of its interval."""
        return float(self.losses[-1]), float(self.low[-1]), float(self.high[-1])

    def to_dict(self, points: int = 20) -> dict[str, Any]:
        """Plain data for JSON: the final loss, constants, baselines, and the curve at the ends of `points` equal parts.

        Not at the first step, where no law holds.
        """
        final, low, high = self.final
        parts = min(points, len(self.rates))
        shown = np.unique(np.linspace(len(self.rates) / parts, len(self.rates), parts).astype(int))
        return {
            "series": self.series,
            "steps": len(self.rates),
            "final_loss": final,
            "low": low,
            "high": high,
            "level": self.level,
            "annealed": self.annealed,
            "notes": list(self.notes),
            "law": self.fitted.law,
            "constants": dict(self.fitted.constants),
            "baselines": dict(self.baselines),
            "curve": [
                {
                    "step": int(step),
                    "learning_rate": float(self.rates[step - 1]),
                    "loss": float(self.losses[step - 1]),
                    "low": float(self.low[step - 1]),
                    "high": float(self.high[step - 1]),
                }
                for step in shown
            ],
        }


def forecast(
    curves: Sequence[Curve],
    schedule: Schedule,
    updates: int,
    *,
    law: str = DEFAULT_LAW,
    level: float = 0.9,
    seed: int = 0,
    draws: int = _DRAWS,
    settled: float = SETTLED,
) -> Forecast:
    """The loss of a training of `updates` updates under `schedule`, from one or more curves of the same training.

    `schedule` holds learning rates, not factors. The `law` is fitted to the curves without their warm-up and first
    tenth (`settled`). Best are one curve at a constant rate and one that is annealed, of the peak rate that is asked
    about. Intervals come from refits to residuals drawn in blocks, and from the residuals themselves; they hold as far
    as the law does, and are too narrow where a curve has few independent points (of nominal 80 % held 68 % with about
    thirty points in all) or the law is carried far: of twenty last losses that were forecast from the first 30 % of a
    constant and a cosine curve, intervals of 90 % held ten.

    Raises:
        UsageError: the schedule does not fit, the level is no probability, there are too few losses, or the curves
            are of different series.
    """
    if not 0.0 < level < 1.0:
        raise UsageError(f"level {level} is no probability: give a number between 0 and 1")
    if not curves:
        raise UsageError("a forecast needs at least one curve")
    if len(kinds := {curve.series for curve in curves if curve.series}) > 1:
        raise UsageError(f"the curves are of {' and '.join(sorted(kinds))}: give each by curve_of(run, series=...)")
    rates = rates_of(schedule, updates)
    used = [curve.settled(settled) for curve in curves]
    fitted = fit(used, law)
    random = np.random.default_rng(seed)
    scatter = _widened(fitted)
    centre = np.log(fitted.predict(rates))
    spread = np.stack(
        [
            np.log(refit.predict(rates)) - centre + random.choice(scatter)
            for refit in refits(fitted, used, random, draws)
        ]
    )
    low, high = np.quantile(spread, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return Forecast(
        rates=rates,
        losses=np.exp(centre),
        low=np.exp(centre + np.minimum(low, 0.0)),
        high=np.exp(centre + np.maximum(high, 0.0)),
        level=level,
        fitted=fitted,
        baselines={law: float(fit(used, law).predict(rates)[-1]) for law in _BASELINES},
        curves=tuple(curves),
    )


def refits(fitted: Fitted, curves: Sequence[Curve], random: np.random.Generator, draws: int) -> Iterator[Fitted]:
    """The law fitted again, `draws` times, to its own curves with residuals drawn in blocks of those of each curve.

    Blocks keep together what hangs together: they are twice as long as residuals are correlated. Blocks of l from n
    points have a mean that scatters less, by a share l / n of the variance, than one of ever new points; residuals are
    widened by so much.

    Source: Kuensch 1989, Ann. Statist. 17, 1217, and its section 3 for the share.
    """
    ends = np.cumsum([len(curve.losses) for curve in curves])[:-1]
    pieces = np.split(_widened(fitted), ends)
    lines = [np.log(curve.losses) - own for curve, own in zip(curves, np.split(fitted.residuals, ends), strict=True)]
    lengths = [_block_length(piece) for piece in pieces]
    for _ in range(draws):
        redrawn = [
            dataclasses.replace(curve, losses=np.exp(line + _drawn_blocks(piece, length, random)))
            for curve, line, piece, length in zip(curves, lines, pieces, lengths, strict=True)
        ]
        yield fit(redrawn, fitted.law, near=fitted.constants)


def _widened(fitted: Fitted) -> Float64[np.ndarray, " points"]:
    """Residuals times sqrt(n / (n - p)), n independent points and p constants: a fit takes up part of the scatter."""
    points = len(fitted.residuals) / _correlation_time(fitted.residuals)
    wide = math.sqrt(points / max(points - len(fitted.constants), 1.0))
    widened: Float64[np.ndarray, " points"] = fitted.residuals * wide
    return widened


def _block_length(values: Float64[np.ndarray, " points"]) -> int:
    count = len(values)
    wanted = math.ceil(max(count ** (1 / 3), 2.0 * _correlation_time(values)))
    return int(max(1, min(count // 4, wanted)))


def _drawn_blocks(values: Float64[np.ndarray, " points"], length: int, random: np.random.Generator) -> np.ndarray:
    """As many values, in blocks that start anywhere and wrap around."""
    count = len(values)
    starts = random.integers(count, size=-(-count // length))
    drawn = values[(starts[:, None] + np.arange(length)).reshape(-1)[:count] % count]
    wide: np.ndarray = drawn / math.sqrt(1.0 - length / (count + 1))
    return wide


def _correlation_time(values: Float64[np.ndarray, " points"]) -> float:
    """One plus twice the sum of correlations up to the first that is no larger than its own error."""
    count = len(values)
    centred = values - values.mean()
    power = float(centred @ centred) or 1.0
    time = 1.0
    for lag in range(1, count // 4):
        correlation = float(centred[lag:] @ centred[:-lag]) / power
        if correlation < 2.0 / math.sqrt(count):
            break
        time += 2.0 * correlation
    return time
