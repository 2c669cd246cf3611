"""Does the first numeric advice help? Badly tuned scripts of the fault benchmark, as they are and as advised.

Each script is recorded by `separatrix watch`, `separatrix advise --json` is asked, its first advice with a number is
applied, and the script is recorded again with the same seed. The advice helped if the final loss (mean of the last
tenth of the steps; infinite where that is no number) is lower by more than 1 %. Where the size of batches changes, the
epochs or steps that the script counts stay. The scripts are all those of the codes
below whose setting can be reached from outside: the choice was made before any was run. A script whose first numeric
advice is of another setting is judged by that one; without numeric advice it counts as not helped.

Usage: python -m benchmarks.advise [--names NAME ...] [--seed N] [--budget SHARE]
Prints a table and writes benchmarks/results/advise.json; the exit code is 1 if fewer than 80 % were helped.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.catalogue import Script, scripts
from separatrix.runs import open_run

RESULTS = Path(__file__).parent / "results" / "advise.json"
CODES = (
    "lr-too-high",
    "lr-too-low",
    "weight-decay-dominates",
    "clipping-always-active",
    "epsilon-underflow",
    "batch-too-small",
    "batch-too-large",
    "scheduler-misuse",
)
BATCHES = {"digits_single": "--batch-size", "digits_full": "--batch", "fashion_full": "--batch-size"}
"""Scripts of CODES on batches that take their size as an option; the others of these codes fix it in their text."""
STEPPED = ("steplr_every_batch",)
"""The script of scheduler-misuse that stands for it, so that there are twenty."""
GOAL = 0.8
LEAST_GAIN = 0.01
LIMIT_SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Row:
    """What was advised to one script and what came of it."""

    code: str
    name: str
    setting: str
    before: float | str | None
    after: float | str | None
    loss: float
    advised_loss: float
    seconds: float

    @property
    def helped(self) -> bool:
        """Whether the final loss fell by more than a hundredth."""
        return self.advised_loss < (1 - LEAST_GAIN) * self.loss


def chosen() -> list[Script]:
    """The twenty scripts."""
    found = scripts(codes=list(CODES))
    return [
        script
        for script in found
        if (not script.code.startswith("batch-") or script.name in BATCHES)
        and (script.code != "scheduler-misuse" or script.name in STEPPED)
    ]


def watched(script: Script, run: Path, seed: int, budget: float, changes: dict[str, Any], extra: list[str]) -> None:
    """Record a script with changes applied from outside."""
    target = [str(script.path)]
    if changes:
        target = ["-m", "benchmarks._adjusted", json.dumps(changes), str(script.path)]
    command = [sys.executable, "-m", "separatrix", "watch", "--quiet", "--budget", str(budget), "--run", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = str(Path(__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [*command, *target, "--seed", str(seed), *extra],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT_SECONDS,
            check=False,
        )


def final_loss(path: Path) -> float:
    """Mean of the last tenth of the recorded losses; infinite without a finite one there."""
    with open_run(path) as run:
        losses = run.series("loss")
        values = np.asarray(losses.values, dtype=np.float64).reshape(len(losses.steps), -1)[:, 0]
    last = values[-max(1, len(values) // 10) :]
    return float(last.mean()) if np.isfinite(last).all() else math.inf


def applied(script: Script, advice: dict[str, Any]) -> tuple[dict[str, Any], list[str]] | None:
    """What to change from outside, and arguments to add; None where the advice is not reachable in this script."""
    setting, before, after = advice["setting"], advice["from"], advice["to"]
    if setting == "learning_rate":
        return {"rate": after / before}, []
    if setting in ("weight_decay", "clip_norm"):
        return {setting: after}, []
    if setting == "epsilon":
        return {"eps": after}, []
    if setting == "schedule":
        return {"schedule_steps": advice["evidence"]["steps"]}, []
    if setting == "batch_size" and script.name in BATCHES:
        return {}, [BATCHES[script.name], str(max(1, round(after)))]
    return None


def tried(script: Script, seed: int, budget: float) -> Row:
    """Record, ask, change, record again."""
    with tempfile.TemporaryDirectory(prefix="benchmark-advise-") as name:
        folder, begin = Path(name), time.perf_counter()
        watched(script, folder / "first", seed, budget, {}, [])
        command = [sys.executable, "-m", "separatrix", "advise", "--json", str(folder / "first")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        advice = next((each for each in json.loads(done.stdout)["advice"] if each["to"] is not None), None)
        change = applied(script, advice) if advice is not None else None
        first = second = final_loss(folder / "first")
        if change is not None:
            watched(script, folder / "second", seed, budget, *change)
            second = final_loss(folder / "second")
        told = advice or {"setting": "nothing", "from": None, "to": None}
        seconds = round(time.perf_counter() - begin, 1)
        return Row(script.code, script.name, told["setting"], told["from"], told["to"], first, second, seconds)


def shown(value: float | str | None) -> str:
    """A value for the table."""
    return f"{value:.3g}" if isinstance(value, float | int) else str(value)


def main() -> int:
    """Try every script, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", nargs="+", metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=0.1)
    options = parser.parse_args()
    rows = []
    print(f"{'script':<44}{'advice':<40}{'loss':>10}{'advised':>10}")
    for script in chosen():
        if options.names and script.name not in options.names:
            continue
        row = tried(script, options.seed, options.budget)
        rows.append(row)
        advice = f"{row.setting} {shown(row.before)} -> {shown(row.after)}"
        print(
            f"{row.code + '/' + row.name:<44}{advice:<40}{row.loss:>10.4g}{row.advised_loss:>10.4g}"
            f"  {'helped' if row.helped else 'NOT HELPED'}",
            flush=True,
        )
    share = sum(row.helped for row in rows) / len(rows)
    print(f"helped: {share:.0%} of {len(rows)} (goal {GOAL:.0%})")
    if not options.names:
        RESULTS.parent.mkdir(exist_ok=True)
        document = {"goal": GOAL, "helped": share, "seed": options.seed, "budget": options.budget}
        table = [{name: str(v) if v == math.inf else v for name, v in dataclasses.asdict(row).items()} for row in rows]
        RESULTS.write_text(json.dumps({**document, "rows": table}, indent=1) + "\n")
    return 0 if share >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
