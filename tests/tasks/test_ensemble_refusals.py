"""What cannot be trained as an ensemble is refused with the remedy, or trains and says how."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.tasks.ensembles import COPIES, Transformer, cnn, images, mlp, sums, vectors
from torch import Tensor, nn

from separatrix.tasks import ensemble
from separatrix.tasks.errors import EnsembleError, EnsembleWarning


@pytest.fixture(autouse=True)
def double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y if y.sum().item() > 0 else -y


class Remembering(nn.Module):
    """Holds a random tensor that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.randn(6, 6)
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x @ self.features)


class Hiding(nn.Module):
    """The same, in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = {"features": [torch.randn(6, 6)]}
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x @ self.hidden["features"][0])


class Counting(nn.Module):
    """Its output depends on how often any copy was called."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        Counting.calls += 1
        return self.linear(x) * Counting.calls


class Changing(nn.Module):
    """Its buffer is what `change` makes of it."""

    def __init__(self, start: Tensor | None, change: Callable[[Tensor | None, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.change = nn.Linear(6, 4), change
        self.register_buffer("held", start)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        self.held = self.change(self.held, y.detach())
        return y - self.held.mean()


class Ageing(nn.Module):
    """Counts its calls in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(6, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) / self.calls


class Drawing(nn.Module):
    """Fills its buffer with numbers that come from nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.numbers = nn.Linear(6, 4), itertools.count()
        self.register_buffer("held", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.held = torch.full((), float(next(self.numbers)))
        return self.linear(x)


class Listing(nn.Module):
    """Reads its weight from a list, where no ensemble can put that of each copy."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 4))
        self.weights = [self.weight]

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weights[0]


class Idle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(6, 4), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (Branching, "Branching cannot be batched over copies .*item"),
        (Remembering, "copies 0 and 1 differ in features, a tensor that is no buffer"),
        (Hiding, r"differ in hidden\['features'\]\[0\], a tensor that is no buffer"),
        (Counting, "keeps a state that is no parameter or buffer"),
        (Ageing, "keeps a state that is no parameter or buffer"),
        (Drawing, "leaves another buffer held alone than in the ensemble"),
        (Listing, "has a gradient in weight alone and none in the ensemble: its forward must read"),
        (lambda: Changing(None, lambda held, y: y), r"turns buffer held from nothing into \(5, 4\) of torch.float64"),
        (lambda: Changing(torch.ones(4), lambda held, y: y), r"turns buffer held from \(4,\) of"),
        (lambda: Changing(torch.tensor(1), lambda held, y: held + 0.5), r"into \(\) of torch.float64: register it"),
        (Idle, "the loss does not depend on unused.weight: freeze it"),
        (nn.Identity, "trainable parameters of types none"),
    ],
)
def test_networks_that_cannot_be_batched_are_refused(build: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(EnsembleError, match=words):
        ensemble.train(ensemble.stack(build, range(COPIES)), F.cross_entropy, ensemble.SGD(0.1), vectors, 1)


def test_networks_of_different_architectures_are_refused() -> None:
    with pytest.raises(EnsembleError, match=r"differ in the shape of weight"):
        ensemble.from_modules([nn.Linear(2, 3), nn.Linear(3, 3)])
    with pytest.raises(EnsembleError, match=r"differ in 1.negative_slope \(0.01, 0.2\)"):
        ensemble.from_modules([nn.Sequential(nn.Linear(2, 3), nn.LeakyReLU(slope)) for slope in (0.01, 0.2)])
    with pytest.raises(EnsembleError, match="an ensemble of no networks"):
        ensemble.stack(mlp, [])


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (ensemble.SGD([0.1, 0.2]), "learning_rate has 2 values for 3 copies"),
        (ensemble.SGD(-0.1), "learning_rate is negative or not finite"),
        (ensemble.Adam([0.1, float("nan"), 0.1]), "learning_rate is negative or not finite"),
        (ensemble.Adam(beta2=1.0), "beta2 is 1 or more"),
        (ensemble.SGD(0.1, nesterov=True), "nesterov is on with dampening or without momentum"),
    ],
)
def test_bad_hyperparameters_are_refused(optimizer: ensemble.Optimizer, words: str) -> None:
    with pytest.raises(EnsembleError, match=words):
        ensemble.train(ensemble.stack(mlp, range(COPIES)), F.cross_entropy, optimizer, vectors, 1)


def test_bad_data_losses_and_measurements_are_refused() -> None:
    networks = ensemble.stack(mlp, range(COPIES))
    inputs, targets = vectors(0)
    with pytest.raises(EnsembleError, match=r"inputs of shape \(2, 5, 6\) for 3 copies"):
        ensemble.train(networks, F.cross_entropy, ensemble.SGD(0.1), lambda step: (inputs[:2], targets), 1)
    with pytest.raises(EnsembleError, match=r"the loss has shape \(5,\)"):
        ensemble.train(networks, lambda o, t: F.cross_entropy(o, t, reduction="none"), ensemble.SGD(0.1), vectors, 1)
    with pytest.raises(EnsembleError, match=r"'mean' gave shape \(\)"):
        ensemble.train(
            networks, F.cross_entropy, ensemble.SGD(0.1), vectors, 1, measure={"mean": lambda e: e.parameters.mean()}
        )
    with pytest.raises(EnsembleError, match="resume with the same kind of optimizer"):
        first = ensemble.train(networks, F.cross_entropy, ensemble.SGD(0.1), vectors, 1)
        ensemble.train(networks, F.cross_entropy, ensemble.Adam(0.1), vectors, 1, resume=first)
    with pytest.raises(EnsembleError, match="the training to resume is of other networks"):
        others = ensemble.stack(mlp, range(COPIES))
        ensemble.train(others, F.cross_entropy, ensemble.SGD(0.1), vectors, 1, resume=first)


def test_what_cannot_be_traced_still_trains_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("not traceable")

    networks = ensemble.stack(Transformer, range(COPIES))
    traced = ensemble.train(networks, F.cross_entropy, ensemble.Adam(0.01), sums, 5)
    monkeypatch.setattr("separatrix.tasks._ensemble_program.make_fx", refuse)
    with pytest.warns(EnsembleWarning, match="Transformer runs under torch.func.vmap at every step"):
        slow = ensemble.train(networks, F.cross_entropy, ensemble.Adam(0.01), sums, 5)
    torch.testing.assert_close(slow.ensemble.parameters, traced.ensemble.parameters, rtol=1e-10, atol=1e-10)


def test_ordinary_networks_are_traced_without_a_warning() -> None:
    for build, data in ((mlp, vectors), (Transformer, sums), (cnn, images)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ensemble.train(ensemble.stack(build, range(COPIES)), F.cross_entropy, ensemble.Adam(0.01), data, 2)
