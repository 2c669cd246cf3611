"""Kinds with further processes beside the one that trains."""

from __future__ import annotations

import os

import torch
from tests.record.kinds._data import Rows, classes
from tests.record.kinds.kind import kind
from tests.record.kinds.losses import CLASSES, mlp
from tests.record.kinds.truth import Truth
from torch.nn import functional
from torch.utils.data import DataLoader


def _loaded(truth: Truth, method: str) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = DataLoader(Rows(), batch_size=8, shuffle=True, num_workers=2, multiprocessing_context=method)
    for batch, labels in loader:
        optimizer.zero_grad()
        scores = model(batch)
        loss = functional.cross_entropy(scores, labels)
        loss.backward()
        truth.inputs(batch)
        truth.classes(scores, labels)
        with truth.stepping(model, loss=loss):
            optimizer.step()


@kind("DataLoader with 2 forked workers", "SGD", "rectifier", *CLASSES)
def forked(truth: Truth) -> None:
    _loaded(truth, "fork")


@kind("DataLoader with 2 spawned workers", "SGD", "rectifier", *CLASSES)
def spawned(truth: Truth) -> None:
    _loaded(truth, "spawn")


def _step_once(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    x, y = classes()
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


@kind("forked process that itself runs an optimizer", "SGD", "rectifier", *CLASSES)
def trains_in_fork(truth: Truth) -> None:
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for _ in range(3):
                    _step_once(model, optimizer)
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        truth.note(loss=_step_once(model, optimizer))
        truth.step += 1
