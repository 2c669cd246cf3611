"""Kinds that differ in the loss and in how it is computed."""

from __future__ import annotations

import dataclasses

import torch
from tests.record.kinds._data import classes, images
from tests.record.kinds.kind import kind
from tests.record.kinds.truth import Truth
from torch import nn
from torch.nn import functional
from torch.nn.functional import cross_entropy as imported_early

CLASSES = ("classes", "numeric inputs", "feature inputs")


def mlp(outputs: int = 3, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, outputs))


@kind("MLP with cross-entropy", "SGD", "rectifier", *CLASSES)
def plain(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    criterion = nn.CrossEntropyLoss()
    for i in range(4):
        batch, labels = x[i * 6 : i * 6 + 6], y[i * 6 : i * 6 + 6]
        optimizer.zero_grad()
        scores = model(batch)
        loss = criterion(scores, labels)
        loss.backward()
        truth.classes(scores, labels)
        truth.inputs(batch)
        with torch.no_grad():
            truth.output("0", model[0](batch))
            truth.output("1", model[1](model[0](batch)))
            truth.output("2", scores)
        truth.note(gradient_norm=truth.gradient_norm(model))
        for name, _ in model.named_parameters():
            truth.note(name, gradient_absent=0, gradient_carryover=0, nonfinite_share=0)
        with truth.stepping(model, loss=loss, learning_rate=0.1, momentum=0.9, weight_decay=0.01):
            optimizer.step()


@kind("missing zero_grad", "SGD", "rectifier", *CLASSES)
def missing_zero_grad(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        for name, p in model.named_parameters():
            truth.note(name, gradient_carryover=0.0 if p.grad is None else float(p.grad.double().pow(2).mean().sqrt()))
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        with truth.stepping(model, loss=loss):
            optimizer.step()


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 5, 3)
        self.head = nn.Linear(5 * 9, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(functional.relu(self.norm(self.first(x))), 2)
        x = functional.dropout(functional.relu(self.second(functional.pad(x, (0, 1, 0, 1)))), 0.1, self.training)
        return self.head(x.flatten(1))


@kind("CNN with BatchNorm, functional ReLU and dropout", "Adam", "rectifier", "classes", "numeric inputs")
def convolutional(truth: Truth) -> None:
    x, y = images()
    model = Convolutional()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.8, 0.99), eps=1e-6)
    seen: dict[str, torch.Tensor] = {}
    for name in ("first", "norm", "second", "head"):
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    for step in range(1, 4):
        optimizer.zero_grad()
        scores = model(x)
        loss = functional.cross_entropy(scores, y)
        loss.backward()
        truth.classes(scores, y)
        truth.inputs(x)
        for name, output in seen.items():
            truth.note(name, activation_rms=output.detach().double().pow(2).mean().sqrt())
        options = {"learning_rate": 1e-3, "beta1": 0.8, "beta2": 0.99, "epsilon": 1e-6, "weight_decay": 0.0}
        with truth.stepping(model, loss=loss, **options):
            optimizer.step()
        for name, p in model.named_parameters():
            second = optimizer.state[p]["exp_avg_sq"].double() / (1 - 0.99**step)
            share = (second.sqrt() < 1e-6).double().mean()
            truth.note(name, step, adam_second_moment_rms=second.mean().sqrt(), epsilon_share=share)


@kind("loss function imported before the recording", "SGD", "rectifier", *CLASSES)
def early(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        scores = model(x)
        loss = imported_early(scores, y)
        loss.backward()
        truth.classes(scores, y)
        with truth.stepping(model, loss=loss):
            optimizer.step()


@kind("evaluation by a loss function imported before the recording", "SGD", "rectifier", "evaluation", *CLASSES)
def early_evaluation(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss = imported_early(model(x), y)
        loss.backward()
        with truth.stepping(model, loss=loss):
            optimizer.step()
        model.eval()
        with torch.no_grad():
            scores = model(x)
            value = imported_early(scores, y)
        model.train()
        truth.evaluation(value, (scores.argmax(1) == y).float().mean())


@kind(
    "regression with MSE",
    "SGD",
    "bounded",
    "numbers wanted",
    "numeric inputs",
    "feature inputs",
    no_snapshot="the model was not called as a whole",
)
def regression(truth: Truth) -> None:
    x, _ = classes()
    y = x.sum(dim=1, keepdim=True).sin()
    model = mlp(1, nn.Tanh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        hidden = model[0](x)
        loss = functional.mse_loss(model[2](model[1](hidden)), y)
        loss.backward()
        truth.note("1", saturation_share=(hidden.tanh().abs() > 0.99).float().mean())
        with truth.stepping(model, loss=loss):
            optimizer.step()


@kind("binary cross-entropy on logits", "SGD", "rectifier", "numbers wanted", *CLASSES, without=("distribution_share",))
def binary(truth: Truth) -> None:
    x, y = classes()
    target = (y > 0).float()[:, None]
    model = mlp(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        logits = model(x)
        loss = functional.binary_cross_entropy_with_logits(logits, target)
        loss.backward()
        truth.binary(logits.sigmoid(), target)
        with truth.stepping(model, loss=loss):
            optimizer.step()


@dataclasses.dataclass
class Output:
    loss: torch.Tensor
    logits: torch.Tensor


class ReturnsLoss(nn.Module):
    def __init__(self, as_tuple: bool) -> None:
        super().__init__()
        self.net, self.as_tuple = mlp(), as_tuple

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> Output | tuple[torch.Tensor, torch.Tensor]:
        logits = self.net(inputs)
        loss = functional.cross_entropy(logits, labels)
        return (loss, logits) if self.as_tuple else Output(loss, logits)


def _returned(truth: Truth, as_tuple: bool) -> None:
    x, y = classes()
    model = ReturnsLoss(as_tuple)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        output = model(inputs=x, labels=y)
        loss, logits = output if isinstance(output, tuple) else (output.loss, output.logits)
        loss.backward()
        truth.classes(logits, y)
        truth.inputs(x)
        with truth.stepping(model, loss=loss):
            optimizer.step()


@kind("model that returns its loss in an object", "SGD", "rectifier", *CLASSES)
def returned(truth: Truth) -> None:
    _returned(truth, as_tuple=False)


@kind("model that returns its loss in a tuple", "SGD", "rectifier", *CLASSES)
def returned_in_tuple(truth: Truth) -> None:
    _returned(truth, as_tuple=True)


@kind(
    "loss written by hand",
    "SGD",
    "rectifier",
    *CLASSES,
    impossible={
        "no loss function of torch was seen": (
            *("accuracy", "output_entropy", "label_share", "prediction_share", "distribution_share"),
            *("log_probability_error", "unit_interval_share", "output_min", "output_max", "prediction_spread"),
            *("target_mean", "target_std", "prediction_variance_share"),
        ),
    },
    no_snapshot="none of torch's loss functions was seen",
)
def by_hand(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        scores = model(x)
        loss = (scores.logsumexp(dim=1) - scores[torch.arange(len(y)), y]).mean()
        loss.backward()
        with truth.stepping(model, loss=loss):
            optimizer.step()


@kind(
    "weighted sum of several losses, one backward",
    "SGD",
    "rectifier",
    *CLASSES,
    no_snapshot="the loss function was given a tensor of shape (24, 1) that is no simple part of the output",
)
def weighted(truth: Truth) -> None:
    x, y = classes()
    model = mlp(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        model.zero_grad()
        scores, size = model(x).split((3, 1), dim=1)
        loss = functional.cross_entropy(scores, y) + 0.1 * functional.mse_loss(size, x.norm(dim=1, keepdim=True))
        loss.backward()
        truth.classes(scores, y)
        with truth.stepping(model, loss=loss):
            optimizer.step()
