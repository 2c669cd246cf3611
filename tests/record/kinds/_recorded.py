"""Records a kind of training."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import torch
from tests.record.kinds._matrix import SNAPSHOT_PROBE
from tests.record.kinds.kind import Kind
from tests.record.kinds.truth import Truth

from separatrix.record.recording import record


def recorded(kind: Kind, folder: Path, *, snapshots: bool = False) -> tuple[Path, Truth]:
    """The folder of the run, and what the training noted itself; with `snapshots`, some are taken too."""
    truth = Truth()
    torch.manual_seed(1)
    # Snapshots are dear beside the steps of a small training: here time must not decide whether they are taken.
    with (
        mock.patch("separatrix.record.budget._CREDIT_SECONDS", 1e6),
        mock.patch("separatrix.record.snapshots._SHORTEST_SECONDS", 1e3),
        record(run=folder / "run", budget=1.0, probes=["default", SNAPSHOT_PROBE] if snapshots else "default"),
    ):
        kind.train(truth)
    return folder / "run", truth
