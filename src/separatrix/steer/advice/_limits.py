"""What a decay to zero would cost and gain a training at constant rate, and how far its rate could rise.

- *Cost*: rates that fall to zero on a line add up to half of what they do at constant height, so a decay ends about
  where the training was half-way, were it not for noise: it costs what the loss fell in the second half of the run.
- *Gain*: by at most what noise holds the loss up. Steps x' = x - r P^-1 (H x + noise) of covariance C keep x away from
  the minimum by a covariance S with P^-1 H S + S H P^-1 = r P^-1 C P^-1 to first order in r (Mandt et al. 2017,
  arXiv:1704.04289, section 3); times P, the trace gives tr(H S) = r tr(C P^-1) / 2, and a loss of r tr(C P^-1) / 4,
  whatever the curvature. Momentum makes r / (1 - momentum) of r. For Adam P is the root of the second moment.
- *Room*: up to where rate times curvature is half of what the optimizer bears. Where that was not measured, threefold,
  the next rate that one would try. Noise rises with the rate and must stay below what the loss fell by.

C is the squared gradient less the share that is signal, 1 / (1 + noise scale / batch size), where that was measured.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from separatrix.analysis.profiles import table
from separatrix.analysis.progress import PARTS, Progress, highest, progress, rates, typical
from separatrix.analysis.trends import Track, median_of, tracks
from separatrix.runs import Run

_SURE = 2.0
_STABLE = 0.5
_NEXT = 3.0
_MOST_AT_ONCE = 10.0
_LATE = 0.5
_TINY = float(np.finfo(np.float64).tiny)


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the loss `fell` in the second half of the run, and what `noise` holds it up by at most (infinite: unknown).

    `rate` is the highest rate, `edge` the typical one times curvature over what the optimizer bears, None where not
    measured.
    """

    rate: float
    fell: float
    noise: float
    edge: float | None

    @property
    def decay_pays(self) -> bool:
        """Whether a decay to zero may gain more than it costs."""
        return self.noise > self.fell

    @property
    def room(self) -> float:
        """The factor by which the rate may rise, at most ten at once, since curvature changes with it."""
        stable = _NEXT if self.edge is None else _STABLE / self.edge
        return min(stable, _MOST_AT_ONCE, self.fell / max(self.noise, _TINY))


def limits(run: Run) -> Limits | None:
    """The limits of a run; None where its loss and rate were not recorded over enough steps."""
    loss, rate = progress(run), rates(run)
    if loss is None or rate is None or not typical(rate) > 0:
        return None
    return Limits(highest(rate), _fall(loss), _noise(run, typical(rate)), _edge(run, rate))


def _fall(loss: Progress) -> float:
    """What the loss fell from the middle of the run to its end; 0 where that is not sure."""
    middle = PARTS // 2
    gains, errors = zip(*(loss.gain(part, PARTS - 1) for part in (middle - 1, middle)), strict=True)
    return float(np.mean(gains)) if min(errors) > _SURE else 0.0


def _edge(run: Run, rate: Track) -> float | None:
    """Median over the later half of the measurements, scaled to the typical rate."""
    found = []
    for track in (each.finite() for each in tracks(run, "stability_ratio")):
        since = track.steps[0] + _LATE * (track.steps[-1] - track.steps[0]) if len(track) else 0
        for step, value in zip(track.steps.tolist(), track.values.tolist(), strict=True):
            now = rate.at(step)
            if step >= since and value > 0 and now:
                found.append(value * typical(rate) / now)
    return float(np.median(found)) if found else None


def _noise(run: Run, rate: float) -> float:
    """What noise holds the loss up by, were it at rest; infinite for optimizers other than SGD and Adam's kin."""
    sizes = {str(p["name"]): float(p.get("numel", 1)) for p in run.parameters}
    gradients, roots = _late(run, "gradient_rms"), _late(run, "adam_second_moment_rms")
    optimizers = run.config.get("optimizers") or [{}]
    if roots:
        entries = [sizes.get(name, 1.0) * gradients.get(name, 0.0) ** 2 / root for name, root in roots.items() if root]
    elif optimizers[0].get("class") == "SGD" and gradients:
        rate /= 1.0 - min(median_of(run, "momentum") or 0.0, 0.999)
        entries = [sizes.get(name, 1.0) * size**2 for name, size in gradients.items()]
    else:
        return math.inf
    scale, batch = median_of(run, "gradient_noise_scale"), median_of(run, "batch_size")
    share = scale / (scale + batch) if scale is not None and batch is not None and scale > 0 else 1.0
    return rate * share * sum(entries) / 4


def _late(run: Run, name: str) -> dict[str, float]:
    """Medians of each label over the later half of the measurements."""
    found = table(run, name)
    values = found.values[len(found.steps) // 2 :]
    return {
        label: float(np.median(column[np.isfinite(column)]))
        for label, column in zip(found.labels, values.T, strict=True)
        if np.isfinite(column).any()
    }
