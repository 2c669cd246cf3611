"""Text and numbers as people read them, with nothing in them that a terminal or a page could act on."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

TIMES = "\N{MULTIPLICATION SIGN}"

_ACTING_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
# Marks that reorder or hide neighbouring text, so that a name could pose as another one.
_REORDERING = frozenset("\u061c\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff")


def visible(text: object, *, newlines: bool = False) -> str:
    r"""`text` with control characters, escape sequences and direction marks shown as escapes such as `\x1b`.

    With `newlines`, line feeds and tabs stay as they are.
    """
    return "".join(_visible_character(c) if not (newlines and c in "\n\t") else c for c in str(text))


def _visible_character(character: str) -> str:
    if unicodedata.category(character) in _ACTING_CATEGORIES or character in _REORDERING:
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character


def shortened(text: str, length: int) -> str:
    """`text` cut in the middle to `length` characters; the end of a dotted name tells more, so it keeps more of it."""
    if len(text) <= length:
        return text
    head = (length - 1) // 3
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def number(value: float, digits: int = 4) -> str:
    """A number with `digits` significant digits, integers in full; `NaN`, `∞` and `-∞` where it is not finite."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """A span of time in the two largest units that matter: `0.42 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`."""
    if not math.isfinite(seconds):
        return "unknown time"
    if seconds < 60:
        return f"{seconds:.3g} s"
    for limit, size, large, small in ((3600, 1, "min", "s"), (86400, 60, "h", "min"), (math.inf, 3600, "d", "h")):
        if seconds < limit:
            whole, rest = divmod(int(seconds // size), 24 if large == "d" else 60)
            return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"
    raise AssertionError(seconds)


def count(amount: int, noun: str) -> str:
    """`1 step`, `2 steps`, `10,000 steps`."""
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


def when(step: int) -> str:
    """The step of a finding in words: 0 lies before the first one."""
    return f"step {step:,}" if step else "before the first step"


def plain(value: Any, digits: int | None = None) -> str:
    """A fact as text: true and false as words, nested data in brackets, numbers exact unless `digits` are given."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, float):
        return repr(value) if digits is None else number(value, digits)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {plain(item, digits)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(plain(item, digits) for item in value) + "]"
    return str(value)


def flattened(value: Any, prefix: str = "", digits: int | None = None) -> list[tuple[str, str]]:
    """Nested facts as (dotted key, text) pairs in order, lists of plain values as one pair; `digits` as in `plain`."""
    if isinstance(value, Mapping) and value:
        return [
            pair
            for key, item in value.items()
            for pair in flattened(item, f"{prefix}.{key}" if prefix else str(key), digits)
        ]
    nested = isinstance(value, Sequence) and not isinstance(value, str)
    if nested and any(isinstance(item, Mapping) for item in value):
        return [pair for index, item in enumerate(value) for pair in flattened(item, f"{prefix}[{index}]", digits)]
    return [(prefix, plain(value, digits))]
