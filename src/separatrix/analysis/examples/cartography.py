"""Data maps: how confident a training was of each label, and how much that varied.

Swayamdipta et al. 2020, "Dataset Cartography: Mapping and Diagnosing Datasets with Training Dynamics".
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from separatrix.analysis.examples.errors import ExamplesError
from separatrix.analysis.examples.reading import mean_seen, table, trajectories
from separatrix.runs import Run

Region = Literal["easy-to-learn", "ambiguous", "hard-to-learn"]
REGIONS: tuple[Region, ...] = get_args(Region)


@dataclasses.dataclass(frozen=True)
class DataMap:
    """Coordinates of each example, over the epochs in which it was seen; NaN where it never was.

    `confidence` is the mean probability of its label, `variability` the standard deviation of that probability (divided
    by the number of epochs, not one less), `correctness` the share of epochs in which its label was predicted.
    """

    confidence: Float[np.ndarray, " examples"]
    variability: Float[np.ndarray, " examples"]
    correctness: Float[np.ndarray, " examples"]

    def region(self, region: Region, share: float = 0.33) -> Int[np.ndarray, " chosen"]:
        """The share of all seen examples that lie deepest in a region, deepest first; ties go by position.

        Easy-to-learn: the most confident; hard-to-learn: the least confident; ambiguous: the most variable. Regions
        overlap when shares are large.

        Raises:
            ExamplesError: the region is unknown or the share is not in (0, 1].
        """
        if region not in REGIONS or not 0.0 < share <= 1.0:
            raise ExamplesError(
                f"region {region!r}, share {share}: choose from {', '.join(REGIONS)}, a share in (0, 1]"
            )
        depth = {"easy-to-learn": self.confidence, "ambiguous": self.variability, "hard-to-learn": -self.confidence}
        seen = int((~np.isnan(self.confidence)).sum())
        return np.argsort(-depth[region], kind="stable")[: round(share * seen)]  # NaN sorts last


def data_map(
    probability: Float[np.ndarray, " epochs examples"], correct: Float[np.ndarray, " epochs examples"]
) -> DataMap:
    """The data map of probabilities of the assigned labels and of correctness (1 or 0); NaN is not seen.

    Raises:
        ExamplesError: shapes differ, or a probability is not in [0, 1].
    """
    chances, right = table(probability, "probabilities"), table(correct, "correctness")
    if chances.shape != right.shape or bool(((chances < 0) | (chances > 1)).any()):
        raise ExamplesError(
            f"probabilities {chances.shape} in [{np.nanmin(chances):g}, {np.nanmax(chances):g}] and correctness"
            f" {right.shape}: give two equal shapes and probabilities in [0, 1]"
        )
    confidence = mean_seen(chances)
    variability = np.sqrt(mean_seen(np.square(chances - confidence)))
    return DataMap(confidence, variability, mean_seen(right))


def run_data_map(run: Run) -> DataMap:
    """The data map of a recorded run, from `example_loss` and `example_correct`.

    The loss must be the cross-entropy without smoothing of labels, so that the probability is exp(-loss).

    Raises:
        UnknownSeriesError: the run lacks one of the series.
        ExamplesError: a loss is negative, as no cross-entropy is.
    """
    recorded = trajectories(run, "example_loss", "example_correct")
    return data_map(np.exp(-recorded.values["example_loss"]), recorded.values["example_correct"])
