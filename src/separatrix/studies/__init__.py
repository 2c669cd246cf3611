"""Papers' claims made runnable: each study trains, measures, and holds the numbers against what was claimed."""

from separatrix.runs.types import Claim
from separatrix.studies.running import Result, find_study, run_study, studies
from separatrix.studies.study import (
    Control,
    Outcome,
    Paper,
    Plan,
    Progress,
    Setting,
    SettingError,
    Settings,
    Statement,
    Study,
    StudyError,
)

__all__ = [
    "Claim",
    "Control",
    "Outcome",
    "Paper",
    "Plan",
    "Progress",
    "Result",
    "Setting",
    "SettingError",
    "Settings",
    "Statement",
    "Study",
    "StudyError",
    "find_study",
    "run_study",
    "studies",
]
