"""`separatrix advise`: what to change next in a training, and what that is expected to give."""

from __future__ import annotations

import argparse

from separatrix.commands import _values as values
from separatrix.commands._printing import EXIT_FINE, print_json, terminal


def add(commands: values.Commands) -> None:
    """Add the grammar."""
    advise = commands.add_parser(
        "advise", help="say what to change next in a training, and what that is expected to give"
    )
    advise.add_argument("run", type=values.path, metavar="RUN")
    advise.add_argument("--json", action="store_true", help="print one JSON document")
    advise.set_defaults(command="advise", perform=run)


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for and return the exit code."""
    from separatrix.steer.advice import advise
    from separatrix.view.advice import render_advice

    found = advise(options.run)
    if options.json:
        print_json(found.to_dict())
    else:
        with terminal() as console:
            render_advice(found, console)
    return EXIT_FINE
