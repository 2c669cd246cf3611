"""Forked and spawned children beside a writer."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from separatrix.runs import Redactor, RunWriter, SeriesSpec, Status, open_run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform cannot fork")


def ended(child: int, patience: float = 10.0) -> int:
    """The exit code of a child, which is killed (code -9) if it outlives `patience` seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -9


def in_child(act: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return ended(child)


def test_a_forked_child_writes_nothing_and_leaves_the_lock_alone(tmp_path: Path) -> None:
    run = RunWriter(tmp_path / "r", redactor=Redactor({}))
    loss = run.series(SeriesSpec("loss"))
    run.scalar(loss, 0, 1.0)

    def act() -> None:
        assert run.failure == "forked"
        for step in range(1000):
            run.scalar(loss, step, 9.0)
            run.event("user", "from the child")
        assert not run._points and not run._statements
        run.flush()
        run.close(Status.CRASHED)

    assert in_child(act) == 0
    assert open_run(tmp_path / "r").status is Status.RUNNING
    run.scalar(loss, 1, 2.0)
    run.close()
    opened = open_run(tmp_path / "r")
    assert opened.status is Status.FINISHED
    assert opened.series("loss").values.tolist() == [1.0, 2.0]
    assert opened.events == ()


def test_children_forked_while_the_writer_stores_end_normally_and_in_time(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import os, sys, threading, time
        sys.path.insert(0, sys.argv[2])
        from separatrix.runs import Redactor, RunWriter, SeriesSpec
        run = RunWriter(sys.argv[1], redactor=Redactor({}))
        loss = run.series(SeriesSpec("loss"))
        stop = threading.Event()
        def churn():
            step = 0
            while not stop.is_set():
                for _ in range(200):
                    run.scalar(loss, step, 1.0)
                    step += 1
                run.flush()
        thread = threading.Thread(target=churn)
        thread.start()
        slowest, codes = 0.0, set()
        for number in range(21):
            began = time.monotonic()
            child = os.fork()
            if child == 0:
                import sqlite3
                memory = sqlite3.connect(":memory:")
                memory.execute("CREATE TABLE t(a)")
                sys.exit(number % 3)  # through the interpreter's own shutdown, with every destructor
            codes.add((number % 3, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
            slowest = max(slowest, time.monotonic() - began)
        stop.set(); thread.join()
        run.close()
        print(codes == {(0, 0), (1, 1), (2, 2)}, run.failure, slowest < 5)
    """)
    source = str(Path(__file__).resolve().parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "r"), source], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == ("True None True", "")
    data = open_run(tmp_path / "r").series("loss")
    assert len(data.steps) == data.steps[-1] + 1


def test_a_child_that_outlives_a_killed_parent_does_not_keep_the_run_alive(tmp_path: Path) -> None:
    reader, pipe = os.pipe()
    parent = os.fork()
    if parent == 0:
        run = RunWriter(tmp_path / "r", redactor=Redactor({}))
        run.flush()
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        os.write(pipe, str(child).encode())
        time.sleep(30)
        os._exit(0)
    child = int(os.read(reader, 20))
    try:
        assert open_run(tmp_path / "r").status is Status.RUNNING
        os.kill(parent, 9)
        os.waitpid(parent, 0)
        assert open_run(tmp_path / "r").status is Status.KILLED
    finally:
        os.kill(child, 9)
        os.close(reader)
        os.close(pipe)


def test_a_subprocess_is_independent_and_the_lock_is_not_inherited(tmp_path: Path) -> None:
    run = RunWriter(tmp_path / "a", redactor=Redactor({}))
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        run.close()
        again = RunWriter(tmp_path / "a", resume=True, redactor=Redactor({}))
        again.close()
    finally:
        other.communicate(b"\n", timeout=10)
    assert [segment.status for segment in open_run(tmp_path / "a").segments] == [Status.FINISHED] * 2
