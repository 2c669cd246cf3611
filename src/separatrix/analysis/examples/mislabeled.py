"""How probable it is of each example that its label is wrong, from one ordinary training.

Early in a training the net has learnt the classes but memorised no labels (Arpit et al. 2017; the area under the margin
of Pleiss et al. 2020 rests on it). Two things are read off there. First, the share of wrong labels: of the examples of
whose class the net is most confident, whatever their label, nearly all belong to that class, so that the labels that
say otherwise are wrong ones; they are the anchor points of the literature on label noise. Second, the odds of each
example, which fall exponentially with its mean margin, as between two normal distributions of one variance. The share
fixes where the odds are even.

Planted label noise of 0 to 40 % in digits, Fashion-MNIST and Gaussian mixtures gave an expected calibration error of
0.02 to 0.03 on average; it grows where classes overlap, for an example on the wrong side of the best boundary looks the
same as a wrong label. Noise that makes a confident net wrong, such as all labels of one kind of input, is invisible.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.stats
from jaxtyping import Bool, Float, Int

from separatrix.analysis.examples.errors import ExamplesError
from separatrix.analysis.examples.reading import mean_seen, table, trajectories
from separatrix.runs import Run

ANCHOR_ROWS = 2
"""Rows from the first learnt one in which anchors are judged: in later ones the net begins to agree with any label."""

ANCHOR_SHARE = 0.3
"""Of all examples, the most confident: fewer are few to count, more include examples between two classes."""

MARGIN_ROWS = 8
"""Rows from the first learnt one over which margins are averaged."""

SLOPE = 4.0
"""Fall of the log-odds over one standard deviation of the mean margin; 3 to 5 changed calibration errors by 0.004."""

HALF_LEARNT, SETTLED = 0.5, 0.05
"""Accuracy of a learnt row, over the best one, and the relative gain of the next row below which learning has settled.

Clean classes are learnt within a few epochs, by far more than a twentieth each; memorising takes many small steps."""

_HALVINGS = 100


@dataclasses.dataclass(frozen=True)
class Mislabeled:
    """`noise_rate` is the share of wrong labels, `probability` that of each example, NaN for one never seen.

    The rate rests on `anchors` examples, of which `disagreeing` were answered with another class than their label.
    """

    noise_rate: float
    probability: Float[np.ndarray, " examples"]
    anchors: int
    disagreeing: int

    def at_least(self, level: float = 0.99) -> float:
        """The noise rate that is exceeded with this probability: lower end of Jeffreys' interval of the anchors."""
        wrong, right = self.disagreeing, self.anchors - self.disagreeing
        return float(scipy.stats.beta.ppf(1.0 - level, wrong + 0.5, right + 0.5))

    def suspected(self, at_least: float = 0.5) -> Int[np.ndarray, " chosen"]:
        """The examples of at least this probability, the most probable first; ties go by position."""
        order = np.argsort(-self.probability, kind="stable")
        chosen: np.ndarray = order[self.probability[order] >= at_least]
        return chosen


def mislabeled(
    loss: Float[np.ndarray, " epochs examples"], margin: Float[np.ndarray, " epochs examples"]
) -> Mislabeled:
    """Probabilities from the cross-entropy and the margin of every example, one row an epoch, NaN where not seen.

    Early rows are counted from the first learnt one: at least half as many examples are classified correctly as at
    best, and the next row adds less than a twentieth to them. The noise rate is (k + 1/2) / (n + 1) for k of n anchors
    that disagree with their label (Jeffreys' prior), so that it is never zero. A training that ends before it has
    learnt what it can overstates it. Linear in the size of the arrays.

    Raises:
        ExamplesError: the shapes differ, or no example was seen in the first rows.
    """
    losses, edges = table(loss, "losses"), table(margin, "margins")
    if losses.shape != edges.shape:
        raise ExamplesError(
            f"losses {losses.shape} and margins {edges.shape}: give both for the same epochs and examples"
        )
    first = _first_learnt(edges)
    count, wrong = _anchors(losses[first : first + ANCHOR_ROWS], edges[first : first + ANCHOR_ROWS])
    rate = (wrong + 0.5) / (count + 1.0)
    early = early_margins(edges)
    return Mislabeled(rate, _with_mean(np.where(np.isnan(early), mean_seen(edges), early), rate), count, wrong)


def early_margins(margin: Float[np.ndarray, " epochs examples"]) -> Float[np.ndarray, " examples"]:
    """Mean margin of each example over the first MARGIN_ROWS learnt rows, before labels are memorised; NaN if unseen.

    Raises:
        ExamplesError: the margins are no table of epochs and examples.
    """
    edges = table(margin, "margins")
    first = _first_learnt(edges)
    return mean_seen(edges[first : first + MARGIN_ROWS])


def run_mislabeled(run: Run) -> Mislabeled:
    """Probabilities for a recorded run, from `example_loss` and `example_margin`.

    The loss must be the cross-entropy without smoothing of labels.

    Raises:
        UnknownSeriesError: the run lacks one of the series.
        ExamplesError: see `mislabeled`.
    """
    recorded = trajectories(run, "example_loss", "example_margin").values
    return mislabeled(recorded["example_loss"], recorded["example_margin"])


def _first_learnt(edges: Float[np.ndarray, " epochs examples"]) -> int:
    right = (edges > 0).sum(axis=1) / np.maximum((~np.isnan(edges)).sum(axis=1), 1)
    gain = np.append(np.diff(right), 0.0)
    return int(np.argmax((right >= HALF_LEARNT * right.max()) & (gain <= SETTLED * right)))


def _anchors(
    losses: Float[np.ndarray, " rows examples"], edges: Float[np.ndarray, " rows examples"]
) -> tuple[int, int]:
    """How many anchors there are, and how many of them disagree with their label."""
    own = np.exp(-losses)
    other = np.exp(-np.maximum(losses + edges, 0.0))  # probability of the likeliest other class
    confidence, preference = mean_seen(np.maximum(own, other)), mean_seen(own - other)
    seen = int((~np.isnan(confidence)).sum())
    if not seen:
        raise ExamplesError("no example was seen in the first rows: pass the rows of whole epochs")
    anchors = np.argsort(-confidence, kind="stable")[: max(1, round(ANCHOR_SHARE * seen))]
    return len(anchors), int((preference[anchors] < 0).sum())


def _with_mean(edges: Float[np.ndarray, " examples"], mean: float) -> Float[np.ndarray, " examples"]:
    """Probabilities whose log-odds fall by SLOPE over a standard deviation of `edges`, shifted to have this mean."""
    known = edges[np.isfinite(edges)]
    spread = float(known.std()) if known.size else 0.0
    centred = (
        np.clip((edges - known.mean()) / spread, -1e3, 1e3) if spread > 0 else np.where(np.isnan(edges), edges, 0.0)
    )
    seen = centred[~np.isnan(centred)]
    low, high = -1e4, 1e4
    for _ in range(_HALVINGS):  # the mean rises with the shift
        middle = (low + high) / 2
        low, high = (middle, high) if float(_logistic(middle - SLOPE * seen).mean()) < mean else (low, middle)
    return _logistic((low + high) / 2 - SLOPE * centred)


def _logistic(values: np.ndarray) -> np.ndarray:
    result: np.ndarray = 0.5 * (1.0 + np.tanh(0.5 * values))
    return result


@dataclasses.dataclass(frozen=True)
class Reliability:
    """How probabilities compare with what is known to be wrong, in bins of equal width that hold any example.

    `error` is the expected calibration error, the mean distance of `predicted` and `observed` weighted by `counts`;
    `brier` the mean squared error of the probabilities, `brier_of_base_rate` that of one constant, the true share.
    """

    predicted: Float[np.ndarray, " bins"]
    observed: Float[np.ndarray, " bins"]
    counts: Int[np.ndarray, " bins"]
    error: float
    brier: float
    brier_of_base_rate: float


def reliability(
    probability: Float[np.ndarray, " examples"], wrong: Bool[np.ndarray, " examples"], bins: int = 10
) -> Reliability:
    """Check probabilities against known errors, such as labels flipped on purpose; examples without one are left out.

    Raises:
        ExamplesError: lengths differ, nothing has a probability, or one is outside [0, 1].
    """
    if np.shape(probability) != np.shape(wrong) or np.ndim(wrong) != 1:
        raise ExamplesError(f"probabilities {np.shape(probability)} for {np.shape(wrong)} examples: give one for each")
    keep = ~np.isnan(probability)
    chance, truth = np.asarray(probability, dtype=np.float64)[keep], np.asarray(wrong, dtype=np.float64)[keep]
    if not chance.size or chance.min() < 0 or chance.max() > 1 or bins < 1:
        raise ExamplesError(f"{chance.size} probabilities in {bins} bins: give at least one of each, all in [0, 1]")
    place = np.minimum((chance * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    filled = counts > 0
    predicted, observed = (
        np.bincount(place, values, minlength=bins)[filled] / counts[filled] for values in (chance, truth)
    )
    return Reliability(
        predicted=predicted,
        observed=observed,
        counts=counts[filled],
        error=float((np.abs(predicted - observed) * counts[filled]).sum() / len(chance)),
        brier=float(np.square(chance - truth).mean()),
        brier_of_base_rate=float(truth.mean() * (1.0 - truth.mean())),
    )
