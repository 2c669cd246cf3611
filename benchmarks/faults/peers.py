"""`python -m benchmarks.faults.peers RUNS`: what a linter of training logs says of the same recordings.

losslint reads a log of losses, so it needs no change to a script: each loss of a kept recording (`--keep`) is written
as JSON lines, as the script itself might have logged it, with the validation loss and the gradient norm where they were
recorded, and checked with losslint's own defaults. Its checks are counted under the codes they answer to, and only
scripts of those codes and the healthy ones are looked at; what Separatrix says about the same runs, reduced to the same
codes, is shown below. losslint names no causes: what it says besides the planted fault counts as wrong.

Two other tools of the kind cannot be driven on an unmodified script: trainscope 1.8.1 needs `scope.step(loss, ...)` and
traintools 0.6.2 `inspect(model, ...)` between the script's own backward and step.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import separatrix
from benchmarks.faults.catalogue import HEALTHY, PARTS, Script, scripts
from benchmarks.faults.tables import report
from benchmarks.faults.trials import Settings, Trial, try_script
from separatrix.analysis.trends import tracks

CODES = {
    "nan_inf": "nonfinite",
    "divergence": "diverging",
    "loss_spike": "loss-spike",
    "overfit_onset": "overfitting",
    "stagnation": "plateau",
}


def logs(run: separatrix.Run) -> Iterator[list[dict[str, float]]]:
    """One log for each loss of a run: a row a step, with the other scalars measured there."""
    others = {name: tracks(run, name) for name in ("eval_loss", "gradient_norm")}
    for loss in tracks(run, "loss"):
        rows: dict[int, dict[str, float]] = {}
        named = [("loss", loss), *((name, found[0]) for name, found in others.items() if len(found) == 1)]
        for name, track in named:
            for step, value in zip(track.steps.tolist(), track.values.tolist(), strict=True):
                rows.setdefault(step, {"step": step})[name] = value
        yield [rows[step] for step in sorted(rows)]


def lint(run: separatrix.Run, program: str) -> list[dict[str, Any]]:
    """losslint's findings on a run, gravest first, under the codes they answer to.

    Raises:
        RuntimeError: losslint did not report.
    """
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for index, rows in enumerate(logs(run)):
            path = Path(folder) / f"loss{index}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            done = subprocess.run(
                [program, "check", str(path), "--format", "json"], capture_output=True, text=True, check=False
            )
            if done.returncode not in (0, 1):
                raise RuntimeError(f"{program} ended with {done.returncode} on {run.path}: {done.stderr.strip()}")
            for finding in json.loads(done.stdout)["findings"]:
                if code := CODES.get(finding["check"]):
                    found.setdefault(code, {"code": code, "severity": finding["severity"]})
    return sorted(found.values(), key=lambda f: ("error", "warning", "info").index(f["severity"]))


def reduced(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The findings and symptoms that losslint has a check for; a symptom whose cause goes stands by itself."""
    kept: list[dict[str, Any]] = []
    for finding in findings:
        symptoms = [symptom for symptom in finding.get("symptoms", []) if symptom["code"] in CODES.values()]
        kept += [{**finding, "symptoms": symptoms}] if finding["code"] in CODES.values() else symptoms
    return kept


def both(script: Script, seed: int, keep: Path, program: str) -> tuple[Trial, Trial]:
    """The kept trial of a script, reduced to losslint's codes, and the same with losslint's findings."""
    ours = try_script(script, seed, Settings(), keep)
    ours = dataclasses.replace(ours, findings=reduced(ours.findings))
    run = separatrix.open(keep / script.code / script.name / str(seed) / "run")
    return ours, dataclasses.replace(ours, findings=lint(run, program), not_assessed=[], seconds=math.nan)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults.peers", description=__doc__)
    parser.add_argument("runs", type=Path, help="the folder given to --keep; scripts that it lacks are recorded")
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N")
    parser.add_argument("--losslint", default="losslint", metavar="PROGRAM", help="the command (default: losslint)")
    options = parser.parse_args()
    looked_at = [s for s in scripts(options.part) if s.code in {HEALTHY, *CODES.values()}]
    pairs = [
        both(script, seed, options.runs.resolve(), options.losslint) for script in looked_at for seed in options.seeds
    ]
    for name, trials in (("losslint", [peer for _, peer in pairs]), ("Separatrix", [ours for ours, _ in pairs])):
        print(f"## {name}\n\n{report(trials)}\n")


if __name__ == "__main__":
    main()
