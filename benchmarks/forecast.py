"""How well losses are forecast: other schedules, from the start of two runs; a wide model, from narrow ones.

A character transformer trains under a constant rate, a cosine, WSD, and two steps. From the first 30 % of the first
two the curves of the others are forecast, and their last losses ranked; beside the laws stand a plain power law in the
steps and the last value. The same is done from two whole runs of 30 % of the length, without a goal. Curves are
compared from the end of what was given on.

Transformers of width 16 to 64, six starts each, trained for a third of the steps, forecast the last loss of one of
width 256, mean of two starts: by a power of the size above a floor, by a plain power, and by the last value, that of
width 64. All widths train at the rate that is best for width 64 and is carried over by the maximal update
parametrization; the standard one carries it over as it is.

Usage: python -m benchmarks.forecast [--steps N] [--seeds N ...] [--width N] [--only schedules|widths]
Prints a table and writes benchmarks/results/forecast.json; the exit code is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import _widths
from separatrix.analysis.forecasting import DEFAULT_LAW, LAWS, Curve, fit
from separatrix.steer.schedules import Schedule, constant, cosine, step_decay, wsd
from separatrix.studies._character_copies import CharacterCopies, Text, begin, train

RESULTS = Path(__file__).parent / "results" / "forecast.json"
GOALS = {DEFAULT_LAW: 0.015, "sizes": 0.02}
SHARE = 0.3
HELD_OUT = ("wsd", "two steps")
LENGTH, BATCH, RATE, RUNS, VALIDATIONS = 16, 8, 0.01, 2, 100


def schedules(steps: int) -> dict[str, Schedule]:
    """Those that are given, and those that are forecast."""
    warmup = max(1, steps // 50)
    return {
        "constant": constant(steps, warmup=warmup),
        "cosine": cosine(steps, warmup=warmup, final=0.1),
        "wsd": wsd(steps, warmup=warmup),
        "two steps": step_decay(steps, warmup=warmup, at=(0.6, 0.8), factor=10**-0.5),
    }


def curves(steps: int, width: int, seed: int) -> dict[str, Curve]:
    """Validation losses under each schedule, mean of two starts and orders of the data."""
    model = CharacterCopies(width, LENGTH)
    text = Text(LENGTH, BATCH, seed, held_out=128)
    rates = {name: RATE * made.values() for name, made in schedules(steps).items()}
    streams = [run for run in range(RUNS) for _ in rates]
    state = begin(model, RUNS, torch.Generator().manual_seed(seed)).copies(streams)
    table = torch.from_numpy(np.stack(list(rates.values()), 1)).float().repeat(1, RUNS)
    every = max(1, steps // VALIDATIONS)
    _, losses = train(model, state, table, text, streams, every=every)
    mean = losses.view(len(losses), RUNS, len(rates)).mean(1).double().numpy()
    updates = np.arange(every, every * len(mean) + 1, every)
    return {name: Curve(updates, mean[:, index], rates[name], name) for index, name in enumerate(rates)}


def judged(given: list[Curve], held: Mapping[str, Curve], law: str) -> dict[str, Any]:
    """Mean relative errors by held-out curve, and whether the last losses are ranked as they came out."""
    fitted = fit([curve.settled() for curve in given], law)
    errors, ends, came = {}, {}, {}
    for name, curve in held.items():
        after = curve.updates > SHARE * len(curve.rates)
        told = fitted.predict(curve.rates)[curve.updates - 1]
        errors[name] = float(np.abs(told[after] / curve.losses[after] - 1).mean())
        ends[name], came[name] = float(told[-3:].mean()), float(curve.losses[-3:].mean())
    order = sorted(ends, key=ends.__getitem__)
    distinct = len(set(ends.values())) == len(ends)
    return {
        "errors": errors,
        "ends": ends,
        "came": came,
        "ranked": distinct and order == sorted(came, key=came.__getitem__),
    }


def schedule_rows(steps: int, width: int, seed: int) -> list[dict[str, Any]]:
    """Lines of the table, of one seed, from the start of two runs and from two short ones."""
    found, short = (curves(length, width, seed) for length in (steps, round(SHARE * steps)))
    held = {name: found[name] for name in HELD_OUT}
    sources = {
        "first 30 % of two runs": [found["constant"].first(SHARE), found["cosine"].first(SHARE)],
        "two runs of 30 % of the length": [short["constant"], short["cosine"]],
    }
    return [
        {"seed": seed, "source": source, "law": law, "goal": goal if law == DEFAULT_LAW else None}
        | judged(given, held, law)
        for (source, given), goal in zip(sources.items(), (GOALS[DEFAULT_LAW], None), strict=True)
        for law in LAWS
    ]


def summary(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Print errors by source and law; whether all that have a goal reach it, with the right ranking."""
    print(f"{'from':<38}{'law':<14}{'mean relative error':>20}{'worst':>10}{'ranked':>10}")
    reached = True
    for source, law in dict.fromkeys((row["source"], row["law"]) for row in rows):
        these = [row for row in rows if (row["source"], row["law"]) == (source, law)]
        errors = [error for row in these for error in row["errors"].values()]
        ranked = [row["ranked"] for row in these if "ranked" in row]
        count = f"{sum(ranked)} of {len(ranked)}" if ranked else ""
        print(f"{source:<38}{law:<14}{np.mean(errors):>20.2%}{max(errors):>10.2%}{count:>10}", flush=True)
        if (goal := these[0]["goal"]) is not None:
            reached &= bool(np.mean(errors) <= goal) and all(ranked)
    return reached


def main() -> int:
    """Train, forecast, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", choices=("schedules", "widths"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    begin_time = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        if options.only != "widths":
            rows += schedule_rows(options.steps, options.width, seed)
    for seed in options.seeds:
        if options.only != "schedules":
            rows += _widths.rows(options.steps // 3, seed, GOALS)
    reached = summary(rows)
    print(f"goals of {GOALS} and the right ranking: {'reached' if reached else 'missed'}")
    RESULTS.parent.mkdir(exist_ok=True)
    document = {
        "goals": GOALS,
        "steps": options.steps,
        "width": options.width,
        "seconds": time.perf_counter() - begin_time,
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
