"""Schedules against torch's own schedulers, closed forms, and a resumed training."""

from __future__ import annotations

import dataclasses
import io
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.optim import SGD, Adam, lr_scheduler

from separatrix.steer.schedules import (
    FollowSchedule,
    Schedule,
    ScheduleError,
    constant,
    cosine,
    linear,
    one_cycle,
    square_root,
    step_decay,
    tabulated,
    wsd,
)

ALL = [
    constant(50, warmup=5),
    linear(50, warmup=5),
    cosine(50, warmup=5),
    wsd(50, warmup=5),
    wsd(50, warmup=5, cooldown=20, decay="square root", final=0.1),
    square_root(50, warmup=5, cooldown=10),
    step_decay(50, warmup=5),
    one_cycle(50),
    tabulated("own", np.linspace(1, 0, 50)),
]


def _parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(1))


def _rates(schedulers: Callable[[torch.optim.Optimizer], object], steps: int, **options: float) -> list[float]:
    """Learning rates that a scheduler of torch gives to the steps."""
    optimizer = SGD([_parameter()], lr=1.0, **options)
    scheduler = schedulers(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: schedule.name)
def test_a_step_and_an_array_of_steps_agree(schedule: Schedule) -> None:
    values = schedule.values()
    assert values.shape == (50,)
    assert values.dtype == np.float64
    assert [schedule(step) for step in range(50)] == values.tolist()
    assert np.array_equal(schedule(np.arange(50).reshape(5, 10)), values.reshape(5, 10))
    assert isinstance(schedule(3), float)
    assert 0 < values.max() <= 1
    assert values.min() >= 0


@pytest.mark.parametrize("schedule", ALL, ids=lambda schedule: schedule.name)
def test_a_schedule_keeps_its_end_and_survives_pickling(schedule: Schedule) -> None:
    assert schedule(50) == schedule(51) == schedule(5000)
    again = pickle.loads(pickle.dumps(schedule))
    assert np.array_equal(again.values(), schedule.values())


def test_cosine_and_linear_are_those_of_torch() -> None:
    np.testing.assert_allclose(
        cosine(40, final=0.1).values(),
        _rates(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=40, eta_min=0.1), 40),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        linear(40, final=0.1).values(),
        _rates(lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=40), 40),
        rtol=1e-12,
    )


@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_one_cycle_is_that_of_torch_with_its_momentum(decay: str) -> None:
    optimizer = SGD([_parameter()], lr=1.0, momentum=0.9)
    scheduler = lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=60, anneal_strategy={"linear": "linear", "cosine": "cos"}[decay]
    )
    schedule = one_cycle(60, decay=decay)  # type: ignore[arg-type]
    for step in range(60):
        group = optimizer.param_groups[0]
        assert schedule(step) == pytest.approx(group["lr"], rel=1e-9, abs=1e-12)
        assert schedule.momentum_at(step) == pytest.approx(group["momentum"], rel=1e-9)
        optimizer.step()
        if step < 59:
            scheduler.step()


def test_shapes_in_closed_form() -> None:
    steps = np.arange(100)
    warm = np.minimum(1, (steps + 1) / 11)
    np.testing.assert_allclose(
        wsd(100, warmup=10, cooldown=25).values(), np.minimum(warm, (100 - steps) / 25), rtol=1e-12
    )
    np.testing.assert_allclose(square_root(100, warmup=10).values()[10:], np.sqrt(11 / (steps[10:] + 1)), rtol=1e-12)
    assert wsd(100, cooldown=16, decay="square root")(88) == pytest.approx(1 - 0.5)
    assert step_decay(100)(49) == 1.0
    assert step_decay(100)(50) == pytest.approx(0.1)
    assert step_decay(100)(75) == pytest.approx(0.01)
    assert linear(100)(100) == 0.0
    assert linear(100)(99) == pytest.approx(0.01)
    assert constant(100).values().tolist() == [1.0] * 100


def test_warm_up_has_no_step_of_rate_zero_and_no_plateau() -> None:
    values = linear(20, warmup=4).values()
    assert values[0] > 0
    assert np.argmax(values) == 4
    assert (np.diff(values[:5]) > 0).all()


@pytest.mark.parametrize("schedule", [wsd(30, warmup=3), one_cycle(30)], ids=["wsd", "1cycle"])
@pytest.mark.parametrize("kind", [SGD, Adam])
def test_a_resumed_training_takes_the_same_steps(schedule: Schedule, kind: type[SGD] | type[Adam]) -> None:
    def build() -> tuple[torch.nn.Parameter, torch.optim.Optimizer, FollowSchedule]:
        parameters = [_parameter(), _parameter()]
        options = {"momentum": 0.9} if kind is SGD else {}
        groups = [{"params": parameters[:1], "lr": 0.1}, {"params": parameters[1:], "lr": 0.02}]
        optimizer = kind(groups, **options)  # type: ignore[arg-type]
        return parameters[0], optimizer, FollowSchedule(optimizer, schedule)

    def advance(
        parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, follow: FollowSchedule, n: int
    ) -> list:
        seen = []
        for _ in range(n):
            for group in optimizer.param_groups:
                group["params"][0].grad = 2 * group["params"][0].detach()
            seen.append([(g["lr"], g.get("momentum", g.get("betas"))) for g in optimizer.param_groups])
            optimizer.step()
            follow.step()
        return [*seen, parameter.item()]

    whole = advance(*build(), 20)
    parameter, optimizer, follow = build()
    first = advance(parameter, optimizer, follow, 12)
    file = io.BytesIO()
    torch.save({"p": parameter.detach(), "o": optimizer.state_dict(), "s": follow.state_dict()}, file)
    file.seek(0)
    held = torch.load(file, weights_only=True)
    parameter, optimizer, follow = build()
    parameter.data.copy_(held["p"])
    optimizer.load_state_dict(held["o"])
    follow.load_state_dict(held["s"])
    assert first[:-1] + advance(parameter, optimizer, follow, 8) == whole
    assert [rate for rate, _ in whole[7]] == pytest.approx([0.1 * schedule(7), 0.02 * schedule(7)])


def test_the_checkpoint_holds_no_schedule() -> None:
    optimizer = SGD([_parameter()], lr=0.1)
    assert "schedule" not in FollowSchedule(optimizer, linear(10)).state_dict()


def test_momentum_that_cannot_move_is_refused() -> None:
    with pytest.raises(ScheduleError, match="has none"):
        FollowSchedule(SGD([_parameter()], lr=0.1), one_cycle(10))
    still = dataclasses.replace(one_cycle(10), momentum=None)
    FollowSchedule(SGD([_parameter()], lr=0.1), still)
    with pytest.raises(ScheduleError, match="no momentum"):
        linear(10).momentum_at(3)


@pytest.mark.parametrize(
    "build",
    [
        lambda: linear(0),
        lambda: linear(10.0),  # type: ignore[arg-type]
        lambda: cosine(10, warmup=-1),
        lambda: wsd(10, warmup=6, cooldown=5),
        lambda: wsd(10, final=1.5),
        lambda: wsd(10, decay="exponential"),  # type: ignore[arg-type]
        lambda: step_decay(10, at=(1.5,)),
        lambda: step_decay(10, factor=0),
        lambda: one_cycle(10, rise=0.05),
        lambda: one_cycle(10, momentum=(0.95, 0.85)),
        lambda: one_cycle(10, start=2.0),
        lambda: tabulated("own", []),
        lambda: tabulated("own", [1.0, -0.1]),
        lambda: tabulated("own", [1.0, math.nan]),
        lambda: tabulated("own", [0.0, 0.0]),
        lambda: linear(10)(-1),
    ],
)
def test_bad_schedules_are_refused_in_one_line(build: Callable[[], object]) -> None:
    with pytest.raises(ScheduleError) as caught:
        build()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("build", [constant, linear, cosine, wsd, square_root, step_decay])
def test_a_warm_up_that_is_too_long_is_named(build: Callable[..., Schedule]) -> None:
    with pytest.raises(ScheduleError, match=r"^warmup=20 exceeds steps=10: shorten the warm-up$"):
        build(10, warmup=20)


@pytest.mark.parametrize("build", [constant, linear, cosine, wsd, square_root, step_decay, one_cycle])
def test_steps_may_be_integers_of_numpy(build: Callable[..., Schedule]) -> None:
    schedule = build(np.int64(10))
    assert type(schedule.steps) is int
    np.testing.assert_array_equal(schedule.values(), build(10).values())
