"""`separatrix list`: the runs below a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from separatrix.commands import _values as values
from separatrix.commands._printing import EXIT_FINE, terminal
from separatrix.runs.catalogue import find_runs
from separatrix.runs.errors import UsageError


def add(commands: values.Commands) -> None:
    """Add the grammar."""
    listing = commands.add_parser("list", help="list the runs below a folder")
    listing.add_argument(
        "folder", type=values.path, nargs="?", default=Path("."), metavar="DIR", help="default: this folder"
    )
    listing.set_defaults(command="list", perform=run)


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for and return the exit code."""
    from separatrix.view import render_list

    if not options.folder.is_dir():
        raise UsageError(f"{options.folder} is no folder: give one that holds runs")
    with terminal() as console:
        render_list(find_runs(options.folder), console)
    return EXIT_FINE
