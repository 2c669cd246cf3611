"""What a study is: a paper's claim made runnable, with settings in which it holds and controls that must fail."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from separatrix.runs.paper import Paper
from separatrix.runs.settings import DeclarationError, Setting, SettingError, Settings, complete, find_setting
from separatrix.runs.types import Claim, ClaimKind

__all__ = [
    "Control",
    "Numbers",
    "Outcome",
    "Paper",
    "Plan",
    "Progress",
    "Setting",
    "SettingError",
    "Settings",
    "Statement",
    "Study",
    "StudyError",
]

Numbers = float | Sequence[float]
Progress = Callable[[], object]
"""Called by a study after each of the runs that it planned."""


class StudyError(DeclarationError):
    """A study that is not what it declares."""


@dataclasses.dataclass(frozen=True)
class Statement:
    """A claim before anything is measured: what is expected (see `Claim`), and in words what that says."""

    name: str
    kind: ClaimKind
    expected: Any
    says: str
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        self.beside(math.nan)

    def beside(self, measured: Numbers, name: str | None = None) -> Claim:
        """The claim that sets what was measured beside what is expected."""
        return Claim(name or self.name, self.kind, self.expected, measured, self.tolerance)

    @property
    def expectation(self) -> str:
        """What is expected, in words."""
        within = f", within {self.tolerance:g}" if self.tolerance else ""
        if self.kind == "monotone":
            return f"{self.expected}{within}"
        if self.kind == "interval":
            return f"{self.expected[0]:g} to {self.expected[1]:g}{within}"
        word = {"equal": "", "at_least": "at least ", "at_most": "at most "}[self.kind]
        return f"{word}{self.expected:g}{within}"


@dataclasses.dataclass(frozen=True)
class Control:
    """A statement measured where it must fail: under a wrong theory, on shuffled data, without the cause."""

    name: str
    refutes: str
    says: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """The work ahead: `runs` runs of about `seconds` each, on one core of a present-day processor."""

    runs: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a study measured, by the name of the statement or control; `series` are curves for those who look closer."""

    measured: Mapping[str, Numbers]
    controls: Mapping[str, Numbers]
    series: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Study:
    """A paper's claim made runnable; one a file, found by walking `separatrix.studies`.

    `run(settings, seed, quick, progress)` trains and measures; it draws from generators of its own that `seed` starts,
    and calls `progress()` after each of the runs that `plan(settings, quick)` announces. A quick run takes less than a
    minute and measures the same statements; `smoke` are settings with which it takes at most 5 s. `id` is the
    paper's, `slug` a name for people.

    Raises:
        StudyError: names are missing, repeated or point nowhere; smoke settings are outside their range.
    """

    id: str
    slug: str
    paper: Paper
    summary: str
    settings: tuple[Setting, ...]
    statements: tuple[Statement, ...]
    controls: tuple[Control, ...]
    plan: Callable[[Settings, bool], Plan]
    run: Callable[[Settings, int, bool, Progress], Outcome]
    smoke: Settings = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.slug) or not self.id:
            raise StudyError(f"study {self.id!r} has the slug {self.slug!r}: give an id, and words joined by hyphens")
        stated = [statement.name for statement in self.statements]
        for what, names in (
            ("settings", [setting.name for setting in self.settings]),
            ("statements and controls", [*stated, *(control.name for control in self.controls)]),
        ):
            if len(set(names)) < len(names) or "" in names:
                raise StudyError(f"{what} of study {self.id} share names or have none: give each its own")
        if lost := [control.name for control in self.controls if control.refutes not in stated]:
            raise StudyError(f"control {lost[0]!r} of study {self.id} refutes no statement: name one that exists")
        self.complete(self.smoke)

    def setting(self, name: str) -> Setting:
        """The setting of that name.

        Raises:
            SettingError: the study has none.
        """
        return find_setting(self.settings, name, f"study {self.id}")

    def complete(self, given: Settings) -> dict[str, Any]:
        """`given` with the defaults of what it leaves out, in the order of the settings.

        Raises:
            SettingError: a name is unknown, or a value outside its range.
        """
        return complete(self.settings, given, f"study {self.id}")

    def statement(self, name: str) -> Statement:
        """The statement of that name, which must exist."""
        return next(statement for statement in self.statements if statement.name == name)
