"""Damaged, foreign and hostile run folders: read, or refused in one line; never executed, never hanging."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from separatrix.runs import Redactor, Run, RunUnreadableError, RunWriter, SeriesSpec, open_run


def make(path: Path) -> Path:
    run = RunWriter(path, redactor=Redactor({}))
    loss = run.series(SeriesSpec("loss"))
    rms = run.series(SeriesSpec("rms", ("parameter",)))
    grid = run.series(SeriesSpec("grid", ("layer", "head")))
    for dim, count in (("parameter", 20), ("layer", 2), ("head", 3)):
        run.positions(dim, [f"{dim}{i}" for i in range(count)])
    for step in range(200):
        run.scalar(loss, step, float(step))
        run.vector(rms, step, np.arange(10, dtype=np.float32), first=10 * (step % 2))
        if step % 40 == 0:
            run.vector(grid, step, np.ones((2, 3), np.float32))
            run.event("user", f"event {step}", step=step, data={"a": [1, 2]})
            run.flush()
    run.meta("config", {"arguments": ["--lr", "0.1"]})
    run.meta("parameters", [{"name": "parameter0", "shape": [2]}])
    run.close()
    return path


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return (make(tmp_path_factory.mktemp("hostile") / "r") / "run.sqlite").read_bytes()


@pytest.fixture
def folder(tmp_path: Path, pristine: bytes) -> Path:
    path = tmp_path / "r"
    path.mkdir()
    (path / "run.sqlite").write_bytes(pristine)
    return path


def read_everything(path: Path) -> Run:
    with open_run(path) as run:
        for name in run.names():
            run.series(name)
            run.spec(name)
        _ = (run.status, run.segments, run.traceback, run.events, run.meta, run.config, run.environment)
        _ = (run.parameters, run.modules, repr(run), run._repr_html_())
        return run


def refusal(path: Path) -> str:
    with pytest.raises(RunUnreadableError) as caught:
        read_everything(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def alter(path: Path, *statements: str | tuple[str, tuple[object, ...]]) -> None:
    with contextlib.closing(sqlite3.connect(path / "run.sqlite")) as connection, connection:
        connection.execute("PRAGMA writable_schema=ON")
        for statement in statements:
            connection.execute(*((statement,) if isinstance(statement, str) else statement))


def test_the_unaltered_run_reads(folder: Path) -> None:
    assert read_everything(folder).names() == ("grid", "loss", "rms")


SCHEMAS = {
    "a view": "CREATE VIEW v AS SELECT 1",
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON events BEGIN DELETE FROM points; END",
    "a further table": "CREATE TABLE x(a)",
    "a further index": "CREATE INDEX x ON events(kind)",
    "an index over an expression": "CREATE INDEX x ON points(abs(stride))",
    "a virtual table": "CREATE VIRTUAL TABLE x USING fts5(a)",
    "a generated column": "ALTER TABLE events ADD COLUMN g AS (upper(kind))",
    "a further column": "ALTER TABLE events ADD COLUMN g",
    "a renamed table": "ALTER TABLE points RENAME TO dots",
    "a missing table": "DROP TABLE events",
    "statistics": "ANALYZE",
    "another application": "PRAGMA application_id=1",
    "a newer format": "PRAGMA user_version=99",
    "an older format": "PRAGMA user_version=0",
    "a table whose text is ours but whose kind is not": "UPDATE sqlite_master SET type='view' WHERE name='events'",
    "text for a schema": "UPDATE sqlite_master SET sql='nonsense' WHERE name='events'",
    "no schema at all": "UPDATE sqlite_master SET sql=NULL WHERE name='events'",
    "a name with a line break": 'CREATE TABLE "x\ny <b>"(a)',
}


@pytest.mark.parametrize("statement", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_any_other_schema_is_refused(folder: Path, statement: str) -> None:
    alter(folder, statement)
    before = (folder / "run.sqlite").read_bytes()
    refusal(folder)
    assert (folder / "run.sqlite").read_bytes() == before
    with pytest.raises(Exception, match=r".") as caught:
        RunWriter(folder, resume=True, redactor=Redactor({}))
    assert "\n" not in str(caught.value)
    assert caught.type.__module__ == "separatrix.runs.errors"


def test_functions_in_a_schema_are_never_called(folder: Path) -> None:
    """A view that stands in for a table would call a function of the reader's connection when it is read."""
    from separatrix.runs import source

    alter(folder, "DROP TABLE events", "CREATE VIEW events AS SELECT spy() AS kind")
    called: list[int] = []
    path = folder / "run.sqlite"
    trusting = sqlite3.connect(path)
    trusting.create_function("spy", 0, lambda: called.append(1))
    trusting.execute("SELECT kind FROM events").fetchall()
    trusting.close()
    assert called == [1], "the trap itself works"

    check = source.schema.check
    with pytest.MonkeyPatch.context() as patch:
        # Even with the comparison of schemas switched off, the connection refuses.
        patch.setattr(source.schema, "check", lambda *_: None)
        connection = source._connect(path, folder, live=False)
        connection.create_function("spy", 0, lambda: called.append(2))
        with pytest.raises(sqlite3.OperationalError, match="unsafe"):
            connection.execute("SELECT kind FROM events").fetchall()
        connection.close()
    assert source.schema.check is check
    assert called == [1]
    refusal(folder)


HUGE = 2**62
VALUES: dict[str, str | tuple[str, tuple[object, ...]]] = {
    "text for a value": "UPDATE points SET data='abc' WHERE series=1",
    "a number for a value": "UPDATE points SET data=3 WHERE series=1",
    "half a value": "UPDATE points SET data=x'0102' WHERE series=1",
    "no values": "UPDATE points SET data=x'' WHERE series=1",
    "a step that is text": "UPDATE points SET first='x' WHERE series=1",
    "a step that is a fraction": "UPDATE points SET first=0.5 WHERE series=1",
    "steps beyond every integer": f"UPDATE points SET first={HUGE}, stride={HUGE} WHERE series=1",
    "fewer steps than values": "UPDATE points SET steps=x'0000000000000000' WHERE series=1",
    "steps that are text": "UPDATE points SET steps='00000000' WHERE series=1",
    "a negative position": "UPDATE vectors SET first=-5 WHERE series=2",
    "a position beyond the labels": f"UPDATE vectors SET first={HUGE} WHERE series=2",
    "a position that is text": "UPDATE vectors SET first='x' WHERE series=2",
    "positions beyond the labels": "UPDATE vectors SET positions=zeroblob(36)||x'ffffff7f' WHERE series=2",
    "too few positions": "UPDATE vectors SET positions=zeroblob(4) WHERE series=2",
    "positions that are text": "UPDATE vectors SET positions='abcd' WHERE series=2",
    "a vector's step that is text": "UPDATE vectors SET step='x' WHERE series=2",
    "a vector's step that is a fraction": "UPDATE vectors SET step=step+0.5 WHERE series=2",
    "a vector that is text": "UPDATE vectors SET data='abcd' WHERE series=2",
    "a vector that is cut off": "UPDATE vectors SET data=x'010203' WHERE series=2",
    "a shape that is huge": "UPDATE vectors SET shape='[1000000000,1000000000]' WHERE series=3",
    "a shape with a negative": "UPDATE vectors SET shape='[-2,-3]' WHERE series=3",
    "a shape with a fraction": "UPDATE vectors SET shape='[2.0,3.0]' WHERE series=3",
    "a shape with a truth": "UPDATE vectors SET shape='[true,6]' WHERE series=3",
    "a shape turned round": "UPDATE vectors SET shape='[3,2]' WHERE series=3",
    "a shape that is no list": "UPDATE vectors SET shape='6' WHERE series=3",
    "a shape that is no JSON": "UPDATE vectors SET shape='[' WHERE series=3",
    "no shape": "UPDATE vectors SET shape=NULL WHERE series=3",
    "objects": "UPDATE series SET dtype='O' WHERE id=2",
    "void": "UPDATE series SET dtype='V8' WHERE id=2",
    "dates": "UPDATE series SET dtype='datetime64' WHERE id=2",
    "records": "UPDATE series SET dtype='f4,f4' WHERE id=2",
    "no number type": "UPDATE series SET dtype='nonsense' WHERE id=2",
    "a number for a number type": "UPDATE series SET dtype=4 WHERE id=2",
    "an unknown dimension": "UPDATE series SET dims='[\"evil\"]' WHERE id=2",
    "a dimension twice": 'UPDATE series SET dims=\'["head","head"]\' WHERE id=3',
    "dimensions that are no list": "UPDATE series SET dims='{}' WHERE id=2",
    "dimensions that are no JSON": "UPDATE series SET dims='x' WHERE id=2",
    "labels that are a list": "UPDATE series SET labels='[1]' WHERE id=2",
    "labels that are numbers": "UPDATE series SET labels='{\"optimizer\": 3}' WHERE id=2",
    "labels nested": "UPDATE series SET labels='{\"optimizer\": {}}' WHERE id=2",
    "a name that is a blob": "UPDATE series SET name=x'ff' WHERE id=2",
    "a name that is no unicode": "UPDATE series SET name=CAST(x'ff' AS TEXT) WHERE id=2",
    "values for a series over labels": "UPDATE series SET dims='[\"parameter\"]' WHERE id=1",
    "a gap in the labels": "DELETE FROM labels WHERE dim='parameter' AND position=3",
    "labels that are blobs": "UPDATE labels SET label=x'00' WHERE dim='parameter'",
    "an unknown status": "UPDATE segments SET status='dancing <b>'",
    "a start that is text": "UPDATE segments SET started='now'",
    "a heartbeat that is text": "UPDATE segments SET heartbeat='now'",
    "a last step that is text": "UPDATE segments SET last_step='x'",
    "no segment": "DELETE FROM segments",
    "facts that are no JSON": "UPDATE meta SET value='{' WHERE key='config'",
    "a config that is a list": "UPDATE meta SET value='[]' WHERE key='config'",
    "parameters that are text": "UPDATE meta SET value='\"x\"' WHERE key='parameters'",
    "parameters without names": "UPDATE meta SET value='[{}]' WHERE key='parameters'",
    "facts nested too deep": ("UPDATE meta SET value=? WHERE key='config'", ("[" * 100_000,)),
    "events nested too deep": ("UPDATE events SET data=?", ("[" * 100_000,)),
    "an event of unknown severity": "UPDATE events SET severity='apocalypse'",
    "an event at text": "UPDATE events SET step='x'",
    "an event without a time": "UPDATE events SET time='x'",
    "an event with a blob": "UPDATE events SET message=x'00'",
    "an event's data as a list": "UPDATE events SET data='[]'",
    "a series under two shapes": "UPDATE series SET name='loss', labels='{\"optimizer\": \"x\"}' WHERE id=2",
}


@pytest.mark.parametrize("change", VALUES.values(), ids=VALUES.keys())
def test_wrong_values_are_refused_in_one_line(folder: Path, change: str | tuple[str, tuple[object, ...]]) -> None:
    alter(folder, change)
    assert "damaged" in (message := refusal(folder)) or "segment" in message


def test_names_with_sql_and_html_are_only_names(tmp_path: Path) -> None:
    name = "x'); DROP TABLE points; --<script>alert(1)</script>\n\x00end"
    run = RunWriter(tmp_path / "r", redactor=Redactor({}))
    run.scalar(run.series(SeriesSpec(name)), 0, 1.0)
    run.positions("parameter", [name])
    run.vector(run.series(SeriesSpec("rms", ("parameter",))), 0, np.ones(1, np.float32))
    run.event(name, name, data={name: name})
    run.close()
    opened = read_everything(tmp_path / "r")
    assert name in opened
    assert opened.series(name).values.tolist() == [1.0]
    assert opened.series("rms").coords == {"parameter": (name,)}
    assert opened.sql("SELECT value FROM scalars WHERE name=?", (name,)) == [(1.0,)]
    assert "<script>" not in opened._repr_html_()


def test_a_small_file_cannot_claim_a_large_array(folder: Path) -> None:
    """Many labels and many steps, of which hardly any cell is stored."""
    labels = [("parameter", position, f"x{position}") for position in range(20, 12_000)]
    rows = [(2, step, step, np.float32(1).tobytes()) for step in range(12_000)]
    with contextlib.closing(sqlite3.connect(folder / "run.sqlite")) as connection, connection:
        connection.executemany("INSERT INTO labels VALUES(?,?,?)", labels)
        connection.executemany("INSERT INTO vectors(series, step, first, data) VALUES(?,?,?,?)", rows)
    tracemalloc.start()
    try:
        refusal(folder)
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


def test_a_sparse_series_of_ordinary_size_is_read(tmp_path: Path) -> None:
    run = RunWriter(tmp_path / "r", redactor=Redactor({}))
    run.positions("example", [str(i) for i in range(5000)])
    series = run.series(SeriesSpec("example_loss", ("example",)))
    for step in range(400):
        where = np.random.default_rng(step).choice(5000, 16, replace=False)
        run.vector(series, step, np.full(16, step, np.float32), positions=where)
    run.close()
    data = open_run(tmp_path / "r").series("example_loss")
    assert int(np.isfinite(data.values).sum()) == 400 * 16


@pytest.mark.parametrize("sixteenth", range(16))
def test_a_truncated_file_is_refused_or_read(folder: Path, pristine: bytes, sixteenth: int) -> None:
    (folder / "run.sqlite").write_bytes(pristine[: len(pristine) * sixteenth // 16])
    refusal(folder)


def fuzz(folder: Path, pristine: bytes, seeds: range) -> dict[str, int]:
    """Flip bytes by each seed; how often the file was read and refused. Any other outcome raises."""
    outcomes = {"read": 0, "refused": 0}
    for seed in seeds:
        draw = random.Random(seed)
        damaged = bytearray(pristine)
        for _ in range(draw.choice((1, 4, 64, 512))):
            # Half of the hits go where page headers, cell pointers and the schema lie.
            page = draw.randrange(len(damaged) // 4096) * 4096
            offset = page + draw.randrange(64) if draw.random() < 0.5 else draw.randrange(16, len(damaged))
            damaged[offset] = draw.choice((0, 1, 0x7F, 0xFF, draw.randrange(256)))
        (folder / "run.sqlite").write_bytes(damaged)
        began = time.monotonic()
        try:
            read_everything(folder)
            outcomes["read"] += 1
        except RunUnreadableError as error:
            assert "\n" not in str(error), seed
            outcomes["refused"] += 1
        assert time.monotonic() - began < 3.0, seed
    return outcomes


def test_flipped_bytes_are_refused_or_read_quickly_and_nothing_else(folder: Path, pristine: bytes) -> None:
    outcomes = fuzz(folder, pristine, range(150))
    assert outcomes["read"] > 10
    assert outcomes["refused"] > 50


def test_flipped_bytes_cost_no_more_memory_than_half_a_gigabyte(folder: Path, pristine: bytes) -> None:
    resource = pytest.importorskip("resource")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 500_000_000, used + 500_000_000))
            found = fuzz(folder, pristine, range(150, 200))
            code = 0 if sum(found.values()) == 50 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def pointing(page: bytes, child: int) -> bytes:
    """An interior page all of whose pointers lead to one child."""
    changed = bytearray(page)
    changed[8:12] = child.to_bytes(4, "big")
    for index in range(int.from_bytes(page[3:5], "big")):
        cell = int.from_bytes(page[12 + 2 * index : 14 + 2 * index], "big")
        changed[cell : cell + 4] = child.to_bytes(4, "big")
    return bytes(changed)


def test_a_tree_whose_branches_all_lead_to_one_leaf_ends(tmp_path: Path) -> None:
    """Two levels of such branches claim millions of rows in a megabyte."""
    run = RunWriter(tmp_path / "r", redactor=Redactor({}))
    for step in range(30_000):
        run.event("user", "x", step=step)
    run.close()
    file = tmp_path / "r" / "run.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name='events'").fetchone()[0]
    pages = [file.read_bytes()[start : start + 4096] for start in range(0, file.stat().st_size, 4096)]
    interior = pages[root - 1]
    assert interior[0] == 5, "the root of the table is an interior page"
    first, second = (
        int.from_bytes(interior[cell : cell + 4], "big")
        for cell in (int.from_bytes(interior[at : at + 2], "big") for at in (12, 14))
    )
    pages[second - 1] = pointing(interior, first)
    pages[root - 1] = pointing(interior, second)
    file.write_bytes(b"".join(pages))
    began = time.monotonic()
    assert "more rows than its size allows" in refusal(tmp_path / "r")
    assert time.monotonic() - began < 10


def as_fifo(file: Path) -> None:
    os.mkfifo(file)


def as_directory(file: Path) -> None:
    file.mkdir()


def as_device(file: Path) -> None:
    file.symlink_to("/dev/zero")


def as_dangling_link(file: Path) -> None:
    file.symlink_to("nowhere")


def as_loop(file: Path) -> None:
    file.symlink_to(file.name)


@pytest.mark.parametrize("kind", [as_fifo, as_directory, as_device, as_dangling_link, as_loop])
@pytest.mark.parametrize("name", ["run.sqlite", "run.sqlite-wal", "run.sqlite-shm", "run.sqlite-journal", "run.lock"])
def test_odd_files_do_not_hang_the_reader(folder: Path, kind: Callable[[Path], None], name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    kind(folder / name)
    began = time.monotonic()
    if name == "run.lock":
        assert read_everything(folder).names() == ("grid", "loss", "rms")
    else:
        refusal(folder)
    assert time.monotonic() - began < 3


def test_a_linked_run_file_is_read(folder: Path) -> None:
    (folder / "run.sqlite").rename(folder.parent / "elsewhere.sqlite")
    (folder / "run.sqlite").symlink_to("../elsewhere.sqlite")
    assert read_everything(folder).names() == ("grid", "loss", "rms")


def test_a_journal_that_names_a_further_file_deletes_nothing(folder: Path) -> None:
    precious = folder.parent / "precious.txt"
    precious.write_text("x")
    name = str(precious).encode()
    journal = bytearray(512) + b"\x00" * 4 + name + len(name).to_bytes(4, "big") + sum(name).to_bytes(4, "big")
    (folder / "run.sqlite-journal").write_bytes(journal + bytes.fromhex("d9d505f920a163d7"))
    assert "journal" in refusal(folder)
    assert precious.exists()


FILES: dict[str, bytes] = {
    "text": b"hello\n" * 100,
    "a header alone": b"SQLite format 3\0",
    "a header and zeros": b"SQLite format 3\0" + bytes(5000),
    "zeros": bytes(8192),
    "noise": random.Random(0).randbytes(20_000),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES.keys())
def test_what_is_no_database_is_refused(folder: Path, content: bytes) -> None:
    (folder / "run.sqlite").write_bytes(content)
    remedy = "give the folder that `watch` or `record` wrote"
    assert refusal(folder) == f"{folder} is not a run: its run.sqlite is not a database; {remedy}"
    assert (folder / "run.sqlite").read_bytes() == content


def test_an_empty_file_is_refused_while_young_and_when_old(folder: Path) -> None:
    path = folder / "run.sqlite"
    path.write_bytes(b"")
    assert "not a run" in refusal(folder)
    os.utime(path, (0, 0))
    assert refusal(folder).startswith(f"{folder} is not a run: its run.sqlite is empty; ")
    assert path.read_bytes() == b""


def test_a_foreign_database_a_missing_folder_and_an_empty_one_are_told_apart(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none")
    assert "holds no run.sqlite" in refusal(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "run.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE cookies(a)")
    assert "not a run of Separatrix" in refusal(tmp_path)


def test_a_damaged_wal_gives_the_state_before_it_or_one_line(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        run = RunWriter(tmp_path / "r", redactor=Redactor({}))
        loss = run.series(SeriesSpec("loss"))
        for step in range(100):
            run.scalar(loss, step, float(step))
            run.flush()
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    wal = tmp_path / "r" / "run.sqlite-wal"
    pristine = wal.read_bytes()
    for seed in range(60):
        draw = random.Random(seed)
        damaged = bytearray(pristine)
        damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        wal.write_bytes(damaged[: draw.choice((len(damaged), draw.randrange(len(damaged))))])
        with contextlib.suppress(RunUnreadableError), open_run(tmp_path / "r") as run:
            if "loss" in run:
                data = run.series("loss")
                assert np.array_equal(data.steps, np.arange(len(data.steps)))
                assert np.array_equal(data.values, data.steps)
