"""`separatrix sweep`: search for good values of a script's or a study's arguments, each trial recorded."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from separatrix.commands import _values as values
from separatrix.commands._printing import EXIT_FINE, EXIT_INTERRUPTED, one_line, print_json, print_out, quoted, say
from separatrix.runs.catalogue import fresh_run_path
from separatrix.runs.errors import UsageError

if TYPE_CHECKING:
    from separatrix.steer.tuning import Row, Space
    from separatrix.steer.tuning.target import Target


def add(commands: values.Commands) -> None:
    """Add the grammar."""
    sweep = commands.add_parser(
        "sweep",
        usage="separatrix sweep [OPTIONS] SCRIPT [ARGS ...]\n       separatrix sweep [OPTIONS] --study ID",
        help="search for good values of a script's arguments, each trial a recorded run",
        description="Run a script with values from a space, as Optuna proposes them, and record each trial. A value "
        "replaces {name} in ARGS, or is added at the end as --name=value.",
    )
    sweep.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="low..high, low..high:log, or choices a,b,c; whole numbers where both ends are",
    )
    sweep.add_argument("--space", type=values.path, metavar="FILE.toml", help="the same from a file")
    sweep.add_argument("--trials", type=_count, metavar="N", help="trials in all (default: 20, or a grid's size)")
    sweep.add_argument("--workers", type=_count, default=1, metavar="N", help="trials at once (default: 1)")
    sweep.add_argument("--out", type=values.path, metavar="DIR", help="folder of the sweep; one that holds it goes on")
    sweep.add_argument("--storage", metavar="URL", help="Optuna's storage (default: a SQLite file in the folder)")
    sweep.add_argument("--name", default="sweep", help="name in the storage (default: sweep)")
    sweep.add_argument("--sampler", default="tpe", help="tpe (default), random, grid, cmaes, qmc or gp")
    sweep.add_argument("--pruner", default="median", help="median (default), none, successive-halving or hyperband")
    sweep.add_argument(
        "--metric", metavar="NAME[:last|min|max]", help="series that judges a trial (default: eval_loss)"
    )
    sweep.add_argument("--direction", choices=("minimize", "maximize"), help="default: as the metric suggests")
    sweep.add_argument(
        "--stop-on",
        default=None,
        metavar="CODES",
        help="findings that stop a trial, or none (default: diverging,dead-units,nonfinite)",
    )
    sweep.add_argument("--budget", type=values.share, default=0.05, metavar="SHARE", help="of recording, as for watch")
    sweep.add_argument("--ray", nargs="?", const="local", metavar="ADDRESS", help="run trials on a Ray cluster")
    sweep.add_argument("--seed", type=values.seed, default=0, metavar="N", help="of the sampler (default: 0)")
    sweep.add_argument("--study", metavar="ID", help="search a study's settings instead of a script's arguments")
    sweep.add_argument("--full", action="store_true", help="run the study in full, not in its quick mode")
    sweep.add_argument("--json", action="store_true", help="print one JSON document")
    sweep.add_argument("script", nargs="?", metavar="SCRIPT")
    sweep.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS")
    sweep.set_defaults(command="sweep", perform=run)


def _count(text: str) -> int:
    return values.positive(text, "give a number of at least 1")


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for and return the exit code."""
    from separatrix.steer.tuning import SweepOptions, sweep
    from separatrix.view.sweeps import line, lines

    target, space = _study(options) if options.study else _script(options)
    stem = f"sweep-{options.study or Path(options.script).absolute().stem}"
    folder = options.out or fresh_run_path(stem)
    asked = SweepOptions(
        folder=folder,
        trials=options.trials,
        workers=options.workers,
        storage=options.storage,
        name=options.name,
        sampler=options.sampler,
        pruner=options.pruner,
        seed=options.seed,
    )

    def tell(row: Row) -> None:
        if sys.stderr.isatty() and not options.json:
            say(line(row, target.judged_by))

    try:
        with _workers(options) as workers:
            result = sweep(target, space, asked, workers=workers, progress=tell)
    except KeyboardInterrupt:
        say(f"interrupted; nothing is lost, the same command with --out {quoted(folder)} goes on")
        return EXIT_INTERRUPTED
    if options.json:
        print_json(result.to_dict())
    else:
        print_out("\n".join(one_line(text, keep_spaces=True) for text in lines(result)))
    return EXIT_FINE


def _workers(options: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    from separatrix.steer.tuning import LocalWorkers, ray_workers

    if options.ray is None:
        return contextlib.nullcontext(LocalWorkers())
    return ray_workers(None if options.ray == "local" else options.ray, options.workers)


def _script(options: argparse.Namespace) -> tuple[Target, Space]:
    from separatrix.steer.tuning import STOP_ON, Metric, ScriptTarget, Space, read_parameter, read_space

    if options.script is None:
        raise UsageError("sweep needs a script: `separatrix sweep --param NAME=LOW..HIGH SCRIPT`, or --study ID")
    if options.full:
        raise UsageError("--full is for studies: leave it out, or give --study ID")
    stop_on = STOP_ON if options.stop_on is None else _codes(options.stop_on)
    metric = Metric.parse(options.metric or "eval_loss")
    target = ScriptTarget(options.script, tuple(options.arguments), metric, stop_on, options.budget, options.direction)
    given = [read_parameter(text) for text in options.param]
    return target, Space((*(read_space(options.space) if options.space else ()), *given))


def _study(options: argparse.Namespace) -> tuple[Target, Space]:
    from separatrix.steer.tuning import Space, StudyTarget, from_settings, read_parameter, read_space
    from separatrix.studies import find_study

    if options.script is not None:
        raise UsageError(f"--study takes no script: leave out {options.script}, or --study")
    study = find_study(options.study)
    names = [setting.name for setting in study.settings]
    claims = [statement.name for statement in study.statements]
    metric = options.metric or "passed"
    if metric not in ("passed", *claims):
        raise UsageError(f"study {study.id} has no claim {metric!r}: choose passed, {', '.join(claims)}")
    given = [read_parameter(text) for text in options.param]
    given += read_space(options.space) if options.space else ()
    target = StudyTarget(study.id, names, metric, not options.full, options.seed, options.direction)
    return target, Space(tuple(given) or from_settings(study.settings))


def _codes(text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(code.strip() for code in text.split(",") if code.strip())
