"""What is fed to the model: location and spread of the outermost forward's inputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from separatrix.probes.activations import leading_part
from separatrix.runs.probe import InputView, Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec


def measure_inputs(view: InputView, state: dict[str, Any]) -> Iterator[Reading]:
    """Batch size, mode of the model, and mean and standard deviation of the first input that holds numbers."""
    yield Reading("training_mode", float(view.training))
    batched = next((t for t in view.tensors if t.dim() > 0), None)
    if batched is not None:
        yield Reading("batch_size", float(batched.shape[0]))
    numeric = next((t for t in view.tensors if t.is_floating_point() and t.dim() > 0 and t.numel()), None)
    if numeric is None:
        return
    part = leading_part(numeric)
    part = part.float() if part.dtype in (torch.float16, torch.bfloat16) else part
    spread, mean = torch.std_mean(part, correction=0)
    yield Reading("input_mean", mean)
    yield Reading("input_std", spread)
    if part.dim() == 2 and part.shape[0] > 1 and part.shape[1] > 1:
        spreads = part.std(dim=0, correction=0)
        largest = spreads.max()
        smallest = torch.where(spreads > 0, spreads, largest).min()
        yield Reading("input_feature_std_ratio", torch.where(smallest > 0, largest / smallest, 1.0))


inputs = Probe(
    name="inputs",
    moment=Moment.INPUT,
    series=(
        SeriesSpec("batch_size", units="examples", description="examples in the outermost forward"),
        SeriesSpec("training_mode", description="1 where the model was in training mode while training"),
        SeriesSpec("input_mean", units="input", description="mean over all entries of the first numeric input"),
        SeriesSpec("input_std", units="input", description="standard deviation over all entries of that input"),
        SeriesSpec(
            "input_feature_std_ratio",
            description="largest over smallest non-zero standard deviation of an input feature, for tabular inputs",
        ),
    ),
    measure=measure_inputs,
    description="batch size, mode, and location and spread of the model's input",
    priority=5,
)
