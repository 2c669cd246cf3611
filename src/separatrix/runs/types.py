"""The nouns that every room shares: series, events, findings and claims, as plain frozen data."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from separatrix.runs.run import Run

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

DIMS = (
    "step",
    "parameter",
    "module",
    "layer",
    "head",
    "example",
    "class",
    "mode",
    "copy",
    "optimizer",
    "term",
    "group",
)
"""Names of dimensions that series may carry; `step` comes first and is implied."""


class Status(enum.StrEnum):
    """How a run stands. KILLED is never written: it is derived when nobody holds the lock of a running run."""

    RUNNING = "running"
    FINISHED = "finished"
    CRASHED = "crashed"
    INTERRUPTED = "interrupted"
    KILLED = "killed"


@dataclasses.dataclass(frozen=True)
class SeriesSpec:
    """What a series is, before any value exists.

    `dims` lists the dimensions after `step`: empty for a scalar, `("parameter",)` for one value a parameter.
    `labels` holds fixed coordinates such as `{"optimizer": "opt_d"}`; series that share a name and differ in one
    label are read back as one array with that label as a dimension. `units` is empty for dimensionless ratios.
    """

    name: str
    dims: tuple[str, ...] = ()
    units: str = ""
    description: str = ""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    dtype: str = "float32"
    source: str = ""

    def __post_init__(self) -> None:
        for dim in (*self.dims, *self.labels):
            if dim not in DIMS or dim == "step":
                allowed = ", ".join(DIMS[1:])
                raise ValueError(f"series {self.name!r} has the unknown dimension {dim!r}; allowed: {allowed}")
        if np.dtype(self.dtype).kind not in "fiu":
            raise ValueError(f"series {self.name!r} has dtype {self.dtype!r}; only real numbers can be stored")


@dataclasses.dataclass(frozen=True)
class SeriesData:
    """One series in memory without xarray: `values` has shape (len(steps), *(len(c) for c in coords.values()))."""

    name: str
    steps: np.ndarray
    values: np.ndarray
    coords: Mapping[str, tuple[str, ...]]
    units: str = ""
    description: str = ""


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that happened once, at a step of a run or outside the steps."""

    kind: str
    message: str
    step: int | None = None
    severity: Severity = "info"
    time: float = 0.0
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Segment:
    """One uninterrupted piece of a run: the first one, or one added by a resumed recording."""

    index: int
    status: Status
    started: float
    ended: float | None
    first_step: int | None
    last_step: int | None
    hostname: str
    process_id: int
    traceback: str | None = None


@dataclasses.dataclass(frozen=True)
class Finding:
    """One diagnosis: what is wrong or remarkable, how sure, the evidence for it and what to do.

    `evidence` holds plain JSON values; the key `series` names the series that show it, so that the report can link
    there, `labels` the parameters or modules concerned. `confidence` lies in [0, 1]. `symptoms` are findings that this
    one explains.
    """

    code: str
    severity: Severity
    confidence: float
    summary: str
    remedy: str
    step: int | None = None
    evidence: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source: str = ""
    symptoms: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"finding {self.code!r} has severity {self.severity!r}; allowed: {', '.join(SEVERITIES)}")
        if not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"finding {self.code!r} has confidence {self.confidence}; it must lie in [0, 1]")


@dataclasses.dataclass(frozen=True)
class NotAssessed:
    """A finding that could not be judged, with the series or facts that it misses."""

    code: str
    missing: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class FindingRule:
    """A rule that turns a run into findings; one a file, discovered by walking `analysis.findings`.

    `needs` are the series without which nothing can be said; `assess` is only called when all of them have values. It
    may still return NotAssessed when the values do not suffice. `caused_by` lists codes whose presence, at an earlier
    or equal step, explains this finding: it is then folded under the cause.
    """

    code: str
    title: str
    needs: tuple[str, ...]
    source: str
    assess: Callable[[Run], Sequence[Finding] | NotAssessed]
    caused_by: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Claim:
    """A numeric statement of a paper next to what was measured; `passed` is recomputed from the numbers."""

    name: str
    kind: Literal["equal", "at_least", "at_most", "interval", "monotone"]
    expected: Any
    measured: Any
    tolerance: float = 0.0
