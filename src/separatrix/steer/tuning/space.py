"""The values that a sweep may try: ranges and choices by name, from texts (`lr=1e-4..1e-1:log`) or a TOML file."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from separatrix.runs.settings import Setting
from separatrix.steer.tuning.errors import SweepError, needed

Value = bool | int | float | str

_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_KEYS = {"low", "high", "log", "choices"}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One name and the values it may take: numbers from `low` to `high`, both included, or one of `choices`.

    Numbers are whole when both ends are; with `log` they are spread evenly in their logarithm.

    Raises:
        SweepError: there is nothing to choose from, or the ends do not fit.
    """

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Value, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SweepError(f"{self.name!r} is no name of a value: use letters, digits, -, _ and .")
        if self.choices:
            if self.low is not None or self.high is not None or self.log:
                raise SweepError(f"{self.name} has choices and a range: give one of them")
            if len({repr(choice) for choice in self.choices}) < len(self.choices):
                raise SweepError(f"{self.name} offers a choice twice: give each once")
            return
        if self.low is None or self.high is None:
            raise SweepError(f"{self.name} has nothing to choose from: give {self.name}=LOW..HIGH, or choices a,b,c")
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise SweepError(f"{self.name}={self.low}..{self.high} is not finite: give finite ends")
        if self.low > self.high:
            raise SweepError(f"{self.name}={self.low}..{self.high} is empty: give the lower end first")
        if self.log and self.low <= 0:
            raise SweepError(f"{self.name}={self.low}..{self.high} has no logarithm: give a positive low, or no log")

    @property
    def whole(self) -> bool:
        """Whether values are integers."""
        return type(self.low) is int and type(self.high) is int

    @property
    def listed(self) -> tuple[Value, ...] | None:
        """Every value, where they can be listed: choices, or whole numbers of a range of at most a thousand."""
        if self.choices:
            return self.choices
        if self.whole and not self.log and self.low is not None and self.high is not None:
            values = range(int(self.low), int(self.high) + 1)
            return tuple(values) if len(values) <= 1000 else None
        return None

    def __str__(self) -> str:
        if self.choices:
            return f"{self.name}={','.join(map(spelled, self.choices))}"
        return f"{self.name}={self.low}..{self.high}{':log' if self.log else ''}"


@dataclasses.dataclass(frozen=True)
class Space:
    """The values that a sweep may try, by name.

    Raises:
        SweepError: it is empty, or a name comes twice.
    """

    parameters: tuple[Parameter, ...]

    def __post_init__(self) -> None:
        names = self.names
        if not names:
            raise SweepError("the space is empty: give --param NAME=LOW..HIGH or --space FILE.toml")
        if twice := [name for name in names if names.count(name) > 1]:
            raise SweepError(f"{twice[0]} is in the space twice: give each name once")

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(parameter.name for parameter in self.parameters)

    def distributions(self) -> dict[str, Any]:
        """Optuna's distributions by name.

        Raises:
            MissingExtraError: Optuna is not installed.
        """
        optuna = needed("optuna", "tuning")
        found: dict[str, Any] = {}
        for each in self.parameters:
            if each.choices:
                found[each.name] = optuna.distributions.CategoricalDistribution(each.choices)
            elif each.whole:
                found[each.name] = optuna.distributions.IntDistribution(each.low, each.high, log=each.log)
            else:
                found[each.name] = optuna.distributions.FloatDistribution(each.low, each.high, log=each.log)
        return found

    def grid(self) -> Iterator[dict[str, Value]]:
        """Every combination of values.

        Raises:
            SweepError: the values of a name cannot be listed.
        """
        columns = []
        for each in self.parameters:
            if each.listed is None:
                raise SweepError(f"{each} has no list of values, which a grid needs: give {each.name}=a,b,c")
            columns.append(each.listed)
        for values in itertools.product(*columns):
            yield dict(zip(self.names, values, strict=True))

    def describe(self) -> list[str]:
        """One text a name; equal texts mean equal spaces."""
        return [str(each) for each in self.parameters]


def spelled(value: Value) -> str:
    """A value as a command line takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_parameter(text: str) -> Parameter:
    """The parameter that `NAME=LOW..HIGH[:log]` or `NAME=a,b,c` spells.

    Raises:
        SweepError: the text spells none.
    """
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise SweepError(f"{text!r} is no parameter: give NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=a,b,c")
    return _parameter(name.strip(), values.strip())


def read_space(path: str | os.PathLike[str]) -> tuple[Parameter, ...]:
    """Parameters from a TOML file: a name with a text as on the command line, a list of choices, or a table.

        lr = "1e-4..1e-1:log"
        width = [16, 32, 64]
        momentum = { low = 0.5, high = 0.99 }

    Raises:
        SweepError: the file cannot be read, is no TOML, or holds something else.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SweepError(f"the space {path} cannot be read ({error.strerror}): check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SweepError(f"the space {path} is no TOML ({' '.join(str(error).split())}): mend it") from error
    return tuple(_from_toml(name, value, path) for name, value in content.items())


def _from_toml(name: str, value: object, path: str | os.PathLike[str]) -> Parameter:
    if isinstance(value, str):
        return _parameter(name, value)
    if isinstance(value, list):
        return _with_choices(name, value)
    if not isinstance(value, Mapping):
        return _with_choices(name, [value])
    if unknown := sorted(set(value) - _KEYS):
        raise SweepError(f"{name} in {path} has the unknown key {unknown[0]}: use {', '.join(sorted(_KEYS))}")
    if "choices" in value:
        return dataclasses.replace(_with_choices(name, value["choices"]), low=value.get("low"), high=value.get("high"))
    low, high = (value.get(end) for end in ("low", "high"))
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high)):
        raise SweepError(f"{name} in {path} has no numbers low and high: give both, or choices")
    return Parameter(name, low, high, bool(value.get("log", False)))


def _with_choices(name: str, values: object) -> Parameter:
    if not isinstance(values, list) or not all(isinstance(value, bool | int | float | str) for value in values):
        raise SweepError(f"the choices of {name} are no list of numbers, texts or booleans: give choices = [...]")
    return Parameter(name, choices=tuple(values))


def _parameter(name: str, values: str) -> Parameter:
    low, dots, rest = values.partition("..")
    if not dots:
        return Parameter(name, choices=tuple(_value(part.strip(), name) for part in values.split(",")))
    high, colon, kind = rest.partition(":")
    if colon and kind != "log":
        raise SweepError(f"{name}={values} ends in {kind!r}: only :log may follow a range")
    return Parameter(name, _number(low, name), _number(high, name), log=bool(colon))


def _number(text: str, name: str) -> float:
    value = _value(text.strip(), name)
    if isinstance(value, bool | str):
        raise SweepError(f"{text!r} is no end of the range of {name}: give a number")
    return value


def _value(text: str, name: str) -> Value:
    if not text:
        raise SweepError(f"{name} has an empty value: write NAME=LOW..HIGH or NAME=a,b,c without gaps")
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def from_settings(settings: Sequence[Setting]) -> tuple[Parameter, ...]:
    """The whole range of every setting of a study or theory; numbers over a factor of 10 or more by their logarithm."""
    return tuple(_from_setting(setting) for setting in settings)


def _from_setting(setting: Setting) -> Parameter:
    if not setting.numeric:
        return Parameter(setting.name, choices=setting.choices or (False, True))
    kind = int if setting.kind == "int" else float
    low, high = kind(setting.low or 0), kind(setting.high or 0)
    return Parameter(setting.name, low, high, log=low > 0 and high >= 10 * low)
