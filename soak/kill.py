"""Kills a recording at random moments and checks that its run opens and lost at most the last second."""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
from mmap import mmap
from pathlib import Path

import numpy as np

from separatrix.runs import Redactor, RunWriter, SeriesSpec, Status, open_run

_LABELS = 50
_PERIOD = 0.002


@dataclasses.dataclass(frozen=True)
class Moment:
    """What one killing left behind: seconds of recording lost, and what is wrong with the run, if anything."""

    after: float
    lost: float
    wrong: str


def _record(path: Path, clock: mmap) -> None:
    """Write the monotonic time, as fast as a quick training would, until killed; tell the last one handed over."""
    run = RunWriter(path, redactor=Redactor({}))
    run.positions("parameter", [f"p{i}" for i in range(_LABELS)])
    now = run.series(SeriesSpec("clock", dtype="float64"))
    vector = run.series(SeriesSpec("clocks", ("parameter",), dtype="float64"))
    step = 0
    while True:
        began = time.monotonic()
        run.scalar(now, step, began)
        run.vector(vector, step, np.full(_LABELS, began))
        clock[:16] = struct.pack("<dq", began, step + 1)
        step += 1
        time.sleep(max(0.0, _PERIOD - (time.monotonic() - began)))


def kill_once(folder: Path, after: float) -> Moment:
    """Record in a forked child for `after` seconds from its first value on, kill it, open what is there."""
    clock = mmap(-1, 16)
    child = os.fork()
    if child == 0:
        try:
            _record(folder / "run", clock)
        finally:
            os._exit(1)
    deadline = time.monotonic() + 30
    while struct.unpack("<dq", clock[:16])[1] == 0 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    killed = time.monotonic()
    os.waitpid(child, 0)
    _, steps = struct.unpack("<dq", clock[:16])
    if steps == 0:
        return Moment(after, 0.0, "the child recorded nothing in 30 seconds")
    return _examined(folder / "run", after, killed, steps)


def _examined(path: Path, after: float, killed: float, handed_over: int) -> Moment:
    before = {item.name: item.read_bytes() for item in path.iterdir()}
    with open_run(path) as run:
        status, stored = run.status, 0
        wrong = [] if status is Status.KILLED else [f"it reads as {status.value}"]
        kept = 0.0 if "clock" in run else after
        if "clock" in run:
            data, vectors = run.series("clock"), run.series("clocks")
            stored, kept = len(data.steps), killed - float(data.values[-1])
            if not np.array_equal(data.steps, np.arange(stored)) or stored > handed_over:
                wrong.append("its steps have gaps")
            if not np.array_equal(vectors.values, np.repeat(data.values[:, None], _LABELS, axis=1)):
                wrong.append("its series differ")
    if before != {item.name: item.read_bytes() for item in path.iterdir()}:
        wrong.append("reading changed it")
    if kept > 1.0:
        wrong.append(f"the last {kept:.2f} s are lost")
    return Moment(after, kept, "; ".join(wrong))


def main() -> int:
    """Kill at as many moments as asked for; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    moments = []
    for _ in range(options.moments):
        folder = Path(tempfile.mkdtemp(prefix="soak-kill-"))
        moments.append(kill_once(folder, draw.uniform(0.0, 3.0)))
        if moments[-1].wrong:
            print(f"killed after {moments[-1].after:.3f} s: {moments[-1].wrong} ({folder} is kept)", file=sys.stderr)
        else:
            shutil.rmtree(folder)
    worst = max(moment.lost for moment in moments)
    failed = sum(bool(moment.wrong) for moment in moments)
    print(f"{len(moments)} kills, {failed} failed, at most {worst:.2f} s lost")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
