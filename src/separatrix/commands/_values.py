"""Values that options of commands take: text in, value out, one clear sentence when it cannot be."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Any]
else:
    Commands = object

__all__ = [
    "Commands",
    "assignment",
    "byte_count",
    "checkpoints",
    "path",
    "positive",
    "probe_names",
    "seed",
    "share",
]


def path(text: str) -> Path:
    """A path that is not empty."""
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("a path must not be empty")
    return Path(text)


def share(text: str) -> float:
    """A number above 0 and at most 1."""
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: give a number above 0 and at most 1, 0.05 for 5 %")
    return share


def probe_names(text: str) -> str:
    """Names of probes, separated by commas."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of probes: give default, all, or names separated by commas"
        )
    return ",".join(names)


def checkpoints(text: str) -> str | int:
    """`log`, or a number of steps."""
    if text == "log":
        return text
    return positive(text, "give log, or a number of steps of at least 1")


def byte_count(text: str) -> int:
    """A number of bytes."""
    return positive(text, "give a number of bytes of at least 1")


def positive(text: str, advice: str) -> int:
    """A positive integer; `advice` ends the message about anything else."""
    if not (text.isascii() and text.isdigit() and 0 < len(text.lstrip("0")) <= 18):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive integer: {advice}")
    return int(text)


def seed(text: str) -> int:
    """0 or a positive integer."""
    return 0 if text == "0" else positive(text, "give 0 or a positive integer as seed")


def assignment(text: str) -> tuple[str, str]:
    """KEY=VALUE as a pair."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} sets nothing: give KEY=VALUE")
    return key, value
