"""Does the first numeric advice help? Badly tuned scripts of the fault benchmark, as they are and as advised.

Each script is recorded by `separatrix watch`, `separatrix advise --json` is asked, its first advice with a number is
applied, and the script is recorded again with the same seed. The advice helped if the final loss (mean of the last
tenth of the steps; infinite where that is no number or the script does not end well) is lower by more than 1 %. Where
the size of batches changes, the epochs or steps that the script counts stay. The scripts are all those of the codes
below whose setting can be reached from outside: the choice was made before any was run. A script whose first numeric
advice is of another setting is judged by that one; without numeric advice it counts as not helped.

Two more kinds of scripts guard against advice that fits only these. With `--detuned` healthy scripts are given a
learning rate ten or thirty times too high or too low, a hash decides which; those that the change does not harm, by
5 % of the final loss, are shown and not counted. With `--scripts` files of one's own are judged, which take `--seed`.

Usage: python -m benchmarks.advise [--detuned PART | --scripts FILE ...] [--names NAME ...] [--seed N] [--budget SHARE]
Prints a table and writes benchmarks/results/advise.json; the exit code is 1 if fewer than 80 % were helped.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.catalogue import HEALTHY, PARTS, Script, scripts
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
"""The script of scheduler-misuse that stands for it."""
FACTORS = (1 / 30, 1 / 10, 10.0, 30.0)
GOAL = 0.8
LEAST_GAIN = 0.01
LEAST_HARM = 0.05
LIMIT_SECONDS = 600.0


@dataclasses.dataclass(frozen=True)
class Row:
    """What was advised to one script and what came of it; `tuned` is the loss without what was planted, where known."""

    code: str
    name: str
    setting: str
    before: float | str | None
    after: float | str | None
    loss: float
    advised_loss: float
    seconds: float
    tuned: float | None = None

    @property
    def helped(self) -> bool:
        """Whether the final loss fell by more than a hundredth."""
        margin = LEAST_GAIN * abs(self.loss) if math.isfinite(self.loss) else 0.0
        return self.advised_loss < self.loss - margin

    @property
    def counts(self) -> bool:
        """Whether the script was badly tuned to begin with."""
        return self.tuned is None or self.loss > self.tuned + LEAST_HARM * abs(self.tuned)


def chosen() -> list[Script]:
    """The badly tuned scripts, twenty or more."""
    found = scripts(codes=list(CODES))
    return [
        script
        for script in found
        if (not script.code.startswith("batch-") or script.name in BATCHES)
        and (script.code != "scheduler-misuse" or script.name in STEPPED)
    ]


def detuned(part: str) -> Iterator[tuple[Script, dict[str, Any]]]:
    """Healthy scripts of a part, each with what is planted in it."""
    for script in scripts(part, [HEALTHY]):
        digest = hashlib.sha256(script.name.encode()).digest()
        yield script, {"rate": FACTORS[digest[0] % len(FACTORS)]}


def watched(script: Script, run: Path, seed: int, budget: float, changes: Mapping[str, Any]) -> float:
    """Record a script with changes applied from outside; its final loss, infinite where it does not end well."""
    target = [str(script.path)]
    if changes:
        target = ["-m", "benchmarks._adjusted", json.dumps(changes), str(script.path)]
    command = [sys.executable, "-m", "separatrix", "watch", "--quiet", "--budget", str(budget), "--run", str(run)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = str(Path(__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            [*command, *target, "--seed", str(seed)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        if done.returncode == 0:
            return final_loss(run)
    return math.inf


def final_loss(path: Path) -> float:
    """Mean of the last tenth of the recorded losses; infinite without a finite one there."""
    with open_run(path) as run:
        losses = run.series("loss")
        values = np.asarray(losses.values, dtype=np.float64).reshape(len(losses.steps), -1)[:, 0]
    last = values[-max(1, len(values) // 10) :]
    return float(last.mean()) if np.isfinite(last).all() else math.inf


def applied(advice: Mapping[str, Any]) -> dict[str, Any] | None:
    """What to change from outside; None where the advice is not reachable there."""
    setting, before, after = advice["setting"], advice["from"], advice["to"]
    if setting == "learning_rate":
        return {"rate": after / before}
    if setting in ("weight_decay", "clip_norm"):
        return {setting: after}
    if setting == "epsilon":
        return {"eps": after}
    if setting == "schedule":
        return {"schedule": {name: advice["evidence"][name] for name in ("steps", "peak", "warmup")}}
    if setting == "batch_size":
        return {"batch_size": [round(before), max(1, round(after))]}
    return None


def combined(planted: Mapping[str, Any], advised: Mapping[str, Any]) -> dict[str, Any]:
    """Both changes: factors on the rate multiply, other advice takes the place of what was planted."""
    both = {**planted, **advised}
    if "rate" in planted and "rate" in advised:
        both["rate"] = planted["rate"] * advised["rate"]
    return both


def tried(script: Script, planted: Mapping[str, Any], seed: int, budget: float) -> Row:
    """Record, ask, change, record again."""
    with tempfile.TemporaryDirectory(prefix="benchmark-advise-") as name:
        folder, begin = Path(name), time.perf_counter()
        tuned = watched(script, folder / "tuned", seed, budget, {}) if planted else None
        first = second = watched(script, folder / "first", seed, budget, planted)
        command = [sys.executable, "-m", "separatrix", "advise", "--json", str(folder / "first")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        advice = next((each for each in json.loads(done.stdout)["advice"] if each["to"] is not None), None)
        change = applied(advice) if advice is not None else None
        if change is not None:
            second = watched(script, folder / "second", seed, budget, combined(planted, change))
        told = advice or {"setting": "nothing", "from": None, "to": None}
        seconds = round(time.perf_counter() - begin, 1)
        return Row(script.code, script.name, told["setting"], told["from"], told["to"], first, second, seconds, tuned)


def shown(value: float | str | None) -> str:
    """A value for the table."""
    return f"{value:.3g}" if isinstance(value, float | int) else str(value)


def line(row: Row, planted: Mapping[str, Any]) -> str:
    """A row of the table."""
    advice = f"{row.setting} {shown(row.before)} -> {shown(row.after)}"
    verdict = "helped" if row.helped else "NOT HELPED"
    if planted:
        verdict = f"{shown(row.tuned):>10}  {verdict if row.counts else '(no harm)'}  {planted}"
    return f"{row.code + '/' + row.name:<44}{advice:<40}{row.loss:>10.4g}{row.advised_loss:>10.4g}  {verdict}"


def main() -> int:
    """Try every script, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", nargs="+", metavar="NAME")
    parser.add_argument("--detuned", choices=PARTS, metavar="PART", help="healthy scripts, their rates spoilt")
    parser.add_argument("--scripts", nargs="+", type=Path, metavar="FILE", help="instead of the benchmark's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=0.1)
    options = parser.parse_args()
    cases: list[tuple[Script, dict[str, Any]]] = [(script, {}) for script in chosen()]
    if options.detuned:
        cases = list(detuned(options.detuned))
    elif options.scripts:
        cases = [(Script("own", path.stem, path.resolve()), {}) for path in options.scripts]
    rows = []
    print(f"{'script':<44}{'advice':<40}{'loss':>10}{'advised':>10}")
    for script, planted in cases:
        if not options.names or script.name in options.names:
            rows.append(tried(script, planted, options.seed, options.budget))
            print(line(rows[-1], planted), flush=True)
    counted = [row for row in rows if row.counts]
    share = sum(row.helped for row in counted) / len(counted)
    print(f"helped: {share:.0%} of {len(counted)} (goal {GOAL:.0%})")
    if not (options.names or options.scripts or options.detuned):
        RESULTS.parent.mkdir(exist_ok=True)
        document = {"goal": GOAL, "helped": share, "seed": options.seed, "budget": options.budget}
        table = [{name: str(v) if v == math.inf else v for name, v in dataclasses.asdict(row).items()} for row in rows]
        RESULTS.write_text(json.dumps({**document, "rows": table}, indent=1) + "\n")
    return 0 if share >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
