"""Records a kind of training."""

from __future__ import annotations

from pathlib import Path

import torch
from tests.record.kinds.kind import Kind
from tests.record.kinds.truth import Truth

from separatrix.record.recording import record


def recorded(kind: Kind, folder: Path) -> tuple[Path, Truth]:
    """The folder of the run, and what the training noted itself."""
    truth = Truth()
    torch.manual_seed(1)
    with record(run=folder / "run", budget=1.0):
        kind.train(truth)
    return folder / "run", truth
