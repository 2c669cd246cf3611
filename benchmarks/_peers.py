"""What people use today to log norms of gradients and weights at every step, as functions of the same shape.

Each peer is a context manager `(model, optimizer, folder)` that yields `between(loss)`, called after backward. It logs
the loss and, for every parameter, the norms of gradient and weight, in the way its documentation shows.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

Between = Callable[[torch.Tensor], None]


def norms(model: nn.Module, loss: torch.Tensor) -> dict[str, float]:
    """The loss and both norms of every parameter, as plain numbers."""
    logged = {"loss": loss.item()}
    for name, parameter in model.named_parameters():
        logged[f"weight/{name}"] = parameter.detach().norm().item()
        if parameter.grad is not None:
            logged[f"gradient/{name}"] = parameter.grad.norm().item()
    return logged


@contextlib.contextmanager
def tensorboard(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> Iterator[Between]:
    """torch.utils.tensorboard with one scalar a norm."""
    from torch.utils.tensorboard import SummaryWriter

    del optimizer
    step = 0
    with SummaryWriter(folder) as writer:

        def between(loss: torch.Tensor) -> None:
            nonlocal step
            step += 1
            for name, value in norms(model, loss).items():
                writer.add_scalar(name, value, step)

        yield between


@contextlib.contextmanager
def trackio(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> Iterator[Between]:
    """trackio with a local project."""
    os.environ |= {"TRACKIO_DIR": folder, "HF_HUB_OFFLINE": "1", "TRACKIO_SHOW_DASHBOARD": "0"}
    import trackio as peer

    del optimizer
    with contextlib.redirect_stdout(None):
        peer.init(project="benchmark", embed=False)
    yield lambda loss: peer.log(norms(model, loss))
    with contextlib.redirect_stdout(None):
        peer.finish()


@contextlib.contextmanager
def trainscope(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> Iterator[Between]:
    """trainscope with its own configuration, which records layers, activations and histograms at every step."""
    from trainscope import TrainScope
    from trainscope.core.config import TrainScopeConfig

    here = os.getcwd()
    os.chdir(folder)
    scope = TrainScope(model, optimizer, config=TrainScopeConfig()).attach()
    step = 0

    def between(loss: torch.Tensor) -> None:
        nonlocal step
        step += 1
        scope.step(loss.item(), batch_index=step)

    try:
        yield between
    finally:
        scope.detach()
        os.chdir(here)


@contextlib.contextmanager
def torch_module_monitor(model: nn.Module, optimizer: torch.optim.Optimizer, folder: str) -> Iterator[Between]:
    """torch-module-monitor with the norms of gradients and weights; its results stay in memory."""
    from torch_module_monitor import ModuleMonitor

    del optimizer, folder
    monitor: Any = ModuleMonitor(monitor_step_fn=lambda step: True)
    monitor.add_parameter_metric("norm", lambda parameter: parameter.norm())
    monitor.add_gradient_metric("norm", lambda gradient: gradient.norm())
    monitor.set_module(model)
    step = 0

    def between(loss: torch.Tensor) -> None:
        nonlocal step
        step += 1
        monitor.begin_step(step)
        monitor.log_scalar("loss", loss.item())
        monitor.monitor_gradients()
        monitor.monitor_parameters()
        monitor.end_step()

    yield between


PEERS: dict[str, Callable[..., contextlib.AbstractContextManager[Between]]] = {
    "tensorboard": tensorboard,
    "trackio": trackio,
    "trainscope": trainscope,
    "torch_module_monitor": torch_module_monitor,
}


def installed() -> list[str]:
    """The peers that can be imported here."""
    return [name for name in PEERS if importlib.util.find_spec(name) is not None]
