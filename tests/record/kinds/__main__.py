"""Writes docs/matrix.md anew: `python -m tests.record.kinds`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from tests.record.kinds import KINDS
from tests.record.kinds._matrix import PAGE, hidden_names, marks, page, recorded_names
from tests.record.kinds._recorded import recorded

from separatrix.runs import open_run

if __name__ == "__main__":
    # A child forked where threads have computed hangs as soon as it computes with threads itself.
    torch.set_num_threads(1)
    columns = {}
    for kind in KINDS.values():
        with tempfile.TemporaryDirectory() as folder:
            path, _ = recorded(kind, Path(folder), snapshots=True)
            with open_run(path) as run:
                columns[kind.name] = marks(kind, recorded_names(run), hidden_names(run))
    PAGE.write_text(page(columns, KINDS))
