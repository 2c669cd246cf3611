"""`separatrix diagnose`: what is wrong or remarkable in runs, and what to do."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from separatrix.commands import _values as values
from separatrix.commands._printing import EXIT_ERROR, EXIT_FINE, EXIT_FOUND, fail, one_line, print_json, terminal
from separatrix.runs.errors import SeparatrixError

if TYPE_CHECKING:
    from separatrix.analysis import Diagnosis


def add(commands: values.Commands) -> None:
    """Add the grammar."""
    diagnose = commands.add_parser("diagnose", help="say what is wrong or remarkable in runs, and what to do")
    diagnose.add_argument("runs", type=values.path, nargs="+", metavar="RUN")
    diagnose.add_argument("--json", action="store_true", help="print one JSON document")
    diagnose.add_argument(
        "--fail-on",
        choices=("error", "warning", "info"),
        default="error",
        help="exit with 1 when a finding is at least this severe (default: error)",
    )
    diagnose.set_defaults(command="diagnose", perform=run)


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for and return the exit code."""
    results = [(path, _diagnosis(path)) for path in options.runs]
    if options.json:
        print_json(_diagnoses_as_json(results))
    else:
        _render_diagnoses(results)
    for _, result in results:
        if isinstance(result, SeparatrixError):
            fail(str(result))
    if any(isinstance(result, SeparatrixError) for _, result in results):
        return EXIT_ERROR
    return EXIT_FOUND if any(_reaches(result, options.fail_on) for _, result in results) else EXIT_FINE


def _diagnosis(path: Path) -> Diagnosis | SeparatrixError:
    from separatrix.analysis import diagnose

    try:
        return diagnose(path)
    except SeparatrixError as error:
        return error


def _reaches(result: Diagnosis | SeparatrixError, threshold: str) -> bool:
    from separatrix.runs import SEVERITIES

    if isinstance(result, SeparatrixError) or result.worst is None:
        return False
    order: tuple[str, ...] = SEVERITIES
    return order.index(result.worst) <= order.index(threshold)


def _diagnoses_as_json(results: Sequence[tuple[Path, Diagnosis | SeparatrixError]]) -> Mapping[str, Any] | None:
    """One run as its diagnosis (nothing when it cannot be read), several as a list in the order given."""
    documents = [
        {"run": path.resolve().name, "error": one_line(str(result))}
        if isinstance(result, SeparatrixError)
        else result.to_dict()
        for path, result in results
    ]
    if len(results) > 1:
        return {"runs": documents}
    return None if isinstance(results[0][1], SeparatrixError) else documents[0]


def _render_diagnoses(results: Sequence[tuple[Path, Diagnosis | SeparatrixError]]) -> None:
    from separatrix.view import render_diagnosis

    with terminal() as console:
        for _, result in results:
            if not isinstance(result, SeparatrixError):
                render_diagnosis(result, console)
