"""Time must not decide what a test records: a loaded machine is slow at moments that nobody can foresee."""

from __future__ import annotations

import pytest


def unhurried(patch: pytest.MonkeyPatch) -> None:
    """Every due snapshot can be paid, and no probe is aborted for taking long."""
    patch.setattr("separatrix.record.budget._CREDIT_SECONDS", 1e6)
    patch.setattr("separatrix.record.snapshots._SHORTEST_SECONDS", 1e3)
