"""`separatrix report`: a run's report."""

from __future__ import annotations

import argparse

from separatrix.commands import _values as values
from separatrix.commands._printing import EXIT_FINE, print_out
from separatrix.runs.errors import UsageError


def add(commands: values.Commands) -> None:
    """Add the grammar."""
    report = commands.add_parser("report", help="write a run's report, one HTML file that opens offline")
    report.add_argument("run", type=values.path, metavar="RUN")
    report.add_argument(
        "-o", "--output", type=values.path, metavar="FILE.html", help="default: report.html in the run's folder"
    )
    report.set_defaults(command="report", perform=run)


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for and return the exit code."""
    from separatrix.runs import open_run
    from separatrix.view import write_report

    with open_run(options.run) as run:
        destination = options.output or run.path / "report.html"
        if destination.is_dir():
            raise UsageError(f"{destination} is a folder: give the name of a file, such as report.html")
        print_out(str(write_report(run, destination)))
    return EXIT_FINE
