"""What can be wrong or remarkable with a training: one file a finding, each a pure function of a run."""

from __future__ import annotations

from separatrix.runs import FindingRule
from separatrix.runs.discovery import members

ENTRY_POINTS = "separatrix.findings"
"""The entry-point group under which other packages offer rules; their codes read `vendor/code`."""


def rules() -> dict[str, FindingRule]:
    """Every known rule by its code: those of this package, then those of other installed packages."""
    return members(__name__, FindingRule, ENTRY_POINTS)
