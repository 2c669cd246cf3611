"""Settings of studies and theories: named values with the range in which the claims hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from separatrix.runs.errors import SeparatrixError, UsageError

Settings = Mapping[str, Any]
"""A value for every setting of a study or theory, by name."""

SettingKind = Literal["int", "float", "str", "bool"]
_TYPES: Mapping[str, type] = {"int": int, "float": float, "str": str, "bool": bool}


class DeclarationError(SeparatrixError):
    """A study or theory that is not what it declares."""


class SettingError(UsageError):
    """A setting that a study or theory does not have, or a value that it does not allow."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One parameter of a study or theory and the range in which its claims hold.

    An `int` or `float` lies between `low` and `high`, ends included; a `str` is one of `choices`. A numeric range is at
    least a factor 4 wide, or `reason` says why it cannot be.

    Raises:
        DeclarationError: the range is missing or does not hold the default.
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
            raise DeclarationError(f"setting {self.name!r} has no range: give low and high, low below high")
        if self.kind == "str" and not self.choices:
            raise DeclarationError(f"setting {self.name!r} has no choices: give at least one")
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


def find_setting(settings: Sequence[Setting], name: str, owner: str) -> Setting:
    """The setting of that name.

    Raises:
        SettingError: `owner`, such as "study 44", has none.
    """
    for setting in settings:
        if setting.name == name:
            return setting
    known = ", ".join(setting.name for setting in settings) or "none"
    raise SettingError(f"{owner} has no setting {name!r}: choose from {known}")


def complete(settings: Sequence[Setting], given: Settings, owner: str) -> dict[str, Any]:
    """`given` with the defaults of what it leaves out, in the order of the settings.

    Raises:
        SettingError: a name is unknown, or a value outside its range.
    """
    checked = {name: find_setting(settings, name, owner).checked(value) for name, value in given.items()}
    return {setting.name: checked.get(setting.name, setting.default) for setting in settings}


def parsed(settings: Sequence[Setting], texts: Mapping[str, str], owner: str) -> dict[str, Any]:
    """The values that `texts` spell, by name of the setting.

    Raises:
        SettingError: a name is unknown, or a text spells no value of its range.
    """
    return {name: find_setting(settings, name, owner).parsed(text) for name, text in texts.items()}


def setting_as_json(setting: Setting) -> dict[str, Any]:
    """A setting as plain data for JSON: name, type, default, range or choices, description, reason."""
    values: dict[str, Any] = {"name": setting.name, "type": setting.kind, "default": setting.default}
    if setting.numeric:
        values["range"] = [setting.low, setting.high]
    if setting.choices:
        values["choices"] = list(setting.choices)
    return {**values, "description": setting.description, "reason": setting.reason}
