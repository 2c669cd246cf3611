"""What the writer refuses, leaves out, and survives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from separatrix.runs import (
    RecordingError,
    Redactor,
    RunExistsError,
    RunLockedError,
    RunUnreadableError,
    RunWriter,
    SeparatrixError,
    SeriesSpec,
    Status,
    open_run,
)


def writer(path: Path, **options: object) -> RunWriter:
    return RunWriter(path, redactor=Redactor({}), **options)  # type: ignore[arg-type]


def test_values_that_do_not_fit_are_left_out_with_one_event_each_and_nothing_else_is_lost(tmp_path: Path) -> None:
    told: list[str] = []
    run = writer(tmp_path / "r", on_failure=told.append)
    run.positions("parameter", ["a", "b"])
    loss, rms = run.series(SeriesSpec("loss")), run.series(SeriesSpec("rms", ("parameter",)))
    for bad in ("text", None, object(), 1j):
        run.scalar(loss, 1, bad)  # type: ignore[arg-type]
    run.scalar(loss, 1.5, 1.0)  # type: ignore[arg-type]
    run.scalar(loss, 2**80, 1.0)
    run.scalar(rms, 1, 1.0)
    for array in (np.ones(3), np.ones((2, 2)), np.array(["x", "y"]), np.float64(1)):
        run.vector(rms, 1, array)  # type: ignore[arg-type]
    run.vector(rms, 1, np.ones(1), first=-1)
    run.vector(rms, 1, np.ones(1), positions=np.array([2]))
    run.vector(loss, 1, np.ones(1))
    run.scalar(loss, 2, np.float32(0.5))
    run.scalar(loss, np.int64(3), 7)  # type: ignore[arg-type]
    run.vector(rms, 2, np.ones(2))
    run.close()
    assert (told, run.failure) == ([], None)
    opened = open_run(tmp_path / "r")
    assert opened.series("loss").steps.tolist() == [2, 3]
    assert opened.series("loss").values.tolist() == [0.5, 7.0]
    assert opened.series("rms").values.tolist() == [[1.0, 1.0]]
    events = [event for event in opened.events if event.kind == "unseen"]
    assert sorted(event.data["series"][0] for event in events) == ["loss", "rms"]


def test_text_that_is_no_unicode_ends_nothing(tmp_path: Path) -> None:
    run = writer(tmp_path / "r")
    run.event("user", "file \udcff.txt", data={"path": "\udcff"})
    run.meta("config", {"\udcff": "\udcff"})
    run.scalar(run.series(SeriesSpec("a\udcff")), 0, 1.0)
    run.close(Status.CRASHED, "no such file \udcff")
    opened = open_run(tmp_path / "r")
    assert run.failure is None
    assert opened.names() == ("a\\udcff",)
    assert opened.events[0].message == "file \\udcff.txt"


def test_a_series_cannot_change_its_dimensions_and_odd_number_types_are_refused(tmp_path: Path) -> None:
    run = writer(tmp_path / "r")
    run.series(SeriesSpec("loss"))
    with pytest.raises(ValueError, match="dimensions"):
        run.series(SeriesSpec("loss", ("parameter",)))
    with pytest.raises(ValueError, match="dtype"):
        run.series(SeriesSpec("wide", dtype="longdouble"))
    run.close()


def test_a_second_writer_an_existing_path_and_a_foreign_folder_are_told_apart(tmp_path: Path) -> None:
    run = writer(tmp_path / "r")
    for resume in (False, True):
        with pytest.raises(SeparatrixError) as caught:
            writer(tmp_path / "r", resume=resume)
        assert isinstance(caught.value, RunLockedError if resume else RunExistsError)
    run.scalar(run.series(SeriesSpec("loss")), 0, 1.0)
    run.close()
    with pytest.raises(RunExistsError):
        writer(tmp_path / "r")
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunExistsError):
        writer(tmp_path / "file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("x")
    with pytest.raises(RunUnreadableError):
        writer(tmp_path / "folder", resume=True)
    assert os.listdir(tmp_path / "folder") == ["notes.txt"]
    assert open_run(tmp_path / "r").series("loss").values.tolist() == [1.0]


def test_what_is_no_run_is_neither_resumed_nor_changed(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    file = tmp_path / "r" / "run.sqlite"
    file.write_bytes(b"precious, but no database" * 100)
    before = file.read_bytes()
    with pytest.raises(RunUnreadableError) as caught:
        writer(tmp_path / "r", resume=True)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == before


def test_a_failed_beginning_leaves_the_path_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from separatrix.runs import schema

    def full(connection: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(schema, "create", full)
    with pytest.raises(RecordingError, match="No space left"):
        writer(tmp_path / "a" / "r")
    assert not (tmp_path / "a").exists()
    monkeypatch.undo()
    writer(tmp_path / "a" / "r").close()


def test_a_path_below_a_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecordingError) as caught:
        writer(tmp_path / "file" / "r")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["folder gone", "file gone", "file replaced"])
def test_a_lost_file_ends_the_recording_once_and_quietly(tmp_path: Path, fault: str) -> None:
    told: list[str] = []
    run = writer(tmp_path / "r", on_failure=told.append)
    loss = run.series(SeriesSpec("loss"))
    run.scalar(loss, 0, 1.0)
    run.flush()
    if fault == "folder gone":
        shutil.rmtree(tmp_path / "r")
    else:
        (tmp_path / "r" / "run.sqlite").unlink()
        if fault == "file replaced":
            (tmp_path / "r" / "run.sqlite").write_bytes(b"another")
    for step in range(1, 100):
        run.scalar(loss, step, 1.0)
        run.flush()
    run.close()
    assert len(told) == 1
    assert "\n" not in told[0]
    assert run.failure == told[0]
    assert not run._points
    if fault == "file replaced":
        assert (tmp_path / "r" / "run.sqlite").read_bytes() == b"another"


def test_a_callback_that_raises_and_one_that_closes_do_no_harm(tmp_path: Path) -> None:
    for number, react in enumerate((lambda run: 1 / 0, lambda run: run.close())):
        path = tmp_path / str(number)
        holder: list[RunWriter] = []
        holder.append(writer(path, on_failure=lambda _, react=react, holder=holder: react(holder[0])))
        loss = holder[0].series(SeriesSpec("loss"))
        shutil.rmtree(path)
        holder[0].scalar(loss, 0, 1.0)
        holder[0]._wake.set()
        holder[0]._thread.join(5.0) if number else None
        holder[0].close()
        assert holder[0].failure is not None


def test_a_file_kept_busy_by_another_program_delays_and_loses_nothing(tmp_path: Path) -> None:
    run = writer(tmp_path / "r")
    loss = run.series(SeriesSpec("loss"))
    run.flush()
    run._database.connection.execute("PRAGMA busy_timeout=10")
    begin = "c=sqlite3.connect(sys.argv[1]); c.execute('BEGIN IMMEDIATE')"
    hold = f"import sqlite3, sys; {begin}; print(flush=True); input()"
    command = [sys.executable, "-c", hold, str(tmp_path / "r" / "run.sqlite")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdin is not None
        other.stdout.readline()
        run.scalar(loss, 0, 1.0)
        run.flush()
        run.scalar(loss, 1, 2.0)
        run.flush()
        assert run.failure is None
        other.stdin.write(b"\n")
        other.stdin.close()
        other.wait(10)
    run.close()
    assert open_run(tmp_path / "r").series("loss").values.tolist() == [1.0, 2.0]


def test_without_wal_a_run_is_recorded_and_read_while_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from separatrix.runs import database

    monkeypatch.setattr(database, "on_network_file_system", lambda path: True)
    run = writer(tmp_path / "r")
    run.scalar(run.series(SeriesSpec("loss")), 0, 1.0)
    run.flush()
    assert not (tmp_path / "r" / "run.sqlite-wal").exists()
    assert open_run(tmp_path / "r").series("loss").values.tolist() == [1.0]
    run.close()
    assert open_run(tmp_path / "r").status is Status.FINISHED


def test_closing_twice_and_writing_after_the_end_are_harmless(tmp_path: Path) -> None:
    run = writer(tmp_path / "r")
    loss = run.series(SeriesSpec("loss"))
    run.close(Status.CRASHED, "why")
    run.close()
    for step in range(1000):
        run.scalar(loss, step, 1.0)
        run.event("user", "late")
    run.flush()
    assert len(run._points) == 0
    opened = open_run(tmp_path / "r")
    assert (opened.status, opened.traceback, opened.names()) == (Status.CRASHED, "why", ())
