"""Parameters of a model that no optimizer holds: whether they get gradients is a fact of the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from separatrix import diagnose
from separatrix.record import record
from separatrix.runs import open_run


class Model(nn.Module):
    """A trunk, seen by the loss as `trunk_open` says at each step, a head, and a target network that nothing calls."""

    def __init__(self, trunk_open: Callable[[int], bool]) -> None:
        super().__init__()
        self.trunk, self.head, self.target = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 4)
        self.trunk_open, self.step = trunk_open, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(self.trunk_open(self.step)):
            features = torch.tanh(self.trunk(x))
        return self.head(features)


def plainly(model: Model, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()


def by_closure(model: Model, optimizer: torch.optim.Optimizer) -> None:
    def closure() -> torch.Tensor:
        model.zero_grad()
        loss = model(torch.randn(8, 4)).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)


def trained(
    path: Path, trunk_open: Callable[[int], bool], step: Callable[[Model, torch.optim.Optimizer], None]
) -> Path:
    torch.manual_seed(0)
    model = Model(trunk_open)
    with record(run=path, budget=1.0):
        optimizer = torch.optim.SGD(model.head.parameters(), lr=0.01)
        for model.step in range(6):
            step(model, optimizer)
    return path


@pytest.mark.parametrize("step", [plainly, by_closure])
@pytest.mark.parametrize(
    ("trunk_open", "forgotten"),
    [(lambda step: True, True), (lambda step: False, False), (lambda step: step >= 3, True)],
    ids=["open", "closed", "opened late"],
)
def test_only_what_gets_gradients_that_no_optimizer_uses_was_forgotten(
    trunk_open: Callable[[int], bool],
    forgotten: bool,
    step: Callable[[Model, torch.optim.Optimizer], None],
    tmp_path: Path,
) -> None:
    path = trained(tmp_path / "run", trunk_open, step)
    expected = {"trunk": forgotten, "head": None, "target": False}
    with open_run(path) as run:
        facts = {p["name"]: (p["optimizer"] is None, p["unused_gradient"]) for p in run.parameters}
    assert facts == {
        f"{module}.{kind}": (module != "head", unused)
        for module, unused in expected.items()
        for kind in ("weight", "bias")
    }
    ways = {found.code: found.evidence.get("ways") for found in diagnose(path).findings}
    trunk = dict.fromkeys(("trunk.weight", "trunk.bias"), "no optimizer")
    assert ways == ({"frozen-parameters": trunk} if forgotten else {})


def test_what_an_optimizer_holds_without_a_gradient_is_told_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Model(lambda step: False)
    with record(run=tmp_path / "run", budget=1.0):
        optimizer = torch.optim.SGD([*model.head.parameters(), *model.trunk.parameters()], lr=0.01)
        for _ in range(6):
            plainly(model, optimizer)
    (found,) = diagnose(tmp_path / "run").findings
    assert found.evidence["ways"] == dict.fromkeys(("trunk.weight", "trunk.bias"), "no gradient")
    assert "are in an optimizer but never get a gradient" in found.summary


class Listed(nn.Module):
    """Its layers stand in a plain list, so that torch does not know them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(4, 4), nn.Linear(4, 4)]
        self.head = nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


def test_parameters_outside_the_trained_model_that_get_gradients_are_known(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder, decoder, teacher = nn.Linear(4, 2), nn.Linear(2, 4), nn.Linear(4, 4)
    image = nn.Parameter(torch.zeros(4))
    with record(run=tmp_path / "run", budget=1.0):
        optimizer = torch.optim.SGD(encoder.parameters(), lr=0.01)
        for _ in range(6):
            x = torch.randn(8, 4) + image
            loss = (decoder(encoder(x)) - teacher(x).detach()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with open_run(tmp_path / "run") as run:
        facts = {p["name"]: (p["optimizer"] is None, p["unused_gradient"]) for p in run.parameters}
    assert facts == {
        "weight": (False, None),
        "bias": (False, None),
        "decoder.weight": (True, True),
        "decoder.bias": (True, True),
    }
    (found,) = diagnose(tmp_path / "run").findings
    assert found.evidence["ways"] == dict.fromkeys(("decoder.weight", "decoder.bias"), "no optimizer")


def test_layers_in_a_plain_list_are_known(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Listed()
    with record(run=tmp_path / "run", budget=1.0):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()
    with open_run(tmp_path / "run") as run:
        unused = [p["numel"] for p in run.parameters if p["unused_gradient"]]
    assert sorted(unused) == [4, 4, 16, 16]
    assert [found.code for found in diagnose(tmp_path / "run").findings] == ["frozen-parameters"]


def test_models_of_several_optimizers_are_no_strangers_to_one_another(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(4, 2), nn.Linear(2, 4)
    with record(run=tmp_path / "run", budget=1.0):
        optimizers = [torch.optim.SGD(part.parameters(), lr=0.01) for part in (encoder, decoder)]
        for _ in range(6):
            x = torch.randn(8, 4)
            for optimizer in optimizers:
                optimizer.zero_grad()
            (decoder(encoder(x)) - x).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
    with open_run(tmp_path / "run") as run:
        assert [p["unused_gradient"] for p in run.parameters] == [None] * 4
    assert diagnose(tmp_path / "run").findings == ()
