"""What it takes to keep every example's values over a long training: memory, size of the file, time a pass.

The values of a million examples are pushed through the recorder's own path, in batches in another order each pass: the
gathering of passes, the thread that stores chunks, the row that takes their place. There is no network.

Usage: python -m benchmarks.examples [--passes N] [--examples N] [--batch N]
Prints a table and writes benchmarks/results/examples.json; the exit code is 1 if memory reached 2 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from separatrix.record import available_probes
from separatrix.record.origins import Origin
from separatrix.record.passes import Passes, Turns
from separatrix.runs import Redactor, RunWriter, open_run

RESULTS = Path(__file__).parent / "results" / "examples.json"
MEMORY_GOAL = 2e9


def peak_bytes() -> float:
    """Most resident memory of this process so far."""
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def record_passes(folder: Path, examples: int, passes: int, batch: int) -> dict[str, Any]:
    """Hand over all series of the probe `examples` for every example in every pass; figures of what that took."""
    random = np.random.default_rng(0)
    before = peak_bytes()
    writer = RunWriter(folder, redactor=Redactor({}), max_bytes=1 << 40)
    gathered, turns, origin = Passes(writer), Turns(), Origin(range(examples))
    origin.label(writer, "")
    specs = available_probes()["examples"].series
    for spec in specs:
        gathered.declare(spec)
    each = [spec.name for spec in specs if spec.name != "example_target"]
    handing, step = [], 0
    began_using = time.process_time()
    began = time.perf_counter()
    for number in range(passes):
        order = random.permutation(examples)
        seconds = 0.0
        for start in range(0, examples, batch):
            ids = order[start : start + batch]
            rows = {name: random.random(len(ids)) for name in each}
            if not number:
                rows["example_target"] = (ids % 10).astype(np.float64)
            begin = time.thread_time()
            positions = origin.positions(ids)
            if turns.begins(origin, number, positions):
                gathered.end(step)
            step += 1
            turns.note(origin, positions)
            gathered.add(step, positions, rows)
            seconds += time.thread_time() - begin
        handing.append(seconds)
        print(f"pass {number + 1}: {seconds:.2f} s, {peak_bytes() / 1e9:.2f} GB", end="\r", file=sys.stderr)
    used = time.process_time()
    begin = time.perf_counter()
    gathered.end(step)
    size_open = (folder / "run.sqlite").stat().st_size
    writer.close()
    closing = time.perf_counter() - begin
    if writer.failure is not None:
        raise RuntimeError(writer.failure)
    size = (folder / "run.sqlite").stat().st_size
    return {
        "examples": examples,
        "passes": passes,
        "batch": batch,
        "peak_gigabytes": peak_bytes() / 1e9,
        "peak_gigabytes_before": before / 1e9,
        "file_gigabytes": size / 1e9,
        "file_gigabytes_before_closing": size_open / 1e9,
        "megabytes_a_pass": size / passes / 1e6,
        "training_thread_seconds_a_pass": statistics.median(handing),
        "training_thread_microseconds_a_batch": 1e6 * statistics.median(handing) / (examples / batch),
        "processor_seconds_a_pass": (used - began_using) / passes,
        "closing_seconds": closing,
        "seconds": time.perf_counter() - began,
    }


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=100)
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="benchmark-examples-"))
    try:
        figures = record_passes(folder / "run", options.examples, options.passes, options.batch)
        with open_run(folder / "run") as run:
            begin = time.perf_counter()
            losses = run.series("example_loss")
            figures["reading_seconds"] = time.perf_counter() - begin
            if losses.values.shape != (options.passes, options.examples) or not losses.measured.all():
                raise RuntimeError(f"the run holds {losses.values.shape}, or not all of it")
    finally:
        shutil.rmtree(folder)
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):<40}{value:,.4g}")
    machine = {"processors": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
    RESULTS.parent.mkdir(exist_ok=True)
    document = {"machine": machine, "goal_gigabytes": MEMORY_GOAL / 1e9, **figures}
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    reached = figures["peak_gigabytes"] * 1e9 < MEMORY_GOAL
    print(f"goal of {MEMORY_GOAL / 1e9:g} GB of memory while recording: {'reached' if reached else 'missed'}")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
