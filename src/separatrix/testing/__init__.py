"""Contract tests, shipped for authors of members and for whoever doubts that recording changes nothing."""

from separatrix.testing.changes_nothing import Comparison, check_changes_nothing
from separatrix.testing.optimizer_contract import check_optimizer
from separatrix.testing.probe_contract import check_probe, example_views
from separatrix.testing.reconstruction_contract import check_reconstructor
from separatrix.testing.settings_contract import check_settings, drawn_settings
from separatrix.testing.snapshot_contract import example_snapshots
from separatrix.testing.study_contract import check_study
from separatrix.testing.theory_contract import check_theory

__all__ = [
    "Comparison",
    "check_changes_nothing",
    "check_optimizer",
    "check_probe",
    "check_reconstructor",
    "check_settings",
    "check_study",
    "check_theory",
    "drawn_settings",
    "example_snapshots",
    "example_views",
]
