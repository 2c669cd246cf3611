"""What a batched training of 64 networks gains over training them one by one in eager loops, both with Adam.

Blocks of steps alternate in random order in one process, since the speed of a machine drifts; each pair of blocks gives
one ratio of times. Before that, both ways take the same steps from the same start: in float64 their parameters must
agree to 1e-9 in every copy, and in float32 the median copy of the ensemble may stray no further from its float64 path
than twice what it does in the eager loop (the maximum says little: where a gradient is rounding noise, Adam makes it a
full step). Tracing, done once, is timed apart.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from separatrix.tasks import ensemble

COPIES, BATCH, BATCHES = 64, 64, 8
RATES = torch.logspace(-4, -2, COPIES)
CHECKED_STEPS = 20
TOLERANCE = 1e-9
WORSE = 2.0
BLOCK_SECONDS = 0.4

Data = tuple[Tensor, Tensor]


class ModularAddition(nn.Module):
    """One pre-norm transformer block that reads the tokens (a, b, =) and names a + b modulo `modulus`."""

    def __init__(self, modulus: int, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.tokens = nn.Embedding(modulus + 1, width)
        self.places = nn.Parameter(0.02 * torch.randn(3, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.read = nn.Linear(width, modulus)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        x = x + self.down(F.relu(self.up(self.norm2(x))))
        return self.read(x[:, -1])


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def vectors(generator: torch.Generator) -> Data:
    inputs = torch.randn(COPIES, BATCH, 64, generator=generator)
    return inputs, torch.randint(0, 10, (COPIES, BATCH), generator=generator)


def sums(modulus: int, generator: torch.Generator) -> Data:
    terms = torch.randint(0, modulus, (COPIES, BATCH, 2), generator=generator)
    return torch.cat([terms, torch.full((COPIES, BATCH, 1), modulus)], dim=2), terms.sum(2) % modulus


@dataclasses.dataclass(frozen=True)
class Case:
    """Networks and data of one row, and the speed-up that is promised."""

    name: str
    build: Callable[[], nn.Module]
    draw: Callable[[torch.Generator], Data]
    target: float | None


CASES = (
    Case("MLP 64-64-10", mlp, vectors, 10.0),
    Case("transformer, 23, width 16", lambda: ModularAddition(23, 16), functools.partial(sums, 23), None),
    Case("transformer, 59, width 32", lambda: ModularAddition(59, 32), functools.partial(sums, 59), 4.0),
    Case("transformer, 59, width 64", lambda: ModularAddition(59, 64), functools.partial(sums, 59), None),
)


@dataclasses.dataclass(frozen=True)
class Row:
    """Milliseconds a step of all copies, the ratio with its standard error, and how exactly both ways agree."""

    case: str
    parameters: int
    sequential_milliseconds: float
    ensemble_milliseconds: float
    ratio: float
    standard_error: float
    rounds: int
    trace_seconds: float
    float64_deviation: float
    float32_error: float
    float32_error_one_by_one: float
    target: float | None
    threads: int

    @property
    def verdict(self) -> str:
        equal = self.float64_deviation <= TOLERANCE and self.float32_error <= WORSE * self.float32_error_one_by_one
        exact = "" if equal else " NOT EQUAL"
        if self.target is None:
            return exact
        return f"target {self.target:g}x {'reached' if self.ratio >= self.target else 'MISSED'}{exact}"


class Sequential:
    """The eager loop: every copy with a module and a torch.optim.Adam of its own."""

    def __init__(self, networks: ensemble.Ensemble, batches: list[Data]) -> None:
        self.modules = [networks.module(index) for index in range(COPIES)]
        rates = RATES.tolist()
        self.optimizers = [torch.optim.Adam(m.parameters(), lr=r) for m, r in zip(self.modules, rates, strict=True)]
        self.batches, self.done = batches, 0

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.done += 1
            inputs, targets = self.batches[self.done % BATCHES]
            for index, (module, optimizer) in enumerate(zip(self.modules, self.optimizers, strict=True)):
                optimizer.zero_grad()
                F.cross_entropy(module(inputs[index]), targets[index]).backward()
                optimizer.step()


class Batched:
    """The ensemble engine, resumed block by block."""

    def __init__(self, networks: ensemble.Ensemble, batches: list[Data]) -> None:
        self.networks, self.batches = networks, batches
        self.training: ensemble.Training | None = None

    def steps(self, count: int) -> None:
        self.training = ensemble.train(
            self.networks,
            F.cross_entropy,
            ensemble.Adam(RATES),
            lambda step: self.batches[step % BATCHES],
            count,
            resume=self.training,
        )


def start(case: Case, dtype: torch.dtype) -> tuple[Sequential, Batched]:
    networks = ensemble.stack(lambda: case.build().to(dtype), range(COPIES))
    generator = torch.Generator().manual_seed(0)
    drawn = [case.draw(generator) for _ in range(BATCHES)]
    batches = [(inputs.to(dtype) if inputs.is_floating_point() else inputs, targets) for inputs, targets in drawn]
    return Sequential(networks, batches), Batched(networks, batches)


def ends(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Parameters (copies, size) after the checked steps, one by one and batched."""
    alone, batched = start(case, dtype)
    alone.steps(CHECKED_STEPS)
    batched.steps(CHECKED_STEPS)
    assert batched.training is not None
    flat = [torch.cat([p.detach().flatten() for p in module.parameters()]) for module in alone.modules]
    return torch.stack(flat).double(), batched.training.ensemble.parameters.double()


def deviations(found: Tensor, expected: Tensor) -> Tensor:
    """Largest difference of a parameter in each copy, relative to the largest parameter of that copy."""
    return (found - expected).abs().amax(1) / expected.abs().amax(1)


def seconds(way: Sequential | Batched, count: int) -> float:
    begin = time.perf_counter()
    way.steps(count)
    return time.perf_counter() - begin


def measure(case: Case, rounds: int) -> Row:
    (alone64, batched64), (alone32, batched32) = ends(case, torch.float64), ends(case, torch.float32)
    alone, batched = start(case, torch.float32)
    first = seconds(batched, 1)
    ways: dict[bool, Sequential | Batched] = {False: alone, True: batched}
    counts = {key: max(3, round(BLOCK_SECONDS / (seconds(way, 5) / 5))) for key, way in ways.items()}
    times: dict[bool, list[float]] = {False: [], True: []}
    order = random.Random(0)
    for _ in range(rounds):
        for key in order.sample((False, True), 2):
            times[key].append(seconds(ways[key], counts[key]) / counts[key])
    ratios = [slow / fast for slow, fast in zip(times[False], times[True], strict=True)]
    return Row(
        case=case.name,
        parameters=sum(p.numel() for p in alone.modules[0].parameters()),
        sequential_milliseconds=1e3 * statistics.median(times[False]),
        ensemble_milliseconds=1e3 * statistics.median(times[True]),
        ratio=statistics.median(ratios),
        # Of a median, for errors that are roughly normal.
        standard_error=1.2533 * statistics.stdev(ratios) / len(ratios) ** 0.5,
        rounds=rounds,
        trace_seconds=first - statistics.median(times[True]),
        float64_deviation=float(deviations(batched64, alone64).max()),
        float32_error=float(deviations(batched32, alone64).median()),
        float32_error_one_by_one=float(deviations(alone32, alone64).median()),
        target=case.target,
        threads=torch.get_num_threads(),
    )


def printed(row: Row) -> str:
    """A row of the table."""
    return (
        f"{row.case:26} {row.parameters:7d} {row.sequential_milliseconds:9.2f} ms {row.ensemble_milliseconds:9.2f} ms"
        f" {row.ratio:6.2f}x ± {row.standard_error:.2f} {row.trace_seconds:6.2f} s {row.float64_deviation:9.1e}"
        f" {row.float32_error:9.1e} {row.float32_error_one_by_one:9.1e}  {row.verdict}"
    )


def main() -> None:
    """Print the table and write it to benchmarks/results/ensemble.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    print(f"{COPIES} copies, batch {BATCH}, own data and learning rate each, {torch.get_num_threads()} threads")
    print(
        f"{'network':26} {'size':>7} {'one by one':>12} {'ensemble':>12} {'faster':>14} {'tracing':>8}"
        f" {'float64':>9} {'float32':>9} {'eager 32':>9}"
    )
    rows = []
    for case in CASES:
        rows.append(measure(case, options.rounds))
        print(printed(rows[-1]), flush=True)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "ensemble.json").write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
