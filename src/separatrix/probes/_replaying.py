"""A snapshot's network at other parameters, as a function of single examples, and with its modules listened to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from separatrix.record.ownership import flattened_tensors
from separatrix.record.replay import ReplayError


@contextlib.contextmanager
def at_values(parameters: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Parameters hold the values of their label for a while; those they held come back bit for bit.

    Storage is exchanged, not copied, so that version counters stay. Parameters without a value keep their own.
    """
    kept = {label: parameters[label].data for label in values if label in parameters}
    try:
        for label in kept:
            parameters[label].data = values[label]
        yield
    finally:
        for label, data in kept.items():
            parameters[label].data = data


@contextlib.contextmanager
def single_examples(model: nn.Module, forward: Callable[[], object]) -> Iterator[None]:
    """Evaluation mode, in which examples do not mix and chance has no part.

    A batch normalisation that used the statistics of the batch goes on with those it has in `forward`, as constants, so
    that without dropout outputs are what they were. Modes and buffers come back.

    Raises:
        ReplayError: a batch normalisation is called more than once in a forward, with different statistics.
    """
    modes = [(module, module.training) for module in model.modules()]
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)
    }
    buffers = [(norm, norm.running_mean, norm.running_var) for norm in norms.values()]
    try:
        for module, _ in modes:
            module.training = False
        statistics = _statistics(norms, forward) if norms else {}
        for name, (mean, variance) in statistics.items():
            norms[name].running_mean, norms[name].running_var = mean, variance
        yield
    finally:
        for module, training in modes:
            module.training = training
        for norm, kept_mean, kept_variance in buffers:
            norm.running_mean, norm.running_var = kept_mean, kept_variance


def _statistics(
    norms: Mapping[str, _BatchNorm], forward: Callable[[], object]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Mean and variance, over the batch, of what enters each of the normalisations in a forward that uses them."""
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def hear(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def heard(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            if name in found:
                raise ReplayError(
                    f"batch normalisation {name!r} is called twice: its statistics cannot be held constant"
                )
            x = arguments[0].detach().transpose(0, 1).flatten(1)
            found[name] = x.mean(1), x.var(1, correction=0)

        return heard

    tracking = [(norm, norm.track_running_stats) for norm in norms.values()]
    handles = [norm.register_forward_pre_hook(hear(name)) for name, norm in norms.items()]
    try:
        for norm, _ in tracking:
            norm.training, norm.track_running_stats = True, False
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
        for norm, tracked in tracking:
            norm.training, norm.track_running_stats = False, tracked
    return found


Heard = tuple[nn.Module, tuple[Any, ...], torch.Tensor]
"""A module, the arguments it was called with, and its first tensor output, in a graph where there is one."""


def listen(modules: Mapping[str, nn.Module], forward: Callable[[], object], keep: Callable[[str, Heard], None]) -> None:
    """Run a forward and show each call of one of `modules` as it happens, before anything can change it in place."""

    def hear(name: str) -> Callable[..., None]:
        def heard(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            tensor = next(flattened_tensors(output), None)
            if tensor is not None:
                keep(name, (module, arguments, tensor))

        return heard

    handles = [module.register_forward_hook(hear(name)) for name, module in modules.items()]
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
