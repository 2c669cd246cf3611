"""Attends to one trial: starts its process, looks at what it records, and ends it when told to."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from separatrix.runs import SeparatrixError
from separatrix.steer.tuning import keeper
from separatrix.steer.tuning.objective import Reading, Sight, Verdict

_LOOK_SHARE = 0.05
_FEWEST_SECONDS = 0.5
_LONGEST_LINE = 300


@dataclasses.dataclass(frozen=True)
class TrialJob:
    """One trial: a command, where it runs and with which further environment, its log, and how to read it."""

    command: Sequence[str]
    folder: str
    environment: Mapping[str, str]
    log: str
    reading: Reading


@dataclasses.dataclass(frozen=True)
class Look:
    """What a look at a trial shows: a sight while it runs, a verdict once it ended; `error` says why it has none."""

    sight: Sight = dataclasses.field(default_factory=Sight)
    verdict: Verdict | None = None
    error: str = ""


class Attendant:
    """Starts a trial's process and looks at it; the process ends with this object's process, however that dies.

    `where` is host:process of whoever attends.
    """

    def __init__(self, job: TrialJob) -> None:
        self.where = f"{socket.gethostname()}:{os.getpid()}"
        self._job = job
        self._sight = Sight()
        self._next_look = 0.0
        Path(job.log).parent.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", keeper.__file__, job.log, *job.command],
            stdin=subprocess.PIPE,
            cwd=job.folder,
            env={**os.environ, **job.environment},
            start_new_session=True,
        )

    def look(self) -> Look:
        """How the trial stands; reading a live run takes at most a twentieth of the time."""
        code = self._process.poll()
        try:
            if code is not None:
                return Look(self._job.reading.live(), self._job.reading.final(code, self._last_line()))
            begun = time.monotonic()
            if begun >= self._next_look:
                self._sight = self._job.reading.live()
                took = time.monotonic() - begun
                self._next_look = begun + max(_FEWEST_SECONDS, took / _LOOK_SHARE)
            return Look(self._sight)
        except SeparatrixError as error:
            return Look(self._sight, error=str(error))

    def stop(self) -> None:
        """Have the process interrupted, and killed if that does not end it; look says when it is over."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()

    def close(self) -> None:
        """End the process and wait for it."""
        self.stop()
        self._process.wait()

    def _last_line(self) -> str:
        try:
            lines = Path(self._job.log).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip()[:_LONGEST_LINE] for line in reversed(lines) if line.strip()), "")
