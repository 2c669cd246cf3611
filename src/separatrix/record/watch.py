"""Runs a user's script or module as python itself would, and has it recorded.

The watched command is not run inside this process: the process replaces itself (exec) by `python SCRIPT ARGS`, so that
frames, `__main__`, exit codes, signals and tracebacks are python's own. `sitecustomize_folder`, put first on PYTHONPATH
and taken off again before the script begins, starts the recording the moment the script has imported torch. Nothing is
imported for the script before that: what it sets in the environment ahead of `import torch` keeps its effect.
"""

from __future__ import annotations

import dataclasses
import importlib.machinery
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from separatrix.runs import RecordingError, RunExistsError, RunLockedError, RunUnreadableError, UsageError, open_run
from separatrix.runs.locking import is_locked
from separatrix.runs.writer import DATABASE_NAME, LOCK_NAME

FACTS_VARIABLE = "SEPARATRIX_WATCH"
ROLE_VARIABLE = "SEPARATRIX_WATCH_ROLE"
DEFAULT_START = "separatrix.record.recording:start"
Role = Literal["script", "launcher"]

_FOLDER = Path(__file__).resolve().parent / "sitecustomize_folder"
_LAUNCHER_MODULES = (
    "torch.distributed.run",
    "torch.distributed.launch",
    "accelerate.commands.launch",
    "deepspeed.launcher.runner",
)
# Files of these names that console scripts install; the value is the subcommand that launches, if it needs one.
_LAUNCHER_FILES = {"torchrun": None, "accelerate": "launch", "accelerate-launch": None, "deepspeed": None}


@dataclasses.dataclass(frozen=True)
class WatchOptions:
    """What the recording inside the watched process needs to know; travels as JSON in its environment.

    `run` is absolute; `segments` counts the pieces that a resumed run held before. `note` is a line written to standard
    error once the recording is closed. `start` names the function ("module:function") that starts a recording.
    """

    run: str
    resume: bool = False
    segments: int = 0
    budget: float = 0.05
    memory_budget: float = 0.05
    probes: str = "default"
    checkpoints: str | int | None = None
    thumbnails: bool = False
    max_bytes: int | None = None
    note: str = ""
    start: str = DEFAULT_START


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line with its environment, ready to be executed."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]


def watch(
    target: str,
    arguments: Sequence[str],
    *,
    module: bool = False,
    run: str | os.PathLike[str],
    resume: bool = False,
    budget: float = 0.05,
    memory_budget: float = 0.05,
    probes: str = "default",
    checkpoints: str | int | None = None,
    thumbnails: bool = False,
    max_bytes: int | None = None,
    note: str = "",
    start: str = DEFAULT_START,
) -> int:
    """Replace this process by python running `target` with `arguments`, recorded into the folder `run`.

    Returns only where a process cannot be replaced (Windows); the value is then the exit code of the target.

    Raises:
        UsageError: there is nothing to run under the name `target`; nothing was written.
        RunExistsError: `run` holds something and `resume` is false.
        RunLockedError: another process writes `run`.
        RunUnreadableError: `run` is to be resumed but holds no run.
        RecordingError: the folder cannot be made, or this interpreter ignores PYTHONPATH.
    """
    check_interpreter()
    check_target(target, module=module)
    folder = Path(run).absolute()
    segments = claim_folder(folder, resume=resume)
    options = WatchOptions(
        str(folder), resume, segments, budget, memory_budget, probes, checkpoints, thumbnails, max_bytes, note, start
    )
    return _execute(python_command(target, arguments, options, module=module))


def check_interpreter() -> None:
    """Make sure that this interpreter's options let a recording be found.

    Raises:
        RecordingError: they do not.
    """
    if sys.flags.ignore_environment or sys.flags.no_site:
        raise RecordingError("python was started with -E, -I or -S, which prevent a recording: leave that option out")


def check_target(target: str, *, module: bool) -> None:
    """Make sure that python would find `target`, without running any of it.

    Raises:
        UsageError: it would not.
    """
    if module:
        _check_module(target)
        return
    path = Path(target)
    if target.startswith("-"):
        raise UsageError(f"{target} would be taken for an option of python: write ./{target}")
    if not path.exists():
        hint = "; a launcher is watched as `-m torch.distributed.run`" if path.name in _LAUNCHER_FILES else ""
        raise UsageError(f"there is no script {target}: check the path{hint}")
    if path.is_dir() and not any((path / name).exists() for name in ("__main__.py", "__main__.pyc")):
        raise UsageError(f"{target} is a folder without __main__.py: give a script, or a folder that has one")
    if not os.access(path, os.R_OK):
        raise UsageError(f"the script {target} cannot be read: check its permissions")


def _check_module(name: str) -> None:
    if not name or name.startswith("."):
        raise UsageError(f"{name!r} is no module name: give an absolute one, such as package.module")
    if name.endswith(".py") and Path(name).is_file():
        raise UsageError(f"{name} is a file, no module: leave out -m to run it")
    # Only the outermost package is looked up: finding what lies in it would already run its code.
    outermost = name.partition(".")[0]
    here = [] if sys.flags.safe_path else [os.getcwd()]
    for finder in sys.meta_path:
        path = [*here, *sys.path] if finder is importlib.machinery.PathFinder else None
        if finder.find_spec(outermost, path) is not None:
            return
    raise UsageError(f"there is no module {name}: check the name and that it is installed")


def is_launcher(target: str, arguments: Sequence[str], *, module: bool) -> bool:
    """Whether `target` starts other processes that do the training, as torchrun does."""
    if module:
        return target in _LAUNCHER_MODULES or (target.startswith("accelerate.") and arguments[:1] == ["launch"])
    name = Path(target).stem
    if name not in _LAUNCHER_FILES:
        return False
    subcommand = _LAUNCHER_FILES[name]
    return subcommand is None or list(arguments[:1]) == [subcommand]


def claim_folder(folder: Path, *, resume: bool) -> int:
    """Make the run's folder, or make sure that the run in it can be resumed; how many segments that run holds.

    See `watch` for the errors.
    """
    if folder.exists() and not folder.is_dir():
        raise RunExistsError(f"{folder} is a file: give a folder that does not exist yet")
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    if names and not resume:
        raise RunExistsError(
            f"{folder} exists and is not empty: choose another path, or add --resume to continue the run in it"
        )
    if is_locked(folder / LOCK_NAME):
        raise RunLockedError(f"{folder} is being written by another process: wait for it or choose another path")
    if DATABASE_NAME in names:
        with open_run(folder) as run:
            return len(run.segments)
    if names - {LOCK_NAME, "ranks"}:
        raise RunUnreadableError(f"{folder} holds no run to resume: leave out --resume or give another path")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordingError(f"{folder} cannot be made ({error.strerror}): choose another path") from error
    return 0


def python_command(target: str, arguments: Sequence[str], options: WatchOptions, *, module: bool) -> Command:
    """The command that runs `target` under the options of this interpreter, with the recording in its environment."""
    path = os.environ.get("PYTHONPATH")
    role: Role = "launcher" if is_launcher(target, arguments, module=module) else "script"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(_FOLDER), path)) if path else str(_FOLDER),
        FACTS_VARIABLE: json.dumps(dataclasses.asdict(options)),
        ROLE_VARIABLE: role,
    }
    what = ("-m", target) if module else (target,)
    return Command((sys.executable, *interpreter_options(sys.orig_argv[1:]), *what, *arguments), environment)


def interpreter_options(arguments: Sequence[str]) -> list[str]:
    """The options of python itself in its command line `arguments`, without the program (`sys.orig_argv[1:]`)."""
    options: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-") or argument == "-":
            return options
        if argument.startswith("--"):
            options += [argument, next(rest, "")] if argument == "--check-hash-based-pycs" else [argument]
            continue
        # Letters may be run together; a letter that takes a value takes what follows it, or else the next argument.
        letters = argument[1:]
        position = next((i for i, letter in enumerate(letters) if letter in "cmWX"), None)
        if position is not None and letters[position] in "cm":
            return [*options, "-" + letters[:position]] if position else options
        options.append(argument)
        if position is not None and position == len(letters) - 1:
            options.append(next(rest, ""))
    return options


def _execute(command: Command) -> int:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    if os.name == "nt":
        return subprocess.call(command.arguments, env=command.environment)
    os.execve(command.arguments[0], command.arguments, command.environment)
