"""Starts and ends recordings: `record` around a training loop, `start` for watched processes, `log` from anywhere."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from separatrix.record.environment import describe_command, describe_environment
from separatrix.record.options import RecordingOptions
from separatrix.record.session import Session
from separatrix.record.training import Training
from separatrix.runs import (
    RecordingError,
    Redactor,
    RunWriter,
    SeparatrixError,
    Status,
    UnknownMemberError,
)
from separatrix.runs.discovery import members
from separatrix.runs.probe import Moment, Probe
from separatrix.runs.writer import DEFAULT_MAX_BYTES

_active: Recording | None = None


def available_probes() -> dict[str, Probe]:
    """Every probe that this package or an installed one provides, by name."""
    return members("separatrix.probes", Probe, "separatrix.probes")


def chosen_probes(names: str | Sequence[str]) -> list[Probe]:
    """The probes that `names` asks for: "default", "all", or names (a sequence, or separated by commas).

    Raises:
        UnknownMemberError: no package provides a probe of that name.
    """
    available = available_probes()
    wanted = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    chosen: dict[str, Probe] = {}
    for name in wanted:
        if name == "all":
            chosen |= available
        elif name == "default":
            chosen |= {key: probe for key, probe in available.items() if probe.default}
        elif name in available:
            chosen[name] = available[name]
        else:
            known = ", ".join(available)
            raise UnknownMemberError(f"there is no probe {name!r}: choose default, all, or from {known}")
    return list(chosen.values())


class Recording:
    """A recording that goes on. It is finished when closed, unless `crashed` or `interrupted` was called before."""

    def __init__(self, writer: RunWriter, session: Session) -> None:
        self.path = writer.path
        self._writer = writer
        self._session = session
        self._status = Status.FINISHED
        self._traceback: str | None = None

    @property
    def step(self) -> int:
        """Steps done so far."""
        return self._session.step

    def log(self, name: str, value: float) -> None:
        """Record a value of the user's own at the current step."""
        self._session.log(name, float(value))

    @contextlib.contextmanager
    def examples(self, ids: Sequence[Any]) -> Iterator[None]:
        """The losses computed inside a `with` block are of the examples with these ids, one a row and in this order.

        Ids are integers or texts. They count before what is known of DataLoaders. Without a probe of examples among
        those chosen nothing happens, but for an event.
        """
        followed = self._session.examples
        if followed is None:
            self._session.say_unfollowed()
            yield
            return
        with followed.given(ids):
            yield

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Record nothing inside a `with` block: every hook and patch is removed until it ends."""
        return self._session.paused()

    def crashed(self, traceback_text: str) -> None:
        """The script ended by an exception that nobody caught."""
        self._status, self._traceback = Status.CRASHED, traceback_text

    def interrupted(self) -> None:
        """The script ended by Ctrl-C."""
        self._status = Status.INTERRUPTED

    def close(self) -> None:
        """Stop listening, store the rest and restore what was patched. Closing twice is closing once."""
        global _active
        if _active is self:
            _active = None
        self._session.stop()
        self._writer.close(self._status, self._traceback)

    def fall_silent(self) -> None:
        """Listen no more, without touching the file: the disk failed, or this is a forked child."""
        self._session.fall_silent()


def _say(reason: str) -> None:
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(f"separatrix: the recording has ended, the training goes on: {reason}", file=sys.stderr)


def _fall_silent_in_child() -> None:
    global _active
    if _active is not None:
        _active.fall_silent()
        _active = None


os.register_at_fork(after_in_child=_fall_silent_in_child)


def start(
    path: str | os.PathLike[str],
    options: RecordingOptions | None = None,
    *,
    rank: int = 0,
    adopt: bool = False,
    command: Sequence[str] | None = None,
    redactor: Redactor | None = None,
    models: Sequence[torch.nn.Module] = (),
    optimizers: Sequence[torch.optim.Optimizer] = (),
) -> Recording:
    """Start to record the training of this process, number `rank` of its group, into the folder `path`.

    `adopt` takes a folder that was made for this run before; `command` (default: `sys.argv`) and `redactor` say what
    is written about the process and what is masked in it.

    Raises:
        UsageError: an unknown rule for checkpoints.
        UnknownMemberError: an unknown probe.
        RecordingError: this process is being recorded already.
        RunExistsError, RunLockedError, RunUnreadableError: the folder cannot be used.
    """
    global _active
    options = options or RecordingOptions()
    if _active is not None:
        raise RecordingError(f"this process is being recorded into {_active.path} already: close that recording first")
    chosen = chosen_probes(options.probes)
    follows = options.thumbnails or any("examples" in probe.needs for probe in chosen)
    if follows and not any(probe.moment is Moment.EXAMPLE for probe in chosen):
        chosen += chosen_probes("examples")
    redactor = redactor or Redactor(arguments=sys.argv)
    recordings: list[Recording] = []

    def ended(reason: str) -> None:
        for recording in recordings:
            recording.fall_silent()
        _say(reason)

    writer = RunWriter(
        path,
        resume=options.resume,
        adopt=adopt,
        rank=rank,
        redactor=redactor,
        max_bytes=DEFAULT_MAX_BYTES if options.max_bytes is None else options.max_bytes,
        on_failure=ended,
    )
    try:
        facts = describe_command(list(command) if command is not None else sys.argv, redactor)
        facts |= {"budget": options.budget, "probes": [probe.name for probe in chosen], "rank": rank}
        facts |= options.config or {}
        writer.meta("environment", describe_environment())
        training = Training(
            writer,
            chosen,
            budget=options.budget,
            memory_budget=options.memory_budget,
            checkpoints=options.checkpoints,
            thumbnails=options.thumbnails and rank == 0,
            models=models,
            config=facts,
        )
        session = Session(training, optimizers)
        session.start()
    except BaseException:
        writer.close(Status.CRASHED)
        raise
    recording = Recording(writer, session)
    recordings.append(recording)
    _active = recording
    return recording


def outer_recording(run: str | os.PathLike[str]) -> Recording | None:
    """The recording that goes on already, with an event that one into `run` was asked for; None if there is none."""
    if _active is not None:
        _active._writer.event("nested", f"record(run={str(run)!r}) inside a recording: the outer one goes on")
    return _active


@contextlib.contextmanager
def record(
    model: torch.nn.Module | Sequence[torch.nn.Module] = (),
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] = (),
    *,
    run: str | os.PathLike[str],
    resume: bool = False,
    budget: float = 0.05,
    memory_budget: float = 0.05,
    probes: str | Sequence[str] = "default",
    checkpoints: str | int | None = None,
    thumbnails: bool = False,
    max_bytes: int | None = None,
    config: Mapping[str, Any] | None = None,
) -> Iterator[Recording]:
    """Record the training inside a `with` block into the folder `run`, changing nothing of it.

    `model` and `optimizer` (one or several) need not be given: they are found when an optimizer is constructed or
    steps inside the block; given, the first step is seen whole. `budget` and `memory_budget` bound the overhead in
    time and memory as shares of the training's own. `checkpoints` is "log" or a number of steps; `thumbnails` keeps
    small images of the examples, for the report, and follows these. `config` is stored with the run, secrets
    masked. An exception that leaves the block marks the run as crashed, with its traceback, and goes on.

    Inside a watched script, or inside another recording, the outer recording goes on and is what the block yields; an
    event says so.

    Raises:
        UsageError: a budget outside (0, 1].
        SeparatrixError: the recording cannot be started as asked; see `start`.
    """
    outer = outer_recording(run)
    if outer is not None:
        yield outer
        return
    options = RecordingOptions(
        resume=resume,
        budget=budget,
        memory_budget=memory_budget,
        probes=probes,
        checkpoints=checkpoints,
        thumbnails=thumbnails,
        max_bytes=max_bytes,
        config=config,
    )
    models = (model,) if isinstance(model, torch.nn.Module) else tuple(model)
    optimizers = (optimizer,) if isinstance(optimizer, torch.optim.Optimizer) else tuple(optimizer)
    recording = start(Path(run), options, models=models, optimizers=optimizers)
    # What the caller deletes inside the block must be free to go.
    del model, models, optimizer, optimizers
    try:
        yield recording
    except KeyboardInterrupt:
        recording.interrupted()
        raise
    except BaseException:
        recording.crashed(traceback.format_exc())
        raise
    finally:
        recording.close()


def log(name: str, value: float) -> None:
    """Record a value of your own under `name` at the current step; does nothing where no recording goes on.

    Raises:
        SeparatrixError: the value is not a number.
    """
    if _active is None:
        return
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise SeparatrixError(f"log({name!r}) takes a number, not {type(value).__name__}: reduce it first") from None
    _active.log(str(name), number)
