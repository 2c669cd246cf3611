"""The command line: does what the arguments ask, turns errors into one line and an exit code.

Each command imports what it needs when it runs: `separatrix watch` must start as fast as python itself.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence

from separatrix.arguments import parse
from separatrix.commands._printing import EXIT_INTERRUPTED, EXIT_PIPE, fail, named
from separatrix.runs.errors import SeparatrixError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `arguments` defaults to those of the process."""
    try:
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A name that the terminal's encoding lacks is no reason to fail.
            sys.stdout.reconfigure(errors="backslashreplace")
        options = parse(sys.argv[1:] if arguments is None else arguments)
        perform: Callable[[argparse.Namespace], int] = options.perform
        return perform(options)
    except SeparatrixError as error:
        return fail(str(error))
    except BrokenPipeError:
        _forget_output()
        return EXIT_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:
        return fail(f"{named(error)}: check the path, its permissions and the space left")


def _forget_output() -> None:
    """What is still buffered for a closed pipe can never be written; without this python complains as it ends."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
