"""Who attends to a sweep's trials: the sweep that holds the lock of a folder, which tells live from dead."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from separatrix.runs import RunLockedError
from separatrix.runs.locking import RunLock, is_locked
from separatrix.steer.tuning.errors import SweepError

_FACTS = "sweep.json"
_LOCK = "sweep.lock"
_IDENTITY = "id"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sweep's folder, known again by the `identity` that its file of facts holds, on a machine."""

    identity: str
    folder: str
    host: str = dataclasses.field(default_factory=socket.gethostname)

    @classmethod
    def of(cls, noted: Any) -> Claim | None:
        """The claim that a trial's note holds; None where there is none, or another version's."""
        try:
            return cls(**noted)
        except TypeError:
            return None

    def shares_folder(self, other: Claim | None) -> bool:
        """Whether another claim is on the same folder, perhaps from another machine."""
        return other is not None and (other.identity, other.folder) == (self.identity, self.folder)

    @contextlib.contextmanager
    def taken_over(self) -> Iterator[bool]:
        """Whether its sweep is known to have ended; it cannot begin again meanwhile.

        That is seen by the lock of its folder, and only on its own machine: locks need not reach others.
        """
        path = Path(self.folder) / _LOCK
        here = self.host == socket.gethostname() and _known(path.parent).get(_IDENTITY) == self.identity
        if not here or is_locked(path) is not False:
            yield False
            return
        lock = RunLock(path)
        try:
            yield lock.acquire(0.0)
        finally:
            lock.release()


@contextlib.contextmanager
def claimed(folder: Path, facts: Mapping[str, Any]) -> Iterator[Claim]:
    """Hold a sweep's folder, which is new or holds a sweep of the same facts.

    Raises:
        SweepError: it holds something else.
        RunLockedError: another process holds it.
    """
    if folder.exists() and not folder.is_dir():
        raise SweepError(f"{folder} is a file: give a folder to --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(entry.name != _LOCK for entry in folder.iterdir()):
            _check_same(folder, facts)
        lock = RunLock(folder / _LOCK)
        if not lock.acquire():
            raise RunLockedError(f"{folder} is in use by another sweep: wait for it, or give another folder")
    except OSError as error:
        raise SweepError(f"{folder} cannot be used ({error.strerror}): give another folder to --out") from error
    try:
        identity = _known(folder).get(_IDENTITY) or uuid.uuid4().hex
        text = json.dumps({**facts, _IDENTITY: identity}, indent=2)
        (folder / _FACTS).write_text(text + "\n", encoding="utf-8")
        yield Claim(identity, str(folder.absolute()))
    finally:
        lock.release()


def _known(folder: Path) -> dict[str, Any]:
    """What the folder's file of facts holds; empty where that cannot be read."""
    try:
        known = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _check_same(folder: Path, facts: Mapping[str, Any]) -> None:
    known = _known(folder)
    if not known:
        raise SweepError(f"{folder} is not empty and holds no sweep: give another folder to --out")
    differing = [name for name, value in facts.items() if known.get(name) != value]
    if differing:
        raise SweepError(f"{folder} holds a sweep of another {', '.join(differing)}: give the same, or another --out")
