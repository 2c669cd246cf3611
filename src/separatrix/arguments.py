"""The command line's grammar: which commands and options exist and which values they take.

Only the standard library is imported, because `separatrix watch` must start as fast as python itself.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NoReturn

from separatrix import __version__, commands
from separatrix.runs.errors import UsageError

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
    parser = _Parser(
        prog="separatrix",
        description="Record, diagnose, predict and steer the training of neural networks.",
        epilog="Start with `separatrix watch SCRIPT`, then `separatrix diagnose RUN`.",
    )
    parser.add_argument("--version", action="version", version=f"separatrix {__version__}")
    parser.set_defaults(command=None)
    verbs = parser.add_subparsers(metavar="COMMAND", title="commands")
    for command in _commands():
        command.add(verbs)
    return parser


def _commands() -> list[ModuleType]:
    """The files of the package `commands`, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    return [importlib.import_module(f"{commands.__name__}.{name}") for name in names if not name.startswith("_")]
