"""`separatrix show`: a run and its diagnosis in the terminal."""

from __future__ import annotations

import argparse

from separatrix.commands import _values as values
from separatrix.commands._printing import EXIT_FINE, terminal


def add(commands: values.Commands) -> None:
    """Add the grammar."""
    show = commands.add_parser("show", help="show a run and its diagnosis in the terminal")
    show.add_argument("run", type=values.path, metavar="RUN")
    show.set_defaults(command="show", perform=run)


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for and return the exit code."""
    from separatrix.runs import open_run
    from separatrix.view import render_terminal

    with open_run(options.run) as run, terminal() as console:
        render_terminal(run, console)
    return EXIT_FINE
