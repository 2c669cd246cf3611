"""Convolution, ReLU and max pooling on the CPU with second derivatives that cost what they must.

torch takes the weight gradient of a convolution's second derivative by a convolution whose kernel is a whole image, and
the gradient of an input whether it is wanted or not; for ReLU and pooling it makes tensors of zeros and adds them. The
functions here compute the same from the kernels of the first derivative and leave zeros out. A convolution, ReLU and
max pooling in a row are one function, and its images go through the processor's cache a few examples at a time: what
pooling drops is never in memory (measured on a small convolutional net: a Hessian product in 0.4 to 0.65 of the time).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from separatrix.operators._weight_norm import PlainWeightNorm

_aten = torch.ops.aten
Geometry = tuple[list[int], list[int], list[int], int]
"""Stride, padding, dilation and groups of a convolution."""
Window = tuple[list[int], list[int], list[int], list[int], bool]
"""Kernel, stride, padding, dilation and ceiling mode of a pooling."""

_CACHED = 1 << 20
"""Entries of a convolution's output that are computed at a time where pooling follows."""


class _Selection(NamedTuple):
    """What pooling took of a rectified convolution (n, c, h, w): places in its planes, and the entries themselves."""

    places: Tensor
    entries: Tensor
    window: Window
    shape: torch.Size


class _Source(NamedTuple):
    """The convolution that made a tensor, perhaps with ReLU after it, and the versions of what it was made of."""

    arguments: tuple[Tensor, Tensor, Tensor | None, Geometry]
    versions: tuple[int, ...]
    rectified: bool


_Sources = MutableMapping[Tensor, _Source]


@contextlib.contextmanager
def lean_second_derivatives(wanted: bool = True) -> Iterator[None]:
    """Calls of F.conv1d to conv3d, relu and F.max_pool2d inside are replaced where nothing but their cost changes.

    Not `wanted` where a product is over few of the parameters: a layer's gradients then come all or none. Weight
    normalisation is replaced in any case: its second derivative is wrong in torch.
    """
    with PlainWeightNorm(), _Replacing() if wanted else contextlib.nullcontext():
        yield


def is_lean(node: Any) -> bool:
    """Whether a graph's node belongs to one of the functions here."""
    return getattr(node, "_forward_cls", None) in _LEAN


class _Replacing(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.sources: _Sources = WeakIdKeyDictionary()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        replacement = _REPLACEMENTS.get(func)
        if replacement is not None and torch.is_grad_enabled() and not _watched():
            output = replacement(self.sources, *args, **(kwargs or {}))
            if output is not None:
                return output
        return func(*args, **(kwargs or {}))


def _watched() -> bool:
    """Whether someone would see which tensors are saved (checkpoints), or transforms the functions."""
    return bool(
        torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._autograd._top_saved_tensors_default_hooks(False) is not None
    )


def _plain(*tensors: Tensor) -> bool:
    """Dense tensors of torch's own class on the CPU in full precision, some with a gradient."""
    return any(tensor.requires_grad for tensor in tensors) and all(
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and tensor.dtype in (torch.float32, torch.float64)
        for tensor in tensors
    )


def _convolve(
    sources: _Sources,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor | None:
    dims = weight.ndim - 2
    if padding == "same" or input.ndim != dims + 2 or not _plain(input, weight, *([] if bias is None else [bias])):
        return None
    sides = 0 if isinstance(padding, str) else padding
    geometry = (_tuple(stride, dims), _tuple(sides, dims), _tuple(dilation, dims), groups)
    output: Tensor = _Convolution.apply(input, weight, bias, geometry, None)  # type: ignore[no-untyped-call]
    arguments = (input, weight, bias, geometry)
    sources[output] = _Source(arguments, _versions(arguments), rectified=False)
    return output


def _rectify(sources: _Sources, input: Tensor, inplace: bool = False) -> Tensor | None:
    if inplace or not _plain(input):
        return None
    output: Tensor = _Relu.apply(input)  # type: ignore[no-untyped-call]
    source = _source(sources, input, rectified=False)
    if source is not None:
        sources[output] = source._replace(rectified=True)
    return output


def _pool(
    sources: _Sources,
    input: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | None:
    if return_indices or input.ndim != 4 or not _plain(input):
        return None
    steps = kernel_size if stride is None else stride
    window = (_tuple(kernel_size, 2), _tuple(steps, 2), _tuple(padding, 2), _tuple(dilation, 2), ceil_mode)
    source = _source(sources, input, rectified=True)
    if source is None:
        return _Pooling.apply(input, window)  # type: ignore[no-untyped-call,no-any-return]
    entries, places = _aten.max_pool2d_with_indices(input.detach(), *window)
    selection = _Selection(places, entries, window, input.shape)
    return _Convolution.apply(*source.arguments, selection)  # type: ignore[no-untyped-call,no-any-return]


def _source(sources: _Sources, tensor: Tensor, *, rectified: bool) -> _Source | None:
    """The convolution that made a tensor, where nothing has been changed in place since."""
    source = sources.get(tensor)
    if source is None or source.rectified is not rectified or tensor._version:
        return None
    return source if source.versions == _versions(source.arguments) else None


def _versions(arguments: Sequence[Any]) -> tuple[int, ...]:
    return tuple(tensor._version for tensor in arguments if isinstance(tensor, Tensor))


def _tuple(value: int | Sequence[int], dims: int) -> list[int]:
    return [value] * dims if isinstance(value, int) else list(value) * (dims if len(value) == 1 else 1)


_REPLACEMENTS: dict[Any, Callable[..., Tensor | None]] = {
    F.conv1d: _convolve,
    F.conv2d: _convolve,
    F.conv3d: _convolve,
    F.relu: _rectify,
    torch.relu: _rectify,
    Tensor.relu: _rectify,
    F.max_pool2d: _pool,
}
"""What is called instead of a function, the sources of tensors first; None where the arguments are not covered."""


class _Relu(torch.autograd.Function):
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


class _Pooling(torch.autograd.Function):
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


class _Convolution(torch.autograd.Function):
    """A convolution, or with a selection what pooling took of it."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: Geometry,
        selection: _Selection | None,
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
        take = _ConvolutionGradients.apply if torch.is_grad_enabled() else _gradients
        return (*take(gradient, input, weight, ctx.geometry, ctx.selection, wanted), None, None)


class _ConvolutionGradients(torch.autograd.Function):
    """Bilinear in (gradient, weight) and in (gradient, input), so that its derivatives are convolutions again."""

    @staticmethod
    def forward(
        ctx: Any,
        gradient: Tensor,
        input: Tensor,
        weight: Tensor,
        geometry: Geometry,
        selection: _Selection | None,
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
    selection: _Selection | None,
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
    selection: _Selection | None,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    return _gradients_of(gradient, [(input, weight, wanted)], geometry, selection)[0]


def _gradients_of(
    gradient: Tensor,
    asked: Sequence[tuple[Tensor, Tensor, tuple[bool, bool, bool]] | None],
    geometry: Geometry,
    selection: _Selection | None,
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


def _parts(selection: _Selection | None) -> list[slice]:
    """The examples that are computed at a time."""
    if selection is None:
        return [slice(None)]
    n, each = selection.shape[0], selection.shape[1:].numel()
    step = max(1, _CACHED // each)
    return [slice(start, start + step) for start in range(0, n, step)]


def _spread(gradient: Tensor, selection: _Selection, part: slice, like: Tensor) -> Tensor:
    """The gradient of some examples at the places that pooling took, where ReLU let them through; else zeros."""
    places, entries = selection.places[part], selection.entries[part]
    if not places.is_contiguous():
        gradient = gradient.contiguous(memory_format=torch.channels_last)
    gradient = _aten.threshold_backward(gradient, entries, 0)
    spread: Tensor = _aten.max_pool2d_with_indices_backward(gradient, like[: len(places)], *selection.window, places)
    return spread


def _like(selection: _Selection, examples: int) -> Tensor:
    """Images of the shape and layout of the convolution's output, whose entries nobody reads."""
    memory = torch.contiguous_format if selection.places.is_contiguous() else torch.channels_last
    return torch.empty(examples, *selection.shape[1:], dtype=selection.entries.dtype, memory_format=memory)


def _taken(images: Tensor, selection: _Selection, part: slice) -> Tensor:
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


_LEAN = (_Convolution, _ConvolutionGradients, _Relu, _Pooling)
