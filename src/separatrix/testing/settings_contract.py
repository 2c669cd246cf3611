"""The contract of settings: ranges wide enough, and bad values refused in one clear line."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from separatrix.runs.settings import Setting, SettingError, Settings

_FACTOR = 4.0


def drawn_settings(settings: Sequence[Setting], seed: int) -> Settings:
    """Settings drawn from the ranges in which the claims hold; positive numbers evenly in their logarithm."""
    generator = random.Random(seed)
    return {setting.name: _drawn(setting, generator) for setting in settings}


def _drawn(setting: Setting, generator: random.Random) -> Any:
    if not setting.numeric:
        return generator.choice(setting.choices or (False, True))
    assert setting.low is not None and setting.high is not None
    if setting.low > 0:
        value = math.exp(generator.uniform(math.log(setting.low), math.log(setting.high)))
    else:
        value = generator.uniform(setting.low, setting.high)
    value = min(max(value, setting.low), setting.high)
    return round(value) if setting.kind == "int" else value


def check_settings(settings: Sequence[Setting], complete: Callable[[Settings], object], owner: str) -> None:
    """Hold settings to the contract: each is described and ranges over at least a factor 4, or says why it cannot.

    `complete(settings)` must refuse what is unknown or outside the range with a SettingError of one line that names the
    setting and what to choose from. `owner`, such as "study 44", is for messages.

    Raises:
        AssertionError: the contract is broken.
    """
    for setting in settings:
        assert setting.description, f"setting {setting.name} of {owner} has no description"
        if not setting.numeric or setting.reason:
            continue
        assert setting.low is not None and setting.high is not None
        wide = setting.low <= 0 or setting.high >= _FACTOR * setting.low
        assert wide, f"setting {setting.name} of {owner} ranges over {setting.range}: widen it, or say why not"
    for name, value in _bad(settings):
        try:
            complete({name: value})
        except SettingError as error:
            message = str(error)
            assert name in message and "choose from" in message and "\n" not in message, f"unclear refusal: {message}"
        else:
            raise AssertionError(f"{owner} accepts {name}={value!r}")


def _bad(settings: Sequence[Setting]) -> list[tuple[str, object]]:
    bad: list[tuple[str, object]] = [("no_such_setting", 1)]
    for setting in settings:
        bad += [(setting.name, None), (setting.name, "no such choice"), (setting.name, [setting.default])]
        if setting.numeric:
            assert setting.low is not None and setting.high is not None
            as_kind = int if setting.kind == "int" else float
            bad += [(setting.name, as_kind(setting.low - 1)), (setting.name, as_kind(setting.high + 1))]
            bad += [(setting.name, True), (setting.name, math.nan), (setting.name, math.inf)]
    return bad
