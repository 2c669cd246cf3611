"""Targets drawn from the distribution that a loss stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from separatrix.operators.errors import OperatorUsageError

Sampler = Callable[[Tensor, torch.Generator], Tensor]


def sampler(loss: Any) -> Sampler:
    """The sampler of a loss: cross-entropy, mean squared error or BCE with logits, each with its defaults.

    An entry's squared error is -log of a normal density with variance 1 / 2, up to a constant.

    Raises:
        OperatorUsageError: another loss, or one with weights, label smoothing or another reduction.
    """
    if loss is F.cross_entropy or (isinstance(loss, nn.CrossEntropyLoss) and _plain(loss)):
        return _categories
    if loss is F.mse_loss or (isinstance(loss, nn.MSELoss) and _plain(loss)):
        return _normals
    if loss is F.binary_cross_entropy_with_logits or (isinstance(loss, nn.BCEWithLogitsLoss) and _plain(loss)):
        return _bits
    raise OperatorUsageError(
        f"the distribution behind the loss {getattr(loss, '__name__', type(loss).__name__)!r} is not known: pass"
        " sample_targets=, or torch's cross_entropy, mse_loss or binary_cross_entropy_with_logits without weights"
    )


def _plain(loss: Any) -> bool:
    weighted = getattr(loss, "weight", None) is not None or getattr(loss, "pos_weight", None) is not None
    return not weighted and not getattr(loss, "label_smoothing", 0.0) and loss.reduction == "mean"


def _categories(outputs: Tensor, generator: torch.Generator) -> Tensor:
    probabilities = outputs.movedim(1, -1).softmax(-1)
    drawn = torch.multinomial(probabilities.flatten(0, -2), 1, replacement=True, generator=generator)
    return drawn.reshape(probabilities.shape[:-1])


def _normals(outputs: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(outputs.shape, generator=generator, dtype=outputs.dtype, device=outputs.device)
    return outputs + noise / 2**0.5


def _bits(outputs: Tensor, generator: torch.Generator) -> Tensor:
    return torch.bernoulli(outputs.sigmoid(), generator=generator)
