"""Kinds that differ in the model: attention, recurrence, several forwards, compilation, checkpointing, derivatives."""

from __future__ import annotations

import torch
from tests.record.kinds._data import classes, tokens
from tests.record.kinds.kind import kind
from tests.record.kinds.losses import CLASSES, mlp
from tests.record.kinds.truth import Truth
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.mix = nn.Linear(8, 24)
        self.head = nn.Linear(8, 11)

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        q, k, v = self.mix(self.embedding(indices)).reshape(*indices.shape, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(mixed.transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 11)

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        x = self.layer(self.embedding(indices))
        return self.head(x + self.attention(x, x, x, need_weights=False)[0])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 11)

    def forward(self, indices: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(self.embedding(indices))[0])


def _language(truth: Truth, model: nn.Module) -> None:
    text = tokens()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    seen: dict[str, torch.Tensor] = {}
    model.get_submodule("head").register_forward_hook(lambda _m, _i, out: seen.update(head=out))
    model.get_submodule("embedding").register_forward_hook(lambda _m, _i, out: seen.update(embedding=out))
    for _ in range(3):
        optimizer.zero_grad()
        scores = model(text[:, :-1])
        loss = functional.cross_entropy(scores.transpose(1, 2), text[:, 1:])
        loss.backward()
        truth.classes(scores.reshape(-1, 11), text[:, 1:].reshape(-1))
        truth.note(batch_size=6)
        for name, output in seen.items():
            truth.output(name, output)
        with truth.stepping(model, loss=loss):
            optimizer.step()


@kind("fused attention", "Adam", "classes")
def attention(truth: Truth) -> None:
    _language(truth, Attention())


@kind("TransformerEncoderLayer and MultiheadAttention", "Adam", "classes", "rectifier")
def encoder(truth: Truth) -> None:
    _language(truth, Encoder())


@kind("GRU", "Adam", "classes", "bounded")
def recurrent(truth: Truth) -> None:
    _language(truth, Recurrent())


@kind(
    "several forwards a step (siamese)",
    "SGD",
    "rectifier",
    "numeric inputs",
    "feature inputs",
    "classes",
    "numbers wanted",
    without=("distribution_share",),
    no_snapshot="the loss function was given a tensor of shape (12,) that is no simple part of the output",
)
def siamese(truth: Truth) -> None:
    x, y = classes()
    model = mlp(4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    same = (y[:12] == y[12:]).float()
    for _ in range(3):
        optimizer.zero_grad()
        left, right = model(x[:12]), model(x[12:])
        distance = (left - right).square().sum(dim=1)
        loss = functional.binary_cross_entropy_with_logits(1.0 - distance, same)
        loss.backward()
        truth.binary(torch.sigmoid(1.0 - distance), same)
        size = (float(left.detach().square().mean().sqrt()) + float(right.detach().square().mean().sqrt())) / 2
        truth.note("2", activation_rms=size)
        mean = float(x.double().mean())
        with truth.stepping(model, loss=loss, batch_size=12, input_mean=mean):
            optimizer.step()


_HIDDEN = (
    "batch_variance_share",
    "batch_size",
    "training_mode",
    "input_mean",
    "input_std",
    "input_feature_std_ratio",
    "activation_rms",
    "activation_mean",
    "activation_nonfinite_share",
    "zero_share",
    "dead_unit_share",
    "saturation_share",
)


def _compiled(truth: Truth, backend: str) -> None:
    torch._dynamo.reset()
    x, y = classes()
    plain = mlp()
    model = torch.compile(plain, backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        scores = model(x)
        loss = functional.cross_entropy(scores, y)
        loss.backward()
        truth.classes(scores, y)
        with truth.stepping(plain, loss=loss):
            optimizer.step()


@kind("torch.compile", "SGD", "rectifier", *CLASSES, impossible={"torch.compile": _HIDDEN})
def compiled(truth: Truth) -> None:
    _compiled(truth, "aot_eager")


@kind("Module.compile", "SGD", "rectifier", *CLASSES, impossible={"torch.compile": _HIDDEN})
def compiled_in_place(truth: Truth) -> None:
    torch._dynamo.reset()
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.compile(backend="aot_eager")
    for _ in range(3):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        with truth.stepping(model, loss=loss):
            optimizer.step()


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.block, self.head, self.reentrant = nn.Linear(6, 8), mlp8(), nn.Linear(8, 3), reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(checkpoint(self.block, self.first(x), use_reentrant=self.reentrant))


def mlp8() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU())


def _checkpointed(truth: Truth, reentrant: bool) -> None:
    x, y = classes()
    model = Checkpointed(reentrant)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        with torch.no_grad():
            hidden = model.block[0](model.first(x))
        scores = model(x)
        loss = functional.cross_entropy(scores, y)
        loss.backward()
        truth.classes(scores, y)
        truth.inputs(x)
        truth.output("block.0", hidden)
        with truth.stepping(model, loss=loss):
            optimizer.step()


@kind("activation checkpointing", "SGD", "rectifier", *CLASSES)
def checkpointed(truth: Truth) -> None:
    _checkpointed(truth, reentrant=False)


@kind(
    "activation checkpointing, reentrant",
    "SGD",
    "rectifier",
    *CLASSES,
    no_snapshot="RuntimeError: When use_reentrant=True, torch.utils.checkpoint is incompatible with .grad()",
)
def checkpointed_reentrant(truth: Truth) -> None:
    _checkpointed(truth, reentrant=True)


@kind("meta-learning with torch.autograd.grad inside a step", "SGD", "rectifier", *CLASSES)
def meta(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        weights = dict(model.named_parameters())
        inner = functional.cross_entropy(functional_call(model, weights, (x[:12],)), y[:12])
        slopes = torch.autograd.grad(inner, list(weights.values()), create_graph=True)
        adapted = {name: p - 0.1 * g for (name, p), g in zip(weights.items(), slopes, strict=True)}
        loss = functional.cross_entropy(functional_call(model, adapted, (x[12:],)), y[12:])
        loss.backward()
        with truth.stepping(model, loss=loss, batch_size=12):
            optimizer.step()


@kind(
    "gradients from torch.autograd.grad, given to an optimizer",
    "SGD",
    "rectifier",
    *CLASSES,
    no_snapshot="no loss was backwarded that the model's output leads to",
)
def grads_given(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        loss = functional.cross_entropy(model(x), y)
        slopes = torch.autograd.grad(loss, list(model.parameters()))
        for p, slope in zip(model.parameters(), slopes, strict=True):
            p.grad = slope
        with truth.stepping(model, loss=loss):
            optimizer.step()


@kind(
    "gradients from torch.autograd.grad, no optimizer",
    "",
    "rectifier",
    "log-probabilities",
    *CLASSES,
    without=("distribution_share",),
    no_snapshot="no loss was backwarded that the model's output leads to",
)
def grads_applied(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    for _ in range(4):
        scores = model(x)
        loss = functional.cross_entropy(scores, y)
        slopes = torch.autograd.grad(loss, list(model.parameters()))
        truth.classes(scores, y)
        for (name, _), slope in zip(model.named_parameters(), slopes, strict=True):
            truth.note(name, gradient_rms=slope.double().pow(2).mean().sqrt(), gradient_absent=0)
        with truth.stepping(model, loss=loss), torch.no_grad():
            for p, slope in zip(model.parameters(), slopes, strict=True):
                p -= 0.1 * slope


@kind(
    "physics-informed network",
    "Adam",
    "bounded",
    "numeric inputs",
    "feature inputs",
    "numbers wanted",
    without=("input_feature_std_ratio",),
    no_snapshot="the loss function was given a tensor of shape (16, 1) that is no simple part of the output",
)
def physics(truth: Truth) -> None:
    model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    t = torch.linspace(0, 1, 16)[:, None].requires_grad_()
    for _ in range(3):
        optimizer.zero_grad()
        u = model(t)
        (slope,) = torch.autograd.grad(u.sum(), t, create_graph=True)
        loss = functional.mse_loss(slope, -u) + (u[0] - 1).square().sum()
        loss.backward()
        with truth.stepping(model, loss=loss, batch_size=16):
            optimizer.step()
