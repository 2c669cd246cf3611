"""The budget in simulated time: nothing here depends on how fast the machine is."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from separatrix.record import budget as budget_module
from separatrix.record import record
from separatrix.record.budget import _SHARE_TO_SPEND, Budget, next_due, shortest_gap
from separatrix.record.sampler import Chunk, Sampler
from separatrix.runs import RunWriter, open_run


class Simulated:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Simulated:
    simulated = Simulated()
    monkeypatch.setattr(budget_module, "time", simulated)
    return simulated


def spend(time: Simulated, budget: Budget, seconds: float) -> None:
    time.now += seconds
    budget.charge(seconds)


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.2])
@pytest.mark.parametrize(
    ("step_seconds", "sample_seconds"), [(0.005, 0.002), (0.05, 0.004), (0.5, 1.5), (0.001, 0.0004)]
)
def test_samples_taken_when_they_are_paid_for_stay_within_the_budget(
    time: Simulated, fraction: float, step_seconds: float, sample_seconds: float
) -> None:
    budget = Budget(fraction)
    budget.start()
    samples = 0
    for _ in range(round(300 / step_seconds)):
        time.now += step_seconds
        if budget.balance(sample_seconds) > sample_seconds:
            samples += 1
            spend(time, budget, sample_seconds)
    overhead = budget.overhead()
    assert overhead is not None
    assert samples > 0
    # All of the allowance is used, unless a sample of every step costs less.
    assert min(0.5 * fraction, 0.9 * sample_seconds / step_seconds) <= overhead <= fraction


def test_a_pause_is_not_followed_by_a_burst(time: Simulated) -> None:
    budget = Budget(0.05)
    budget.start()
    time.now += 1e6
    assert budget.balance() <= 0.05 * 61.0


def test_excluded_time_earns_nothing(time: Simulated) -> None:
    budget = Budget(0.05)
    budget.start()
    time.now += 10.0
    before = budget.balance()
    time.now += 5.0
    budget.exclude(5.0)
    assert budget.balance() == pytest.approx(before, rel=1e-12)
    assert budget.training_seconds() == pytest.approx(10.0, rel=1e-12)


@pytest.mark.parametrize("step_seconds", [1e-4, 3e-4, 1e-3])
def test_steps_too_short_to_record_are_left_out_until_the_budget_holds(time: Simulated, step_seconds: float) -> None:
    base, fraction = 8e-5, 0.05
    budget = Budget(fraction)
    budget.start()
    resting = recorded = 0
    steps = round(100 / step_seconds)
    for step in range(1, steps + 1):
        time.now += step_seconds
        if resting:
            resting -= 1
            continue
        recorded += 1
        spend(time, budget, base)
        resting = budget.steps_to_rest(step)
    overhead = budget.overhead()
    assert overhead is not None
    assert overhead <= fraction
    assert recorded >= 0.5 * steps * min(1.0, fraction * _SHARE_TO_SPEND * step_seconds / base)


def test_the_first_steps_are_never_left_out(time: Simulated) -> None:
    budget = Budget(0.05)
    budget.start()
    spend(time, budget, 0.24)
    assert all(budget.steps_to_rest(step) == 0 for step in range(1, 2001))
    assert budget.steps_to_rest(2001) > 0


def test_first_steps_that_cost_more_than_a_moment_may_be_left_out(time: Simulated) -> None:
    budget = Budget(0.05)
    budget.start()
    spend(time, budget, 0.4)
    assert budget.steps_to_rest(100) > 0


def test_steps_that_a_saving_makes_up_for_are_left_out_a_few_at_a_time(time: Simulated) -> None:
    budget = Budget(0.05)
    budget.set_aside(0.5)
    budget.start()
    time.now += 100.0
    spend(time, budget, 0.6 * _SHARE_TO_SPEND * 0.05 * 100.6)
    assert 1 <= budget.steps_to_rest(10_000) <= 4
    spend(time, budget, 0.5 * _SHARE_TO_SPEND * 0.05 * 100.6)
    assert budget.steps_to_rest(10_000) > 4


def test_steps_after_a_rest_take_half_of_what_it_earned(time: Simulated) -> None:
    budget = Budget(0.05)
    budget.set_aside(0.5)
    budget.start()
    time.now += 100.0
    # 64 steps of 10 ms earn half of 0.05 * 0.55 * 0.64 s = 8.8 ms, without what is set aside.
    budget.ordinary_step = 1e-3
    assert budget.steps_after(64, 10_000) == 4
    budget.ordinary_step = 1.0
    assert budget.steps_after(64, 10_000) == 1


def test_what_a_purse_does_not_keep_is_for_anything(time: Simulated) -> None:
    kept, spare = Budget(0.05), Budget(0.05)
    spare.set_aside(0.5, "light", saves=False)
    for budget in (kept, spare):
        budget.start()
    time.now += 50.0
    assert spare.purse(1e-3, "light") == pytest.approx(2e-3)
    assert spare.balance() + 2e-3 == pytest.approx(kept.balance())


@pytest.mark.parametrize("fraction", [0.01, 0.05])
def test_what_every_step_costs_does_not_starve_samples(time: Simulated, tmp_path: Path, fraction: float) -> None:
    step_seconds, ordinary, chunk, module = 0.005, 2e-4, 4e-3, 2e-4
    budget, steps = Budget(fraction), 20_000
    writer = RunWriter(tmp_path / "run")
    sampler = Sampler(writer, [], budget)
    parameter = torch.zeros(10)
    sampler.measure([Chunk(0, (parameter,), (0,), (0,))], [f"layer{i}" for i in range(7)])
    budget.start()
    seen = {"parameters": 0, "modules": 0}
    resting = 0
    for step in range(1, steps + 1):
        time.now += step_seconds
        if resting:
            resting -= 1
            continue
        spend(time, budget, ordinary)
        plan = sampler.plan(step)
        if plan is not None:
            spend(time, budget, chunk * len(plan.chunks) + module * len(plan.modules))
            for index in plan.chunks:
                sampler.add_cost(f"chunk:{index}", chunk)
            for label in plan.modules:
                sampler.add_cost(f"module:{label}", module)
            sampler.flush()
            seen["parameters"] += bool(plan.chunks)
            seen["modules"] += bool(plan.modules)
        resting = budget.steps_to_rest(step)
    writer.close()
    overhead = budget.overhead()
    assert overhead is not None and overhead <= 1.2 * fraction
    # A quarter of the allowance, at least, goes into samples.
    assert min(seen.values()) >= 0.35 * _SHARE_TO_SPEND * fraction * steps * step_seconds / (chunk + 7 * module)


def test_due_steps_are_dense_at_first_and_then_even_in_the_logarithm() -> None:
    due = [1]
    while due[-1] < 1000:
        due.append(next_due(due[-1]))
    assert due[:9] == list(range(1, 10))
    assert len(due) < 80
    assert all(later - earlier <= 200 for earlier, later in itertools.pairwise(due))
    assert next_due(10_000_000) == 10_000_200
    assert [shortest_gap(step) for step in (1, 999, 2000, 50_000)] == [1, 1, 2, 50]


def test_steps_left_out_are_counted_and_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_module, "_STEPS_NEVER_LEFT_OUT", 20)
    monkeypatch.setattr(budget_module, "_CREDIT_SECONDS", 0.0)
    torch.manual_seed(0)
    x, y = torch.randn(8, 4), torch.randn(8, 2)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    with record(model, optimizer, run=tmp_path / "run", budget=1e-4) as recording:
        for _ in range(300):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert recording.step == 300
    with open_run(tmp_path / "run") as run:
        recorded = run.series("loss")
        assert [event.kind for event in run.events].count("budget") == 1
    assert len(recorded.steps) < 100
    assert recorded.values.tolist() == [losses[step - 1] for step in recorded.steps]
