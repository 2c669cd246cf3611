"""What watching adds to the start of a script: whole processes with and without `separatrix watch`, interleaved.

The script imports torch and takes one training step. Goal: less than half a second more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOAL_SECONDS = 0.5
SCRIPT = """
import torch
model = torch.nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.nn.functional.mse_loss(model(torch.ones(3, 4)), torch.zeros(3, 2)).backward()
optimizer.step()
"""


def seconds(command: list[str]) -> tuple[float, float]:
    """Wall time and processor time of a command."""
    before, begin = os.times(), time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    used = (after.children_user - before.children_user) + (after.children_system - before.children_system)
    return time.perf_counter() - begin, used


def main() -> None:
    """Print the medians and write them to benchmarks/results/startup.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    options = parser.parse_args()
    order = random.Random(0)
    added: dict[str, list[float]] = {"wall": [], "processor": []}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        script.write_text(SCRIPT)
        for pair in range(options.pairs):
            run = str(Path(folder) / f"run-{pair}")
            bare = [sys.executable, str(script)]
            watched = [sys.executable, "-m", "separatrix", "watch", "--run", run, str(script)]
            times = {}
            for name, command in order.sample([("bare", bare), ("watched", watched)], 2):
                times[name] = seconds(command)
            for index, kind in enumerate(added):
                added[kind].append(times["watched"][index] - times["bare"][index])
    row = {kind: statistics.median(values) for kind, values in added.items()}
    spread = statistics.quantiles(added["wall"], n=4)
    print(f"watching adds {row['wall']:.2f} s of wall time (quartiles {spread[0]:.2f} to {spread[2]:.2f}),")
    print(f"{row['processor']:.2f} s of processor time; goal {GOAL_SECONDS} s; {options.pairs} pairs")
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "startup.json").write_text(json.dumps({**row, "quartiles": spread, "pairs": options.pairs}, indent=1))


if __name__ == "__main__":
    main()
