"""What commands print: results on standard output, everything else on standard error, and exit codes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

EXIT_FINE = 0
EXIT_FOUND = 1
EXIT_ERROR = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_PIPE = 141  # what shells report for a tool that a closed pipe ended


@contextlib.contextmanager
def terminal() -> Iterator[Console]:
    """A Rich console on standard output that treats text from runs as text."""
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:
            # Rich would end the process with 1, which here means that something was found.
            raise BrokenPipeError

    yield PlainConsole(highlight=False, markup=False, emoji=False)
    sys.stdout.flush()


def print_out(text: str) -> None:
    """Print a result."""
    print(text, flush=True)


def print_json(document: Mapping[str, Any] | None) -> None:
    """Print one strict JSON document, or nothing for none."""
    import json

    if document is not None:
        print_out(json.dumps(document, indent=2, allow_nan=False))


def list_members(noun: str, rows: Sequence[Mapping[str, Any]], as_json: bool, columns: tuple[str, str]) -> int:
    """Print members as JSON, or as lines of two columns."""
    if as_json:
        print_json({noun: list(rows)})
        return EXIT_FINE
    first, second = columns
    width = max((len(row[first]) for row in rows), default=0)
    for row in rows:
        print_out(one_line(f"{row[first]:<{width}}  ", keep_spaces=True) + one_line(row[second]))
    return EXIT_FINE


def say(message: str) -> None:
    """Print a message on standard error."""
    print(f"separatrix: {one_line(message)}", file=sys.stderr, flush=True)


def fail(message: str) -> int:
    """Print an error on standard error and return the exit code for it."""
    say(f"error: {message}")
    return EXIT_ERROR


def named(error: OSError) -> str:
    """An error of the operating system with the path it is about."""
    reason = error.strerror or str(error) or type(error).__name__
    return reason if error.filename is None else f"{os.fsdecode(error.filename)}: {reason}"


def one_line(text: str, keep_spaces: bool = False) -> str:
    """`text` on one line, with control characters (a path may hold them) written as escapes."""
    joined = text if keep_spaces else " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in joined)


def quoted(path: Path) -> str:
    """The path as a shell takes it."""
    import shlex

    return shlex.quote(str(path))
