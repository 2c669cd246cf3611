"""Steps that are left out because they are too short to be recorded: what happens during them, and after."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import optimizer as optim_module

from separatrix.record import record
from separatrix.record.budget import Budget
from separatrix.record.sampler import Sampler
from separatrix.record.snapshots import Snapshots
from separatrix.runs import Run, open_run

LONG = 10
X, Y = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3


@pytest.fixture(autouse=True)
def rests_after_every_third_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the steps 1, 2, 3, 14, 15, 16, ... are recorded."""
    monkeypatch.setattr(Budget, "steps_to_rest", lambda self, step: LONG if step % (3 + LONG) == 3 else 0)


def expected(last: int) -> list[int]:
    return [step for step in range(1, last + 1) if 1 <= step % (3 + LONG) <= 3]


def steps_of(path: Path) -> list[int]:
    with open_run(path) as run:
        return [int(step) for step in run["loss"].step.values]


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(X), Y).backward()
    optimizer.step()


def made(kind: Callable[..., torch.optim.Optimizer] = torch.optim.SGD) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(4, 3)
    return model, kind(model.parameters(), lr=0.1)


def test_the_steps_between_rests_are_recorded(tmp_path: Path) -> None:
    with record(run=tmp_path / "run", budget=1.0):
        model, optimizer = made()
        for _ in range(40):
            step(model, optimizer)
    assert steps_of(tmp_path / "run") == expected(40)


def test_after_a_rest_as_many_steps_are_recorded_as_it_pays_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Budget, "steps_to_rest", lambda self, step: LONG)
    monkeypatch.setattr(Budget, "steps_after", lambda self, rest, step: {LONG: 4}[rest])

    def never(self: Sampler, step: int) -> None:
        self.asleep_until = 1 << 60

    monkeypatch.setattr(Sampler, "plan", never)
    monkeypatch.setattr(Snapshots, "plan", lambda self, step: False)
    monkeypatch.setattr(Snapshots, "asleep_until", lambda self, step: 1 << 60)
    with record(run=tmp_path / "run", budget=1.0) as recording:
        recording._session.budget.ordinary_step = 1e-4
        model, optimizer = made()
        for _ in range(40):
            step(model, optimizer)
    assert steps_of(tmp_path / "run") == [1, *range(12, 16), *range(26, 30), 40]


def test_a_training_after_one_that_ended_in_a_rest_is_recorded(tmp_path: Path) -> None:
    with record(run=tmp_path / "run", budget=1.0):
        for _ in range(3):
            model, optimizer = made()
            for _ in range(8):
                step(model, optimizer)
    # The first optimizer dies after step 8, in the middle of a rest: steps 9 on belong to its successor.
    assert steps_of(tmp_path / "run") == [1, 2, 3, *range(9, 25)]


def test_a_second_phase_is_recorded_while_the_optimizer_of_the_first_lives(tmp_path: Path) -> None:
    with record(run=tmp_path / "run", budget=1.0):
        first, second = made(), made(torch.optim.Adam)
        for _ in range(8):
            step(*first)
        for _ in range(20):
            step(*second)
    with open_run(tmp_path / "run") as run:
        assert [event.step for event in run.events if event.kind == "clock"] == [8]
    # Two steps of the second pass before it is known to have taken over; its third is number 9.
    assert steps_of(tmp_path / "run") == [1, 2, 3, *range(9, 17)]


def test_optimizers_that_take_turns_keep_the_count_during_rests(tmp_path: Path) -> None:
    with record(run=tmp_path / "run", budget=1.0):
        pair = made(), made(torch.optim.Adam)
        for _ in range(40):
            for one in pair:
                step(*one)
    with open_run(tmp_path / "run") as run:
        assert not [event for event in run.events if event.kind == "clock"]
    # The last step of a rest is the first optimizer's; the other one's turn after it is heard again.
    assert sorted(set(steps_of(tmp_path / "run"))) == sorted([*expected(40), 13, 26, 39])


def at_rest_and_awake(path: Path, look: Callable[[], Any]) -> list[Any]:
    """What `look` sees before the recording, at each of 16 steps, and after it."""
    seen = [look()]
    with record(run=path, budget=1.0):
        model, optimizer = made()
        for _ in range(16):
            step(model, optimizer)
            seen.append(look())
    return [*seen, look()]


def test_what_only_recorded_steps_need_is_off_during_rests(tmp_path: Path) -> None:
    def backward() -> Any:
        return torch.autograd.backward

    bare, *during, after = at_rest_and_awake(tmp_path / "backward", backward)
    assert [number for number, look in enumerate(during, 1) if look is bare] == [*range(3, 3 + LONG), 16]
    assert after is bare

    counts = at_rest_and_awake(tmp_path / "hooks", lambda: len(optim_module._global_optimizer_pre_hooks))
    assert counts[0] == counts[-1] == 0
    assert counts[1:-1] == [int(look is not bare) for look in during]


def test_a_wrapper_put_on_during_a_rest_stays_and_steps_are_heard_through_it(tmp_path: Path) -> None:
    bare = torch.autograd.backward
    calls = []

    def others(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return bare(*args, **kwargs)

    try:
        with record(run=tmp_path / "run", budget=1.0):
            model, optimizer = made()
            for number in range(40):
                if number == 5:
                    torch.autograd.backward = others
                step(model, optimizer)
        assert torch.autograd.backward is others
    finally:
        torch.autograd.backward = bare
    assert len(calls) == 35
    assert steps_of(tmp_path / "run") == expected(40)


def test_a_hook_of_the_users_keeps_its_place_before_every_step(tmp_path: Path) -> None:
    calls = []
    with record(run=tmp_path / "run", budget=1.0):
        model, optimizer = made()
        handle = optim_module.register_optimizer_step_pre_hook(lambda *args: calls.append(args))
        for _ in range(40):
            step(model, optimizer)
            assert next(reversed(optim_module._global_optimizer_pre_hooks)) == handle.id
        handle.remove()
    assert len(calls) == 40
    assert steps_of(tmp_path / "run") == expected(40)


def test_evaluations_during_a_rest_are_heard_each_at_its_step(tmp_path: Path) -> None:
    values = {}
    with record(run=tmp_path / "run", budget=1.0):
        model, optimizer = made()
        for number in range(1, 21):
            step(model, optimizer)
            if number in (6, 8):
                with torch.no_grad():
                    values[number] = pytest.approx(float(F.cross_entropy(model(X[:6]), Y[:6])))
    with open_run(tmp_path / "run") as run:
        assert dict(_pairs(run, "eval_loss")) == values


def _pairs(run: Run, name: str) -> list[tuple[int, float]]:
    return [(int(s), float(v)) for s, v in zip(run[name].step.values, run[name].values.ravel(), strict=True)]


def test_a_pause_in_a_rest_ends_with_the_rest_going_on(tmp_path: Path) -> None:
    bare = torch.autograd.backward
    with record(run=tmp_path / "run", budget=1.0) as recording:
        model, optimizer = made()
        for number in range(1, 41):
            step(model, optimizer)
            if number in (8, 15):
                with recording.paused():
                    assert torch.autograd.backward is bare
                    step(model, optimizer)
    assert torch.autograd.backward is bare
    assert steps_of(tmp_path / "run") == expected(40)
