"""Every example in README.md and docs/ runs.

A document's blocks run from top to bottom in a folder that holds only a copy of `examples/`: `python` blocks in
one namespace, each `$ separatrix ...` line of a `console` block as a command. A block with `title="NAME"` is written to
that file instead. What cannot run here is marked `text`.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import sqlite3
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from separatrix.runs import schema

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
FENCE = re.compile(r"^```(?P<language>\w*)(?:\s+title=\"(?P<title>[^\"]+)\")?\s*$")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)(?P<target>[^)#\s]+)(?:#[^)]*)?\)")
LANGUAGES = {"python", "console", "text", "json", "csv", "sql", "toml", "yaml", "make"}


class Block(NamedTuple):
    """A fenced block of a document; `line` is where its code begins, counted from 1."""

    language: str
    title: str | None
    code: str
    line: int


def blocks(text: str) -> Iterator[Block]:
    lines = text.splitlines()
    position = 0
    while position < len(lines):
        fence = FENCE.match(lines[position])
        if fence is None:
            assert not lines[position].lstrip().startswith("```"), (
                f"line {position + 1}: {lines[position]!r} is no fence"
            )
            position += 1
            continue
        end = next((i for i in range(position + 1, len(lines)) if lines[i].rstrip() == "```"), None)
        assert end is not None, f"the block at line {position + 1} is never closed"
        code = "\n".join(lines[position + 1 : end]) + "\n"
        yield Block(fence["language"], fence["title"], code, position + 2)
        position = end + 1


def commands(block: Block) -> list[str]:
    return [line[2:] for line in block.code.splitlines() if line.startswith("$ ")]


def run_document(text: str, folder: Path, run_separatrix: Callable[..., Any], name: str = "document") -> None:
    """Runs a document's blocks in `folder`, which must be the current one.

    A command must end with 0; `diagnose` may also end with 1, which says that something was found.
    """
    namespace: dict[str, Any] = {"__name__": "__documentation__"}
    for block in blocks(text):
        place = f"{name}:{block.line}"
        assert block.language in LANGUAGES, f"{place}: mark the block as one of {', '.join(sorted(LANGUAGES))}"
        if block.title is not None:
            (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.title).write_text(block.code)
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.code, name, "exec"), namespace)
        elif block.language == "console":
            assert commands(block), f"{place}: a console block needs a line that starts with `$ `; mark output as text"
            for command in commands(block):
                program, *arguments = shlex.split(command, comments=True)
                assert program == "separatrix", f"{place}: {command!r} cannot run here; mark the block as text"
                done = run_separatrix(*arguments, cwd=folder, timeout=100)
                allowed = {0, 1} if arguments[0] == "diagnose" else {0}
                assert done.code in allowed, f"{place}: {command!r} ended with {done.code}: {done.stderr[-2000:]}"


def failure_of(text: str, folder: Path, run_separatrix: Callable[..., Any], name: str = "document") -> str:
    """The last line and the traceback of what a document's blocks end with; empty if all of them run."""
    try:
        run_document(text, folder, run_separatrix, name)
    except Exception as error:
        return f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    return ""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_run(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_separatrix: Callable[..., Any]
) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    assert failure_of(document.read_text(), tmp_path, run_separatrix, document.name) == ""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    targets = [match["target"] for match in LINK.finditer(document.read_text())]
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("```python\nraise ValueError('boom')\n```\n", "ValueError: boom"),
        ("```python\nassert 1 == 2\n```\n", "AssertionError"),
        ("```console\n$ separatrix frobnicate\n```\n", "document:2: 'separatrix frobnicate' ended with 2"),
        ("```console\n$ rm -rf nothing\n```\n", "document:2: 'rm -rf nothing' cannot run here"),
        ("```console\nonly output\n```\n", "document:2: a console block needs a line that starts with `$ `"),
        ("```\nunmarked\n```\n", "document:2: mark the block"),
        ("```python\nnever_closed = True\n", "the block at line 1 is never closed"),
    ],
)
def test_a_wrong_example_would_be_seen(
    text: str, seen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_separatrix: Callable[..., Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert seen in failure_of(text, tmp_path, run_separatrix).splitlines()[0]


def test_blocks_share_a_folder_and_a_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_separatrix: Callable[..., Any]
) -> None:
    written = '```csv title="a.csv"\n1,2\n```\n'
    read = '```python\nx = open("a.csv").read()\n```\n'
    checked = '```python\nassert x == "1,2\\n"\n```\n'
    monkeypatch.chdir(tmp_path)
    assert failure_of(written + read + checked, tmp_path, run_separatrix) == ""


def test_every_series_that_is_recorded_is_explained() -> None:
    from separatrix.record.series import RECORDER_SERIES
    from separatrix.runs.discovery import members
    from separatrix.runs.probe import Probe

    pages = [(ROOT / "docs" / name).read_text() for name in ("recording.md", "probes.md")]
    explained = set(re.findall(r"`(\w+)`", "".join(pages)))
    measured = {
        spec.name
        for probe in members("separatrix.probes", Probe, "separatrix.probes").values()
        for spec in probe.series
    }
    assert measured
    assert {*measured, *RECORDER_SERIES} - explained == set()


def test_every_table_and_column_of_a_run_is_explained() -> None:
    explained = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "run-format.md").read_text()))
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        schema.create(connection)
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {row[1] for table in tables for row in connection.execute(f"PRAGMA table_info({table})")}
    assert tables
    assert {*tables, *columns} - explained == set()
