"""Ways to do the same work side by side: interleaved in one process, as ratios of medians, with accuracy checked."""

from __future__ import annotations

import dataclasses
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

Work = Callable[[], object]
RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One piece of work done by a peer and by Separatrix: seconds of each round, and the speed-up promised."""

    work: str
    against: str
    peer_seconds: tuple[float, ...]
    own_seconds: tuple[float, ...]
    goal: float
    accuracy: str

    @property
    def ratios(self) -> list[float]:
        return [peer / own for peer, own in zip(self.peer_seconds, self.own_seconds, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    def row(self) -> str:
        """A line of the table."""
        spread = f"{min(self.ratios):.3g} to {max(self.ratios):.3g}"
        verdict = "" if self.ratio >= self.goal else "  goal missed"
        return (
            f"{self.work:46} {self.against:24} {1e3 * statistics.median(self.peer_seconds):10.1f} ms"
            f" {1e3 * statistics.median(self.own_seconds):9.1f} ms {self.ratio:8.3g}x ({spread}), goal {self.goal:g}x"
            f"  {self.accuracy}{verdict}"
        )


def seconds(work: Work) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def compare(
    work: str, own: Work, peers: Mapping[str, Work], goal: float, rounds: int, accuracy: str = ""
) -> list[Comparison]:
    """Time every way once a round, in random order, after one run of each that does not count."""
    ways = {"": own, **peers}
    for way in ways.values():
        way()
    order = random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name in order.sample(list(ways), len(ways)):
            times[name].append(seconds(ways[name]))
    found = [Comparison(work, name, tuple(times[name]), tuple(times[""]), goal, accuracy) for name in peers]
    for each in found:
        print(each.row(), flush=True)
    return found


def write(name: str, rows: list[Comparison]) -> None:
    """Write a table to benchmarks/results."""
    RESULTS.mkdir(exist_ok=True)
    document = [{**dataclasses.asdict(row), "ratio": row.ratio} for row in rows]
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
