"""Studies and their results as lines of text and as plain data."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from separatrix.runs.errors import UsageError
from separatrix.runs.settings import Settings, parsed, setting_as_json
from separatrix.runs.types import Claim
from separatrix.studies.running import Result
from separatrix.studies.study import Plan, Progress, Study


def summary(study: Study) -> dict[str, Any]:
    """What `study list --json` says of a study."""
    return {"id": study.id, "slug": study.slug, "paper": str(study.paper), "summary": study.summary}


def description(study: Study) -> dict[str, Any]:
    """What `study show --json` says of a study."""
    return {
        **summary(study),
        "url": study.paper.url,
        "settings": [setting_as_json(setting) for setting in study.settings],
        "claims": [
            {
                "name": statement.name,
                "kind": statement.kind,
                "expected": list(statement.expected) if statement.kind == "interval" else statement.expected,
                "tolerance": statement.tolerance,
                "says": statement.says,
            }
            for statement in study.statements
        ],
        "controls": [
            {"name": control.name, "refutes": control.refutes, "says": control.says} for control in study.controls
        ],
    }


def described(study: Study) -> Iterator[str]:
    """What `study show` prints."""
    yield f"{study.id} {study.slug}: {study.summary}"
    yield f"{study.paper} {study.paper.url}".rstrip()
    yield "settings (default; range in which the claims hold):"
    for setting in study.settings:
        yield f"  {setting.name} = {setting.default}; {setting.kind}, {setting.range}: {setting.description}"
    yield "claims:"
    for statement in study.statements:
        yield f"  {statement.name}: {statement.expectation}. {statement.says}"
    yield "controls, which must fail:"
    for control in study.controls:
        yield f"  {control.name}, against {control.refutes}: {control.says}"


def planned(study: Study, plan: Plan) -> str:
    """What `study run` prints before it starts."""
    return f"{study.id} {study.slug}: {plan.runs} runs x about {plan.seconds:.2g} s"


@contextlib.contextmanager
def counted(what: str, runs: int, *, shown: bool) -> Iterator[Progress]:
    """Something to call after each of so many runs, which counts them on standard error and leaves nothing there."""
    count = itertools.count(1)

    def advance() -> None:
        if shown:
            print(f"\r{what}: {next(count)} of {runs} runs", end="", file=sys.stderr, flush=True)

    try:
        yield advance
    finally:
        if shown:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


def reported(result: Result) -> Iterator[str]:
    """What `study run` prints of a study that was run."""
    expected = {statement.name: statement.expectation for statement in result.study.statements}
    for claim in result.claims:
        yield f"  {'passed' if claim.passed else 'FAILED'}  {claim.name}: {_measured(claim)}; {expected[claim.name]}"
    for control, claim in zip(result.study.controls, result.controls, strict=True):
        verdict = "PASSED, which it must not" if claim.passed else "fails, as it must"
        yield f"  control {claim.name}: {_measured(claim)}; {control.refutes} {verdict}"
    passed = sum(claim.passed for claim in result.claims)
    yield f"  {passed} of {len(result.claims)} claims passed in {result.seconds:.1f} s, seed {result.seed}"


def _measured(claim: Claim) -> str:
    values = claim.measured if isinstance(claim.measured, list) else [claim.measured]
    return ", ".join(f"{value:.4g}" for value in values)


def parsed_settings(study: Study, given: Mapping[str, str]) -> Settings:
    """Settings from their texts.

    Raises:
        SettingError: a name is unknown, or a text spells no value in its range.
    """
    return study.complete(parsed(study.settings, given, f"study {study.id}"))


def result_path(folder: Path, study: Study, seed: int) -> Path:
    """Where the result of a study goes in a folder.

    Raises:
        UsageError: there is one already.
    """
    path = folder / f"{study.id}-{study.slug}-seed{seed}.json"
    if path.exists():
        raise UsageError(f"{path} exists: give another folder, or move it away")
    return path


def write_result(result: Result, path: Path) -> None:
    """Write a result with its series as JSON, in which values of curves that are not finite are null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    series = {name: [v if abs(v) < float("inf") else None for v in values] for name, values in result.series.items()}
    document = {**result.to_dict(), "series": series}
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
