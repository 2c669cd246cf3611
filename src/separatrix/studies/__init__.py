"""Papers' claims made runnable: each study trains, measures, and holds the numbers against what was claimed."""

from separatrix.runs.paper import Paper
from separatrix.runs.settings import DeclarationError, Setting, SettingError, Settings
from separatrix.runs.types import Claim
from separatrix.studies.running import Result, find_study, run_study, studies
from separatrix.studies.study import (
    Control,
    Outcome,
    Plan,
    Progress,
    Statement,
    Study,
    StudyError,
)

__all__ = [
    "Claim",
    "Control",
    "DeclarationError",
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
