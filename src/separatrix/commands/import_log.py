"""`separatrix import`: a run from another tool's log."""

from __future__ import annotations

import argparse

from separatrix.commands import _values as values
from separatrix.commands._printing import EXIT_FINE, print_out, quoted, say
from separatrix.runs.catalogue import fresh_run_path


def add(commands: values.Commands) -> None:
    """Add the grammar."""
    bring = commands.add_parser("import", help="make a run from another tool's log")
    bring.add_argument(
        "source", type=values.path, metavar="SOURCE", help="TensorBoard events, trainer_state.json, CSV or JSONL"
    )
    bring.add_argument(
        "--run", type=values.path, metavar="DIR", help="the run's folder (default: a new one in separatrix-runs)"
    )
    bring.set_defaults(command="import", perform=run)


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for and return the exit code."""
    from separatrix.runs.importing import import_run

    destination = options.run or fresh_run_path(options.source.resolve().stem or "import")
    result = import_run(options.source, destination)
    say(f"read {result.series} series over {result.steps} steps from {options.source} ({result.format})")
    renamed = [f"{source} -> {name}" for source, name in result.names.items() if source != name]
    if renamed:
        say(f"names: {', '.join(renamed)}")
    for note in result.notes:
        say(f"{note.severity}: {note.message}")
    say(f"imported to {destination}; next: separatrix diagnose {quoted(destination)}")
    print_out(str(destination))
    return EXIT_FINE
