"""Runs one command as python alone runs it and as `watch` runs it, in two equal folders' worth of files."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import re
import subprocess
import sys
import unittest.mock
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from separatrix.record.watch import WatchOptions, python_command

STAND_INS = {
    # As slow to import as nothing, and as good as torch for what is looked at here.
    "torch/__init__.py": "__version__ = '0'\n\n\ndef get_num_threads():\n    return 1\n",
    "torch/nn.py": "",
    # Notes what the recording is told; standard output and error belong to the script.
    "journal.py": """
import os


def note(line):
    with open(os.environ["JOURNAL"], "a") as file:
        file.write(line + "\\n")


def start(path, **options):
    note(f"start rank {options['rank']}")
    return Journal()


def failing_start(path, **options):
    raise RuntimeError("no recording\\ntoday")


class Journal:
    def crashed(self, traceback_text):
        note("crashed " + traceback_text.splitlines()[-1])

    def interrupted(self):
        note("interrupted")

    def close(self):
        note("close")
""",
}


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended: a negative code is the number of the signal that killed it."""

    code: int
    stdout: bytes
    stderr: bytes

    def without_addresses(self) -> Ended:
        """The same with addresses in memory, which differ from process to process, replaced."""
        out, error = (re.sub(rb" at 0x[0-9a-f]+", b" at 0x0", text) for text in (self.stdout, self.stderr))
        return Ended(self.code, out, error)


@dataclasses.dataclass(frozen=True)
class Workplace:
    """A folder of scripts, run by python alone and watched."""

    folder: Path
    library: Path
    real_torch: bool = False

    def environment(self, journal: str = "journal", **extra: str) -> dict[str, str]:
        paths = [str(self.library), os.environ["PYTHONPATH"]]
        found = {key: value for key, value in os.environ.items() if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
        found["PYTHONDONTWRITEBYTECODE"] = "1"
        return {**found, "PYTHONPATH": os.pathsep.join(paths), "JOURNAL": str(self.folder.parent / journal), **extra}

    def command(self, *what: str, **options: Any) -> tuple[Sequence[str], Mapping[str, str]]:
        """The command line and environment that the watching process turns into."""
        module = what[0] == "-m"
        target, *arguments = what[1:] if module else what
        defaults = {"run": str(self.folder.parent / "run"), "start": "journal:start"}
        # Options of the interpreter that runs the tests are not those of a watching one.
        with unittest.mock.patch.object(sys, "orig_argv", [sys.executable]):
            command = python_command(target, arguments, WatchOptions(**{**defaults, **options}), module=module)
        added = {key: value for key, value in command.environment.items() if os.environ.get(key) != value}
        own = self.environment()
        paths = [*added["PYTHONPATH"].split(os.pathsep)[:1], own["PYTHONPATH"]]
        return command.arguments, {**own, **added, "PYTHONPATH": os.pathsep.join(paths)}

    def both(self, *what: str, stdin: bytes = b"") -> tuple[Ended, Ended]:
        """What python alone does and what the watched one does, addresses in memory left out."""
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            runs = [pool.submit(run, *what, stdin=stdin) for run in (self.alone, self.watched)]
            alone, watched = (run.result().without_addresses() for run in runs)
        return alone, watched

    def alone(self, *what: str, stdin: bytes = b"", **extra: str) -> Ended:
        """What python alone does."""
        return self._run([sys.executable, *what], self.environment("journal-alone", **extra), stdin)

    def watched(self, *what: str, stdin: bytes = b"", options: Mapping[str, Any] | None = None, **extra: str) -> Ended:
        """What the watched one does."""
        arguments, environment = self.command(*what, **(options or {}))
        return self._run(arguments, {**environment, **extra}, stdin)

    def journal(self) -> list[str]:
        """What the recording was told, in order."""
        path = self.folder.parent / "journal"
        return path.read_text().splitlines() if path.exists() else []

    def write(self, files: Mapping[str, str]) -> None:
        """Write files into the folder of scripts."""
        write(self.folder, files)

    def _run(self, arguments: Sequence[str], environment: Mapping[str, str], stdin: bytes) -> Ended:
        done = subprocess.run(
            arguments, env=environment, cwd=self.folder, input=stdin, capture_output=True, timeout=60, check=False
        )
        return Ended(done.returncode, done.stdout, done.stderr)


FINISHED = ("start rank 0", "close")
INTERRUPTED = ("start rank 0", "interrupted", "close")


@dataclasses.dataclass(frozen=True)
class Case:
    """A script `s.py` (or other files), its command and what the recording is to be told; None: not looked at."""

    script: str = ""
    command: tuple[str, ...] = ("s.py",)
    journal: tuple[str, ...] | None = FINISHED
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    stdin: bytes = b""


def crashed(last_line: str) -> tuple[str, ...]:
    return ("start rank 0", f"crashed {last_line}", "close")


def make_workplace(folder: Path, *, real_torch: bool = False) -> Workplace:
    """A workplace below `folder`, whose library holds a stand-in for torch or only the journal."""
    files = {name: text for name, text in STAND_INS.items() if not (real_torch and name.startswith("torch"))}
    place = Workplace(folder / "work", folder / "library", real_torch)
    place.folder.mkdir()
    (folder / "run").mkdir()
    write(place.library, files)
    return place


def check_case(case: Case, place: Workplace) -> None:
    """Run a case both ways: nothing may differ, and the recording must have been told what it was to be told."""
    place.write({"s.py": case.script, **case.files} if case.script else case.files)
    alone, watched = place.both(*case.command, stdin=case.stdin)
    assert watched.stdout.decode() == alone.stdout.decode()
    assert watched.stderr.decode() == alone.stderr.decode()
    assert watched.code == alone.code
    if case.journal is not None:
        assert tuple(place.journal()) == case.journal


def write(folder: Path, files: Mapping[str, str]) -> None:
    """Write files below a folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
