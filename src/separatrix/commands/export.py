"""`separatrix export`: a run's series for other tools."""

from __future__ import annotations

import argparse

from separatrix.commands import _values as values
from separatrix.commands._printing import EXIT_FINE, print_out


def add(commands: values.Commands) -> None:
    """Add the grammar."""
    export = commands.add_parser("export", help="write a run's series for other tools")
    export.add_argument("run", type=values.path, metavar="RUN")
    export.add_argument("--to", choices=("parquet", "csv", "tensorboard"), required=True, help="the format")
    export.add_argument("destination", type=values.path, metavar="DEST", help="a file, or a folder for tensorboard")
    export.set_defaults(command="export", perform=run)


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for and return the exit code."""
    from separatrix.runs import open_run
    from separatrix.runs.exporting import export_run

    with open_run(options.run) as run:
        print_out(str(export_run(run, options.to, options.destination)))
    return EXIT_FINE
