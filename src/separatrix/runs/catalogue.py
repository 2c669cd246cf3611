"""Finds the runs below a folder, and names new ones."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

from separatrix.runs.errors import SeparatrixError
from separatrix.runs.run import Run, open_run
from separatrix.runs.types import Status
from separatrix.runs.writer import DATABASE_NAME

DEFAULT_FOLDER = Path("separatrix-runs")
_SKIPPED_FOLDERS = frozenset({"node_modules", "__pycache__", "site-packages"})
_LONGEST_NAME = 100
_LAST_LOSS = """
    SELECT value_at(data, length(data) / 8 - 1) FROM points WHERE id = (
        SELECT p.id FROM points p JOIN series s ON s.id = p.series WHERE s.name = 'loss'
        ORDER BY step_at(p.first, p.stride, p.steps, length(p.data) / 8 - 1) DESC, p.id DESC LIMIT 1
    )
"""


@dataclasses.dataclass(frozen=True)
class CatalogueEntry:
    """One run folder: how it stands, or in `problem` one line saying why it cannot be read.

    `started` is in seconds since the epoch; `last_step` and `last_loss` are those stored last; None where not known.
    """

    path: Path
    status: Status | None = None
    started: float | None = None
    last_step: int | None = None
    last_loss: float | None = None
    series: int = 0
    problem: str | None = None


def find_runs(folder: str | os.PathLike[str]) -> tuple[CatalogueEntry, ...]:
    """The runs in and below `folder`, sorted by path; those that cannot be read are among them, with the reason.

    Hidden folders, those of installed packages, symbolic links and folders inside a run are not searched.
    """
    return tuple(_entry(path) for path in sorted(_run_folders(Path(folder))))


def fresh_run_path(stem: str, folder: Path = DEFAULT_FOLDER, now: float | None = None) -> Path:
    """A path for a new run that does not exist yet: folder/stem-YYYYmmdd-HHMMSS, with -2, -3 ... added when needed."""
    safe = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in stem)[:_LONGEST_NAME]
    stamped = f"{safe}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}"
    path, count = folder / stamped, 1
    while os.path.lexists(path):
        count += 1
        path = folder / f"{stamped}-{count}"
    return path


def _run_folders(folder: Path) -> Iterator[Path]:
    for name, folders, files in os.walk(folder):
        if DATABASE_NAME in files or DATABASE_NAME in folders:
            folders.clear()
            yield Path(name)
        else:
            folders[:] = [f for f in folders if not f.startswith(".") and f not in _SKIPPED_FOLDERS]


def _entry(path: Path) -> CatalogueEntry:
    try:
        with open_run(path) as run:
            segments = run.segments
            steps = [segment.last_step for segment in segments if segment.last_step is not None]
            return CatalogueEntry(
                path=path,
                status=run.status,
                started=segments[0].started,
                last_step=max(steps, default=None),
                last_loss=_last_loss(run),
                series=len(run),
            )
    except SeparatrixError as error:
        return CatalogueEntry(path=path, problem=str(error))


def _last_loss(run: Run) -> float | None:
    # The end of one stretch, not the whole series: a folder may hold many long runs.
    rows = run.sql(_LAST_LOSS)
    if not rows:
        return None
    return float("nan") if rows[0][0] is None else float(rows[0][0])
