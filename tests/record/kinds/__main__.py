"""Writes docs/matrix.md anew: `python -m tests.record.kinds`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.record.kinds import KINDS
from tests.record.kinds._matrix import PAGE, hidden_names, marks, page, recorded_names
from tests.record.kinds._recorded import recorded

from separatrix.runs import open_run

if __name__ == "__main__":
    columns, hidden = {}, {}
    for kind in KINDS.values():
        with tempfile.TemporaryDirectory() as folder:
            path, _ = recorded(kind, Path(folder))
            with open_run(path) as run:
                names, reasons = recorded_names(run), hidden_names(run)
        columns[kind.name] = marks(kind, names, reasons)
        hidden[kind.name] = reasons
    PAGE.write_text(page(columns, hidden))
