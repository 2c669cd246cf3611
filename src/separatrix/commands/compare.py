"""`separatrix compare`: runs side by side, and where they part."""

from __future__ import annotations

import argparse
import contextlib

from separatrix.commands import _values as values
from separatrix.commands._printing import EXIT_FINE, print_json, terminal
from separatrix.runs.errors import UsageError


def add(commands: values.Commands) -> None:
    """Add the grammar."""
    compare = commands.add_parser("compare", help="show runs side by side, and where they part")
    compare.add_argument("runs", type=values.path, nargs="+", metavar="RUN")
    compare.add_argument("--json", action="store_true", help="print one JSON document")
    compare.set_defaults(command="compare", perform=run)


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for and return the exit code."""
    from separatrix.analysis.comparison import compared
    from separatrix.runs import open_run
    from separatrix.view import render_comparison

    if len(options.runs) < 2:
        raise UsageError("compare needs at least two runs: `separatrix compare RUN RUN`")
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(open_run(path)) for path in options.runs]
        if options.json:
            print_json(compared(runs))
        else:
            with terminal() as console:
                render_comparison(runs, console)
    return EXIT_FINE
