"""Kinds that differ in parameters, groups, clipping and number formats."""

from __future__ import annotations

import math

import torch
from tests.record.kinds._data import classes, tokens
from tests.record.kinds.kind import kind
from tests.record.kinds.losses import CLASSES, mlp
from tests.record.kinds.truth import Truth, named, rms
from torch import nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_


@kind("frozen parameters", "SGD", "rectifier", *CLASSES)
def frozen(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        truth.note(gradient_norm=truth.gradient_norm(model))
        truth.note("2.weight", gradient_absent=0)
        with truth.stepping(model, loss=loss):
            optimizer.step()


@kind(
    "parameters that a step does not reach",
    "SGD",
    "rectifier",
    *CLASSES,
    no_snapshot="the model was not called as a whole",
)
def unreached(truth: Truth) -> None:
    x, y = classes()
    model = nn.ModuleDict({"used": mlp(), "unused": nn.Linear(6, 3)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model["used"](x), y)
        loss.backward()
        truth.note("unused.weight", gradient_absent=1, gradient_carryover=0)
        truth.note("used.0.weight", gradient_absent=0, gradient_carryover=0)
        with truth.stepping(model, loss=loss):
            optimizer.step()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(indices))


@kind("tied parameters", "SGD", "classes")
def tied(truth: Truth) -> None:
    text = tokens()
    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        scores = model(text[:, :-1]).reshape(-1, 11)
        labels = text[:, 1:].reshape(-1)
        loss = functional.cross_entropy(scores, labels)
        loss.backward()
        truth.classes(scores, labels)
        truth.note(batch_size=6)
        with truth.stepping(model, loss=loss):
            optimizer.step()


@kind("parameter groups and a scheduler", "SGD", "rectifier", *CLASSES)
def groups(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(
        [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters()}], lr=0.2
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for i in range(3):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        truth.note("0", learning_rate=0.1 * 0.5**i, momentum=0)
        truth.note("1", learning_rate=0.2 * 0.5**i, momentum=0)
        with truth.stepping(model, loss=loss):
            optimizer.step()
        scheduler.step()


@kind("parameters added by add_param_group", "SGD", "rectifier", *CLASSES)
def added(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    for i in range(4):
        if i == 2:
            optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.05})
        model.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        truth.note("0", learning_rate=0.1)
        if i >= 2:
            truth.note("1", learning_rate=0.05)
        with truth.stepping(model if i >= 2 else named(model[2], "2."), loss=loss):
            optimizer.step()


@kind("learning rate in a tensor", "Adam", "rectifier", *CLASSES)
def tensor_rate(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.01), foreach=False)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    for i in range(4):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        rate = float(torch.tensor(0.01) * 0.5 ** (i // 2))
        with truth.stepping(model, loss=loss, learning_rate=rate):
            optimizer.step()
        scheduler.step()


@kind("clipping by norm, function imported early", "SGD", "clipping", "rectifier", *CLASSES)
def clipping(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for limit in (0.05, 10.0, 0.2):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        norm = truth.gradient_norm(model)
        truth.note(gradient_norm=norm, clip_coefficient=min(1.0, limit / (norm + 1e-6)))
        clip_grad_norm_(model.parameters(), limit)
        with truth.stepping(model, loss=loss):
            optimizer.step()


@kind("clipping of each part by its norm", "SGD", "clipping", "rectifier", *CLASSES)
def clipping_parts(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        norms = [truth.gradient_norm(model[i]) for i in (0, 2)]
        truth.note(gradient_norm=math.hypot(*norms), clip_coefficient=min(1.0, *(0.05 / (n + 1e-6) for n in norms)))
        for i in (0, 2):
            torch.nn.utils.clip_grad_norm_(model[i].parameters(), 0.05)
        with truth.stepping(model, loss=loss):
            optimizer.step()


@kind("float64", "Adam", "rectifier", *CLASSES)
def double(truth: Truth) -> None:
    x, y = classes()
    model = mlp().double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        scores = model(x.double())
        loss = functional.cross_entropy(scores, y)
        loss.backward()
        truth.classes(scores, y)
        with truth.stepping(model, loss=loss):
            optimizer.step()


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4, dtype=torch.complex64))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((x.to(torch.complex64) @ self.weight).abs())


@kind("complex parameters", "Adam", *CLASSES)
def complex_parameters(truth: Truth) -> None:
    x, y = classes()
    model = Complex()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(1, 4):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        truth.note(gradient_norm=truth.gradient_norm(model))
        with truth.stepping(model, loss=loss):
            optimizer.step()
        second = torch.view_as_real(optimizer.state[model.weight]["exp_avg_sq"]).double() / (1 - 0.999**step)
        truth.note("weight", step, adam_second_moment_rms=second.mean().sqrt(), epsilon_share=0)


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4, sparse=True)

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        return self.embedding(indices).sum(dim=1)


@kind("sparse gradients", "SparseAdam", "classes")
def sparse(truth: Truth) -> None:
    text = tokens()
    model = Bag()
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=0.05)
    labels = torch.arange(6) % 4
    for _ in range(3):
        optimizer.zero_grad()
        scores = model(text)
        loss = functional.cross_entropy(scores, labels)
        loss.backward()
        truth.classes(scores, labels)
        truth.note(gradient_norm=rms(model.embedding.weight.grad) * math.sqrt(44))
        with truth.stepping(model, loss=loss):
            optimizer.step()
