"""Convolution, ReLU and max pooling on the CPU with second derivatives that cost what they must.

torch takes the weight gradient of a convolution's second derivative by a convolution whose kernel is a whole image, and
the gradient of an input whether it is wanted or not; for ReLU and pooling it makes tensors of zeros and adds them. The
functions here compute the same from the kernels of the first derivative and leave zeros out (measured on a small
convolutional net: a Hessian product in 0.65 of the time).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_aten = torch.ops.aten
Geometry = tuple[list[int], list[int], list[int], int]
"""Stride, padding, dilation and groups of a convolution."""
Window = tuple[list[int], list[int], list[int], list[int], bool]
"""Kernel, stride, padding, dilation and ceiling mode of a pooling."""


@contextlib.contextmanager
def lean_second_derivatives(wanted: bool = True) -> Iterator[None]:
    """Calls of F.conv1d to conv3d, relu and F.max_pool2d inside are replaced where nothing but their cost changes.

    Not `wanted` where a product is over few of the parameters: a layer's gradients then come all or none.
    """
    with _Replacing() if wanted else contextlib.nullcontext():
        yield


def is_lean(node: Any) -> bool:
    """Whether a graph's node belongs to one of the functions here."""
    return getattr(node, "_forward_cls", None) in (_Convolution, _ConvolutionGradients, _Relu, _Pooling)


class _Replacing(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        replacement = _REPLACEMENTS.get(func)
        if replacement is not None and torch.is_grad_enabled() and not _watched():
            output = replacement(*args, **(kwargs or {}))
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
    output: Tensor = _Convolution.apply(input, weight, bias, geometry)  # type: ignore[no-untyped-call]
    return output


def _rectify(input: Tensor, inplace: bool = False) -> Tensor | None:
    output: Tensor | None = None if inplace or not _plain(input) else _Relu.apply(input)  # type: ignore[no-untyped-call]
    return output


def _pool(
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
    output: Tensor = _Pooling.apply(input, window)  # type: ignore[no-untyped-call]
    return output


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
"""What is called instead of a function; it returns None where the arguments are not covered."""


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
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.geometry = geometry
        return _convolved(input, weight, bias, geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        input, weight = ctx.saved_tensors
        wanted = tuple(ctx.needs_input_grad[:3])
        take = _ConvolutionGradients.apply if torch.is_grad_enabled() else _gradients
        return (*take(gradient, input, weight, ctx.geometry, wanted), None)


class _ConvolutionGradients(torch.autograd.Function):
    """Bilinear in (gradient, weight) and in (gradient, input), so that its derivatives are convolutions again."""

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, input: Tensor, weight: Tensor, geometry: Geometry, wanted: tuple[bool, bool, bool]
    ) -> Any:
        ctx.save_for_backward(gradient, input, weight)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        return _gradients(gradient, input, weight, geometry, wanted)

    @staticmethod
    def backward(ctx: Any, by_input: Tensor | None, by_weight: Tensor | None, by_bias: Tensor | None) -> Any:
        gradient, input, weight = ctx.saved_tensors
        _, through_input, through_weight = ctx.needs_input_grad[:3]
        along = _along(by_input, by_weight, by_bias, input, weight, ctx.geometry)
        back = None
        if through_input and by_weight is not None:
            back = _gradients(gradient, input, by_weight, ctx.geometry, (True, False, False))[0]
        turned = None
        if through_weight and by_input is not None:
            turned = _gradients(gradient, by_input, weight, ctx.geometry, (False, True, False))[1]
        return along, back, turned, None, None


def _along(
    by_input: Tensor | None,
    by_weight: Tensor | None,
    by_bias: Tensor | None,
    input: Tensor,
    weight: Tensor,
    geometry: Geometry,
) -> Tensor | None:
    """The derivative in the gradient of the output."""
    if by_weight is None and by_bias is not None:
        by_weight = torch.zeros_like(weight)
    if by_input is None:
        return None if by_weight is None else _convolved(input, by_weight, by_bias, geometry)
    if by_weight is None:
        return _convolved(by_input, weight, None, geometry)
    return _convolved(input, by_weight, by_bias, geometry) + _convolved(by_input, weight, None, geometry)


def _convolved(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    stride, padding, dilation, groups = geometry
    output: Tensor = _aten.convolution(input, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)
    return output


def _gradients(
    gradient: Tensor, input: Tensor, weight: Tensor, geometry: Geometry, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    stride, padding, dilation, groups = geometry
    found: tuple[Tensor | None, Tensor | None, Tensor | None] = _aten.convolution_backward(
        *(gradient, input, weight, [len(weight)], stride, padding, dilation, False, [0] * len(stride), groups),
        list(wanted),
    )
    return found
