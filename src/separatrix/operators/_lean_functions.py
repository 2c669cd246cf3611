"""Autograd functions of convolution, ReLU and max pooling whose second derivatives leave zeros out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_aten = torch.ops.aten
Geometry = tuple[list[int], list[int], list[int], int]
"""Stride, padding, dilation and groups of a convolution."""
Window = tuple[list[int], list[int], list[int], list[int], bool]
"""Kernel, stride, padding, dilation and ceiling mode of a pooling."""

_CACHED = 1 << 20
"""Entries of a convolution's output that are computed at a time where pooling follows."""


class Selection(NamedTuple):
    """What pooling took of a rectified convolution (n, c, h, w): places in its planes, and the entries themselves."""

    places: Tensor
    entries: Tensor
    window: Window
    shape: torch.Size


class Relu(torch.autograd.Function):
    """The gradient depends on the output by its sign only, whose derivative is 0: the output is detached."""

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        output: Tensor = _aten.relu(input)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (output,) = ctx.saved_tensors
        return _aten.threshold_backward(gradient, output.detach(), 0)


class Pooling(torch.autograd.Function):
    """The gradient depends on the input by the places of the largest entries only: the input is detached."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, window: Window) -> Tensor:
        output: Tensor
        output, places = _aten.max_pool2d_with_indices(input, *window)
        ctx.save_for_backward(input, places)
        ctx.window = window
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        input, places = ctx.saved_tensors
        return _aten.max_pool2d_with_indices_backward(gradient, input.detach(), *ctx.window, places), None


class Convolution(torch.autograd.Function):
    """A convolution, or with a selection what pooling took of it."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        selection: Selection | None,
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.geometry, ctx.selection = geometry, selection
        if selection is not None:
            # another tensor than what the slope is taken of: the caller may change it in place
            return selection.entries.clone()
        return _convolved(input, weight, bias, geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        input, weight = ctx.saved_tensors
        wanted = tuple(ctx.needs_input_grad[:3])
        take = ConvolutionGradients.apply if torch.is_grad_enabled() else _gradients
        return (*take(gradient, input, weight, ctx.geometry, ctx.selection, wanted), None, None)


class ConvolutionGradients(torch.autograd.Function):
    """Bilinear in (gradient, weight) and in (gradient, input), so that its derivatives are convolutions again."""

    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        input: Tensor,
        weight: Tensor,
        geometry: Geometry,
        selection: Selection | None,
        wanted: tuple[bool, bool, bool],
    ) -> Any:
        ctx.save_for_backward(gradient, input, weight)
        ctx.geometry, ctx.selection = geometry, selection
        ctx.set_materialize_grads(False)
        return _gradients(gradient, input, weight, geometry, selection, wanted)

    @staticmethod
    def backward(ctx: Any, by_input: Tensor | None, by_weight: Tensor | None, by_bias: Tensor | None) -> Any:
        gradient, input, weight = ctx.saved_tensors
        geometry, selection = ctx.geometry, ctx.selection
        _, through_input, through_weight = ctx.needs_input_grad[:3]
        along = _along(by_input, by_weight, by_bias, input, weight, geometry, selection)
        asked: list[Any] = [
            None if by_weight is None or not through_input else (input, by_weight, (True, False, False)),
            None if by_input is None or not through_weight else (by_input, weight, (False, True, False)),
        ]
        (back, _, _), (_, turned, _) = _gradients_of(gradient, asked, geometry, selection)
        return along, back, turned, None, None, None


def _along(
    by_input: Tensor | None,
    by_weight: Tensor | None,
    by_bias: Tensor | None,
    input: Tensor,
    weight: Tensor,
    geometry: Geometry,
    selection: Selection | None,
) -> Tensor | None:
    """The derivative in the gradient of the output."""
    if by_weight is None and by_bias is not None:
        by_weight = torch.zeros_like(weight)
    if by_input is None and by_weight is None:
        return None
    found = []
    for part in _parts(selection):
        summands = []
        if by_weight is not None:
            summands.append(_convolved(input[part], by_weight, by_bias, geometry))
        if by_input is not None:
            summands.append(_convolved(by_input[part], weight, None, geometry))
        output = sum(summands[1:], summands[0])
        found.append(output if selection is None else _taken(output, selection, part))
    return _joined(found)


def _convolved(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    stride, padding, dilation, groups = geometry
    output: Tensor = _aten.convolution(input, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)
    return output


def _gradients(
    gradient: Tensor,
    input: Tensor,
    weight: Tensor,
    geometry: Geometry,
    selection: Selection | None,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    return _gradients_of(gradient, [(input, weight, wanted)], geometry, selection)[0]


def _gradients_of(
    gradient: Tensor,
    asked: Sequence[tuple[Tensor, Tensor, tuple[bool, bool, bool]] | None],
    geometry: Geometry,
    selection: Selection | None,
) -> list[tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """For one gradient of the output and each (input, weight, wanted): gradients of input, weight and bias."""
    stride, padding, dilation, groups = geometry
    parts: list[list[tuple[Tensor | None, ...]]] = [[] for _ in asked]
    sliced = _parts(selection) if any(asked) else []
    like = None if selection is None or not sliced else _like(selection, len(selection.places[sliced[0]]))
    for part in sliced:
        slope = gradient if selection is None or like is None else _spread(gradient[part], selection, part, like)
        for found, each in zip(parts, asked, strict=True):
            if each is not None:
                input, weight, wanted = each
                found.append(
                    _aten.convolution_backward(
                        *(slope, input[part], weight, [len(weight)], stride, padding, dilation),
                        *(False, [0] * len(stride), groups, list(wanted)),
                    )
                )
    return [_together(found) for found in parts]


def _together(parts: Sequence[tuple[Tensor | None, ...]]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias of all examples, of those of parts; None for what was not asked."""
    inputs, weights, biases = ([each for part in parts if (each := part[i]) is not None] for i in range(3))
    return (
        _joined(inputs) if inputs else None,
        sum(weights[1:], weights[0]) if weights else None,
        sum(biases[1:], biases[0]) if biases else None,
    )


def _joined(parts: list[Tensor]) -> Tensor:
    """All examples of parts (n, c, h, w), in their memory layout."""
    if len(parts) == 1:
        return parts[0]
    if parts[0].is_contiguous():
        return torch.cat(parts)
    return torch.cat([part.permute(0, 2, 3, 1) for part in parts]).permute(0, 3, 1, 2)


def _parts(selection: Selection | None) -> list[slice]:
    """The examples that are computed at a time."""
    if selection is None:
        return [slice(None)]
    n, each = selection.shape[0], selection.shape[1:].numel()
    step = max(1, _CACHED // each)
    return [slice(start, start + step) for start in range(0, n, step)]


def _spread(gradient: Tensor, selection: Selection, part: slice, like: Tensor) -> Tensor:
    """The gradient of some examples at the places that pooling took, where ReLU let them through; else zeros."""
    places, entries = selection.places[part], selection.entries[part]
    if not places.is_contiguous():
        gradient = gradient.contiguous(memory_format=torch.channels_last)
    gradient = _aten.threshold_backward(gradient, entries, 0)
    spread: Tensor = _aten.max_pool2d_with_indices_backward(gradient, like[: len(places)], *selection.window, places)
    return spread


def _like(selection: Selection, examples: int) -> Tensor:
    """Images of the shape and layout of the convolution's output, whose entries nobody reads."""
    memory = torch.contiguous_format if selection.places.is_contiguous() else torch.channels_last
    return torch.empty(examples, *selection.shape[1:], dtype=selection.entries.dtype, memory_format=memory)


def _taken(images: Tensor, selection: Selection, part: slice) -> Tensor:
    """Entries of some examples' images at the places that pooling took, where ReLU let them through; else zero."""
    places, entries = selection.places[part], selection.entries[part]
    n, channels, height, width = places.shape
    if places.is_contiguous():
        flat = images.reshape(n, channels, -1).gather(2, places.reshape(n, channels, -1)).view(places.shape)
    else:
        rows, places = (each.permute(0, 2, 3, 1).reshape(n, -1, channels) for each in (images, places))
        flat = rows.gather(1, places).view(n, height, width, channels).permute(0, 3, 1, 2)
    taken: Tensor = _aten.threshold_backward(flat, entries, 0)
    return taken
