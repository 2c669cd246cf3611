"""What the benchmark of advice changes from outside, and how it judges."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tests.conftest import MakeRun
from torch import nn
from torch.optim import lr_scheduler

from benchmarks import _adjusted, advise, forecast
from separatrix.analysis.forecasting import LAWS, Curve


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for holder, name in (
        (torch.optim.Optimizer, "__init__"),
        (nn.utils, "clip_grad_norm_"),
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


def test_the_schedule_is_linear_and_the_own_one_silent() -> None:
    weight = nn.Parameter(torch.zeros(1))
    _adjusted.change_schedule(4)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = lr_scheduler.StepLR(optimizer, 1, 0.1)
    moved = []
    for _ in range(4):
        before = weight.item()
        weight.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
        moved.append(before - weight.item())
    assert moved == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_twenty_scripts_are_chosen_and_advice_becomes_changes() -> None:
    chosen = advise.chosen()
    assert len(chosen) == 20
    told = {"setting": "learning_rate", "from": 0.4, "to": 0.1, "evidence": {}}
    assert advise.applied(chosen[0], told) == ({"rate": 0.25}, [])
    batches = next(script for script in chosen if script.name == "digits_full")
    assert advise.applied(batches, {**told, "setting": "batch_size", "to": 112.3}) == ({}, ["--batch", "112"])
    other = next(script for script in chosen if script.code == "lr-too-low")
    assert advise.applied(other, {**told, "setting": "batch_size"}) is None


def test_helped_is_a_loss_lower_by_a_hundredth(make_run: MakeRun) -> None:
    def row(loss: float, advised: float) -> advise.Row:
        return advise.Row("code", "name", "learning_rate", 1.0, 0.1, loss, advised, 1.0)

    assert row(1.0, 0.98).helped and row(math.inf, 5.0).helped
    assert not row(1.0, 0.995).helped and not row(1.0, math.inf).helped and not row(math.inf, math.inf).helped
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
