"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tests.typechecking import check_shapes

from separatrix.runs import Event, RunWriter, SeriesSpec, Status

# None of these is imported yet. Rooms that record are left as they are: what they do at every step is timed, and
# jaxtyping is none of their imports.
check_shapes(
    "separatrix.operators",
    "separatrix.tasks",
    "separatrix.theory",
    "separatrix.reconstruct",
    "separatrix.steer.schedules",
    "separatrix.studies",
)

# Tests share few processors; one thread a process also makes sums reproducible.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

# Subprocesses, started in any folder, run the source next to these tests.
SOURCE = str(Path(__file__).resolve().parent.parent / "src")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (SOURCE, os.environ.get("PYTHONPATH"))))


class Completed(NamedTuple):
    """How a `separatrix` command ended and what it wrote."""

    code: int
    stdout: str
    stderr: str


class Labelled(NamedTuple):
    """Values over labels for `make_run`: `values` has shape (len(steps), len(labels)); NaN is stored as NaN."""

    dim: str
    labels: Sequence[str]
    steps: Sequence[int]
    values: Any


RunSeparatrix = Callable[..., Completed]
MakeRun = Callable[..., Path]


@pytest.fixture
def run_separatrix(tmp_path: Path) -> RunSeparatrix:
    """Runs a command as a subprocess, in `tmp_path` by default.

    run_separatrix("show", path, cwd=..., env={...}, stdin="", timeout=60)
    """

    def run(
        *arguments: str | os.PathLike[str],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout: float = 60.0,
    ) -> Completed:
        command = [sys.executable, "-m", "separatrix", *(os.fspath(argument) for argument in arguments)]
        environment = {**os.environ, "PYTHONIOENCODING": "utf-8", **(env or {})}
        given: dict[str, Any] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
        done = subprocess.run(
            command,
            cwd=cwd or tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
            **given,
        )
        return Completed(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a run and returns its folder.

    `scalars` maps a name to values at steps 1, 2, ... or to a mapping from step to value; `labelled` maps a name to a
    `Labelled` (or the equal tuple: dim, labels, steps, values). A key may also be a whole `SeriesSpec`.

        make_run("good", scalars={"loss": [2.0, 1.0]}, labelled={"gradient_rms": ("parameter", ["w"], [1], [[0.1]])})
    """

    def make(
        name: str = "run",
        *,
        scalars: Mapping[str | SeriesSpec, Sequence[float] | Mapping[int, float]] | None = None,
        labelled: Mapping[str | SeriesSpec, Labelled | tuple[Any, ...]] | None = None,
        events: Sequence[Event] = (),
        meta: Mapping[str, Any] | None = None,
        status: Status = Status.FINISHED,
        traceback: str | None = None,
        folder: Path | None = None,
    ) -> Path:
        path = (folder or tmp_path) / name
        writer = RunWriter(path)
        for key, value in (meta or {}).items():
            writer.meta(key, value)
        for key, values in (scalars or {}).items():
            series = writer.series(SeriesSpec(key) if isinstance(key, str) else key)
            points = values.items() if isinstance(values, Mapping) else enumerate(values, start=1)
            for step, number in points:
                writer.scalar(series, int(step), float(number))
        for key, entry in (labelled or {}).items():
            dim, labels, steps, table = entry
            spec = SeriesSpec(key, dims=(dim,)) if isinstance(key, str) else key
            series = writer.series(spec)
            positions = np.array(writer.positions(dim, list(labels)), dtype=np.int32)
            for step, row in zip(steps, np.asarray(table, dtype=spec.dtype), strict=True):
                writer.vector(series, int(step), np.ascontiguousarray(row), positions=positions)
        for event in events:
            writer.event(event.kind, event.message, step=event.step, severity=event.severity, data=event.data)
        writer.close(status, traceback)
        return path

    return make
