"""`separatrix watch`: run a script as python would and record its training."""

from __future__ import annotations

import argparse
from pathlib import Path

from separatrix.commands import _values as values
from separatrix.commands._printing import one_line, quoted
from separatrix.runs.catalogue import fresh_run_path
from separatrix.runs.errors import UsageError


def add(commands: values.Commands) -> None:
    """Add the grammar."""
    watch = commands.add_parser(
        "watch",
        usage="separatrix watch [OPTIONS] SCRIPT [ARGS ...]\n       separatrix watch [OPTIONS] -m MODULE [ARGS ...]",
        help="run a script as python would and record its training",
        description="Run a script as python would and record its training. Everything after SCRIPT is the script's.",
    )
    watch.add_argument(
        "--run", type=values.path, metavar="DIR", help="the run's folder (default: a new one in separatrix-runs)"
    )
    watch.add_argument("--resume", action="store_true", help="continue the run in --run as a further segment")
    watch.add_argument(
        "--budget", type=values.share, default=0.05, metavar="SHARE", help="time allowed, 0.05 = 5 %% (default)"
    )
    watch.add_argument(
        "--memory-budget",
        type=values.share,
        default=0.05,
        metavar="SHARE",
        help="memory allowed for copies of parameters, as a share of the memory in use (default 0.05)",
    )
    watch.add_argument(
        "--probes", type=values.probe_names, default="default", metavar="NAMES", help="default, all or NAME,..."
    )
    watch.add_argument(
        "--checkpoints", type=values.checkpoints, metavar="log|N", help="keep weights at log-spaced or every N steps"
    )
    watch.add_argument("--thumbnails", action="store_true", help="follow single examples and keep small images of them")
    watch.add_argument(
        "--max-bytes", type=values.byte_count, metavar="N", help="thin the run from this size on (default 1 GB)"
    )
    watch.add_argument("--quiet", action="store_true", help="say nothing when the script ends")
    watch.add_argument("-m", metavar="MODULE", help="run a module, as python -m does")
    watch.set_defaults(command="watch", perform=run)


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for and return the exit code."""
    from separatrix.record.watch import watch

    if options.target is None:
        raise UsageError("watch needs a script: `separatrix watch SCRIPT`, or `separatrix watch -m MODULE`")
    if options.resume and options.run is None:
        raise UsageError("--resume needs to know the run: add --run with its folder")
    run = options.run or fresh_run_path(_stem(options.target, options.module))
    note = f"separatrix: recorded in {one_line(str(run))}; next: separatrix diagnose {quoted(run)}"
    return watch(
        options.target,
        options.arguments,
        module=options.module,
        run=run,
        resume=options.resume,
        budget=options.budget,
        memory_budget=options.memory_budget,
        probes=_known_probes(options.probes),
        checkpoints=options.checkpoints,
        thumbnails=options.thumbnails,
        max_bytes=options.max_bytes,
        note="" if options.quiet else note,
    )


def _known_probes(names: str) -> str:
    """`names` as given, if each is a probe that is installed; probes are only looked up when some are named."""
    groups = {"default", "all"}
    if set(names.split(",")) <= groups:
        return names
    from separatrix.commands.probe import known_probes
    from separatrix.runs import UnknownMemberError

    known = known_probes()
    for name in names.split(","):
        if name not in known and name not in groups:
            raise UnknownMemberError(f"there is no probe {name!r}: choose from {', '.join(sorted(known))}")
    return names


def _stem(target: str, module: bool) -> str:
    return target if module else Path(target).absolute().stem
