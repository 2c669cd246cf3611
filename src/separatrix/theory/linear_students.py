"""Linear students of squared errors, trained side by side by `separatrix.tasks.ensemble`, each on data of its own."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from separatrix.tasks import ensemble


def students(start: Float[Tensor, "copies inputs outputs"]) -> ensemble.Ensemble:
    """Layers without bias that have these first weights."""
    _, inputs, outputs = start.shape
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False, dtype=start.dtype)  # type: ignore[no-untyped-call]
    return ensemble.from_values(layer, {"weight": start.mT})


def learnt(now: ensemble.Ensemble) -> Float[Tensor, "copies inputs outputs"]:
    """Weights of the students, to be measured while they train."""
    return now.named()["weight"].mT


def half_squares(outputs: Float[Tensor, "n outputs"], targets: Float[Tensor, "n outputs"]) -> Float[Tensor, ""]:
    """Half the squared error, a sum over outputs and a mean over examples."""
    return 0.5 * outputs.shape[1] * nn.functional.mse_loss(outputs, targets)


def compressed(
    inputs: Float[Tensor, "copies n inputs"], targets: Float[Tensor, "copies n outputs"]
) -> tuple[Float[Tensor, "copies rows inputs"], Float[Tensor, "copies rows outputs"]]:
    """No more examples than inputs, with the same mean squared error but for a constant: gradients are the same."""
    count, size = inputs.shape[1:]
    if count <= size:
        return inputs, targets
    frame, rows = torch.linalg.qr(inputs)
    scale = math.sqrt(size / count)
    return scale * rows, scale * (frame.mT @ targets)
