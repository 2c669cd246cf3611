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

CHANGE_SERIES = frozenset(
    {"learning_rate", "momentum", "weight_decay", "beta1", "beta2", "epsilon", "skipped_steps", "loss_scale"}
)
"""Series recorded only when they change: each value holds until the next one."""


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
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
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
    """One series in memory without xarray: `values` has shape (len(steps), *(len(c) for c in coords.values())).

    `measured`, boolean and of the same shape, tells a value that was NaN from a label that has no value at a step; the
    reader gives a read-only view of one True where every cell was measured, as in any scalar series.
    """

    name: str
    steps: np.ndarray
    values: np.ndarray
    measured: np.ndarray
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


ClaimKind = Literal["equal", "at_least", "at_most", "interval", "monotone"]
CLAIM_KINDS: tuple[ClaimKind, ...] = ("equal", "at_least", "at_most", "interval", "monotone")
DIRECTIONS = ("increasing", "decreasing")
"""What a monotone claim can expect."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A numeric statement of a paper next to what was measured; `passed` is recomputed from the numbers.

    `measured` is a number or a sequence of numbers, of which all must fit. `expected` is, by kind: `equal`: what each
    measured number lies within `tolerance` of; `at_least`, `at_most`: a bound, which `tolerance` moves outwards;
    `interval`: (low, high), ends included and moved outwards by `tolerance`; `monotone`: "increasing" or "decreasing",
    for a sequence of two or more whose every step goes that way by more than `-tolerance`: strictly where it is zero.
    What was measured as NaN or None fits nothing.

    Raises:
        ValueError: the kind is unknown, or the expectation or tolerance is no such number.
    """

    name: str
    kind: ClaimKind
    expected: Any
    measured: Any
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in CLAIM_KINDS:
            raise ValueError(f"claim {self.name!r} has kind {self.kind!r}; allowed: {', '.join(CLAIM_KINDS)}")
        if not 0.0 <= self.tolerance < float("inf"):
            raise ValueError(f"claim {self.name!r} has tolerance {self.tolerance}; it must be finite and not negative")
        if self.kind == "monotone":
            if self.expected not in DIRECTIONS:
                raise ValueError(f"claim {self.name!r} expects {self.expected!r}; allowed: {', '.join(DIRECTIONS)}")
            return
        expected = np.asarray(self.expected, dtype=np.float64)
        fits = expected.shape == (2,) and expected[0] <= expected[1] if self.kind == "interval" else expected.ndim == 0
        if not (fits and np.isfinite(expected).all()):
            shape = "two finite numbers, low and high" if self.kind == "interval" else "one finite number"
            raise ValueError(f"claim {self.name!r} expects {self.expected!r}; give {shape}")

    @property
    def passed(self) -> bool:
        """Whether what was measured fits what is expected."""
        measured = np.asarray(self.measured, dtype=np.float64)
        if measured.size == 0 or np.isnan(measured).any():
            return False
        if self.kind == "monotone":
            if measured.ndim != 1 or measured.size < 2 or not np.isfinite(measured).all():
                return False
            steps = np.diff(measured) if self.expected == "increasing" else -np.diff(measured)
            return bool((steps > -self.tolerance).all())
        expected = np.asarray(self.expected, dtype=np.float64)
        low = {"at_most": -np.inf}.get(self.kind, expected.min() - self.tolerance)
        high = {"at_least": np.inf}.get(self.kind, expected.max() + self.tolerance)
        return bool(((measured >= low) & (measured <= high)).all())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with `passed`: NaN becomes null, infinities the strings "inf" and "-inf"."""
        return {
            "name": self.name,
            "kind": self.kind,
            "expected": list(self.expected) if self.kind == "interval" else self.expected,
            "measured": _jsonable(np.asarray(self.measured, dtype=np.float64).tolist()),
            "tolerance": self.tolerance,
            "passed": self.passed,
        }


def _jsonable(value: Any) -> Any:
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    return value if np.isfinite(value) else None if np.isnan(value) else str(value)
