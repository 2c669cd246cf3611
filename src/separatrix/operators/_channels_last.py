"""Images with channels last in memory while a model runs: on the CPU, convolutions and pooling are faster so.

Only memory is laid out differently. Whatever is not known to keep that layout gets its tensors as they would have been.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from separatrix.operators._watching import tensors_in

_KEEPING: frozenset[Callable[..., Any]] = frozenset(
    {
        *(F.conv2d, F.batch_norm, F.max_pool2d, torch.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d),
        *(F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu),
        *(torch.tanh, Tensor.tanh, torch.sigmoid, Tensor.sigmoid),
    }
)
"""Functions of one image that work in its layout, and whose result shares no memory with it but by being it."""

_ADDING: frozenset[Callable[..., Any]] = frozenset(
    {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__}
)
"""Functions of two images that work in their layout, where it is the same."""

_READING: frozenset[Callable[..., Any]] = frozenset(
    {
        *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.__len__, Tensor.ndimension, Tensor.is_floating_point),
        *(
            getattr(Tensor, name).__get__
            for name in ("shape", "ndim", "dtype", "device", "requires_grad", "is_cuda", "layout")
        ),
    }
)
"""Questions whose answer is the same in every layout."""


class ChannelsLast(TorchFunctionMode):
    """Convolutions get their images with channels last, and their outputs stay so until something else gets them."""

    def __init__(self) -> None:
        super().__init__()
        self.changed: dict[int, weakref.ref[Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _READING:
            return func(*args, **kwargs)
        keeping = func in _KEEPING and args and isinstance(args[0], Tensor)
        if not keeping and not (func in _ADDING and all(map(self._is_changed, args[:2]))):
            for leaf in tensors_in((args, kwargs)):
                self._change_back(leaf)
            return func(*args, **kwargs)
        image = args[0]
        changed = self._is_changed(image)
        if func is F.conv2d and not changed and _is_plain_image(image):
            image, changed = _converted(image), True
        output = func(image, *args[1:], **kwargs)
        if changed and isinstance(output, Tensor) and not output.is_contiguous():
            self.changed[id(output)] = weakref.ref(output)
        return output

    def settled(self, outputs: Any) -> Any:
        """What a model returned, with its tensors as they would have been."""
        for leaf in tensors_in(outputs):
            self._change_back(leaf)
        return outputs

    def _change_back(self, tensor: Tensor) -> None:
        if self._is_changed(tensor):
            del self.changed[id(tensor)]  # first: the mode may see the next line
            # the tensor itself, as others may hold it
            tensor.data = tensor.detach().contiguous()

    def _is_changed(self, tensor: Any) -> bool:
        found = self.changed.get(id(tensor))
        return found is not None and found() is tensor


def hooked(model: nn.Module) -> bool:
    """Whether anyone outside the model gets its activations."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def _is_plain_image(image: Tensor) -> bool:
    single = image.dtype in (torch.float32, torch.float64)
    return type(image) is Tensor and image.device.type == "cpu" and single and image.ndim == 4 and image.is_contiguous()


def _converted(image: Tensor) -> Tensor:
    n, channels, height, width = image.shape
    if channels > 1:
        return image.contiguous(memory_format=torch.channels_last)
    # with one channel both layouts are the same memory, and only strides tell which is meant
    return image.reshape(n, height, width, 1).permute(0, 3, 1, 2)
