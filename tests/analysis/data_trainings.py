"""Small real trainings with a fault of data, loss, mode or attention, each beside its healthy twin.

`CASES` maps a finding's code to (faulty, healthy); a training takes the door to a recorder, as in trainings.py.
"""

from __future__ import annotations

import functools

import torch
from tests.analysis.trainings import Record, Training, batches, digits, fit, mlp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam

CASES: dict[str, tuple[Training, Training]] = {}


def noisy_digits(count: int = 1797, sigma: float = 1.0) -> tuple[Tensor, Tensor]:
    inputs, targets = digits()
    generator = torch.Generator().manual_seed(7)
    return inputs[:count] + sigma * torch.randn(inputs[:count].shape, generator=generator), targets[:count]


def evaluated(
    record: Record,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    epochs: int,
    size: int = 32,
    back_to_training: bool = True,
    in_evaluation: bool = True,
) -> None:
    generator = torch.Generator().manual_seed(0)
    with record(model, {"optimizer": optimizer}):
        for _ in range(epochs):
            for chosen in torch.randperm(len(train[0]), generator=generator).split(size):
                optimizer.zero_grad()
                F.cross_entropy(model(train[0][chosen]), train[1][chosen]).backward()
                optimizer.step()
            if in_evaluation:
                model.eval()
            with torch.no_grad():
                F.cross_entropy(model(held_out[0]), held_out[1])
            if back_to_training:
                model.train()


def _mode(back_to_training: bool, record: Record) -> None:
    inputs, targets = digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))
    data = (inputs[:800], targets[:800]), (inputs[800:], targets[800:])
    evaluated(record, model, Adam(model.parameters(), 1e-3), *data, epochs=6, back_to_training=back_to_training)


CASES["eval-mode-training"] = functools.partial(_mode, False), functools.partial(_mode, True)


def _loss(softmax: bool, record: Record) -> None:
    model = nn.Sequential(*mlp(64, 64, 10), *([nn.Softmax(dim=1)] if softmax else []))
    fit(record, model, Adam(model.parameters(), 3e-3), 120)


CASES["loss-mismatch"] = functools.partial(_loss, True), functools.partial(_loss, False)


def _order(sort: bool, record: Record) -> None:
    inputs, targets = digits()
    order = torch.argsort(targets, stable=True) if sort else torch.arange(len(targets))
    model = mlp(64, 64, 10)
    optimizer = SGD(model.parameters(), 0.05)
    with record(model, {"optimizer": optimizer}):
        for _ in range(3):
            for chosen in order.split(32):
                optimizer.zero_grad()
                F.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
                optimizer.step()


CASES["unshuffled-data"] = functools.partial(_order, True), functools.partial(_order, False)


def _labels(wrong: float, record: Record) -> None:
    inputs, targets = digits()
    generator = torch.Generator().manual_seed(1)
    train = targets[:1200].clone()
    flipped = torch.rand(1200, generator=generator) < wrong
    train[flipped] = torch.randint(10, train.shape, generator=generator)[flipped]
    model = mlp(64, 64, 10)
    data = (inputs[:1200], train), (inputs[1200:], targets[1200:])
    evaluated(record, model, Adam(model.parameters(), 1e-3), *data, epochs=6)


CASES["label-noise"] = functools.partial(_labels, 0.4), functools.partial(_labels, 0.0)


def _imbalance(weighted: bool, record: Record) -> None:
    generator = torch.Generator().manual_seed(2)
    rare = torch.rand(4000, generator=generator) < 0.05
    inputs = torch.randn(4000, 10, generator=generator) + 0.4 * rare[:, None]
    weight = torch.tensor([1.0, 19.0]) if weighted else None
    model = mlp(10, 32, 2)
    loss_of = functools.partial(F.cross_entropy, weight=weight)
    fit(record, model, Adam(model.parameters(), 3e-3), 200, 64, data=(inputs, rare.long()), loss_of=loss_of)


CASES["class-imbalance"] = functools.partial(_imbalance, False), functools.partial(_imbalance, True)


def _capacity(few: bool, record: Record) -> None:
    inputs, targets = noisy_digits()
    count = 60 if few else 1400
    model = mlp(64, 128, 10)
    data = (inputs[:count], targets[:count]), (inputs[1400:], targets[1400:])
    evaluated(record, model, Adam(model.parameters(), 3e-3), *data, epochs=60 if few else 4, size=20 if few else 32)


CASES["overfitting"] = functools.partial(_capacity, True), functools.partial(_capacity, False)


def _pairs(pull_only: bool, record: Record) -> None:
    inputs, _ = digits()
    model = mlp(64, 64, 16)
    optimizer = Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(3)
    with record(model, {"optimizer": optimizer}):
        for x, _ in batches(inputs, inputs, 300, 32):
            noise = 0.2 * torch.randn((2, *x.shape), generator=generator)
            first, second = model(x + noise[0]), model(x + noise[1])
            pull = (first - second).square().sum(1).mean()
            apart = F.relu(4.0 - (first - second.roll(1, 0)).square().sum(1)).mean()
            optimizer.zero_grad()
            (pull if pull_only else pull + apart).backward()
            optimizer.step()


CASES["collapsed-output"] = functools.partial(_pairs, True), functools.partial(_pairs, False)


class Lookup(nn.Module):
    """Self-attention over tokens whose logits are multiplied by a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.embed, self.head, self.factor = nn.Embedding(16, 32), nn.Linear(32, 16), factor
        self.place = nn.Parameter(0.3 * torch.randn(12, 32))
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place
        query, key, value = (f(x).view(*x.shape[:2], 2, 16).transpose(1, 2) for f in (self.query, self.key, self.value))
        weights = torch.softmax(query @ key.transpose(-1, -2) * (self.factor / 4.0), dim=-1)
        x = x + (weights @ value).transpose(1, 2).flatten(2)
        return self.head(x).transpose(1, 2)


def attend(record: Record, factor: float = 1.0, rate: float = 3e-3, steps: int = 150) -> None:
    """Each token's answer is the token before it plus its own, modulo 16."""
    model = Lookup(factor)
    optimizer = Adam(model.parameters(), rate)
    generator = torch.Generator().manual_seed(4)
    with record(model, {"optimizer": optimizer}):
        for _ in range(steps):
            tokens = torch.randint(16, (16, 12), generator=generator)
            optimizer.zero_grad()
            F.cross_entropy(model(tokens), (tokens + tokens.roll(1, 1)) % 16).backward()
            optimizer.step()


CASES["attention-entropy-collapse"] = functools.partial(attend, factor=300.0), attend
CASES["attention-logit-growth"] = functools.partial(attend, rate=0.1), attend


class Scaled(nn.Module):
    """A network whose output is its change since the start, times a factor."""

    def __init__(self, net: nn.Sequential, scale: float) -> None:
        super().__init__()
        self.net, self.scale = net, scale
        self.start = {name: p.detach().clone() for name, p in net.named_parameters()}

    def forward(self, x: Tensor) -> Tensor:
        before = torch.func.functional_call(self.net, self.start, (x,))
        return self.scale * (self.net(x) - before)


def _scale(scale: float, record: Record) -> None:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(400, 20, generator=generator)
    targets = inputs[:, :1] * inputs[:, 1:2]
    model = Scaled(mlp(20, 200, 1), scale)
    optimizer = SGD(model.net.parameters(), 0.03 / scale**2)
    with record(model, {"optimizer": optimizer}):
        for step in range(600):
            optimizer.zero_grad()
            F.mse_loss(model(inputs[:100]), targets[:100]).backward()
            optimizer.step()
            if step % 100 == 99:
                with torch.no_grad():
                    F.mse_loss(model(inputs[100:]), targets[100:])


CASES["lazy-training"] = functools.partial(_scale, 300.0), functools.partial(_scale, 1.0)
