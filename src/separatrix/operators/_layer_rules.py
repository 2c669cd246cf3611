"""How the gradient of a parameter follows from the gradient of the output of the function that used it.

One rule a torch function, looked up by the function that modules call in the end, so that a layer, a fused block and
hand-written code are seen alike. The gradient arrives as (c, *output shape), c cotangents; `arrange` brings leading
axes to (examples, positions).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from separatrix.operators._patches import patches, picked_patches, strips
from separatrix.operators._terms import Lookup, Outer, Plain, Terms

Arrange = Callable[[Tensor, int], Tensor]
"""(c, *lead, *features) and the number of leading axes -> (c, examples, positions, *features)."""


@dataclasses.dataclass(frozen=True)
class Local:
    """What one call does to one of its tensors.

    `lead` brings the gradient to (c, *lead, *features); the examples are among the first `axes` leading axes; `terms`
    makes the gradient of `tensor` from that. Where the output can be a table without examples, broadcast later, `chain`
    takes the gradient of that output for each example (c, n, *output shape flattened) to that of `tensor`.
    """

    tensor: Tensor
    axes: int
    lead: Callable[[Tensor], Tensor]
    terms: Callable[[Tensor, Arrange], Terms]
    chain: Callable[[Tensor], Terms] | None = None
    picking: Picking | None = None


@dataclasses.dataclass(frozen=True)
class Picking:
    """How a call is taken of whose output only some entries are read on: the gradient is then that of what was read.

    `local` makes it from their places in space and whether their gradients are let through (n, channels, positions);
    `columns` numbers are copied for each entry.
    """

    columns: int
    local: Callable[[Tensor, Tensor | None], Local]


def _same(gradient: Tensor) -> Tensor:
    return gradient


def _channels_last(gradient: Tensor) -> Tensor:
    return gradient.movedim(2, -1)


def _plain(tensor: Tensor, axes: int, lead: Callable[[Tensor], Tensor], factor: Tensor | None = None) -> Local:
    """Gradient summed over positions, times `factor` (*output shape) where given; one feature axis."""

    def terms(gradient: Tensor, arrange: Arrange) -> Terms:
        scaled = gradient if factor is None else gradient * lead(factor[None])
        arranged = arrange(scaled, scaled.ndim - 2)
        return Plain(arranged.squeeze(2) if arranged.shape[2] == 1 else arranged.sum(2))

    return Local(tensor, axes, lead, terms)


def _linear(output: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> list[Local]:
    axes = input.ndim - 1

    def terms(gradient: Tensor, arrange: Arrange) -> Terms:
        left, right = arrange(gradient, axes), arrange(input[None], axes)
        return Outer(left.unsqueeze(-2), right.unsqueeze(-2), right.shape[-1])

    uses = [Local(weight, axes, _same, terms)]
    return uses if bias is None else [*uses, _plain(bias, axes, _same)]


def _matmul(output: Tensor, input: Tensor, other: Tensor) -> list[Local]:
    if other.ndim != 2 or input.ndim < 2:
        return []
    axes = input.ndim - 1

    def terms(gradient: Tensor, arrange: Arrange) -> Terms:
        left, right = arrange(input[None], axes), arrange(gradient, axes)
        return Outer(left.unsqueeze(-2), right.unsqueeze(-2), right.shape[-1], varies=(False, True))

    return [Local(other, axes, _same, terms)]


def _tuple(value: Any, dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value) * (dims if len(value) == 1 else 1)


def _convolution(
    output: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> list[Local]:
    kernel = tuple(weight.shape[2:])
    dims = len(kernel)
    if input.ndim != dims + 2:
        return []
    strides, dilations = _tuple(stride, dims), _tuple(dilation, dims)
    if padding == "same":
        reach = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        sides = [width for total in reversed(reach) for width in (total // 2, total - total // 2)]
        input, padding = F.pad(input, sides), 0
    paddings = _tuple(0 if isinstance(padding, str) else padding, dims)
    columns = weight[0].numel()

    def expand(block: Tensor) -> Tensor:
        n = block.shape[1]
        unfolded = patches(block[0].flatten(0, 1), kernel, strides, paddings, dilations, groups)
        return unfolded.reshape(1, n, -1, groups, columns)

    def in_strips(block: Tensor) -> Iterator[Tensor]:
        return (strip[None] for strip in strips(block[0].flatten(0, 1), kernel, paddings, dilations))

    def lead(gradient: Tensor) -> Tensor:
        return gradient.flatten(3).transpose(2, 3)

    def terms(gradient: Tensor, arrange: Arrange) -> Terms:
        left, right = arrange(gradient, 2), arrange(input[None], 1)
        left = left.reshape(*left.shape[:-1], groups, -1)
        simple = dims == 2 and groups == 1 and strides == (1, 1) and right.shape[2] == 1
        last = (
            simple
            and kernel[0] > 1
            and len(weight[0]) >= 8
            and right[0, :, 0].is_contiguous(memory_format=torch.channels_last)
        )
        return Outer(left, right, columns, expand, strips=in_strips if last else None)

    def picked(places: Tensor, passes: Tensor | None) -> Local:
        right = picked_patches(input, places, passes, kernel, strides, paddings, dilations)

        def terms(gradient: Tensor, arrange: Arrange) -> Terms:
            return Outer(arrange(gradient, 2).unsqueeze(-1), arrange(right[None], 2), columns)

        return Local(weight, 1, lead, terms)

    if groups > 1:
        uses = [Local(weight, 1, lead, terms)]
        return uses if bias is None else [*uses, _plain(bias, 1, lead)]
    uses = [Local(weight, 1, lead, terms, picking=Picking(columns, picked))]
    if bias is None:
        return uses
    shift = _plain(bias, 1, lead)
    picking = Picking(columns, lambda _, passes: _plain(shift.tensor, 1, lead, passes))
    return [*uses, dataclasses.replace(shift, picking=picking)]


def _embedding(
    output: Tensor,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> list[Local]:
    if max_norm is not None or scale_grad_by_freq:
        return []
    axes = input.ndim

    def terms(gradient: Tensor, arrange: Arrange) -> Terms:
        if padding_idx is not None:
            gradient = gradient * (input != padding_idx % len(weight)).unsqueeze(-1)
        return Lookup(arrange(input[None], axes), arrange(gradient, axes), len(weight))

    def chain(values: Tensor) -> Terms:
        index, rows = input.reshape(1, 1, -1), values.reshape(*values.shape[:2], -1, weight.shape[1])
        if padding_idx is not None:
            rows = rows * (index != padding_idx % len(weight)).unsqueeze(-1)
        return Lookup(index.expand(1, values.shape[1], -1), rows, len(weight))

    return [Local(weight, axes, _same, terms, chain)]


def _trailing_norm(normalized: Tensor, axes: int, weight: Tensor | None, bias: Tensor | None) -> list[Local]:
    def lead(gradient: Tensor) -> Tensor:
        return gradient.flatten(1 + axes)

    uses = [] if weight is None else [_plain(weight, axes, lead, normalized)]
    return uses if bias is None else [*uses, _plain(bias, axes, lead)]


def _layer_norm(
    output: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> list[Local]:
    normalized = F.layer_norm(input, normalized_shape, None, None, eps)
    return _trailing_norm(normalized, input.ndim - len(normalized_shape), weight, bias)


def _rms_norm(
    output: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> list[Local]:
    normalized = F.rms_norm(input, normalized_shape, None, eps)
    return _trailing_norm(normalized, input.ndim - len(normalized_shape), weight, None)


def _channel_norm(normalized: Tensor, weight: Tensor | None, bias: Tensor | None) -> list[Local]:
    uses = [] if weight is None else [_plain(weight, 1, _channels_last, normalized)]
    return uses if bias is None else [*uses, _plain(bias, 1, _channels_last)]


def _group_norm(
    output: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> list[Local]:
    return _channel_norm(F.group_norm(input, num_groups, None, None, eps), weight, bias)


def _batch_norm(
    output: Tensor,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> list[Local]:
    if training or running_mean is None or running_var is None:
        return []
    return _channel_norm(F.batch_norm(input, running_mean, running_var, None, None, False, 0.0, eps), weight, bias)


def _instance_norm(
    output: Tensor,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> list[Local]:
    if running_mean is not None:
        return []
    return _channel_norm(F.instance_norm(input, eps=eps), weight, bias)


def _prelu(output: Tensor, input: Tensor, weight: Tensor) -> list[Local]:
    below = input.clamp(max=0)
    if weight.numel() == 1:
        return _broadcast(output, weight, below)
    return [_plain(weight, 1, _channels_last, below)] if input.ndim > 1 else []


def _broadcast(output: Tensor, tensor: Tensor, factor: Tensor | None = None, sign: int = 1) -> list[Local]:
    """A tensor broadcast to the output's shape, and multiplied with `factor` where given."""
    shape = list(tensor.shape)
    while shape and shape[0] == 1:
        shape.pop(0)
    axes = output.ndim - len(shape)
    if axes < 1:
        return []
    summed = [axis for axis, size in enumerate(shape, start=3) if size == 1]

    def terms(gradient: Tensor, arrange: Arrange) -> Terms:
        scaled = sign * gradient if factor is None else gradient * (sign * factor)
        arranged = arrange(scaled, axes).unsqueeze(-1)
        return Plain((arranged.sum(summed, keepdim=True) if summed else arranged).sum(2).flatten(2))

    return [Local(tensor, axes, _same, terms)]


def _add(output: Tensor, input: Any, other: Any) -> list[Local]:
    return [use for side in (input, other) if isinstance(side, Tensor) for use in _broadcast(output, side)]


def _sub(output: Tensor, input: Any, other: Any) -> list[Local]:
    signed = [(side, sign) for side, sign in ((input, 1), (other, -1)) if isinstance(side, Tensor)]
    return [use for side, sign in signed for use in _broadcast(output, side, sign=sign)]


def _mul(output: Tensor, input: Any, other: Any) -> list[Local]:
    pairs = [(side, factor) for side, factor in ((input, other), (other, input)) if isinstance(side, Tensor)]
    return [use for side, factor in pairs for use in _broadcast(output, side, _factor(factor, output))]


def _factor(value: Any, output: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=output.dtype, device=output.device)


def _expand(output: Tensor, input: Tensor, *sizes: Any, **named: Any) -> list[Local]:
    return _broadcast(output, input)


EXPANSIONS: frozenset[Callable[..., Any]] = frozenset(
    {Tensor.expand, Tensor.expand_as, torch.broadcast_to, Tensor.broadcast_to}
)
"""Functions whose result is a view of their input, larger than it."""

RULES: dict[Callable[..., Any], Callable[..., list[Local]]] = {
    F.linear: _linear,
    F.conv1d: _convolution,
    F.conv2d: _convolution,
    F.conv3d: _convolution,
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    torch.prelu: _prelu,
    **dict.fromkeys((torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__), _matmul),
    **dict.fromkeys((torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__), _add),
    **dict.fromkeys((torch.sub, Tensor.sub, Tensor.__sub__), _sub),
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), _mul),
    **dict.fromkeys(EXPANSIONS, _expand),
}
"""The rule of each function: (output, *arguments) -> uses; none where the call has no structure of use here."""
