"""The advisory lock that tells a live writer from a killed one."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # a platform without flock: liveness is then judged by the heartbeat alone
    fcntl = None  # type: ignore[assignment]

_HELD_ELSEWHERE = (errno.EAGAIN, errno.EACCES)


class RunLock:
    """Holds `path` with flock while a run is written; freed by the kernel when the process dies, however it dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self, patience: float = 0.2) -> bool:
        """Take the lock; False if another process keeps it for longer than `patience` seconds.

        A reader testing for a writer holds the lock for an instant, hence the patience.

        Raises:
            OSError: the lock's file cannot be made.
        """
        if fcntl is None:
            return True
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _HELD_ELSEWHERE:
                    # A file system without locks must not prevent a recording.
                    os.close(descriptor)
                    return True
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    return False
                time.sleep(0.01)
            else:
                self._descriptor = descriptor
                return True

    def release(self) -> None:
        """Give the lock back by closing its descriptor; in a forked child this leaves the parent's hold intact."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_locked(path: Path) -> bool | None:
    """Whether a live process holds the lock; None where that cannot be told (no ordinary file, no flock)."""
    if fcntl is None:
        return None
    try:
        # Without O_NONBLOCK a pipe put there by a stranger would hang the reader.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return True if error.errno in _HELD_ELSEWHERE else None
    else:
        return False
    finally:
        os.close(descriptor)
