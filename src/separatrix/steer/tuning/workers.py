"""Where trials run: in processes of this machine, or on a Ray cluster, behind one small interface."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from typing import Any, Protocol

from separatrix.steer.tuning.attendant import Attendant, Look, TrialJob
from separatrix.steer.tuning.errors import SweepError, WorkerLostError, needed

_CONNECT_SECONDS = 5.0


class Attended(Protocol):
    """A trial that somebody attends to."""

    def look(self) -> Look | None:
        """How it stands, or None when there is no answer yet.

        Raises:
            WorkerLostError: nobody attends to it any more.
        """

    def stop(self) -> None:
        """End it early."""

    def close(self) -> None:
        """End it and free what it held."""

    @property
    def where(self) -> str:
        """host:process of the worker, empty while that is not known."""


class Workers(Protocol):
    """Takes trials."""

    def start(self, job: TrialJob) -> Attended:
        """Begin a trial."""


class LocalWorkers:
    """Trials as processes of this machine."""

    def start(self, job: TrialJob) -> Attended:
        """Begin a trial."""
        return Attendant(job)


@contextlib.contextmanager
def ray_workers(address: str | None = None, workers: int = 1) -> Iterator[Workers]:
    """Trials on a Ray cluster, each attended to by an actor that takes one processor.

    With no address a cluster of `workers` processors is started on this machine, and ended afterwards. The folder of
    the sweep and the script must be found under the same paths on every machine.

    Raises:
        MissingExtraError: Ray is not installed.
        SweepError: there is no cluster at the address.
    """
    ray = needed("ray", "ray")
    if address is not None:
        _check_reachable(address)
    # Workers must find this package and the script's environment as it is here.
    surroundings = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}
    options: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False} if address is None else {}
    mine = not ray.is_initialized()
    try:
        if mine:
            ray.init(
                address=address or "local",
                runtime_env=surroundings,
                log_to_driver=False,
                logging_level="ERROR",
                **options,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SweepError(
            f"no Ray cluster at {address or 'this machine'} ({reason}): start one, or leave --ray out"
        ) from error
    try:
        yield _RayWorkers(ray)
    finally:
        if mine:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Make sure that somebody listens there: Ray itself would try for minutes, and may then end the process.

    Raises:
        SweepError: nobody does, or the address has no port.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise SweepError(f"no Ray cluster at {address} ({reason}): give HOST:PORT of one, or --ray alone") from error


class _RayWorkers:
    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._remote = ray.remote(num_cpus=1, max_restarts=0)(_RemoteAttendant)

    def start(self, job: TrialJob) -> Attended:
        return _RayAttended(self._ray, self._remote.remote(job))


class _RemoteAttendant(Attendant):
    """An attendant that can tell where it is."""

    def place(self) -> str:
        return self.where


class _RayAttended:
    """Asks an actor, one question at a time, and never waits for the answer."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray = ray
        self._actor = actor
        self._place = actor.place.remote()
        self._question: Any = None
        self._where = ""

    @property
    def where(self) -> str:
        if not self._where and self._ready(self._place):
            self._where = str(self._got(self._place))
        return self._where

    def look(self) -> Look | None:
        if self._question is None:
            self._question = self._actor.look.remote()
        if not self._ready(self._question):
            return None
        question, self._question = self._question, None
        answer: Look = self._got(question)
        return answer

    def stop(self) -> None:
        self._actor.stop.remote()

    def close(self) -> None:
        # The training ends with its actor, whose end closes the keeper's standard input.
        self._ray.kill(self._actor)

    def _ready(self, reference: Any) -> bool:
        return bool(self._ray.wait([reference], timeout=0)[0])

    def _got(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[:200]
            raise WorkerLostError(f"the worker at {self._where or 'an unknown place'} was lost ({reason})") from error
