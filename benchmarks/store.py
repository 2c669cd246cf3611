"""What the store costs a training, how much it takes, and how fast a large run opens.

Usage: python -m benchmarks.store [--brief]
Prints a table and writes benchmarks/results/store.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from separatrix.runs import Redactor, RunWriter, SeriesSpec, open_run

RESULTS = Path(__file__).parent / "results" / "store.json"
SCALARS_A_SECOND = 300_000
SLOWDOWN_GOAL = 0.02
OPEN_GOAL = 1.0
_LABELS = 1000
_ERROR_WANTED = SLOWDOWN_GOAL / 4


@dataclasses.dataclass(frozen=True)
class Slowdown:
    """A training with the store against the same without it, in interleaved blocks."""

    form: str
    scalars_a_second: float
    step_milliseconds: float
    slowdown: float
    standard_error: float
    blocks: int


def training() -> Callable[[], None]:
    """One step of the network 784-512-512-512-10, batch 128, Adam."""
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise((784, 512, 512, 512)):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(512, 10))
    optimizer = torch.optim.Adam(model.parameters())
    images, labels = torch.randn(128, 784), torch.randint(0, 10, (128,))

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def packed(run: RunWriter, rate: float) -> Callable[[int, float], int]:
    """Hand over vectors of a thousand values, as many as the time passed asks for; the number of scalars."""
    run.positions("parameter", [f"p{i}" for i in range(_LABELS)])
    series = [run.series(SeriesSpec(f"packed {i}", ("parameter",))) for i in range(8)]
    owed = 0.0

    def hand_over(step: int, seconds: float) -> int:
        nonlocal owed
        owed += rate * seconds / _LABELS
        count = int(owed)
        owed -= count
        for index in range(count):
            run.vector(series[index % len(series)], step, np.full(_LABELS, step, np.float32))
        return count * _LABELS

    return hand_over


def plain(run: RunWriter, rate: float) -> Callable[[int, float], int]:
    """Hand over single values, as many as the time passed asks for; their number."""
    series = [run.series(SeriesSpec(f"plain {i}")) for i in range(100)]
    owed = 0.0

    def hand_over(step: int, seconds: float) -> int:
        nonlocal owed
        owed += rate * seconds
        count = int(owed)
        owed -= count
        for index in range(count):
            run.scalar(series[index % len(series)], step, 1.0)
        return count

    return hand_over


def block(step: Callable[[], None], steps: int, hand_over: Callable[[int, float], int] | None) -> tuple[float, int]:
    """Seconds of a block of steps, and the scalars handed over in it."""
    handed = 0
    began = last = time.perf_counter()
    for index in range(steps):
        step()
        if hand_over is not None:
            now = time.perf_counter()
            handed += hand_over(index, now - last)
            last = now
    return time.perf_counter() - began, handed


def slowdown(form: str, rate: float, longest: float) -> Slowdown:
    """Interleave blocks without and with the store until the standard error is small or the time is up."""
    make = {"packed": packed, "plain": plain}[form]
    step = training()
    pause = 0.6
    block(step, 20, None)
    steps = max(20, int(1.5 / (block(step, 50, None)[0] / 50)))
    ratios: list[float] = []
    bases: list[float] = []
    rates: list[float] = []
    folder = Path(tempfile.mkdtemp(prefix="benchmark-store-"))
    run = RunWriter(folder / "run", redactor=Redactor({}), max_bytes=1 << 40)
    hand_over = make(run, rate)
    began = time.perf_counter()
    try:
        error = math.inf
        while len(ratios) < 3 or (time.perf_counter() - began < longest and error > _ERROR_WANTED):
            # Without, with, with, without: a slow drift of the machine's speed cancels.
            first, _ = block(step, steps, None)
            second, one = block(step, steps, hand_over)
            third, two = block(step, steps, hand_over)
            # What is still to be stored belongs to the blocks with the store.
            time.sleep(pause)
            fourth, _ = block(step, steps, None)
            ratios.append((second + third) / (first + fourth) - 1)
            bases.append((first + fourth) / (2 * steps))
            rates.append((one + two) / (second + third))
            if len(ratios) > 1:
                error = statistics.stdev(ratios) / math.sqrt(len(ratios))
    finally:
        run.close()
        shutil.rmtree(folder)
    if run.failure is not None:
        raise RuntimeError(run.failure)
    milliseconds = 1e3 * statistics.median(bases)
    return Slowdown(form, statistics.mean(rates), milliseconds, statistics.mean(ratios), error, len(ratios))


def throughput() -> float:
    """Scalars a second that the store takes from nothing but a loop that hands over packed vectors."""
    folder = Path(tempfile.mkdtemp(prefix="benchmark-store-"))
    run = RunWriter(folder / "run", redactor=Redactor({}), max_bytes=1 << 40)
    run.positions("parameter", [f"p{i}" for i in range(_LABELS)])
    series = run.series(SeriesSpec("packed", ("parameter",)))
    values = np.ones(_LABELS, np.float32)
    began = time.perf_counter()
    for step in range(20_000):
        run.vector(series, step, values)
    run.flush()
    seconds = time.perf_counter() - began
    run.close()
    shutil.rmtree(folder)
    return 20_000 * _LABELS / seconds


def call_costs() -> dict[str, float]:
    """Microseconds that handing over one value or vector takes on the training thread."""
    folder = Path(tempfile.mkdtemp(prefix="benchmark-store-"))
    run = RunWriter(folder / "run", redactor=Redactor({}))
    run.positions("parameter", [f"p{i}" for i in range(_LABELS)])
    loss, rms = run.series(SeriesSpec("loss")), run.series(SeriesSpec("rms", ("parameter",)))
    values = np.ones(_LABELS, np.float32)
    costs: dict[str, list[float]] = {"scalar": [], "vector": []}
    for _ in range(15):
        began = time.perf_counter()
        for step in range(2000):
            run.scalar(loss, step, 1.0)
        middle = time.perf_counter()
        for step in range(2000):
            run.vector(rms, step, values)
        costs["scalar"].append((middle - began) / 2000)
        costs["vector"].append((time.perf_counter() - middle) / 2000)
        run.flush()
    run.close()
    shutil.rmtree(folder)
    return {name: 1e6 * min(each) for name, each in costs.items()}


def opening(form: str, points: int = 10_000_000, repeats: int = 5) -> dict[str, float | str]:
    """Seconds to open a run of many points and read one of its series; the median of several times."""
    folder = Path(tempfile.mkdtemp(prefix="benchmark-store-"))
    run = RunWriter(folder / "run", redactor=Redactor({}), max_bytes=1 << 40)
    if form == "ten scalar series":
        series = [run.series(SeriesSpec(f"series {i}")) for i in range(10)]
        for step in range(points // 10):
            for index, each in enumerate(series):
                run.scalar(each, step, float(step + index))
            # As a training of a hundred steps a flush would have written them.
            if step % 100 == 99:
                run.flush()
        name = "series 3"
    else:
        run.positions("parameter", [f"p{i}" for i in range(_LABELS)])
        vector = run.series(SeriesSpec("rms", ("parameter",)))
        for step in range(points // _LABELS):
            run.vector(vector, step, np.full(_LABELS, step, np.float32))
        name = "rms"
    run.close()
    size = sum(item.stat().st_size for item in (folder / "run").iterdir())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        with open_run(folder / "run") as opened:
            read = opened.series(name).values.size
        seconds.append(time.perf_counter() - began)
    shutil.rmtree(folder)
    return {"form": form, "seconds": statistics.median(seconds), "values_read": read, "megabytes": size / 1e6}


def main() -> int:
    """Measure, print, write; the exit code is 1 if a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--brief", action="store_true", help="a rough figure in a minute")
    brief = parser.parse_args().brief
    longest = 20.0 if brief else 200.0
    costs = call_costs()
    capacity = throughput()
    opens = [opening(form) for form in ("ten scalar series", "vectors")]
    slow = [slowdown("packed", SCALARS_A_SECOND * 1.1, longest)]
    slow += [slowdown("plain", rate, longest / 4) for rate in (10_000.0, SCALARS_A_SECOND * 1.1)]
    print(f"{'handing over':<34}{costs['scalar']:.2f} us a scalar, {costs['vector']:.2f} us a vector of {_LABELS}")
    print(f"{'most the store takes':<34}{capacity:,.0f} scalars/s")
    for each in opens:
        goal = "reached" if float(each["seconds"]) < OPEN_GOAL else "missed"
        print(f"open and read, {each['form']:<19}{each['seconds']:.3f} s ({each['megabytes']:.0f} MB), goal {goal}")
    for result in slow:
        resolved = result.standard_error <= _ERROR_WANTED
        figure = f"{100 * result.slowdown:+.2f} % +- {100 * result.standard_error:.2f} %"
        if result.form == "packed":
            reached = result.slowdown <= SLOWDOWN_GOAL and result.scalars_a_second >= SCALARS_A_SECOND
            figure += f", goal {'reached' if reached else 'missed'}"
        figure += "" if resolved else " (not resolved)"
        at = f"{result.form} at {result.scalars_a_second:,.0f}/s"
        print(f"{at:<34}{figure}, {result.blocks} blocks, {result.step_milliseconds:.2f} ms/step")
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {"processors": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}
    document = {
        "machine": machine,
        "brief": brief,
        "call_microseconds": costs,
        "scalars_a_second_at_most": capacity,
        "opening": opens,
        "slowdown": [dataclasses.asdict(result) for result in slow],
        "goals": {"slowdown": SLOWDOWN_GOAL, "scalars_a_second": SCALARS_A_SECOND, "open_seconds": OPEN_GOAL},
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    missed = slow[0].slowdown - slow[0].standard_error > SLOWDOWN_GOAL or slow[0].scalars_a_second < SCALARS_A_SECOND
    return 1 if missed or any(float(each["seconds"]) >= OPEN_GOAL for each in opens) else 0


if __name__ == "__main__":
    sys.exit(main())
