"""A run's series as rows of one long table, a stretch of steps at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from separatrix.runs.run import Run
from separatrix.runs.types import DIMS, SeriesData

_ROWS_AT_ONCE = 200_000


@dataclasses.dataclass(frozen=True)
class Rows:
    """Values of one series: of row i the step `steps[i]`, the labels `labels[dim][i]` and the value `values[i]`."""

    series: str
    steps: np.ndarray
    labels: Mapping[str, np.ndarray]
    values: np.ndarray


def dimensions(run: Run) -> tuple[str, ...]:
    """The dimensions that any series of the run has, in the package's order."""
    used: set[str] = set()
    for name in run.names():
        spec = run.spec(name)
        # Fixed labels may make a dimension that the spec does not name; plain scalars need not be read to know.
        used.update(run.series(name).coords if spec.labels else spec.dims)
    return tuple(dim for dim in DIMS if dim in used)


def rows(run: Run) -> Iterator[Rows]:
    """All values that were measured, NaN among them, by series and step; labels that were not measured are left out."""
    for name in run.names():
        data = run.series(name)
        width = int(np.prod(data.values.shape[1:], dtype=np.int64))
        stretch = max(1, _ROWS_AT_ONCE // max(1, width))
        for first in range(0, len(data.steps), stretch):
            yield _stretch(data, slice(first, first + stretch))


def _stretch(data: SeriesData, part: slice) -> Rows:
    steps, values, measured = data.steps[part], data.values[part], data.measured[part]
    if not data.coords:
        return Rows(data.name, steps, {}, values)
    where = np.nonzero(measured)
    labels = {
        dim: np.array(names, dtype=object)[index]
        for (dim, names), index in zip(data.coords.items(), where[1:], strict=True)
    }
    return Rows(data.name, steps[where[0]], labels, values[where])


@contextlib.contextmanager
def replaced_when_complete(destination: Path) -> Iterator[Path]:
    """A temporary path beside `destination` that takes its name when all went well and is removed otherwise."""
    descriptor, name = tempfile.mkstemp(prefix=f".{destination.name[:50]}.", dir=destination.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that nobody else may read; an export is meant to be handed on.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(destination)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
