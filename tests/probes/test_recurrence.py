"""Gradients through time: against the closed form of a linear recurrence, however it is written."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.unhurried import unhurried
from torch import nn

from separatrix.probes.recurrence import recurrence
from separatrix.record import record
from separatrix.record.shadow import undisturbed
from separatrix.record.snapshot import Snapshot, snapshot_of
from separatrix.runs import open_run

TIMES = 30
"""h_t = a h_{t-1} + w x_t with a loss of h_T: the gradient by x_t is a^(T - t) times that by x_T."""


class Whole(nn.Module):
    """With a ReLU and positive numbers, torch's own recurrence is linear."""

    def __init__(self, factor: float, batch_first: bool = True) -> None:
        super().__init__()
        self.rnn = nn.RNN(1, 1, nonlinearity="relu", bias=False, batch_first=batch_first)
        nn.init.constant_(self.rnn.weight_ih_l0, 0.5)
        nn.init.constant_(self.rnn.weight_hh_l0, factor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rnn(x if self.rnn.batch_first else x.transpose(0, 1))[1][-1]


class Written(nn.Module):
    """The same in a loop over a module that is called at each time."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.carry = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.carry.weight, factor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            state = self.carry(state) + 0.5 * x[:, t]
        return state


def read(snapshot: Snapshot) -> dict[str, float]:
    with undisturbed():
        return {r.at["module"]: float(torch.as_tensor(r.values)) for r in recurrence.measure(snapshot, {})}


def batch(times: int = TIMES) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.rand(4, times, 1, dtype=torch.float64), torch.ones(4, 1, dtype=torch.float64)


@pytest.mark.parametrize("factor", [0.3, 0.9, 1.2])
@pytest.mark.parametrize("make", [Whole, lambda factor: Whole(factor, batch_first=False), Written])
def test_the_ratio_is_that_of_a_linear_recurrence(make: type[Whole], factor: float) -> None:
    found = read(snapshot_of(make(factor).double(), "mse_loss", *batch()))
    assert list(found.values()) == [pytest.approx(factor**20, rel=1e-5)]


def test_a_loss_of_every_time_feels_every_time() -> None:
    class Everywhere(Whole):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rnn(x)[0].squeeze(2)

    x, _ = batch()
    (ratio,) = read(snapshot_of(Everywhere(0.5).double(), "mse_loss", x, torch.ones_like(x).squeeze(2))).values()
    assert 0.3 < ratio < 3.0


def test_short_sequences_and_networks_without_time_give_nothing() -> None:
    assert read(snapshot_of(Whole(0.5).double(), "mse_loss", *batch(8))) == {}
    x, y = batch()
    state: dict[str, object] = {}
    snapshot = snapshot_of(nn.Sequential(nn.Flatten(), nn.Linear(TIMES, 1)).double(), "mse_loss", x, y)
    with undisturbed():
        assert list(recurrence.measure(snapshot, state)) == [] and state == {"without": True}


def test_what_underflows_is_zero_and_a_loss_without_gradient_is_undefined() -> None:
    assert read(snapshot_of(Whole(0.0).double(), "mse_loss", *batch())) == {"rnn": 0.0}
    x, _ = batch()
    model = Whole(0.5).double()
    with torch.no_grad():
        reached = model(x)
    (ratio,) = read(snapshot_of(model, "mse_loss", x, reached)).values()
    assert math.isnan(ratio)


def test_a_recorded_training_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unhurried(monkeypatch)
    model = Whole(0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    x, y = (t.float() for t in batch())
    with record(model, optimizer, run=tmp_path / "run", probes="recurrence", budget=1.0):
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
    with open_run(tmp_path / "run") as run:
        assert float(run["early_gradient_ratio"].values.reshape(-1)[0]) == pytest.approx(0.9**20, rel=1e-3)
