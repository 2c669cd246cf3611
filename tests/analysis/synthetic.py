"""Runs made of given numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from separatrix.runs import Run, RunWriter, SeriesSpec, open_run

Vectors = Mapping[str, tuple[str, Mapping[str, Sequence[float]]]]


def run_of(
    path: Path,
    scalars: Mapping[str, Any],
    vectors: Vectors | None = None,
    meta: Mapping[str, Any] | None = None,
    steps: Sequence[int] | None = None,
    events: Sequence[Mapping[str, Any]] = (),
) -> Run:
    """A run of scalars (values, or values by optimizer) and vectors: name -> (dim, label -> values)."""
    writer = RunWriter(path)
    for name, given in scalars.items():
        for label, values in given.items() if isinstance(given, Mapping) else [("", given)]:
            series = writer.series(SeriesSpec(name, labels={"optimizer": label} if label else {}))
            for step, value in enumerate(values):
                writer.scalar(series, step, float(value))
    for name, (dim, columns) in (vectors or {}).items():
        series = writer.series(SeriesSpec(name, (dim,)))
        positions = np.array(writer.positions(dim, list(columns)), dtype=np.int32)
        rows = np.array(list(columns.values()), dtype=np.float32).T
        for index, row in enumerate(rows):
            writer.vector(series, steps[index] if steps else index, row, positions=positions)
    for key, value in (meta or {}).items():
        writer.meta(key, value)
    for event in events:
        given_event = dict(event)
        writer.event(given_event.pop("kind"), "", **given_event)
    writer.close()
    return open_run(path)


def parameter(name: str, shape: Sequence[int] = (8, 8), **facts: Any) -> dict[str, Any]:
    """One entry of a run's parameters."""
    default = {
        "name": name,
        "shape": list(shape),
        "dtype": "float32",
        "numel": int(np.prod(shape)),
        "requires_grad": True,
        "optimizer": "optimizer",
        "tied": [],
        "module": name.rpartition(".")[0],
    }
    return {**default, **facts}
