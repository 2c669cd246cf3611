"""Advice and advisers, as plain frozen data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from separatrix.analysis import Diagnosis
from separatrix.runs import Run


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a change is expected to do: a `quantity` now (`before`) and then (`after`, between `low` and `high`)."""

    quantity: str
    before: float | None
    after: float
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; numbers that are not finite are null."""
        values = {"from": self.before, "to": self.after, "low": self.low, "high": self.high}
        return {"quantity": self.quantity, **{name: _finite(value) for name, value in values.items()}}


@dataclasses.dataclass(frozen=True)
class Advice:
    """One change to make.

    `setting` is what to change, `before` and `after` its values: a number, a name such as that of a schedule, or None
    where the run does not tell or it is the code that must change. `finding` is the code of the finding it follows
    from, empty for one that follows from measurements alone. `confidence` lies in [0, 1].
    """

    action: str
    setting: str
    before: float | str | None
    after: float | str | None
    expected: Expected | None
    evidence: Mapping[str, Any]
    source: str
    confidence: float
    finding: str = ""

    @property
    def numeric(self) -> bool:
        """Whether it names a value to set, rather than code to mend."""
        return self.after is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "action": self.action,
            "setting": self.setting,
            "from": self.before,
            "to": self.after,
            "expected": None if self.expected is None else self.expected.to_dict(),
            "evidence": dict(self.evidence),
            "confidence": self.confidence,
            "finding": self.finding,
            "source": self.source,
        }


@dataclasses.dataclass(frozen=True)
class Adviser:
    """One that gives advice; one a file, found by walking `separatrix.steer.advice`.

    `assess(run, diagnosis)` gives pieces of advice, none if there is nothing to say.
    """

    name: str
    says: str
    assess: Callable[[Run, Diagnosis], Sequence[Advice]]


@dataclasses.dataclass(frozen=True)
class Advising:
    """All advice for a run, that with numbers first; each part in the order of the findings it follows from.

    `note` says why there is none where too little was recorded for any.
    """

    run: str
    advice: tuple[Advice, ...]
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {"run": self.run, "advice": [each.to_dict() for each in self.advice], "note": self.note}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
