"""Outputs of leaf modules: size, exact zeros, dead and saturated units, non-finite entries."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from typing import Any

import torch

from separatrix.probes._tensors import scaled_root_mean_square
from separatrix.runs.probe import ModuleView, Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec

MOST_ENTRIES = 1 << 20
"""Statistics come from the first examples of a batch where its output has more entries than this."""

WINDOW = 4
"""Sampled batches over which a unit must stay at zero to count as dead."""

_RECTIFIERS = (
    torch.nn.ReLU,
    torch.nn.ReLU6,
    torch.nn.Threshold,
    torch.nn.Hardshrink,
    torch.nn.Softshrink,
)
_RECTIFIER_NODES = ("ReluBackward", "HardtanhBackward", "ThresholdBackward", "ClampMinBackward", "ClampBackward")
_CONSUMERS = (torch.nn.Linear, torch.nn.modules.conv._ConvNd, torch.nn.modules.batchnorm._BatchNorm)
_SHAPING_NODES = (
    "ViewBackward",
    "UnsafeViewBackward",
    "ReshapeAliasBackward",
    "MaxPool",
    "TransposeBackward",
    "PermuteBackward",
    "CloneBackward",
    "ToCopyBackward",
)
_DROPOUT_NODES = ("NativeDropoutBackward", "MulBackward")
"""What is zero before them is zero after them, but bounds are not kept."""

_LONGEST_WALK = 6
_NODES_REMEMBERED = 1024

# Bounded activations: (lower bound, upper bound) of the output; None where the output has no such bound.
_BOUNDS: dict[type[torch.nn.Module], tuple[float, float]] = {
    torch.nn.Tanh: (-1.0, 1.0),
    torch.nn.Sigmoid: (0.0, 1.0),
    torch.nn.Softsign: (-1.0, 1.0),
    torch.nn.GRU: (-1.0, 1.0),
    torch.nn.LSTM: (-1.0, 1.0),
    torch.nn.GRUCell: (-1.0, 1.0),
    torch.nn.LSTMCell: (-1.0, 1.0),
}
_BOUNDED_NODES = {"TanhBackward": (-1.0, 1.0), "SigmoidBackward": (0.0, 1.0)}
_MARGIN = 0.005
"""Distance from a bound, in parts of the range, below which tanh and sigmoid keep under 2 % of their largest slope."""


def leading_part(tensor: torch.Tensor) -> torch.Tensor:
    """The first examples of a batch, at most MOST_ENTRIES entries, detached."""
    tensor = tensor.detach()
    if tensor.numel() > MOST_ENTRIES and tensor.dim() > 1:
        tensor = tensor[: max(1, MOST_ENTRIES * tensor.shape[0] // tensor.numel())]
    return tensor


def originating_node(tensor: torch.Tensor, transparent: tuple[str, ...]) -> Any:
    """The operation in the graph that made `tensor`, seen through those of `transparent` names; None for a leaf."""
    node = tensor.grad_fn
    for _ in range(_LONGEST_WALK):
        if node is None or not node.name().startswith(transparent) or not node.next_functions:
            return node
        node = node.next_functions[0][0]
    return None


def unit_dims(module: torch.nn.Module, tensor: torch.Tensor) -> tuple[int, ...]:
    """Dimensions of a module's tensor to reduce so that one entry a unit remains: channels of images, last dim else."""
    convolutional = isinstance(module, torch.nn.modules.conv._ConvNd | torch.nn.modules.batchnorm._BatchNorm)
    channel = 1 if tensor.dim() >= 4 or (convolutional and tensor.dim() >= 3) else tensor.dim() - 1
    return tuple(d for d in range(tensor.dim()) if d != channel)


def _dead_share(name: str, alive: torch.Tensor, state: dict[str, Any]) -> torch.Tensor:
    window = state.setdefault(name, collections.deque(maxlen=WINDOW))
    if window and window[0].shape != alive.shape:
        window.clear()
    window.append(alive)
    ever = torch.stack(tuple(window)).any(dim=0)
    return 1.0 - ever.float().mean()


def _functional_source(view: ModuleView, transparent: tuple[str, ...], state: dict[str, Any]) -> str:
    """Name of the operation behind a layer's input; empty where an activation module made it, which shows it itself."""
    # Numbers of the nodes that activation modules made: to keep the nodes would keep the user's graphs.
    by_modules = state.setdefault("nodes of modules", collections.deque(maxlen=_NODES_REMEMBERED))
    if view.output.grad_fn is not None and (isinstance(view.module, _RECTIFIERS) or type(view.module) in _BOUNDS):
        by_modules.append(view.output.grad_fn._sequence_nr())
    if view.input is None or not isinstance(view.module, _CONSUMERS):
        return ""
    node = originating_node(view.input, transparent)
    return "" if node is None or node._sequence_nr() in by_modules else str(node.name())


def _rectified_source(view: ModuleView, state: dict[str, Any]) -> torch.Tensor | None:
    """The tensor in which dead units show: a rectifier's output, or the input that a functional one gave a layer."""
    node = _functional_source(view, (*_SHAPING_NODES, *_DROPOUT_NODES), state)
    if isinstance(view.module, _RECTIFIERS):
        return view.output
    return view.input if node.startswith(_RECTIFIER_NODES) else None


def _bounded_source(view: ModuleView, state: dict[str, Any]) -> tuple[torch.Tensor, tuple[float, float]] | None:
    bounds = _BOUNDS.get(type(view.module))
    if bounds is not None:
        return view.output, bounds
    node = _functional_source(view, _SHAPING_NODES, state)
    for prefix, found in _BOUNDED_NODES.items():
        if node.startswith(prefix) and view.input is not None:
            return view.input, found
    return None


def measure_activations(view: ModuleView, state: dict[str, Any]) -> Iterator[Reading]:
    """Statistics of one leaf module's output; see the series for each."""
    output = view.output
    if not output.is_floating_point() or not output.numel():
        return
    part = leading_part(output)
    kind = torch.float32 if part.dtype in (torch.float16, torch.bfloat16) else None
    size = torch.linalg.vector_norm(part, dtype=kind) / part.numel() ** 0.5
    if part.device.type == "cpu" and not bool(torch.isfinite(size)):
        size = scaled_root_mean_square(part, part.numel())
    yield Reading("activation_rms", size)
    yield Reading("activation_mean", part.mean(dtype=kind))
    if part.device.type != "cpu" or not bool(torch.isfinite(size)):
        yield Reading("activation_nonfinite_share", (~torch.isfinite(part)).float().mean())
    else:
        yield Reading("activation_nonfinite_share", 0.0)
    rectified = _rectified_source(view, state)
    if rectified is not None:
        part = leading_part(rectified)
        nonzero = part != 0
        yield Reading("zero_share", 1.0 - nonzero.float().mean())
        if part.dim() > 1:
            alive = nonzero.any(dim=0) if part.dim() == 2 else nonzero.amax(dim=unit_dims(view.module, part))
            yield Reading("dead_unit_share", _dead_share(view.name, alive, state))
    else:
        yield Reading("zero_share", 1.0 - torch.count_nonzero(part) / part.numel())
    bounded = _bounded_source(view, state)
    if bounded is not None:
        source, (lower, upper) = bounded
        part = leading_part(source)
        centre, reach = (lower + upper) / 2, (upper - lower) / 2
        distance = (part - centre).abs_()
        yield Reading("saturation_share", (distance > reach * (1.0 - 2 * _MARGIN)).float().mean())


activations = Probe(
    name="activations",
    moment=Moment.MODULE,
    series=(
        SeriesSpec("activation_rms", ("module",), description="root mean square of the module's output"),
        SeriesSpec("activation_mean", ("module",), description="mean of the module's output"),
        SeriesSpec("zero_share", ("module",), description="share of exact zeros"),
        SeriesSpec(
            "dead_unit_share",
            ("module",),
            description=f"share of units at zero for every example of the last {WINDOW} sampled batches",
        ),
        SeriesSpec(
            "saturation_share",
            ("module",),
            description="share of entries so near a bound of tanh or sigmoid that under 2 % of the slope is left",
        ),
        SeriesSpec("activation_nonfinite_share", ("module",), description="share of entries that are not finite"),
    ),
    measure=measure_activations,
    description="size, zeros, dead and saturated units of each leaf module's output",
    priority=40,
)
