"""A run, read back: series as labelled arrays, events, facts, status, SQL."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from separatrix.runs import reader
from separatrix.runs.errors import RunUnreadableError, UnknownSeriesError, UsageError
from separatrix.runs.source import HEARTBEAT_PATIENCE, Source, readable
from separatrix.runs.types import Event, Segment, SeriesData, SeriesSpec, Status
from separatrix.runs.writer import DATABASE_NAME, LOCK_NAME

if TYPE_CHECKING:
    import pandas
    import xarray

    from separatrix.analysis import Diagnosis


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run folder (or its run.sqlite) for reading; live runs may be opened too.

    Raises:
        RunUnreadableError: the path holds no run, or a damaged, foreign or altered one.
    """
    return Run(path)


class Run:
    """One recorded, predicted or simulated trajectory, read only.

    `run["loss"]` is an `xarray.DataArray` with dimension `step` and, where it has them, labelled dimensions. Series
    have steps of their own. `rank` selects the process of a distributed training. What is asked of a live run is
    answered as of now.
    """

    def __init__(self, path: str | os.PathLike[str], *, rank: int = 0) -> None:
        given = Path(path)
        self.path = given.parent if given.name == DATABASE_NAME and given.is_file() else given
        self.rank = rank
        database = self.path / DATABASE_NAME if rank == 0 else self.path / "ranks" / f"{rank}.sqlite"
        lock = self.path / LOCK_NAME if rank == 0 else database.with_suffix(".lock")
        self._source = Source(database, lock, self.path)
        self._cache: dict[str, tuple[int, Any]] = {}
        self._read_once("meta", reader.read_meta)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks of the processes that recorded, 0 first."""
        others = (p.stem for p in (self.path / "ranks").glob("*.sqlite"))
        return (0, *sorted(int(stem) for stem in others if stem.isdigit()))

    @property
    def meta(self) -> Mapping[str, Any]:
        """Every fact stored about the run, by key; of a live run, as of now."""
        meta: dict[str, Any] = self._read_once("meta", reader.read_meta)
        return meta

    @property
    def config(self) -> Mapping[str, Any]:
        """What the training was told: arguments, settings given to `record`, optimizer options."""
        config: Mapping[str, Any] = self.meta.get("config", {})
        return config

    @property
    def environment(self) -> Mapping[str, Any]:
        """Where it ran: versions, hardware, allow-listed environment variables."""
        environment: Mapping[str, Any] = self.meta.get("environment", {})
        return environment

    @property
    def parameters(self) -> tuple[Mapping[str, Any], ...]:
        """Name, shape, dtype, requires_grad, optimizer and tied names of each parameter, as last noted.

        `unused_gradient` says of one that no optimizer holds whether a gradient of it was ever seen; None of others.
        """
        return tuple(self.meta.get("parameters", ()))

    @property
    def modules(self) -> tuple[Mapping[str, Any], ...]:
        """Name, kind (class name) and mode_effect of each leaf module.

        `mode_effect` is what differs between training and evaluation mode: "dropout", "batch statistics" or "".
        """
        return tuple(self.meta.get("modules", ()))

    @property
    def losses(self) -> tuple[Mapping[str, Any], ...]:
        """What the first calls of each kind of loss function in training showed, in the order they were heard.

        `name` (torch's functional name), `reduction`, `weighted`, `label_smoothing`, shapes of `outputs` and `targets`,
        `target_dtype`, `broadcast` (whether the shapes multiply one another), `mixed_targets` (whether the same outputs
        met several targets in one step, as in mixup), `target_range`, and `target_values` where these are few whole
        numbers, else None.
        """
        return tuple(self.meta.get("losses", ()))

    @property
    def schedulers(self) -> tuple[Mapping[str, Any], ...]:
        """Learning-rate schedulers of torch, in the order they were made; empty if none was heard.

        `name` (the class), `length` (after how many of its own steps it is through, None where it has no end) and
        `steps` (how many it has taken).
        """
        return tuple(self.meta.get("schedulers", ()))

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The pieces of the run in the order they were recorded; a run never resumed has one."""
        with self._source.snapshot() as connection:
            stored = reader.read_segments(connection)
        derived = [
            dataclasses.replace(segment, status=self._derived(segment, heartbeat, last=segment is stored[-1][0]))
            for segment, heartbeat in stored
        ]
        return tuple(derived)

    @property
    def status(self) -> Status:
        """How the run stands now; a running run whose writer is gone is KILLED."""
        segments = self.segments
        if not segments:
            raise RunUnreadableError(
                f"{self.path} holds no segment: the file was truncated or altered; restore it from a copy"
            )
        return segments[-1].status

    @property
    def traceback(self) -> str | None:
        """The traceback that ended the script, if it crashed."""
        segments = self.segments
        return segments[-1].traceback if segments else None

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened once, in order of writing."""
        with self._source.snapshot() as connection:
            return reader.read_events(connection)

    def names(self) -> tuple[str, ...]:
        """Names of the series that hold at least one value, sorted."""
        return tuple(sorted(self._specs))

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._specs)

    def spec(self, name: str) -> SeriesSpec:
        """What the series is: dimensions, units, description."""
        variants = self._specs.get(name)
        if not variants:
            raise self._unknown(name)
        return variants[0][1]

    def series(self, name: str) -> SeriesData:
        """One series as plain arrays (no xarray): steps, values of shape (steps, *labels), labels by dimension.

        Raises:
            UnknownSeriesError: the run holds no such series.
            RunUnreadableError: its values are damaged.
        """
        with self._source.snapshot() as connection:
            variants = self._specs.get(name)
            if variants:
                return reader.read_series(connection, variants)
        raise self._unknown(name)

    def __getitem__(self, name: str) -> xarray.DataArray:
        """One series as a labelled array; see `series` for errors."""
        import xarray

        data = self.series(name)
        coords: dict[str, Any] = {"step": data.steps, **{dim: list(labels) for dim, labels in data.coords.items()}}
        if name != "epoch" and "epoch" in self:
            epoch = self.series("epoch")
            if not epoch.coords and epoch.steps.size:
                where = np.clip(np.searchsorted(epoch.steps, data.steps, side="right") - 1, 0, None)
                coords["epoch"] = ("step", epoch.values[where])
        attrs = {"units": data.units, "description": data.description}
        return xarray.DataArray(data.values, dims=("step", *data.coords), coords=coords, name=name, attrs=attrs)

    def to_pandas(self, *names: str) -> pandas.DataFrame:
        """A long table of the named series (all when none is named): series, step, labels, value.

        A label that has no value at a step has no row there; a value that was NaN has one.
        """
        import pandas

        frames = []
        for name in names or self.names():
            data = self.series(name)
            index = pandas.MultiIndex.from_product([data.steps, *data.coords.values()], names=["step", *data.coords])
            frame = index.to_frame(index=False)
            frame.insert(0, "series", name)
            frame["value"] = data.values.reshape(-1)
            frames.append(frame if data.measured.all() else frame[data.measured.reshape(-1)])
        return (
            pandas.concat(frames, ignore_index=True)
            if frames
            else pandas.DataFrame(columns=["series", "step", "value"])
        )

    def sql(self, query: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Rows of a read-only SQL query over the run.

        Views: `scalars(name, labels, step, value)`, where a step written twice has two rows, and `arrays(name, labels,
        step, series, first, positions, data)`, beside the tables. `label_value(label, series, first, positions, data)`
        reads one label out of a vector. SQL has no NaN: NULL stands for it, and for a label without a value, unless
        `label_measured`, of the same arguments, is asked whether it has one.

        Raises:
            UsageError: the query is wrong or would write.
        """
        try:
            with contextlib.closing(self._query_connection()) as connection:
                return connection.execute(query, parameters).fetchall()
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(
                f"the query failed ({reason}): it may read the views scalars and arrays and the run's tables"
            ) from error

    def diagnose(self) -> Diagnosis:
        """What is wrong or remarkable; the same as `separatrix.diagnose(run)`."""
        from separatrix.analysis import diagnose

        return diagnose(self)

    def of_rank(self, rank: int) -> Run:
        """The part of a distributed run that process `rank` recorded."""
        return Run(self.path, rank=rank)

    def close(self) -> None:
        """Close the file; reading further opens it again."""
        self._source.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, status={self.status.value}, series={len(self)})"

    def _repr_html_(self) -> str:
        rows = []
        for name in self.names():
            spec = self.spec(name)
            cells = (name, ", ".join(("step", *spec.dims)), spec.units, spec.description)
            rows.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>")
        head = "".join(f"<th>{title}</th>" for title in ("series", "dimensions", "units", "what it is"))
        title = f"{html.escape(self.name)}: {self.status.value}"
        return f"<p><b>{title}</b></p><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"

    @property
    def _specs(self) -> dict[str, list[tuple[int, SeriesSpec]]]:
        specs: dict[str, list[tuple[int, SeriesSpec]]] = self._read_once("specs", reader.read_specs)
        return specs

    def _read_once(self, what: str, read: Callable[[sqlite3.Connection], Any]) -> Any:
        """What was read before, unless the run may have changed since."""
        with self._source.snapshot() as connection:
            known = self._cache.get(what)
            if known is None or known[0] != self._source.generation:
                known = self._cache[what] = self._source.generation, read(connection)
            return known[1]

    def _unknown(self, name: str) -> UnknownSeriesError:
        import difflib

        close = difflib.get_close_matches(name, self.names(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else f"it holds {', '.join(self.names()) or 'nothing'}"
        return UnknownSeriesError(f"the run {self.name} holds no series {name!r}: {hint}")

    def _query_connection(self) -> sqlite3.Connection:
        connection = self._source.connect()
        try:
            with readable(self.path):
                for name, (arguments, function) in reader.query_functions(connection).items():
                    connection.create_function(name, arguments, function, deterministic=True)
                for view in reader.QUERY_VIEWS:
                    connection.execute(view)
            connection.execute("PRAGMA query_only=ON")
            connection.set_authorizer(_deny_reaching_out)
        except BaseException:
            connection.close()
            raise
        return connection

    def _derived(self, segment: Segment, heartbeat: float, last: bool) -> Status:
        """Only the last segment can be running: an earlier one that never said how it ended was killed."""
        if segment.status is not Status.RUNNING or not last:
            return Status.KILLED if segment.status is Status.RUNNING else segment.status
        held = self._source.held() if segment.hostname == socket.gethostname() else None
        if held is None:
            held = abs(time.time() - heartbeat) < HEARTBEAT_PATIENCE
        return Status.RUNNING if held else Status.KILLED


def _deny_reaching_out(action: int, *arguments: object) -> int:
    denied = (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA)
    return sqlite3.SQLITE_DENY if action in denied else sqlite3.SQLITE_OK
