"""What is caught of a step before it is replayed: the model's call, the losses heard, and which one was backwarded."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import numpy as np
import torch

from separatrix.record import patches, replay
from separatrix.record.losses import WATCHED
from separatrix.record.ownership import Model, flattened_tensors
from separatrix.record.replay import Call, ReplayError, copied
from separatrix.record.snapshot import Batch
from separatrix.runs.probe import LossView

_HEARD = 8
"""Calls of loss functions that are remembered: beside the loss that is backwarded metrics may be computed."""


@dataclasses.dataclass(frozen=True)
class Heard:
    """A call of a loss function: `losses` is what it gave, one or many, and `source` the node that made it."""

    view: LossView
    losses: torch.Tensor
    source: Any
    examples: np.ndarray | None


@dataclasses.dataclass
class Exposure:
    """What was caught of a step so far; `heard` are the last calls of loss functions."""

    model: Model
    call: Call
    before: dict[str, torch.Tensor]
    result: Any = None
    heard: collections.deque[Heard] = dataclasses.field(default_factory=lambda: collections.deque(maxlen=_HEARD))
    examples: np.ndarray | None = None
    batch: Batch | None = None
    why: str = "no loss was backwarded that the model's output leads to"


def batch_of(exposure: Exposure, loss: torch.Tensor, value: float) -> Batch:
    """How `loss`, of this value, about to be backwarded, follows from the model's output.

    Raises:
        ReplayError: it cannot be told.
    """
    result, heard = exposure.result, list(reversed(exposure.heard))
    weighted = ((each, replay.weights_in(loss, each.losses, each.source)) for each in heard)
    own, weights = next(((each, found) for each, found in weighted if found is not None), (None, None))
    link = None
    if heard:
        try:
            link = replay.find_link(result, (own or heard[0]).view.outputs)
        except ReplayError as error:
            exposure.why = str(error)
    if link is not None and own is not None and weights is not None:
        view = own.view
        if view.targets.requires_grad:
            raise ReplayError(f"the targets of {view.kind} depend on the model")
        function = patches.original(view.kind)
        view = dataclasses.replace(view, outputs=view.outputs.detach(), targets=copied(view.targets))
        exposure.examples = own.examples
        single = weights.dim() == 0
        return Batch(
            exposure.call,
            view=view,
            link=link,
            function=function,
            scale=_unscaled(loss, value, own.source) * (float(weights) if single else 1.0),
            value=value,
            weights=None if single else weights,
        )
    for slot, tensor in enumerate(flattened_tensors(result)):
        if tensor.numel() == 1 and tensor.grad_fn is not None:
            scale = replay.weights_in(loss, tensor.detach(), tensor.grad_fn, tensor.output_nr)
            if scale is not None:
                scale *= _unscaled(loss, value, tensor.grad_fn)
                return Batch(exposure.call, slot=slot, scale=float(scale), value=value)
    if not heard:
        raise ReplayError(f"none of torch's loss functions was seen ({', '.join(WATCHED[:3])}, ...)")
    if link is None:
        raise ReplayError(exposure.why)
    raise ReplayError(
        f"what was backwarded is more than one {heard[0].view.kind}: no multiple of it, or weighted sum of its losses"
    )


def _unscaled(loss: torch.Tensor, value: float, source: Any) -> float:
    """What takes a loss that a gradient scaler has multiplied back to its value; 1 without one.

    Raises:
        ReplayError: a loss of zero does not tell.
    """
    if loss.grad_fn is source:
        return 1.0
    if value == 0.0:
        raise ReplayError("a loss of exactly zero does not tell whether a gradient scaler has multiplied it")
    return value / float(loss.detach())
