"""Starts and ends the recording inside a watched process, or inside each worker of a launcher such as torchrun.

Called by `sitecustomize_folder/sitecustomize.py`: when the script has imported torch, and when the interpreter ends,
after the script's threads and exit handlers.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, Protocol, cast

from separatrix.record.environment import copy_script, describe_command, describe_environment
from separatrix.record.options import RecordingOptions
from separatrix.record.watch import WatchOptions
from separatrix.runs import Redactor, RunWriter, Status, open_run
from separatrix.runs.writer import DATABASE_NAME


class Recording(Protocol):
    """A recording that goes on; closed without a word before, it is finished."""

    def crashed(self, traceback_text: str) -> None:
        """The script ended by an exception that nobody caught."""

    def interrupted(self) -> None:
        """The script ended by Ctrl-C."""

    def close(self) -> None:
        """Store the rest and restore what was patched. Closing twice is closing once."""


class WatchedProcess(Protocol):
    """What is known of the process since python started it.

    `facts` is JSON of WatchOptions; `role` is "script", "launcher" or "worker"; `command` begins with the script as
    typed, or with -m and the module; `script` is the script's absolute path, "" for a module; `failure` says why the
    recording could not be started.
    """

    facts: str
    role: str
    rank: int
    command: list[str]
    script: str
    started: bool
    failure: str
    recording: Recording | None


def start_recording(process: WatchedProcess) -> Recording:
    """Start the recording of this process as its options ask.

    Raises:
        SeparatrixError: it cannot be started; nothing has been patched.
    """
    options = WatchOptions(**json.loads(process.facts))
    redactor = Redactor(arguments=process.command)
    if process.rank == 0:
        _copy_script(process, options, redactor)
    module, _, function = options.start.partition(":")
    # A restarted worker group continues the run of the one that failed.
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    start = getattr(importlib.import_module(module), function)
    asked = RecordingOptions(
        resume=options.resume or restarted,
        budget=options.budget,
        memory_budget=options.memory_budget,
        probes=options.probes,
        checkpoints=options.checkpoints,
        thumbnails=options.thumbnails,
        max_bytes=options.max_bytes,
    )
    recording = start(
        options.run, options=asked, rank=process.rank, adopt=True, command=process.command, redactor=redactor
    )
    return cast(Recording, recording)


def end_recording(process: WatchedProcess) -> None:
    """Close the recording with the way the script ended; write a run that says why if nothing was recorded."""
    try:
        _end(process)
    finally:
        if how_the_script_ended()[0] is Status.INTERRUPTED:
            _die_by_interrupt()


def _end(process: WatchedProcess) -> None:
    options = WatchOptions(**json.loads(process.facts))
    status, text = how_the_script_ended()
    if process.recording is not None:
        if status is Status.CRASHED:
            process.recording.crashed(text or "")
        elif status is Status.INTERRUPTED:
            process.recording.interrupted()
        process.recording.close()
    elif process.role == "launcher":
        if not _recorded_by_workers(options):
            _write_unseen(process, options, "no process that the launcher started recorded a training")
    elif process.rank == 0:
        failed = f"the recording could not be started ({process.failure})"
        _write_unseen(process, options, failed if process.failure else "torch was never imported")
    if options.note and process.role != "worker" and sys.stderr is not None and _database(options).exists():
        print(options.note, file=sys.stderr, flush=True)


def how_the_script_ended() -> tuple[Status, str | None]:
    """Status of the main module, which has ended, and the traceback if an exception ended it.

    Python leaves an uncaught exception in `sys.last_value` before it calls `sys.excepthook`, whoever replaced that.
    Tools set it too, in the midst of a program: theirs does not begin at the outermost frame.
    """
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    if not isinstance(error, BaseException):
        return Status.FINISHED, None
    start = error.__traceback__
    if start is not None and start.tb_frame.f_back is not None:
        return Status.FINISHED, None
    if isinstance(error, KeyboardInterrupt):
        return Status.INTERRUPTED, None
    return Status.CRASHED, "".join(traceback.format_exception(error))


def _die_by_interrupt() -> None:
    # After an uncaught KeyboardInterrupt python ends by SIGINT, unless source text was executed since then, as imports
    # do for named tuples. Executing this text notes the interrupt again.
    with contextlib.suppress(KeyboardInterrupt):
        exec("raise KeyboardInterrupt")


def _copy_script(process: WatchedProcess, options: WatchOptions, redactor: Redactor) -> None:
    main: Any = sys.modules.get("__main__")
    path = process.script or getattr(getattr(main, "__spec__", None), "origin", None)
    if path:
        copy_script(path, Path(options.run) / "script.py", redactor)


def _database(options: WatchOptions) -> Path:
    return Path(options.run) / DATABASE_NAME


def _recorded_by_workers(options: WatchOptions) -> bool:
    if not _database(options).exists():
        return any(Path(options.run).glob("ranks/*.sqlite"))
    with open_run(options.run) as run:
        return len(run.segments) > options.segments


def _write_unseen(process: WatchedProcess, options: WatchOptions, reason: str) -> None:
    status, text = how_the_script_ended()
    redactor = Redactor(arguments=process.command)
    resume = options.resume or _database(options).exists()
    writer = RunWriter(options.run, adopt=True, resume=resume, redactor=redactor)
    writer.meta("config", describe_command(process.command, redactor))
    writer.meta("environment", describe_environment())
    if process.role != "launcher":
        _copy_script(process, options, redactor)
    writer.event("unseen", f"no training was recorded: {reason}", severity="warning", data={"reason": reason})
    writer.close(status, text)
