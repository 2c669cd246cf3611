"""The command line's grammar: which commands and options exist and which values they take.

Only the standard library is imported, because `separatrix watch` must start as fast as python itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from separatrix import __version__
from separatrix.runs.errors import UsageError

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction["_Parser"]

_WATCH_VALUE_OPTIONS = ("--run", "--budget", "--memory-budget", "--probes", "--checkpoints", "--max-bytes")


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line on standard error and exit code 2."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; `{self.prog} --help` shows what is possible")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """What the arguments ask for: `command` and that command's options.

    Raises:
        UsageError: they ask for nothing that exists.
        SystemExit: they asked for help or the version, which was printed.
    """
    arguments = list(arguments)
    parser = _parser()
    if arguments[:1] != ["watch"]:
        options = parser.parse_args(arguments)
        if options.command is None:
            parser.error("no command was given")
        return options
    own, command = _split_watch(arguments[1:])
    options = parser.parse_args(["watch", *own])
    options.target, options.module, options.arguments = command
    return options


def _split_watch(arguments: list[str]) -> tuple[list[str], tuple[str | None, bool, list[str]]]:
    """The options of `watch` itself, and (target, whether it is a module, the target's own arguments)."""
    position = 0
    while position < len(arguments):
        argument, rest = arguments[position], arguments[position + 1 :]
        own = arguments[:position]
        if argument in ("-m", "--"):
            return own, (rest[0] if rest else None, argument == "-m", rest[1:])
        if argument.startswith("-m") and len(argument) > 2:
            return own, (argument[2:], True, rest)
        if not argument.startswith("-") or argument == "-":
            return own, (argument, False, rest)
        position += 2 if argument in _WATCH_VALUE_OPTIONS else 1
    return arguments, (None, False, [])


def _parser() -> _Parser:
    parser = _Parser(prog="separatrix", description="Record, diagnose and compare the training of neural networks.")
    parser.add_argument("--version", action="version", version=f"separatrix {__version__}")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    _add_watch(commands)
    _add_readers(commands)
    _add_exchange(commands)
    _add_members(commands, "probe", "what can be measured while a training runs", "probe list")
    _add_members(commands, "finding", "what can be found wrong or remarkable in a run", "finding list")
    _add_theory(commands)
    _add_study(commands)
    return parser


def _add_watch(commands: Commands) -> None:
    watch = commands.add_parser(
        "watch",
        usage="separatrix watch [OPTIONS] SCRIPT [ARGS ...]\n       separatrix watch [OPTIONS] -m MODULE [ARGS ...]",
        help="run a script as python would and record its training",
        description="Run a script as python would and record its training. Everything after SCRIPT is the script's.",
    )
    watch.add_argument(
        "--run", type=_path, metavar="DIR", help="the run's folder (default: a new one in separatrix-runs)"
    )
    watch.add_argument("--resume", action="store_true", help="continue the run in --run as a further segment")
    watch.add_argument(
        "--budget", type=_budget, default=0.05, metavar="SHARE", help="time allowed, 0.05 = 5 %% (default)"
    )
    watch.add_argument(
        "--memory-budget",
        type=_budget,
        default=0.05,
        metavar="SHARE",
        help="memory allowed for copies of parameters, as a share of the memory in use (default 0.05)",
    )
    watch.add_argument(
        "--probes", type=_probe_names, default="default", metavar="NAMES", help="default, all or NAME,..."
    )
    watch.add_argument(
        "--checkpoints", type=_checkpoints, metavar="log|N", help="keep weights at log-spaced or every N steps"
    )
    watch.add_argument(
        "--max-bytes", type=_byte_count, metavar="N", help="thin the run from this size on (default 1 GB)"
    )
    watch.add_argument("--quiet", action="store_true", help="say nothing when the script ends")
    watch.add_argument("-m", metavar="MODULE", help="run a module, as python -m does")
    watch.set_defaults(command="watch")


def _add_readers(commands: Commands) -> None:
    listing = commands.add_parser("list", help="list the runs below a folder")
    listing.add_argument("folder", type=_path, nargs="?", default=Path("."), metavar="DIR", help="default: this folder")
    listing.set_defaults(command="list")

    show = commands.add_parser("show", help="show a run and its diagnosis in the terminal")
    show.add_argument("run", type=_path, metavar="RUN")
    show.set_defaults(command="show")

    report = commands.add_parser("report", help="write a run's report, one HTML file that opens offline")
    report.add_argument("run", type=_path, metavar="RUN")
    report.add_argument(
        "-o", "--output", type=_path, metavar="FILE.html", help="default: report.html in the run's folder"
    )
    report.set_defaults(command="report")

    compare = commands.add_parser("compare", help="show runs side by side, and where they part")
    compare.add_argument("runs", type=_path, nargs="+", metavar="RUN")
    compare.add_argument("--json", action="store_true", help="print one JSON document")
    compare.set_defaults(command="compare")

    diagnose = commands.add_parser("diagnose", help="say what is wrong or remarkable in runs, and what to do")
    diagnose.add_argument("runs", type=_path, nargs="+", metavar="RUN")
    diagnose.add_argument("--json", action="store_true", help="print one JSON document")
    diagnose.add_argument(
        "--fail-on",
        choices=("error", "warning", "info"),
        default="error",
        help="exit with 1 when a finding is at least this severe (default: error)",
    )
    diagnose.set_defaults(command="diagnose")


def _add_exchange(commands: Commands) -> None:
    export = commands.add_parser("export", help="write a run's series for other tools")
    export.add_argument("run", type=_path, metavar="RUN")
    export.add_argument("--to", choices=("parquet", "csv", "tensorboard"), required=True, help="the format")
    export.add_argument("destination", type=_path, metavar="DEST", help="a file, or a folder for tensorboard")
    export.set_defaults(command="export")

    bring = commands.add_parser("import", help="make a run from another tool's log")
    bring.add_argument(
        "source", type=_path, metavar="SOURCE", help="TensorBoard events, trainer_state.json, CSV or JSONL"
    )
    bring.add_argument(
        "--run", type=_path, metavar="DIR", help="the run's folder (default: a new one in separatrix-runs)"
    )
    bring.set_defaults(command="import")


def _add_members(commands: Commands, noun: str, summary: str, command: str) -> None:
    group = commands.add_parser(noun, help=f"list {summary}")
    verbs = group.add_subparsers(metavar="list", required=True)
    listing = verbs.add_parser("list", help=f"list {summary}")
    listing.add_argument("--json", action="store_true", help="print one JSON document")
    listing.set_defaults(command=command)


def _add_study(commands: Commands) -> None:
    verbs = commands.add_parser("study", help="run papers' claims and see whether they hold").add_subparsers(
        metavar="list|show|run", required=True
    )
    listing = verbs.add_parser("list", help="list the studies")
    listing.set_defaults(command="study list")

    show = verbs.add_parser("show", help="show what a study claims, its settings and their ranges")
    show.add_argument("study", metavar="ID", help="a study's id or slug")
    show.set_defaults(command="study show")

    run = verbs.add_parser("run", help="run studies; exit with 1 when a claim fails")
    run.add_argument("studies", nargs="+", metavar="ID", help="a study's id or slug")
    run.add_argument("--quick", action="store_true", help="the same claims from less training, in under a minute")
    run.add_argument("--seed", type=_seed, default=0, metavar="N", help="default: 0")
    run.add_argument(
        "--set", type=_assignment, action="append", default=[], metavar="KEY=VALUE", help="change a setting"
    )
    run.add_argument("--out", type=_path, metavar="DIR", help="write each result with its curves into this folder")
    run.set_defaults(command="study run")
    for verb in (listing, show, run):
        verb.add_argument("--json", action="store_true", help="print one JSON document")


def _add_theory(commands: Commands) -> None:
    verbs = commands.add_parser("theory", help="say what a training should do, from its problem alone").add_subparsers(
        metavar="list|show|predict", required=True
    )
    listing = verbs.add_parser("list", help="list the theories and the questions they answer")
    listing.set_defaults(command="theory list")

    show = verbs.add_parser("show", help="show what a theory predicts, where it holds, and its settings")
    show.add_argument("theory", metavar="NAME")
    show.set_defaults(command="theory show")
    for verb in (listing, show):
        verb.add_argument("--json", action="store_true", help="print one JSON document")

    predict = verbs.add_parser("predict", help="write what a theory predicts as a run, or draw it beside a simulation")
    predict.add_argument("theory", metavar="NAME")
    predict.add_argument("--run", type=_path, metavar="DIR", help="write the prediction there, as a run")
    predict.add_argument("--simulate", type=_path, metavar="DIR", help="train at the same problem and write that")
    predict.add_argument("--figure", type=_path, metavar="FILE.html", help="draw the prediction over the simulation")
    predict.add_argument("--seed", type=_seed, default=0, metavar="N", help="default: 0")
    predict.add_argument(
        "--set", type=_assignment, action="append", default=[], metavar="KEY=VALUE", help="change a setting"
    )
    predict.set_defaults(command="theory predict")


def _path(text: str) -> Path:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("a path must not be empty")
    return Path(text)


def _budget(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0.0 < share <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no share: give a number above 0 and at most 1, 0.05 for 5 %")
    return share


def _probe_names(text: str) -> str:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of probes: give default, all, or names separated by commas"
        )
    return ",".join(names)


def _checkpoints(text: str) -> str | int:
    if text == "log":
        return text
    return _positive(text, "give log, or a number of steps of at least 1")


def _byte_count(text: str) -> int:
    return _positive(text, "give a number of bytes of at least 1")


def _positive(text: str, advice: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text.lstrip("0")) <= 18):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive integer: {advice}")
    return int(text)


def _seed(text: str) -> int:
    return 0 if text == "0" else _positive(text, "give 0 or a positive integer as seed")


def _assignment(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} sets nothing: give KEY=VALUE")
    return key, value
