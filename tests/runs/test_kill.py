"""A recording killed at random moments, and what reading it may and may not do."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from soak.kill import kill_once

from separatrix.runs import Redactor, RunWriter, SeriesSpec, Status, open_run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform cannot fork")


@pytest.mark.parametrize("moment", range(10))
def test_killed_at_any_moment_it_opens_and_loses_at_most_the_last_second(moment: int, tmp_path: Path) -> None:
    # The moments differ from run to run on purpose; a failing one is printed with the test's name.
    after = random.SystemRandom().uniform(0.0, 1.5)
    found = kill_once(tmp_path, after)
    assert found.wrong == "", f"killed after {after:.4f} s"


def killed_run(path: Path, *, wal: bool = True) -> Path:
    """A run with a hundred steps whose process was killed while everything was still in the WAL."""
    child = os.fork()
    if child == 0:
        from separatrix.runs import database

        if not wal:
            database.on_network_file_system = lambda _: True
        run = RunWriter(path, redactor=Redactor({}))
        loss = run.series(SeriesSpec("loss"))
        for step in range(100):
            run.scalar(loss, step, float(step))
        run.flush()
        if not wal:
            # Dies in the middle of a batch that no longer fits the cache, so that a rollback journal is left.
            run._database.connection.execute("PRAGMA cache_size=2")
            run._database.connection.execute("PRAGMA cache_spill=2")
            run._database.connection.execute("BEGIN IMMEDIATE")
            for step in range(100, 3000):
                row = (loss, step, 0, b"x" * 8000)
                run._database.connection.execute("INSERT INTO points(series, first, stride, data) VALUES(?,?,?,?)", row)
            run._database.connection.execute("DELETE FROM points WHERE id < 50")
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    return path


def contents(path: Path) -> dict[str, tuple[bytes, int]]:
    return {item.name: (item.read_bytes(), item.stat().st_mtime_ns) for item in path.iterdir()}


def complete(path: Path) -> bool:
    with open_run(path) as run:
        return run.series("loss").values.tolist() == [float(step) for step in range(100)]


def test_reading_a_killed_run_changes_no_byte_and_leaves_no_file(tmp_path: Path) -> None:
    path = killed_run(tmp_path / "r")
    assert (path / "run.sqlite-wal").stat().st_size > 0
    before = contents(path)
    assert complete(path)
    assert open_run(path).status is Status.KILLED
    assert contents(path) == before
    for name in ("run.sqlite-shm", "run.lock"):
        (path / name).unlink(missing_ok=True)
    os.utime(path / "run.sqlite", (0, 0))
    os.utime(path / "run.sqlite-wal", (0, 0))
    before = contents(path)
    assert complete(path)
    assert contents(path) == before


def test_reading_a_finished_run_changes_no_byte_even_if_a_reader_kept_it_in_wal_mode(tmp_path: Path) -> None:
    import sqlite3

    run = RunWriter(tmp_path / "r", redactor=Redactor({}))
    loss = run.series(SeriesSpec("loss"))
    for step in range(100):
        run.scalar(loss, step, float(step))
    run.flush()
    other = sqlite3.connect(tmp_path / "r" / "run.sqlite")
    other.execute("SELECT count(*) FROM points").fetchall()
    run.close()
    other.close()
    (tmp_path / "r" / "run.sqlite-shm").unlink(missing_ok=True)
    before = contents(tmp_path / "r")
    assert complete(tmp_path / "r")
    assert open_run(tmp_path / "r").status is Status.FINISHED
    assert contents(tmp_path / "r") == before


def test_a_run_killed_without_wal_is_rolled_back_in_a_copy(tmp_path: Path) -> None:
    path = killed_run(tmp_path / "r", wal=False)
    assert (path / "run.sqlite-journal").stat().st_size > 0
    before = contents(path)
    assert complete(path)
    assert contents(path) == before


def test_a_killed_run_is_resumed_with_everything_in_it(tmp_path: Path) -> None:
    path = killed_run(tmp_path / "r")
    opened = open_run(path)
    assert opened.status is Status.KILLED
    run = RunWriter(path, resume=True, redactor=Redactor({}))
    assert run.last_recorded_step() == 99
    run.scalar(run.series(SeriesSpec("loss")), 100, 100.0)
    run.close()
    assert opened.status is Status.FINISHED
    assert opened.series("loss").values.tolist() == [float(step) for step in range(101)]
    assert [segment.status for segment in opened.segments] == [Status.KILLED, Status.FINISHED]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of its own, which can be remounted read-only."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("helpers", ["kept", "lost"])
def test_runs_on_a_read_only_disk_open(small_disk: Path, tmp_path: Path, helpers: str) -> None:
    killed = killed_run(tmp_path / "killed")
    shutil.copytree(killed, small_disk / "killed")
    run = RunWriter(small_disk / "finished", redactor=Redactor({}))
    loss = run.series(SeriesSpec("loss"))
    for step in range(100):
        run.scalar(loss, step, float(step))
    run.close()
    if helpers == "lost":
        for name in ("killed/run.sqlite-shm", "killed/run.lock", "finished/run.lock"):
            (small_disk / name).unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OSError, match="Read-only"):
        (small_disk / "x").write_text("x")
    assert complete(small_disk / "killed")
    assert complete(small_disk / "finished")
    assert open_run(small_disk / "finished").status is Status.FINISHED


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_another_user_without_write_permission_reads_killed_finished_and_live_runs(tmp_path: Path) -> None:
    shared = Path("/tmp") / f"separatrix-test-{os.getpid()}"
    shared.mkdir()
    try:
        killed_run(shared / "killed")
        run = RunWriter(shared / "finished", redactor=Redactor({}))
        live = RunWriter(shared / "live", redactor=Redactor({}))
        for each in (run, live):
            loss = each.series(SeriesSpec("loss"))
            for step in range(100):
                each.scalar(loss, step, float(step))
        run.close()
        live.flush()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setgid(65534)
                os.setuid(65534)
                states = []
                for name in ("killed", "finished", "live"):
                    assert complete(shared / name)
                    states.append(open_run(shared / name).status.value)
                code = 0 if states == ["killed", "finished", "running"] else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        live.close()
    finally:
        shutil.rmtree(shared)


def test_readers_see_a_growing_run_without_gaps_while_a_writer_is_at_work(tmp_path: Path) -> None:
    script = (
        "import sys,time; sys.path.insert(0, sys.argv[2])\n"
        "from separatrix.runs import *\n"
        "w = RunWriter(sys.argv[1], redactor=Redactor({})); s = w.series(SeriesSpec('loss')); step = 0\n"
        "end = time.monotonic() + 2.5\n"
        "while time.monotonic() < end:\n"
        "    for _ in range(500): w.scalar(s, step, float(step)); step += 1\n"
        "    w.flush()\n"
        "w.close()\n"
    )
    source = str(Path(__file__).resolve().parents[2] / "src")
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "r"), source]) as other:
        while not (tmp_path / "r" / "run.lock").exists() and other.poll() is None:
            time.sleep(0.01)
        time.sleep(0.3)
        opened, seen = open_run(tmp_path / "r"), [0]
        while other.poll() is None:
            if "loss" in opened:
                data = opened.series("loss")
                assert np.array_equal(data.values, data.steps)
                assert np.array_equal(data.steps, np.arange(len(data.steps)))
                seen.append(len(data.steps))
            time.sleep(0.02)
    assert other.returncode == 0
    assert seen == sorted(seen)
    assert len(set(seen)) > 5
    assert opened.status is Status.FINISHED
