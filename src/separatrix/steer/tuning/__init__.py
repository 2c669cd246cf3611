"""Tuning: a search over a space of values with Optuna, each trial a recorded run; Hyperband as a plan."""

from separatrix.steer.tuning.brackets import Bracket, Rung, brackets
from separatrix.steer.tuning.errors import SweepError
from separatrix.steer.tuning.hyperband import Incumbent, Job, LedgerRow, Search, hyperband
from separatrix.steer.tuning.objective import Metric
from separatrix.steer.tuning.result import Row, SweepResult
from separatrix.steer.tuning.space import Parameter, Space, from_settings, read_parameter, read_space
from separatrix.steer.tuning.sweep import SweepOptions, sweep
from separatrix.steer.tuning.target import STOP_ON, ScriptTarget, StudyTarget
from separatrix.steer.tuning.workers import LocalWorkers, ray_workers

__all__ = [
    "STOP_ON",
    "Bracket",
    "Incumbent",
    "Job",
    "LedgerRow",
    "LocalWorkers",
    "Metric",
    "Parameter",
    "Row",
    "Rung",
    "ScriptTarget",
    "Search",
    "Space",
    "StudyTarget",
    "SweepError",
    "SweepOptions",
    "SweepResult",
    "brackets",
    "from_settings",
    "hyperband",
    "ray_workers",
    "read_parameter",
    "read_space",
    "sweep",
]
