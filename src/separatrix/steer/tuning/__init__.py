"""Tuning: a search over a space of values with Optuna, each trial a recorded run; Hyperband as a plan."""

from separatrix.steer.tuning.brackets import Bracket, Rung, brackets
from separatrix.steer.tuning.errors import SweepError
from separatrix.steer.tuning.hyperband import Incumbent, Job, LedgerRow, Search, hyperband
from separatrix.steer.tuning.space import Parameter, Space, read_parameter, read_space

__all__ = [
    "Bracket",
    "Incumbent",
    "Job",
    "LedgerRow",
    "Parameter",
    "Rung",
    "Search",
    "Space",
    "SweepError",
    "brackets",
    "hyperband",
    "read_parameter",
    "read_space",
]
