"""The range test against quadratics whose limit is known, and against what it must leave as it was."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, Optimizer

from separatrix.steer.schedules import ScheduleError, range_test
from separatrix.testing.fingerprints import fingerprint

CURVATURES = torch.tensor([8.0, 2.0, 0.5], dtype=torch.float64)


class Bowl(nn.Module):
    """Parameters whose mean squared product with the inputs is a quadratic of known curvatures."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.weight


def half_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum(1).mean() / 2


BATCH = (CURVATURES.sqrt().reshape(1, 3), torch.zeros(1, 3, dtype=torch.float64))


@pytest.mark.parametrize(("momentum", "threshold"), [(0.0, 2.0), (0.5, 3.0), (0.9, 3.8)])
def test_a_quadratic_has_the_limit_of_theory(momentum: float, threshold: float) -> None:
    model = Bowl()
    found = range_test(
        model,
        SGD(model.parameters(), lr=0.1, momentum=momentum),
        half_square,
        [BATCH],
        low=1e-3,
        high=10.0,
        steps=400,
        stop=1e6,
    )  # heavy ball swings through the minimum, so that its loss falls and rises by orders of magnitude
    limit = threshold / float(CURVATURES.max())
    np.testing.assert_allclose(found.limits, limit, rtol=1e-6)
    assert found.limit == pytest.approx(limit, rel=1e-6)
    assert found.diverged is not None
    assert found.diverged >= 0.95 * limit
    assert found.stable <= found.diverged


def test_the_loss_of_a_slowly_rising_test_turns_at_the_limit() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    batch = (torch.full((1, 1), 2.0).double(), torch.zeros(1, 1).double())
    # Curvature 4, limit 0.5; the rate starts close to it, where each step still shrinks the loss.
    found = range_test(
        model, SGD(model.parameters(), lr=1.0), half_square, [batch], low=0.45, high=0.6, steps=400, stop=100.0
    )
    assert found.stable == pytest.approx(0.5, rel=0.02)


def test_adam_has_its_limit_once_it_has_stepped() -> None:
    model = Bowl()
    found = range_test(model, Adam(model.parameters(), lr=0.1), half_square, [BATCH], low=1e-5, high=10.0, steps=80)
    assert len(found.limits) in (4, 5)
    assert found.unmeasured == ""
    assert (found.limits > 0).all()
    assert found.limit_rates[0] > 1e-5


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        random.random()
        np.random.rand()
        return self.layers(inputs)


def _classes() -> torch.utils.data.DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(64, 4, generator=generator), torch.randint(3, (64,), generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16, shuffle=True)


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_everything_is_left_as_it_was(kind: Callable[..., Optimizer]) -> None:
    model = Noisy()
    optimizer = kind(
        [{"params": model.layers[0].parameters(), "lr": 0.1}, {"params": model.layers[4].parameters(), "lr": 0.01}],
        lr=1.0,
    )
    nn.functional.cross_entropy(model(torch.randn(4, 4)), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)  # patches step on the instance

    def state() -> tuple[Any, ...]:
        return (
            fingerprint((model, optimizer, scheduler.state_dict())),
            random.getstate(),
            tuple(np.random.get_state()[1]),  # type: ignore[index]
            torch.get_rng_state().tolist(),
        )

    before = state()
    first = range_test(model, optimizer, nn.functional.cross_entropy, _classes(), steps=30, measurements=2)
    second = range_test(model, optimizer, nn.functional.cross_entropy, _classes(), steps=30, measurements=2)
    assert state() == before
    assert first.losses.tolist() == second.losses.tolist()
    assert len(first.rates) == len(first.losses)
    other = range_test(model, optimizer, nn.functional.cross_entropy, _classes(), steps=30, seed=1, measurements=2)
    assert other.losses.tolist() != first.losses.tolist()


def test_an_error_on_the_way_leaves_random_states_alone() -> None:
    model = Bowl()
    before = torch.get_rng_state()

    def broken(outputs: Tensor, targets: Tensor) -> Tensor:
        torch.rand(1)
        raise RuntimeError("of the user's own")

    with pytest.raises(RuntimeError, match="of the user's own"):
        range_test(model, SGD(model.parameters(), lr=0.1), broken, [BATCH])
    assert torch.equal(torch.get_rng_state(), before)


def test_an_optimizer_of_unknown_limit_is_tested_without() -> None:
    class Own(SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    model = Bowl()
    found = range_test(model, Own(model.parameters(), lr=0.1), half_square, [BATCH], high=1.0)
    assert found.limit is None
    assert len(found.limits) == 0
    assert "Own" in found.unmeasured
    assert len(found.losses) > 50


def test_groups_of_adamw_that_differ_in_their_rates_have_a_limit() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.01}]
    found = range_test(
        model, torch.optim.AdamW(groups, weight_decay=0.01), nn.functional.cross_entropy, _classes(), high=0.5, steps=20
    )
    assert found.unmeasured == ""
    assert len(found.limits) >= 3


def test_groups_keep_their_ratio() -> None:
    rates = []

    class Watching(SGD):
        def step(self, closure: Any = None) -> Any:
            rates.append([group["lr"] for group in self.param_groups])
            return super().step(closure)

    model = nn.Linear(2, 1).double()
    groups = [{"params": [model.weight], "lr": 0.3}, {"params": [model.bias], "lr": 0.03}]
    batch = (torch.ones(1, 2).double(), torch.ones(1, 1).double())
    range_test(model, Watching(groups, lr=1.0), half_square, [batch], low=1e-4, high=1e-2, steps=11, measurements=0)
    np.testing.assert_allclose([pair[0] for pair in rates], np.geomspace(1e-4, 1e-2, 11))
    np.testing.assert_allclose([pair[1] for pair in rates], np.geomspace(1e-5, 1e-3, 11))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"low": 0.0}, "give rising"),
        ({"low": 1.0, "high": 0.1}, "give rising"),
        ({"steps": 1}, "give rising"),
        ({"stop": 1.0}, "give rising"),
        ({"batches": []}, "have ended"),
        ({"batches": iter([BATCH])}, "have ended"),
        ({"batches": [torch.zeros(3)]}, "no pair"),
        ({"optimizer": SGD(Bowl().parameters(), lr=0.1)}, "no parameter"),
    ],
)
def test_bad_input_is_refused_in_one_line(options: dict[str, Any], part: str) -> None:
    model = Bowl()
    given = {"optimizer": SGD(model.parameters(), lr=0.1), "batches": [BATCH]} | options
    with pytest.raises(ScheduleError, match=part) as caught:
        range_test(model, given.pop("optimizer"), half_square, given.pop("batches"), **given)
    assert "\n" not in str(caught.value)


def test_rates_of_zero_and_models_that_cannot_be_copied_are_refused() -> None:
    model = Bowl()
    with pytest.raises(ScheduleError, match="all 0"):
        range_test(model, SGD(model.parameters(), lr=0.0), half_square, [BATCH])
    model.computed = model.weight * 2  # type: ignore[assignment]
    with pytest.raises(ScheduleError, match="cannot be copied"):
        range_test(model, SGD(model.parameters(), lr=0.1), half_square, [BATCH])


def test_a_closure_optimizer_is_refused() -> None:
    model = Bowl()
    with pytest.raises(ScheduleError, match="closure"):
        range_test(model, LBFGS(model.parameters()), half_square, [BATCH])
