"""Losses written by hand in which each output meets each target: told from the graph by the shapes that meet in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import separatrix
from separatrix.record.losses import crossed_shapes

N = 6
COLUMN, ROW = (N, 1), (N,)


@pytest.mark.parametrize(
    "loss",
    [
        lambda p, y: ((p - y) ** 2).mean(),
        lambda p, y: ((y - p) ** 2).mean(),
        lambda p, y: (p - y).abs().sum() / N,
        lambda p, y: (lambda difference: (difference * difference).mean())(p - y),
        lambda p, y: 0.5 * torch.square(p - y).mean().sqrt(),
    ],
    ids=["squares", "the other way round", "sizes", "product", "root"],
)
@pytest.mark.parametrize(("outputs", "targets"), [(COLUMN, ROW), (ROW, COLUMN)])
def test_each_with_each(
    loss: Callable[[Tensor, Tensor], Tensor], outputs: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    made = nn.Linear(3, 1)(torch.randn(N, 3)).reshape(outputs)
    assert crossed_shapes(loss(made, torch.randn(targets))) == (outputs, targets)
    assert crossed_shapes(loss(made, torch.randn(outputs))) is None


@pytest.mark.parametrize(
    "loss",
    [
        lambda p: ((p - p.T) ** 2).mean(),
        lambda p: ((p - torch.randn(N, 3)) ** 2).mean(),
        lambda p: ((p - torch.randn(1)) ** 2).mean() + p.square().mean(),
        lambda p: ((p - torch.randn(N, 1)) ** 2).mean() + p.square().mean(),
        lambda p: p.sum(),
        lambda p: (p[:1] - torch.randn(1)).square().mean(),
    ],
    ids=["pairs of outputs", "several targets", "one target for all", "a penalty beside", "a sum", "one example"],
)
def test_nothing_is_crossed(loss: Callable[[Tensor], Tensor]) -> None:
    assert crossed_shapes(loss(nn.Linear(3, 1)(torch.randn(N, 3)))) is None


@pytest.mark.parametrize("targets", [ROW, COLUMN])
def test_a_training_by_such_a_loss_is_found_out(targets: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with separatrix.record(model, optimizer, run=tmp_path / "run"):
        for _ in range(30):
            x = torch.randn(N, 3)
            optimizer.zero_grad()
            ((model(x) - x.sum(1).reshape(targets)) ** 2).mean().backward()
            optimizer.step()
    with separatrix.open(tmp_path / "run") as run:
        codes = [finding.code for finding in run.diagnose().findings]
        shapes = [(loss["outputs"], loss["targets"]) for loss in run.losses]
    assert ("loss-mismatch" in codes) == (targets == ROW)
    assert shapes == ([([N, 1], [N])] if targets == ROW else [])
