"""Keeps a trial's process: a program of the standard library alone, `python keeper.py LOG COMMAND...`.

It runs the command, in a session of its own with output into LOG, and ends with its exit code. When its standard input
is closed, because whoever started it says so or is gone, however it died, it interrupts the command, and kills it if
that does not help: no training goes on that nobody attends to.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

_PATIENCE = ((signal.SIGINT, 5.0), (signal.SIGTERM, 2.0), (signal.SIGKILL, 10.0))


def main(log: str, command: list[str]) -> int:
    """Run the command until it ends or standard input does; its exit code, 128 + n for signal n."""
    # Whoever starts programs in the background may have set this to ignored, which the command would inherit.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    threading.Thread(target=_end_when_alone, args=(process,), daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


def _end_when_alone(process: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()
    for number, seconds in _PATIENCE:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


if __name__ == "__main__":
    exit_code = main(sys.argv[1], sys.argv[2:])
    # The thread that waits for the end of standard input must not keep the interpreter.
    os._exit(exit_code)
