"""A training whose every example is known by its first feature: what is recorded of it has a brute-force truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from separatrix.record import record
from separatrix.record.recording import Recording
from separatrix.runs import open_run

COUNT = 47
CLASSES = 3
SERIES = ("example_loss", "example_margin", "example_correct", "example_prediction", "example_error_norm")
Pass = Iterable[tuple[torch.Tensor, torch.Tensor]]


def data(count: int = COUNT, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features, of which the first is the index, and classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 5, generator=generator)
    x[:, 0] = torch.arange(count)
    return x, torch.randint(0, CLASSES, (count,), generator=generator)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, CLASSES))


@dataclasses.dataclass
class Truth:
    """What every example showed in each pass, by brute force in float64; NaN where it was not seen."""

    count: int = COUNT
    passes: list[dict[str, np.ndarray]] = dataclasses.field(default_factory=list)
    steps: list[int] = dataclasses.field(default_factory=list)
    targets: np.ndarray = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.targets = np.full(self.count, np.nan)

    def begin(self) -> None:
        self.passes.append({name: np.full(self.count, np.nan) for name in SERIES})
        self.steps.append(0)

    def note(self, x: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        for row, scores, target in zip(x, outputs.detach().double().numpy(), targets.tolist(), strict=True):
            index = round(row[0].item())
            chances = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            wrong = [s for c, s in enumerate(scores) if c != target]
            one_hot = np.eye(len(scores))[target]
            now = self.passes[-1]
            now["example_loss"][index] = -np.log(chances[target])
            now["example_margin"][index] = scores[target] - max(wrong)
            now["example_correct"][index] = float(scores.argmax() == target)
            now["example_prediction"][index] = scores.argmax()
            now["example_error_norm"][index] = np.linalg.norm(chances - one_hot)
            self.targets[index] = target


def follow(
    path: Path,
    passes: Iterable[Pass],
    *,
    count: int = COUNT,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = F.cross_entropy,
    each: Callable[[Recording, int], Any] | None = None,
    accumulate: int = 1,
    probes: str = "default,examples",
) -> Truth:
    """Record a training over `passes`; `each` is called after every step."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    truth = Truth(count)
    step = batches = 0
    with record(model, optimizer, run=path, probes=probes, budget=1.0) as recording:
        for batch_pass in passes:
            truth.begin()
            for x, y in batch_pass:
                outputs = model(x)
                (loss(outputs, y) / accumulate).backward()
                truth.note(x, outputs, y)
                batches += 1
                if batches % accumulate == 0:
                    optimizer.step()
                    optimizer.zero_grad()
                    step += 1
                truth.steps[-1] = step
                if each is not None:
                    each(recording, step)
    return truth


def compare(path: Path, truth: Truth, label: Callable[[int], str] = str) -> None:
    """What is recorded is the truth: the same passes, steps, examples and values, and nothing more."""
    with open_run(path) as run:
        for name in SERIES:
            found = run.series(name)
            assert list(found.steps) == truth.steps, name
            names = {label(index): index for index in range(truth.count)}
            assert set(found.coords["example"]) <= set(names)
            values = np.full((len(truth.steps), truth.count), np.nan)
            values[:, [names[n] for n in found.coords["example"]]] = np.where(found.measured, found.values, np.nan)
            expected = np.array([each[name] for each in truth.passes])
            tolerance = 1e-3 if name == "example_error_norm" else 2e-6
            np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance, err_msg=name)
        assert run["example_loss"].coords["epoch"].values.tolist() == list(range(1, len(truth.steps) + 1))
        targets = run.series("example_target")
        once = np.array([targets.values[:, i][targets.measured[:, i]] for i in range(targets.values.shape[1])])
        assert once.shape[1] == 1
        where = [names[n] for n in targets.coords["example"]]
        np.testing.assert_array_equal(once[:, 0], truth.targets[where])
        assert sorted(where) == np.flatnonzero(~np.isnan(truth.targets)).tolist()


def reasons(path: Path) -> list[str]:
    """Why losses of examples were not recorded, and what failed."""
    with open_run(path) as run:
        found = [e for e in run.events if "example_loss" in e.data.get("series", ()) or e.kind.startswith("probe")]
        return [str(event.data.get("because", event.message)) for event in found]


def shuffled(x: torch.Tensor, y: torch.Tensor, size: int, passes: int) -> Iterator[Pass]:
    """Batches of a loop without a DataLoader, in another order in each pass."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(passes):
        order = torch.randperm(len(x), generator=generator)
        yield ((x[where], y[where]) for where in order.split(size))
