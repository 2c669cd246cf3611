"""Dynamics of single examples: which are mislabelled, hard, ambiguous, forgotten, alike or opposed.

Functions take arrays (epochs, examples), NaN where an example was not seen; those whose name begins with `run` take a
recorded run and give values in the order of its examples.
"""

from separatrix.analysis.examples.archaeology import (
    Kinds,
    confusion,
    kinds,
    run_kinds,
    typical_and_atypical,
)
from separatrix.analysis.examples.cartography import REGIONS, DataMap, Region, data_map, run_data_map
from separatrix.analysis.examples.errors import ExamplesError
from separatrix.analysis.examples.forgetting import Forgetting, forgetting, run_forgetting
from separatrix.analysis.examples.margins import (
    ThresholdVerdict,
    area_under_margin,
    below_threshold,
    margins,
    run_area_under_margin,
    threshold_examples,
)
from separatrix.analysis.examples.mislabeled import (
    Mislabeled,
    Reliability,
    early_margins,
    mislabeled,
    reliability,
    run_mislabeled,
)
from separatrix.analysis.examples.opposing import (
    OpposingGroups,
    alternation,
    group_changes,
    opposing_groups,
    run_opposing_groups,
    sharp_rows,
)
from separatrix.analysis.examples.reading import Trajectories, trajectories
from separatrix.analysis.examples.scores import (
    agreement_of_seeds,
    agreement_with_the_end,
    error_norms,
    mean_over_seeds,
    most_important,
    rank_correlation,
    run_scores,
)

__all__ = [
    "REGIONS",
    "DataMap",
    "ExamplesError",
    "Forgetting",
    "Kinds",
    "Mislabeled",
    "OpposingGroups",
    "Region",
    "Reliability",
    "ThresholdVerdict",
    "Trajectories",
    "agreement_of_seeds",
    "agreement_with_the_end",
    "alternation",
    "area_under_margin",
    "below_threshold",
    "confusion",
    "data_map",
    "early_margins",
    "error_norms",
    "forgetting",
    "group_changes",
    "kinds",
    "margins",
    "mean_over_seeds",
    "mislabeled",
    "most_important",
    "opposing_groups",
    "rank_correlation",
    "reliability",
    "run_area_under_margin",
    "run_data_map",
    "run_forgetting",
    "run_kinds",
    "run_mislabeled",
    "run_opposing_groups",
    "run_scores",
    "sharp_rows",
    "threshold_examples",
    "trajectories",
    "typical_and_atypical",
]
