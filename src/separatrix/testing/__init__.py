"""Contract tests, shipped for authors of probes and studies and for whoever doubts that recording changes nothing."""

from separatrix.testing.changes_nothing import Comparison, check_changes_nothing
from separatrix.testing.probe_contract import check_probe, example_views
from separatrix.testing.snapshot_contract import example_snapshots
from separatrix.testing.study_contract import check_study, drawn_settings

__all__ = [
    "Comparison",
    "check_changes_nothing",
    "check_probe",
    "check_study",
    "drawn_settings",
    "example_snapshots",
    "example_views",
]
