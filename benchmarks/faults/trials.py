"""One trial: a script recorded by `separatrix watch` and read by `separatrix diagnose`, as a user would do both."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import separatrix
from benchmarks.faults.catalogue import Script

LIMIT_SECONDS = 60.0
"""A script that runs longer is ended; what was recorded until then is diagnosed."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How scripts are recorded: the budget as a share of the training's time, and the probes (None: the default)."""

    budget: float = 0.1
    probes: str | None = None


@dataclasses.dataclass(frozen=True)
class Trial:
    """What happened with one script at one seed.

    `findings` and `not_assessed` are those of `diagnose --json`, if `diagnosed`; `exit_code` and `seconds` are the
    watched script's, and `trouble` says what went wrong (empty if nothing did).
    """

    code: str
    name: str
    seed: int
    key: str
    exit_code: int
    seconds: float
    trouble: str
    diagnosed: bool
    findings: list[dict[str, Any]]
    not_assessed: list[dict[str, Any]]


def key_of(script: Script, seed: int, settings: Settings) -> str:
    """What a kept result is known by: the package's source, the script, the seed and the settings."""
    digest = hashlib.sha256(f"{script.code}/{script.name} {seed} {settings} {_source()}".encode())
    digest.update(script.path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def _source() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(separatrix.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def try_script(script: Script, seed: int, settings: Settings, keep: Path | None = None) -> Trial:
    """Record the script and diagnose its run.

    With `keep`, the run and what the script printed stay there; a script that has not changed is not recorded again.
    """
    with _folder_for(script, seed, keep) as folder:
        run, record = folder / "run", folder / "watch.json"
        watched = json.loads(record.read_text()) if record.exists() else {}
        of = hashlib.sha256(f"{seed} {settings}".encode() + script.path.read_bytes()).hexdigest()
        if watched.get("of") != of:
            shutil.rmtree(run, ignore_errors=True)
            watched = {"of": of, **_watch(script, seed, settings, run)}
            record.write_text(json.dumps(watched))
        document, trouble = _diagnose(run)
    return Trial(
        code=script.code,
        name=script.name,
        seed=seed,
        key=key_of(script, seed, settings),
        exit_code=watched["exit_code"],
        seconds=watched["seconds"],
        trouble="; ".join(filter(None, (watched["trouble"], trouble))),
        diagnosed="findings" in document,
        findings=document.get("findings", []),
        not_assessed=document.get("not_assessed", []),
    )


@contextlib.contextmanager
def _folder_for(script: Script, seed: int, keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
    else:
        folder = keep / script.code / script.name / str(seed)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder


def _watch(script: Script, seed: int, settings: Settings, run: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "separatrix", "watch", "--budget", str(settings.budget), "--run", str(run)]
    command += ["--probes", settings.probes] if settings.probes else []
    command += [str(script.path), "--seed", str(seed)]
    begin = time.perf_counter()
    with (run.parent / "output.txt").open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            cwd=run.parent,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            _, errors = process.communicate(timeout=LIMIT_SECONDS)
            trouble = "" if process.returncode == 0 else (errors.strip().splitlines() or ["no message"])[-1]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            trouble = f"ended after {LIMIT_SECONDS:g} s"
    return {
        "exit_code": process.returncode,
        "seconds": round(time.perf_counter() - begin, 2),
        "trouble": trouble[:300],
    }


def _diagnose(run: Path) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-m", "separatrix", "diagnose", "--json", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    try:
        document: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        message = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {}, f"diagnose ended with {done.returncode}: {message}"[:300]
    return document, ""
