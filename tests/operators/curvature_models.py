"""Tiny float64 networks with a batch each, and explicit matrices to hold operators against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel


class Case(NamedTuple):
    model: nn.Module
    loss: Callable[[Any, Any], Tensor]
    inputs: Any
    targets: Tensor


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(2, 3, batch_first=True)
        self.read = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.cell(x)[0][:, -1])


class Attention(nn.Module):
    """One causal block with fused attention, LayerNorm and a read-out tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.project = nn.Linear(4, 12)
        self.read = nn.Linear(4, 5, bias=False)
        self.read.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        parts = self.project(self.norm(x)).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        return self.read(x + mixed.transpose(1, 2).flatten(-2))[:, -1]


def _convolutional(*, norm: bool, training: bool = True) -> Case:
    layers = [nn.Conv2d(1, 2, 2), *([nn.BatchNorm2d(2)] if norm else []), nn.Softplus(), nn.Flatten(), nn.Linear(8, 3)]
    model = nn.Sequential(*layers).double().train()
    inputs, targets = torch.randn(6, 1, 3, 3).double(), torch.randint(3, (6,))
    model(torch.randn(6, 1, 3, 3).double())
    return Case(model.train(training), F.cross_entropy, inputs, targets)


def _mlp() -> Case:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    return Case(model, F.cross_entropy, torch.randn(6, 3).double(), torch.randint(3, (6,)))


def _rectified() -> Case:
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.LayerNorm(5), nn.Linear(5, 2)).double()
    return Case(model, F.mse_loss, torch.randn(6, 3).double(), torch.randn(6, 2).double())


def _tied() -> Case:
    model = nn.Sequential(nn.Linear(3, 3), nn.GELU(), nn.Linear(3, 3)).double()
    model[2].weight = model[0].weight
    return Case(model, F.binary_cross_entropy_with_logits, torch.randn(6, 3).double(), torch.rand(6, 3).double())


def _dropout() -> Case:
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    return Case(model, F.cross_entropy, torch.randn(6, 3).double(), torch.randint(3, (6,)))


CASES: dict[str, Callable[[], Case]] = {
    "mlp": _mlp,
    "relu, LayerNorm": _rectified,
    "tied": _tied,
    "dropout": _dropout,
    "cnn": lambda: _convolutional(norm=False),
    "cnn, BatchNorm in training": lambda: _convolutional(norm=True),
    "cnn, BatchNorm in evaluation": lambda: _convolutional(norm=True, training=False),
    "gru": lambda: Case(Recurrent().double(), F.cross_entropy, torch.randn(4, 3, 2).double(), torch.randint(3, (4,))),
    "attention": lambda: Case(Attention().double(), F.cross_entropy, torch.randint(5, (4, 3)), torch.randint(5, (4,))),
}


def make(name: str, seed: int = 0) -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CASES[name]()


def point(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def outputs_at(case: Case, flat: Tensor, seed: int) -> Tensor:
    """The outputs as a function of all parameters in one vector; buffers and random state are left alone."""
    entries, start = {}, 0
    for name, parameter in case.model.named_parameters():
        entries[name] = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    buffers = {name: buffer.clone() for name, buffer in case.model.named_buffers()}
    with torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH):
        torch.manual_seed(seed)
        return functional_call(case.model, {**entries, **buffers}, (case.inputs,))


def dense_hessian(case: Case, seed: int = 3) -> Tensor:
    return torch.autograd.functional.hessian(
        lambda flat: case.loss(outputs_at(case, flat, seed), case.targets), point(case.model)
    )


def dense_gradient(case: Case, flat: Tensor, seed: int = 3) -> Tensor:
    flat = flat.clone().requires_grad_()
    case.loss(outputs_at(case, flat, seed), case.targets).backward()
    assert flat.grad is not None
    return flat.grad


def jacobian(case: Case, seed: int = 3) -> Tensor:
    """Derivative of the outputs (m, c, n)."""
    return torch.autograd.functional.jacobian(lambda flat: outputs_at(case, flat, seed), point(case.model))
