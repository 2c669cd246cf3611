"""Kinds that evaluate between steps."""

from __future__ import annotations

import torch
from tests.record.kinds._data import classes
from tests.record.kinds.kind import kind
from tests.record.kinds.losses import CLASSES, mlp
from tests.record.kinds.truth import Truth
from torch import nn
from torch.nn import functional


def _per_example(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each example, by its definition."""
    with torch.no_grad():
        scores = model(x).double()
    return scores.logsumexp(dim=1) - scores[torch.arange(len(y)), y.clamp_min(0)]


def _right(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return (model(x).argmax(dim=1) == y).double()


def _train(truth: Truth, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    x, y = classes()
    for _ in range(2):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        with truth.stepping(model, loss=loss):
            optimizer.step()


def _evaluated(truth: Truth, reduction: str, mode: bool = True, ignore: bool = False, weights: bool = False) -> None:
    x, y = classes(examples=17)
    if ignore:
        y = torch.where(torch.arange(17) % 4 == 1, -100, y)
    weight = torch.tensor([1.0, 2.0, 0.5]) if weights else None
    model = nn.Sequential(mlp(), nn.Dropout(0.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        _train(truth, model, optimizer)
        if mode:
            model.eval()
        with torch.no_grad():
            for part in (slice(0, 8), slice(8, 16), slice(16, 17)):
                functional.cross_entropy(model(x[part]), y[part], weight=weight, reduction=reduction)
        model.train()
        kept = y != -100
        weighting = torch.ones(17).double() if weight is None else weight.double()[y.clamp_min(0)]
        losses = _per_example(model, x, y) * weighting
        mean = losses[kept].sum() / weighting[kept].sum()
        truth.evaluation(mean, _right(model, x, y)[kept].mean(), in_eval_mode=mode)


@kind("evaluation", "SGD", "rectifier", "evaluation", *CLASSES)
def evaluated(truth: Truth) -> None:
    _evaluated(truth, "mean")


@kind("evaluation without eval()", "SGD", "rectifier", "evaluation", *CLASSES)
def without_eval(truth: Truth) -> None:
    _evaluated(truth, "mean", mode=False)


@kind("evaluation, losses summed", "SGD", "rectifier", "evaluation", *CLASSES)
def summed(truth: Truth) -> None:
    _evaluated(truth, "sum")


@kind("evaluation, losses not reduced", "SGD", "rectifier", "evaluation", *CLASSES)
def unreduced(truth: Truth) -> None:
    _evaluated(truth, "none")


@kind("evaluation with ignored targets", "SGD", "rectifier", "evaluation", *CLASSES)
def ignored(truth: Truth) -> None:
    _evaluated(truth, "mean", ignore=True)


@kind("evaluation with ignored targets, losses not reduced", "SGD", "rectifier", "evaluation", *CLASSES)
def ignored_unreduced(truth: Truth) -> None:
    _evaluated(truth, "none", ignore=True)


@kind("evaluation with weights of classes", "SGD", "rectifier", "evaluation", *CLASSES)
def weighted(truth: Truth) -> None:
    _evaluated(truth, "mean", weights=True)


@kind(
    "evaluation of a regression", "SGD", "rectifier", "evaluation", "numbers wanted", "numeric inputs", "feature inputs"
)
def regression(truth: Truth) -> None:
    x, _ = classes(examples=17)
    y = torch.stack((x.sum(dim=1), x[:, 0]), dim=1)
    model = mlp(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    criterion = {name: nn.MSELoss(reduction=name) for name in ("mean", "sum")}
    for reduction in ("mean", "sum"):
        for _ in range(2):
            optimizer.zero_grad()
            loss = criterion["mean"](model(x), y)
            loss.backward()
            with truth.stepping(model, loss=loss):
                optimizer.step()
        model.eval()
        with torch.inference_mode():
            for part in (slice(0, 9), slice(9, 17)):
                criterion[reduction](model(x[part]), y[part])
        model.train()
        with torch.no_grad():
            truth.evaluation((model(x) - y).double().square().mean())


@kind("evaluation before the first step", "SGD", "rectifier", "evaluation", *CLASSES)
def before(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.eval()
    with torch.no_grad():
        functional.cross_entropy(model(x), y)
    model.train()
    truth.evaluation(_per_example(model, x, y).mean(), _right(model, x, y).mean())
    _train(truth, model, optimizer)


@kind("metrics of the training batch under no_grad", "SGD", "rectifier", *CLASSES)
def metrics(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        scores = model(x)
        loss = functional.cross_entropy(scores, y)
        loss.backward()
        with truth.stepping(model, loss=loss):
            optimizer.step()
        with torch.no_grad():
            functional.cross_entropy(scores.detach(), y)
            functional.cross_entropy(scores, y)
