"""What a study is: a paper's claim made runnable, with settings in which it holds and controls that must fail."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from separatrix.runs.errors import SeparatrixError, UsageError
from separatrix.runs.types import Claim, ClaimKind

Numbers = float | Sequence[float]
Settings = Mapping[str, Any]
"""A value for every setting of a study, by name."""

Progress = Callable[[], object]
"""Called by a study after each of the runs that it planned."""

SettingKind = Literal["int", "float", "str", "bool"]
_TYPES: Mapping[str, type] = {"int": int, "float": float, "str": str, "bool": bool}


class StudyError(SeparatrixError):
    """A study that is not what it declares."""


class SettingError(UsageError):
    """A setting that a study does not have, or a value that it does not allow."""


@dataclasses.dataclass(frozen=True)
class Paper:
    """Where a study's claims come from; `year` is that of its first appearance."""

    title: str
    authors: tuple[str, ...]
    year: int
    url: str = ""

    def __str__(self) -> str:
        return f"{', '.join(self.authors)} ({self.year}): {self.title}"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One parameter of a study and the range in which its claims hold.

    An `int` or `float` lies between `low` and `high`, ends included; a `str` is one of `choices`. A numeric range is at
    least a factor 4 wide, or `reason` says why it cannot be.

    Raises:
        StudyError: the range is missing or does not hold the default.
    """

    name: str
    kind: SettingKind
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        if self.numeric and (self.low is None or self.high is None or not self.low < self.high):
            raise StudyError(f"setting {self.name!r} has no range: give low and high, low below high")
        if self.kind == "str" and not self.choices:
            raise StudyError(f"setting {self.name!r} has no choices: give at least one")
        self.checked(self.default)

    @property
    def numeric(self) -> bool:
        """Whether values are numbers in a range."""
        return self.kind in ("int", "float")

    @property
    def range(self) -> str:
        """The values that are allowed, in words."""
        if self.numeric:
            return f"{self.low:g} to {self.high:g}"
        return ", ".join(self.choices) if self.kind == "str" else "true, false"

    def checked(self, value: object) -> Any:
        """`value` as one of this setting's kind.

        Raises:
            SettingError: it is of another kind or outside the range.
        """
        if self.kind == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not _TYPES[self.kind]:
            raise SettingError(f"setting {self.name}={value!r} is no {self.kind}: choose from {self.range}")
        outside = self.numeric and not self.low <= value <= self.high  # type: ignore[operator]
        if outside or (self.kind == "str" and value not in self.choices):
            raise SettingError(
                f"setting {self.name}={value!r} is outside the range in which the claims hold: choose from {self.range}"
            )
        return value

    def parsed(self, text: str) -> Any:
        """The value that `text` spells.

        Raises:
            SettingError: it spells none of this setting's kind, or one outside the range.
        """
        try:
            value: object = {"true": True, "false": False}[text] if self.kind == "bool" else _TYPES[self.kind](text)
        except (KeyError, ValueError):
            value = text
        return self.checked(value)


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
        for setting in self.settings:
            if setting.name == name:
                return setting
        known = ", ".join(setting.name for setting in self.settings) or "none"
        raise SettingError(f"study {self.id} has no setting {name!r}: choose from {known}")

    def complete(self, given: Settings) -> dict[str, Any]:
        """`given` with the defaults of what it leaves out, in the order of the settings.

        Raises:
            SettingError: a name is unknown, or a value outside its range.
        """
        checked = {name: self.setting(name).checked(value) for name, value in given.items()}
        return {setting.name: checked.get(setting.name, setting.default) for setting in self.settings}

    def statement(self, name: str) -> Statement:
        """The statement of that name, which must exist."""
        return next(statement for statement in self.statements if statement.name == name)
