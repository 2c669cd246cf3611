"""Trajectories as runs: one series a variable, so that the report, comparison and exports show them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from separatrix.runs import RunWriter, SeriesSpec, Status
from separatrix.systems.trajectory import Trajectory

META_KEY = "system"
"""The key of a run's facts that names the system, its parameters and the interval between points."""


def write(trajectory: Trajectory, path: str | os.PathLike[str], *, config: dict[str, Any] | None = None) -> Path:
    """Write a trajectory as a run: step k is point k, at `times[k]`; the copies are a dimension if there are several.

    Variables keep their names; `config` holds what else should be noted, such as parameters and the seed.

    Raises:
        RunExistsError: the path holds something.
    """
    system = trajectory.system
    writer = RunWriter(path)
    try:
        facts = {"name": system.name, "kind": system.kind, "dt": trajectory.dt, "start": float(trajectory.times[0])}
        writer.meta(META_KEY, facts | {"variables": list(system.variables)})
        writer.meta("config", {"system": system.name, "dt": trajectory.dt, **(config or {})})
        copies = len(trajectory.values)
        labels = [str(copy) for copy in range(copies)]
        if copies > 1:
            writer.positions("copy", labels)
        for i, name in enumerate(system.variables):
            description = f"variable {name} of system {system.name}"
            dims = ("copy",) if copies > 1 else ()
            series = writer.series(
                SeriesSpec(name, dims, description=description, dtype="float64", source=system.source)
            )
            for step, value in enumerate(trajectory.values[:, :, i].T.copy()):
                if copies > 1:
                    writer.vector(series, step, value)
                else:
                    writer.scalar(series, step, float(value[0]))
    except BaseException as error:
        writer.close(Status.CRASHED, repr(error))
        raise
    writer.close()
    return Path(path)
