"""Whether the path of a training is that of a linear map: dynamic mode decomposition, judged by steps it has not seen.

The rows of a path (weights, sketches of them, outputs on fixed examples, losses of examples) are reduced to their
leading principal components, on which a linear map is fitted by least squares; its eigenvalues are those of the Koopman
operator on linear observables as far as the data tell (Schmid 2010; Dogra & Redman 2020 for training). What it is worth
is told by forecasts of the last rows, beside the two that cost nothing: nothing changes any more, and all goes on as
between the last two rows.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Complex, Float

from separatrix.reconstruct import fit, trajectories
from separatrix.runs.errors import UsageError

_FEWEST_ROWS = 12
_RIDGE = 1e-9


@dataclasses.dataclass(frozen=True)
class ForecastErrors:
    """Root mean square error over the held-out rows, over the root mean square of what changed there.

    `last_value` is 1 by definition; a method helps where its error is lower. `linear_extrapolation` goes on with the
    difference of the last two rows.
    """

    linear_model: float
    linear_extrapolation: float
    last_value: float = 1.0

    @property
    def helps(self) -> bool:
        """Whether the linear model forecasts better than both others."""
        return self.linear_model < min(self.last_value, self.linear_extrapolation)


@dataclasses.dataclass(frozen=True)
class LinearModes:
    """`eigenvalues` for one row, by falling size, of the map fitted to all rows but those held out.

    `captured` is the share of the variance of those rows in the components; `errors` judge the forecast of the others.
    """

    eigenvalues: Complex[np.ndarray, " mode"]
    captured: float
    errors: ForecastErrors


def linear_modes(path: Float[np.ndarray, "time feature"], *, rank: int = 8, held_out: float = 0.1) -> LinearModes:
    """Linear modes of a path of evenly spaced rows, and how well they forecast the last share `held_out` of it.

    `rank` is the most components that are kept; fewer where the rows have fewer, or are too few to fit so many.

    Raises:
        UsageError: fewer than 12 rows, values that are not finite, or a path that never moves, before or after.
    """
    rows = np.asarray(path, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < _FEWEST_ROWS or not np.isfinite(rows).all():
        raise UsageError(f"a path of shape {rows.shape}: give at least {_FEWEST_ROWS} finite rows, one a step")
    if not 0.0 < held_out < 0.5 or rank < 1:
        raise UsageError(f"rank={rank} and held_out={held_out:g}: keep at least 1 component, hold out less than half")
    last = len(rows) - max(1, round(held_out * len(rows)))
    known, coming = rows[:last], rows[last:]
    changed = float(np.sqrt(np.mean((coming - known[-1]) ** 2)))
    centre = known.mean(axis=0)
    _, sizes, axes = np.linalg.svd(known - centre, full_matrices=False)
    if not changed > 0 or not sizes[0] > 0:
        raise UsageError("the path does not move: there is nothing to decompose or to forecast")
    kept = min(rank, int((sizes > 1e-10 * sizes[0]).sum()), (last - 2) // 3)
    axes = axes[:kept]
    scores = (known - centre) @ axes.T
    model = fit(trajectories(scores, 1.0), "var", lags=1, ridge=_RIDGE)
    forecast = model.forecast(scores, len(coming))
    beyond = np.where(np.isfinite(forecast), forecast, scores[-1]) @ axes + centre
    # What the components leave out of the last row stays as it is.
    beyond += known[-1] - (scores[-1] @ axes + centre)
    straight = known[-1] + np.arange(1, len(coming) + 1)[:, None] * (known[-1] - known[-2])
    errors = ForecastErrors(*(float(np.sqrt(np.mean((guess - coming) ** 2))) / changed for guess in (beyond, straight)))
    found = model.analyse().eigenvalues
    assert found is not None
    return LinearModes(found, float((sizes[:kept] ** 2).sum() / (sizes**2).sum()), errors)
