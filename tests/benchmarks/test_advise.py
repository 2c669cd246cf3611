"""What the benchmark of advice changes from outside, and how it judges."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from benchmarks.faults.catalogue import PARTS
from tests.conftest import MakeRun
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

from benchmarks import _adjusted, advise, forecast
from separatrix.analysis.forecasting import LAWS, Curve
from separatrix.steer.schedules import linear


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for holder, name in (
        (torch.optim.Optimizer, "__init__"),
        (nn.utils, "clip_grad_norm_"),
        (DataLoader, "__init__"),
        (torch.Tensor, "split"),
        (torch, "randint"),
        (lr_scheduler.LRScheduler, "step"),
        (lr_scheduler.ReduceLROnPlateau, "step"),
    ):
        monkeypatch.setattr(holder, name, getattr(holder, name))
    yield


def test_optimizers_are_made_with_other_options() -> None:
    model = nn.Linear(2, 2)
    _adjusted.change_optimizers(0.1, {"weight_decay": 0.5, "eps": 1e-3})
    groups = [{"params": [model.weight], "lr": 1.0}, {"params": [model.bias]}]
    adam = torch.optim.Adam(groups, lr=0.2, weight_decay=7.0)
    assert [group["lr"] for group in adam.param_groups] == pytest.approx([0.1, 0.02])
    assert [(g["weight_decay"], g["eps"]) for g in adam.param_groups] == [(0.5, 1e-3)] * 2
    assert "eps" not in torch.optim.SGD(model.parameters(), lr=1.0).param_groups[0]


def test_clipping_takes_another_limit() -> None:
    weight = nn.Parameter(torch.zeros(4))
    weight.grad = torch.full((4,), 10.0)
    _adjusted.change_clipping(6.0)
    nn.utils.clip_grad_norm_([weight], max_norm=0.01)
    assert float(weight.grad.norm()) == pytest.approx(6.0, rel=1e-5)


@pytest.mark.parametrize(("peak", "warmup"), [(None, 0), (3.0, 2)])
def test_the_schedule_is_linear_and_the_own_one_silent(peak: float | None, warmup: int) -> None:
    weight = nn.Parameter(torch.zeros(1))
    _adjusted.change_schedule(8, peak, warmup)
    optimizer = torch.optim.SGD([weight], lr=0.5)
    scheduler = lr_scheduler.StepLR(optimizer, 1, 0.1)
    moved = []
    for _ in range(8):
        before = weight.item()
        weight.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
        moved.append(before - weight.item())
    assert moved == pytest.approx((peak or 0.5) * linear(8, warmup=warmup).values(), rel=1e-5)


def test_batches_of_one_size_become_those_of_another() -> None:
    _adjusted.change_batches(4, 2)
    numbers = torch.arange(8)
    assert [len(batch) for batch in DataLoader(numbers, 4)] == [2] * 4  # type: ignore[arg-type]
    assert [len(batch) for batch in DataLoader(numbers, batch_size=8)] == [8]  # type: ignore[arg-type]
    assert [len(part) for part in torch.randperm(8).split(4)] == [2] * 4
    assert [len(part) for part in torch.rand(8).split(4)] == [4] * 2
    assert torch.randint(10, (4,)).shape == (2,) and torch.randint(10, (4, 3)).shape == (4, 3)


def test_twenty_scripts_or_more_are_chosen_and_advice_becomes_changes() -> None:
    assert len(advise.chosen()) >= 20
    told = {"setting": "learning_rate", "from": 0.4, "to": 0.1, "evidence": {"steps": 9, "peak": 0.4, "warmup": 1}}
    assert advise.applied(told) == {"rate": 0.25}
    assert advise.applied({**told, "setting": "batch_size", "from": 900.0, "to": 112.3}) == {"batch_size": [900, 112]}
    assert advise.applied({**told, "setting": "schedule"}) == {"schedule": told["evidence"]}
    assert advise.applied({**told, "setting": "momentum"}) is None
    assert advise.combined({"rate": 10.0}, {"rate": 0.5}) == {"rate": 5.0}
    assert advise.combined({"rate": 10.0}, {"eps": 0.5}) == {"rate": 10.0, "eps": 0.5}


def test_rates_of_healthy_scripts_are_spoilt() -> None:
    found = {script.name: planted for part in PARTS for script, planted in advise.detuned(part)}
    assert len(found) > 80 and {each["rate"] for each in found.values()} == set(advise.FACTORS)


def test_helped_is_a_loss_lower_by_a_hundredth(make_run: MakeRun) -> None:
    def row(loss: float, advised: float, tuned: float | None = None) -> advise.Row:
        return advise.Row("code", "name", "learning_rate", 1.0, 0.1, loss, advised, 1.0, tuned)

    assert row(1.0, 0.98).helped and row(math.inf, 5.0).helped
    assert not row(1.0, 0.995).helped and not row(1.0, math.inf).helped and not row(math.inf, math.inf).helped
    assert row(-2.0, -2.1).helped and not row(-2.0, -1.9).helped
    assert row(1.0, 1.0).counts and row(1.0, 1.0, 0.9).counts and not row(1.0, 1.0, 0.99).counts
    losses = [2.0] * 90 + [1.0] * 10
    assert advise.final_loss(make_run(scalars={"loss": losses})) == 1.0
    assert advise.final_loss(make_run("broken", scalars={"loss": [*losses, math.nan]})) == math.inf


def test_forecasts_are_judged_after_what_was_given() -> None:
    made = forecast.schedules(1000)
    constants = {"floor": 1.5, "scale": 1.2, "exponent": 0.45, "annealing": 0.3, "memory": 0.97}
    updates = np.arange(10, 1001, 10)
    curves = {
        name: Curve(updates, LAWS["annealing"].value(constants, 0.01 * s.values())[updates - 1], 0.01 * s.values())
        for name, s in made.items()
    }
    held = {name: curves[name] for name in forecast.HELD_OUT}
    right = forecast.judged([curves["constant"], curves["cosine"]], held, "annealing")
    assert max(right["errors"].values()) < 1e-4 and right["ranked"]
    plain = forecast.judged([curves["constant"], curves["cosine"]], held, "power")
    assert min(plain["errors"].values()) > 2e-3 and not plain["ranked"]
