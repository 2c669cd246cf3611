"""Forecasters compared over systems: trials of one model on one system, run in parallel, ranked with a test."""

from separatrix.reconstruct.benchmark.ranking import Ranking, ranking
from separatrix.reconstruct.benchmark.running import run_trials
from separatrix.reconstruct.benchmark.selection import DEFAULT_SYSTEMS, usable_models
from separatrix.reconstruct.benchmark.trial import Outcome, Trial, run_trial

__all__ = [
    "DEFAULT_SYSTEMS",
    "Outcome",
    "Ranking",
    "Trial",
    "ranking",
    "run_trial",
    "run_trials",
    "usable_models",
]
