"""What is kept of a loss of known examples until its step is over, and how its rows are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping

import numpy as np
import torch

from separatrix.record.batches import Match
from separatrix.record.origins import Origin
from separatrix.runs.probe import LossView


@dataclasses.dataclass
class Found:
    """Whose losses the rows of a loss function are. Two of one `batch` are of the same fetched examples."""

    origin: Origin
    key: Hashable
    positions: np.ndarray
    batch: object
    match: Match | None = None

    def same_examples(self, other: Found) -> bool:
        """Whether both are of one and the same fetched examples, or some of them."""
        if self.match is not None and other.match is not None:
            return self.match.overlaps(other.match)
        return self.batch is other.batch


@dataclasses.dataclass
class Staged:
    """What was read of a loss in the step going on; `values` is None where it turned out that it does not count."""

    outputs: torch.Tensor
    targets: torch.Tensor
    kind: str
    found: Found | None
    values: Mapping[str, np.ndarray] | None


def on_host(values: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The values as arrays; of an accelerator in one transfer, in single precision."""
    if all(tensor.device.type == "cpu" for tensor in values.values()):
        return {name: tensor.double().numpy() for name, tensor in values.items()}
    table = torch.stack([tensor.float() for tensor in values.values()]).cpu().double().numpy()
    return dict(zip(values, table, strict=True))


def by_rows(view: LossView) -> LossView | str:
    """The view with a row an example, detached from the graph; or why it has none."""
    outputs, targets = view.outputs.detach(), view.targets.detach()
    classes = view.kind in ("cross_entropy", "nll_loss")
    if outputs.dim() == 0 or (classes and outputs.dim() == 1):
        outputs, targets = outputs[None], targets[None]
    if not outputs.shape[0]:
        return "a batch is empty"
    if classes and targets.shape != outputs.shape:
        fits = targets.shape == (outputs.shape[0], *outputs.shape[2:])
    else:
        fits = targets.shape == outputs.shape
    if not fits:
        return "the outputs and targets of the loss have different shapes"
    return LossView(view.kind, outputs, targets, view.options)


def same_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors show the same numbers, as views do."""
    return one is other or (one.numel() == other.numel() and bool(one.numel()) and one.data_ptr() == other.data_ptr())
