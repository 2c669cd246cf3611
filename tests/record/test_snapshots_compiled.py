"""Snapshots of models that run compiled: the same as of eager ones, and what is compiled stays as it is."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from tests.unhurried import unhurried
from torch import nn
from torch._dynamo.eval_frame import OptimizedModule
from torch._dynamo.utils import counters

import separatrix
from separatrix.record import recording
from separatrix.record.snapshot import Snapshot
from separatrix.runs.probe import Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec
from separatrix.testing import check_changes_nothing

Taken = dict[int, tuple[float, list[torch.Tensor]]]


@pytest.fixture
def snapshots(monkeypatch: pytest.MonkeyPatch) -> Taken:
    """Loss and gradients of every snapshot that a recording with the probe "kept" takes, by step."""
    taken: Taken = {}

    def measure(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
        taken[snapshot.step] = float(snapshot.loss()), [g.clone() for g in snapshot.gradient]
        yield Reading("kept_loss", float(snapshot.loss()))

    probe = Probe("kept", Moment.SNAPSHOT, (SeriesSpec("kept_loss"),), measure, "keeps it", default=False)
    own = recording.available_probes()
    monkeypatch.setattr(recording, "available_probes", lambda: {**own, "kept": probe})
    return taken


@pytest.fixture(autouse=True)
def _time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots are dear beside the steps of a small training: here time must not decide whether they are taken."""
    unhurried(monkeypatch)


@pytest.fixture(autouse=True, scope="module")
def _few_objects() -> Iterator[None]:
    """Everything imported so far is left out of the searches for living modules, which makes them fast."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _dynamo_begins_anew() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Block(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(8, 8), nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop(torch.tanh(self.linear(x)))


class Net(nn.Module):
    """Two blocks; given labels it returns two losses and the scores."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(dropout), Block(dropout)])
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        for block in self.blocks:
            x = block(x)
        scores = self.head(self.norm(x))
        if labels is None:
            return scores
        return scores.square().mean(), F.cross_entropy(scores, labels), scores


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(16, 8), torch.randint(0, 4, (16,))


def wrapped(model: nn.Module, backend: str) -> Callable[..., Any]:
    return torch.compile(model, backend=backend)


def in_place(model: nn.Module, backend: str) -> Callable[..., Any]:
    model.compile(backend=backend)
    return model


def parts_in_place(model: Any, backend: str) -> Callable[..., Any]:
    for block in model.blocks:
        block.compile(backend=backend)
    return model


def parts_wrapped(model: Any, backend: str) -> Callable[..., Any]:
    model.blocks[0] = torch.compile(model.blocks[0], backend=backend)
    return model


def beside(model: nn.Module, backend: str) -> Callable[..., Any]:
    """Something else is compiled, and used within the model's call."""
    half = torch.compile(lambda x: x * 0.5, backend=backend)
    return lambda x, *labels: model(half(x), *labels)


def inner_function(model: Any, backend: str) -> Callable[..., Any]:
    block = model.blocks[1]
    block.drop = Called(torch.compile(lambda x: x.sin() * 0.5, backend=backend))
    return torch.compile(model, backend=backend)


class Called(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


WAYS = [wrapped, in_place, parts_in_place, parts_wrapped, beside, inner_function]


def train(way: Any, backend: str, steps: int = 5, dropout: float = 0.0, scale: float | None = None) -> Iterator[object]:
    """A training; after every step the loss, the gradients, the model, and the number of graphs compiled so far."""
    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(3)
    model = Net(dropout)
    fast = way(model, backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        x, y = rows()
        optimizer.zero_grad()
        loss = F.cross_entropy(fast(x), y) if scale is None else fast(x, y)[1] * scale
        loss.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        optimizer.step()
        yield loss.item(), gradients, model.state_dict(), counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def recorded(folder: Path, *arguments: Any, **options: Any) -> dict[int, Any]:
    with separatrix.record(run=folder / "run", probes="kept", budget=1.0):
        return dict(enumerate(train(*arguments, **options), start=1))


def assert_equal(taken: Taken, seen: dict[int, Any]) -> None:
    assert len(taken) >= 2
    for step, (loss, gradients) in taken.items():
        expected = seen[step]
        assert loss == pytest.approx(expected[0], rel=2e-5)
        for found, wanted in zip(gradients, expected[1], strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_a_replay_has_the_loss_and_gradient_of_the_compiled_training(
    way: Any, snapshots: Taken, tmp_path: Path
) -> None:
    seen = recorded(tmp_path, way, "aot_eager")
    assert_equal(snapshots, seen)
    said = [e.message for e in separatrix.open(tmp_path / "run").events if "kept_loss" in e.data.get("series", ())]
    assert said == []


@pytest.mark.parametrize("way", WAYS)
def test_nothing_changes_and_nothing_is_compiled_anew(way: Any) -> None:
    probes = ("default", "attention", "output-logits", "weight-travel")
    comparison = check_changes_nothing(lambda: train(way, "aot_eager", steps=4), probes=probes)
    assert comparison.recorded["weight_distance"] >= 2


def test_compiled_by_inductor(snapshots: Taken, tmp_path: Path) -> None:
    assert_equal(snapshots, recorded(tmp_path, wrapped, "inductor", steps=4))


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_of_the_losses_that_a_compiled_model_returns_the_right_one_is_taken(
    scale: float, snapshots: Taken, tmp_path: Path
) -> None:
    # Every output of a compiled call has the same graph node.
    assert_equal(snapshots, recorded(tmp_path, wrapped, "aot_eager", scale=scale))


def test_dropout_with_torchs_own_random_numbers_is_replayed(snapshots: Taken, tmp_path: Path) -> None:
    assert_equal(snapshots, recorded(tmp_path, wrapped, "aot_eager", dropout=0.5))


def test_dropout_with_random_numbers_of_the_compiler_is_refused(snapshots: Taken, tmp_path: Path) -> None:
    recorded(tmp_path, wrapped, "inductor", steps=4, dropout=0.5)
    run = separatrix.open(tmp_path / "run")
    said = [e for e in run.events if e.kind == "unseen" and "kept_loss" in e.data["series"]]
    assert len(said) == 1 and "dropout that is compiled draws other random numbers" in said[0].message
    assert not snapshots and "kept_loss" not in run.names()


def test_a_model_called_within_a_compiled_function_is_not_seen(snapshots: Taken, tmp_path: Path) -> None:
    def within(model: nn.Module, backend: str) -> Callable[..., Any]:
        return torch.compile(lambda x: model(x), backend=backend)

    recorded(tmp_path, within, "aot_eager")
    run = separatrix.open(tmp_path / "run")
    said = [e for e in run.events if e.kind == "unseen" and "kept_loss" in e.data["series"]]
    assert len(said) == 1 and "within a compiled function" in said[0].message
    assert not snapshots


@pytest.mark.parametrize("way", [wrapped, in_place, parts_in_place])
def test_everything_is_put_back_and_no_warning_is_shown(way: Any, snapshots: Taken, tmp_path: Path) -> None:
    model = Net()
    fast = way(model, "aot_eager")

    def places() -> list[Any]:
        return [vars(owner).get("_compiled_call_impl") for owner in (Net, *model.modules())] + [
            OptimizedModule.__call__
        ]

    own, covered = places(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("default", message="The .grad attribute of a Tensor that is not a leaf")
        with separatrix.record(model, optimizer, run=tmp_path / "run", probes="kept", budget=1.0) as on:
            for _ in range(4):
                x, y = rows()
                covered.append([a is not b for a, b in zip(places(), own, strict=True)])
                F.cross_entropy(fast(x), y).backward()
                optimizer.step()
                optimizer.zero_grad()
            with on.paused():
                assert places() == own
    assert len(snapshots) == 4 and all(row[0] and row[-1] for row in covered)
    assert places() == own


def test_a_forward_that_raises_leaves_the_recording_well(snapshots: Taken, tmp_path: Path) -> None:
    model = Net()
    fast = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with separatrix.record(model, optimizer, run=tmp_path / "run", probes="kept", budget=1.0):
        for step in range(4):
            if step == 1:
                with pytest.raises(RuntimeError):
                    fast(torch.randn(3, 5))
            x, y = rows()
            F.cross_entropy(fast(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert sorted(snapshots) == [1, 2, 3, 4]
