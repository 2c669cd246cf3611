"""Reads text logs without trusting them: bounded lines, any common encoding, numbers told from words."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator
from pathlib import Path

from separatrix.runs.errors import ImportSourceError

LONGEST_LINE = 16_000_000
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf|infinity)", re.IGNORECASE | re.ASCII)
_ABSENT = frozenset({"", "na", "n/a", "null", "none", "-", "--"})


def encoding_of(head: bytes) -> str:
    """The encoding that the first bytes of a file announce; UTF-8 otherwise."""
    return next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), "utf-8")


def decoded(head: bytes) -> str:
    """The first bytes of a file as text, whatever they are."""
    return head.decode(encoding_of(head), errors="replace")


def lines(path: Path) -> Iterator[str]:
    """The lines of a text file with their line ends.

    Raises:
        ImportSourceError: a line is longer than any log's.
    """
    with path.open("rb") as file:
        encoding = encoding_of(file.read(4))
    with path.open(encoding=encoding, errors="replace", newline="") as text:
        while line := text.readline(LONGEST_LINE):
            if len(line) == LONGEST_LINE:
                raise ImportSourceError(f"{path} has a line of over {LONGEST_LINE} characters: it is no log of numbers")
            yield line


def number(text: str) -> float | None:
    """The number that a cell holds, None if it holds a word. NaN and infinities are numbers.

    Digit groups ("1_000", "1,000") are no numbers here: what they mean differs between countries.
    """
    stripped = text.strip()
    return float(stripped) if _NUMBER.fullmatch(stripped) else None


def is_absent(text: str) -> bool:
    """Whether a cell says that there is no value: empty, NA, N/A, null, None or dashes."""
    return text.strip().lower() in _ABSENT


def shown(text: str) -> str:
    """A piece of a log, short and quoted, for a message."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def finite_integer(value: float) -> bool:
    """Whether a number can be a step: whole, and exactly represented."""
    return math.isfinite(value) and value == math.floor(value) and abs(value) <= 2**53
