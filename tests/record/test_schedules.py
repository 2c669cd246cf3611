"""What a run keeps of learning-rate schedulers is what they say of themselves; facts about targets that are mixed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.unhurried import unhurried
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from separatrix.analysis import assess, rules
from separatrix.record import record
from separatrix.runs import Run, open_run


@pytest.fixture(autouse=True)
def _time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """No step is left out, however slow the machine."""
    unhurried(monkeypatch)


def trained(path: Path, make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], every: int) -> Run:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(16, 4), torch.randint(2, (16,))
    with record(model, optimizer, run=path, budget=1.0):
        scheduler = make(optimizer)
        for step in range(1, 61):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if step % every == 0:
                scheduler.step()
    return open_run(path)


@pytest.mark.parametrize(
    ("make", "name", "length"),
    [
        (lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=60), "CosineAnnealingLR", 60),
        (lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, epochs=6, steps_per_epoch=10), "OneCycleLR", 60),
        (lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch), "LambdaLR", None),
    ],
)
def test_a_run_knows_how_far_its_schedule_came(
    make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], name: str, length: int | None, tmp_path: Path
) -> None:
    with trained(tmp_path / "a", make, every=20) as run:
        assert run.schedulers == ({"name": name, "length": length, "steps": 3},)
        findings = assess(run, [rules()["scheduler-misuse"]]).findings
    assert [f.evidence["how"] for f in findings] == (["unfinished"] if length else [])
    with trained(tmp_path / "b", make, every=1) as run:
        assert [facts["steps"] for facts in run.schedulers] == [60]
        assert not assess(run, [rules()["scheduler-misuse"]]).findings


def test_schedules_in_a_row_are_known_one_by_one(tmp_path: Path) -> None:
    def make(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
        parts = [lr_scheduler.LinearLR(optimizer, total_iters=10), lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)]
        return lr_scheduler.SequentialLR(optimizer, parts, milestones=[10])

    with trained(tmp_path / "run", make, every=1) as run:
        assert [(f["name"], f["length"]) for f in run.schedulers] == [("LinearLR", 10), ("CosineAnnealingLR", 50)]
        assert not assess(run, [rules()["scheduler-misuse"]]).findings


def test_a_scheduler_steps_as_ever_and_is_let_go(tmp_path: Path) -> None:
    original = vars(lr_scheduler.LRScheduler)["step"]
    with trained(tmp_path / "run", lambda o: lr_scheduler.StepLR(o, 2), every=20) as run:
        rates = run["learning_rate"].values
    assert vars(lr_scheduler.LRScheduler)["step"] is original
    assert (rates[0], rates[-1]) == (pytest.approx(0.1), pytest.approx(0.01))


@pytest.mark.parametrize("mixed", [True, False])
def test_outputs_that_meet_several_targets_in_one_step_are_noted(mixed: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y, others = torch.randn(16, 4), torch.randint(3, (16,)), torch.randint(3, (16,))
    with record(model, optimizer, run=tmp_path / "run", budget=1.0):
        for _ in range(4):
            optimizer.zero_grad()
            scores = model(x)
            loss = F.cross_entropy(scores, y)
            if mixed:
                loss = 0.7 * loss + 0.3 * F.cross_entropy(scores, others)
            else:
                # A second batch, and the first one's losses once more with other weights.
                loss = loss + F.cross_entropy(scores, y, reduction="sum") + F.cross_entropy(model(x.flip(0)), others)
            loss.backward()
            optimizer.step()
    with open_run(tmp_path / "run") as run:
        (facts,) = run.losses
    assert facts["mixed_targets"] is mixed
