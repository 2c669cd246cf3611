"""Convolution, ReLU and max pooling on the CPU with second derivatives that cost what they must.

torch takes the weight gradient of a convolution's second derivative by a convolution whose kernel is a whole image, and
the gradient of an input whether it is wanted or not; for ReLU and pooling it makes tensors of zeros and adds them. The
functions put in their place (`_lean_functions`) compute the same from the kernels of the first derivative and leave
zeros out. A convolution, ReLU and max pooling in a row are one function, and its images go through the processor's
cache a few examples at a time: what pooling drops is never in memory (measured on a small convolutional net: a Hessian
product in 0.4 to 0.65 of the time).
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

from separatrix.operators._lean_functions import (
    Convolution,
    ConvolutionGradients,
    Geometry,
    Pooling,
    Relu,
    Selection,
)
from separatrix.operators._weight_norm import PlainWeightNorm

_aten = torch.ops.aten


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
    output: Tensor = Convolution.apply(input, weight, bias, geometry, None)  # type: ignore[no-untyped-call]
    arguments = (input, weight, bias, geometry)
    sources[output] = _Source(arguments, _versions(arguments), rectified=False)
    return output


def _rectify(sources: _Sources, input: Tensor, inplace: bool = False) -> Tensor | None:
    if inplace or not _plain(input):
        return None
    output: Tensor = Relu.apply(input)  # type: ignore[no-untyped-call]
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
        return Pooling.apply(input, window)  # type: ignore[no-untyped-call,no-any-return]
    entries, places = _aten.max_pool2d_with_indices(input.detach(), *window)
    selection = Selection(places, entries, window, input.shape)
    return Convolution.apply(*source.arguments, selection)  # type: ignore[no-untyped-call,no-any-return]


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

_LEAN = (Convolution, ConvolutionGradients, Relu, Pooling)
