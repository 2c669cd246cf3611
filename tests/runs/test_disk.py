"""Recording to a disk that is full or becomes full."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from separatrix.runs import RecordingError, Redactor, RunWriter, SeriesSpec, Status, open_run


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            for size in (4096, 1):
                while True:
                    file.write(b"x" * size)
        except OSError:
            pass


def test_a_disk_that_fills_up_ends_the_recording_once_and_keeps_what_was_stored(tiny_disk: Path) -> None:
    told: list[str] = []
    run = RunWriter(tiny_disk / "r", redactor=Redactor({}), on_failure=told.append)
    run.positions("parameter", [str(i) for i in range(1000)])
    rms = run.series(SeriesSpec("rms", ("parameter",)))
    stored = 0
    for step in range(1000):
        run.vector(rms, step, np.full(1000, step, np.float32))
        run.flush()
        if run.failure is None:
            stored = step + 1
    run.close(Status.FINISHED)
    assert len(told) == 1
    assert "full" in told[0] and "\n" not in told[0]
    assert 0 < stored < 1000
    with open_run(tiny_disk / "r") as opened:
        data = opened.series("rms")
        assert np.array_equal(data.steps, np.arange(stored))
        assert np.array_equal(data.values, np.repeat(np.arange(stored, dtype=np.float32)[:, None], 1000, axis=1))


def test_the_end_of_a_recording_that_was_cut_short_is_noted_when_there_is_room_again(tiny_disk: Path) -> None:
    run = RunWriter(tiny_disk / "r", redactor=Redactor({}))
    rms = run.series(SeriesSpec("rms", ("parameter",)))
    run.positions("parameter", [str(i) for i in range(1000)])
    run.vector(rms, 0, np.ones(1000, np.float32))
    run.flush()
    fill(tiny_disk)
    for step in range(1, 400):
        run.vector(rms, step, np.ones(1000, np.float32))
    run.flush()
    assert run.failure is not None
    (tiny_disk / "filler").unlink()
    run.close(Status.FINISHED)
    with open_run(tiny_disk / "r") as opened:
        assert opened.status is Status.FINISHED
        assert [(event.kind, event.severity, event.message) for event in opened.events] == [
            ("recording-ended", "error", run.failure)
        ]
        assert opened.series("rms").steps.tolist() == [0]


def test_a_disk_full_at_the_close_loses_only_what_was_not_stored(tiny_disk: Path) -> None:
    told: list[str] = []
    run = RunWriter(tiny_disk / "r", redactor=Redactor({}), on_failure=told.append)
    rms = run.series(SeriesSpec("rms", ("parameter",)))
    run.positions("parameter", [str(i) for i in range(1000)])
    run.vector(rms, 0, np.ones(1000, np.float32))
    run.flush()
    fill(tiny_disk)
    for step in range(1, 400):
        run.vector(rms, step, np.ones(1000, np.float32))
    run.close()
    assert len(told) == 1
    with open_run(tiny_disk / "r") as opened:
        assert opened.series("rms").steps.tolist() == [0]
        assert opened.status in (Status.KILLED, Status.FINISHED)


def test_a_full_disk_at_the_beginning_is_one_clear_line_and_leaves_nothing(tiny_disk: Path) -> None:
    fill(tiny_disk)
    with pytest.raises(RecordingError) as caught:
        RunWriter(tiny_disk / "r", redactor=Redactor({}))
    assert "\n" not in str(caught.value)
    assert os.listdir(tiny_disk) == ["filler"]


def test_a_limit_on_file_size_is_a_full_disk(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import resource, sys
        import numpy as np
        from separatrix.runs import Redactor, RunWriter, SeriesSpec
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
        told = []
        run = RunWriter(sys.argv[1], redactor=Redactor({}), on_failure=told.append)
        run.positions("parameter", [str(i) for i in range(1000)])
        rms = run.series(SeriesSpec("rms", ("parameter",)))
        for step in range(300):
            run.vector(rms, step, np.ones(1000, np.float32))
            run.flush()
        run.close()
        print(len(told))
    """)
    source = str(Path(__file__).resolve().parents[2] / "src")
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "r")],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)
    with open_run(tmp_path / "r") as opened:
        steps = opened.series("rms").steps
        assert np.array_equal(steps, np.arange(len(steps)))
        assert 10 < len(steps) < 100
