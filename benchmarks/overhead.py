"""What a recording costs: blocks of training steps with and without it, interleaved in one process.

The overhead is (time with - time without) / (time without). Short blocks alternate in random order, since the speed of
a machine drifts; a few of each kind make a round, and the first steps of each block do not count. The overhead is that
of all rounds together, none left out, since a rare snapshot is part of the cost; its standard error is the jackknife's
over rounds. Rounds go on until that is a tenth of the budget, or the time is up: then the row says "not resolved".
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

import separatrix
from benchmarks import _peers
from benchmarks._trainings import TRAININGS, Step

Context = Callable[[], contextlib.AbstractContextManager[object]]

BLOCK_SECONDS = 0.15
SETTLING_STEPS = 10
BLOCKS_A_ROUND = 4
FEWEST_ROUNDS = 40
WARM_UP_STEPS = 40


@dataclasses.dataclass(frozen=True)
class Row:
    """One measured overhead, in shares of the bare training's time."""

    training: str
    what: str
    budget: float | None
    step_milliseconds: float
    overhead: float
    standard_error: float
    rounds: int
    resolved: bool
    quantities: int | None = None


def seconds(step: Step, steps: int) -> float:
    """Wall time of `steps` steps."""
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    return time.perf_counter() - begin


def compare(bare: Step, awake: Context, recorded: Step, target: float, limit: float) -> tuple[float, float, float, int]:
    """Mean overhead, its standard error, milliseconds of a bare step, rounds measured.

    `recorded` steps run inside `awake()`, `bare` ones outside.
    """
    for _ in range(WARM_UP_STEPS):
        bare()
    steps = max(3, round(BLOCK_SECONDS / (seconds(bare, 20) / 20)))
    rounds: list[tuple[float, float]] = []
    deadline = time.perf_counter() + limit
    order = random.Random(0)
    while True:
        times = {True: 0.0, False: 0.0}
        for _ in range(BLOCKS_A_ROUND):
            for with_it in order.sample((True, False), 2):
                step = recorded if with_it else bare
                with awake() if with_it else contextlib.nullcontext():
                    # The first steps after a pause pay for the pause, which no ordinary recording has.
                    for _ in range(SETTLING_STEPS):
                        step()
                    times[with_it] += seconds(step, steps)
        rounds.append((times[True], times[False]))
        ratio, error = ratio_of_sums(rounds)
        enough = len(rounds) >= FEWEST_ROUNDS and error <= target
        if enough or time.perf_counter() > deadline:
            bare_step = statistics.median(time for _, time in rounds) / (steps * BLOCKS_A_ROUND)
            return ratio - 1.0, error, 1e3 * bare_step, len(rounds)


def ratio_of_sums(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Sum of the first over sum of the second numbers, and its standard error by the jackknife."""
    above, below = (math.fsum(column) for column in zip(*pairs, strict=True))
    if len(pairs) < 2:
        return above / below, math.inf
    left_out = [(above - a) / (below - b) for a, b in pairs]
    mean = statistics.fmean(left_out)
    spread = math.fsum((value - mean) ** 2 for value in left_out)
    return above / below, math.sqrt(spread * (len(pairs) - 1) / len(pairs))


@contextlib.contextmanager
def recorder(
    model: nn.Module, optimizer: torch.optim.Optimizer, budget: float, folder: Path, probes: str = "default"
) -> Iterator[Context]:
    """A recording into `folder` that is paused but inside the contexts that this yields."""
    with contextlib.ExitStack() as stack:
        recording = stack.enter_context(
            separatrix.record(model, optimizer, run=folder, budget=budget, probes=probes, memory_budget=1.0)
        )
        resting = contextlib.ExitStack()
        resting.enter_context(recording.paused())

        @contextlib.contextmanager
        def awake() -> Iterator[None]:
            resting.close()
            try:
                yield
            finally:
                resting.enter_context(recording.paused())

        yield awake
        resting.close()


def measure(training: str, budget: float, limit: float, probes: str = "default") -> Row:
    """Overhead of a recording of a training at a budget, and how many different numbers it has taken."""
    model, optimizer, step = TRAININGS[training]()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        with recorder(model, optimizer, budget, run, probes) as awake:
            overhead, error, milliseconds, rounds = compare(step, awake, step, budget / 10, limit)
        quantities = quantities_of(run)
    what = "separatrix" if probes == "default" else f"separatrix, {probes} probes"
    return Row(training, what, budget, milliseconds, overhead, error, rounds, error <= budget / 10, quantities)


def quantities_of(run: Path) -> int:
    """Series of a run, each counted once whatever its labels."""
    with separatrix.open(run) as opened:
        return len(opened.names())


def measure_peer(training: str, peer: str, limit: float) -> Row:
    """Overhead of a peer that logs the same norms at every step."""
    model, optimizer, step = TRAININGS[training]()
    with tempfile.TemporaryDirectory() as folder, _peers.PEERS[peer](model, optimizer, folder) as between:
        compared = compare(step, contextlib.nullcontext, lambda: step(between), 0.01, limit)
    overhead, error, milliseconds, rounds = compared
    return Row(training, peer, None, milliseconds, overhead, error, rounds, error <= 0.1 * max(0.05, overhead))


def printed(row: Row) -> str:
    """A row of the table."""
    budget = "" if row.budget is None else f"{row.budget:.0%}"
    verdict = "" if row.resolved else "not resolved"
    return (
        f"{row.training:18} {row.what:24} {budget:>6} {row.step_milliseconds:8.2f} ms"
        f" {row.overhead:+9.2%} ± {row.standard_error:.2%} {row.rounds:5d} rounds {row.quantities or '':>4} {verdict}"
    )


def main() -> None:
    """Print the table and write it to benchmarks/results/overhead.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainings", nargs="*", choices=list(TRAININGS), default=list(TRAININGS))
    parser.add_argument("--budgets", nargs="*", type=float, default=[0.01, 0.05, 0.2])
    parser.add_argument("--all-probes", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--peers", nargs="*", choices=list(_peers.PEERS), default=_peers.installed())
    parser.add_argument("--limit", type=float, default=300.0, help="seconds a row may take")
    options = parser.parse_args()
    rows = []
    print(f"{'training':18} {'with':24} {'budget':>6} {'bare step':>11} {'overhead':>9} {'quantities':>28}")
    for training in options.trainings:
        measurements = [functools.partial(measure, training, budget, options.limit) for budget in options.budgets]
        if options.all_probes:
            measurements.append(functools.partial(measure, training, 0.05, options.limit, "all"))
        measurements += [functools.partial(measure_peer, training, peer, options.limit / 3) for peer in options.peers]
        for measurement in measurements:
            rows.append(measurement())
            print(printed(rows[-1]), flush=True)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "overhead.json").write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
