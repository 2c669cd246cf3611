"""Gradients as the optimizer finds them: size, non-finite entries, absence, and what an earlier step left behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from separatrix.probes._tensors import nonfinite_shares, root_mean_squares
from separatrix.runs.probe import Moment, ParameterView, Probe, Reading
from separatrix.runs.types import SeriesSpec


def _present(view: ParameterView) -> tuple[list[int], list[torch.Tensor], list[int]]:
    positions = [i for i, gradient in enumerate(view.gradients) if gradient is not None]
    gradients = [gradient for gradient in view.gradients if gradient is not None]
    counts = [view.parameters[i].numel() for i in positions]
    if not any(hasattr(g, "to_local") for g in gradients):
        return positions, gradients, counts
    return positions, gradients, [g.to_local().numel() if hasattr(g, "to_local") else g.numel() for g in gradients]


def measure_gradients(view: ParameterView, state: dict[str, Any]) -> Iterator[Reading]:
    """RMS and non-finite share of every gradient, and which parameters that want one have none."""
    positions, gradients, counts = _present(view)
    if gradients:
        magnitudes = root_mean_squares(gradients, counts)
        yield Reading("gradient_rms", magnitudes / view.scale, positions)
        yield Reading("nonfinite_share", nonfinite_shares(gradients, magnitudes), positions)
    wanting = [i for i, parameter in enumerate(view.parameters) if parameter.requires_grad]
    if wanting:
        absent = torch.tensor([float(view.gradients[i] is None) for i in wanting])
        yield Reading("gradient_absent", absent, wanting)


def measure_carryover(view: ParameterView, state: dict[str, Any]) -> Iterator[Reading]:
    """RMS of what `.grad` held before the first backward since the last step; zero where it held nothing."""
    positions, gradients, counts = _present(view)
    values = torch.zeros(len(view.parameters))
    if gradients:
        values[positions] = root_mean_squares(gradients, counts).to("cpu", torch.float32) / view.scale
    wanting = [i for i, parameter in enumerate(view.parameters) if parameter.requires_grad]
    if wanting:
        yield Reading("gradient_carryover", values[wanting], wanting)


gradients = Probe(
    name="gradients",
    moment=Moment.GRADIENT,
    series=(
        SeriesSpec("gradient_rms", ("parameter",), description="root mean square of the gradient the optimizer used"),
        SeriesSpec("nonfinite_share", ("parameter",), description="share of the gradient that is not finite"),
        SeriesSpec("gradient_absent", ("parameter",), description="1 where a parameter that wants a gradient has none"),
    ),
    measure=measure_gradients,
    description="size of each parameter's gradient, its non-finite entries and its absence",
    priority=10,
)

carryover = Probe(
    name="carryover",
    moment=Moment.CARRYOVER,
    series=(
        SeriesSpec(
            "gradient_carryover",
            ("parameter",),
            description="root mean square of what .grad held before the first backward since the last step",
        ),
    ),
    measure=measure_carryover,
    description="gradients left over from an earlier step, as when zero_grad is missing",
    priority=20,
)
