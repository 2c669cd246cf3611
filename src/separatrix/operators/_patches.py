"""The patches of images that a convolution multiplies its kernel with: all, a row of the kernel a time, or some."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_TOGETHER = 32
"""Images whose patches are picked at a time, so that caches hold them."""


def patches(
    input: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """What a convolution multiplies its kernel with: (n, channels, *space) -> (n, positions, groups, columns)."""
    dims = len(kernel)
    input = input.contiguous()
    view = (
        F.pad(input, [width for before in reversed(padding) for width in (before, before)]) if any(padding) else input
    )
    for axis in range(dims):
        view = view.unfold(2 + axis, (kernel[axis] - 1) * dilation[axis] + 1, stride[axis])[..., :: dilation[axis]]
    # copied with space last: the runs of memory are longest that way
    view = view.permute(0, 1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims))
    n, channels = input.shape[:2]
    columns = channels // groups * math.prod(kernel)
    return view.reshape(n, groups, columns, math.prod(view.shape[2 + dims :])).permute(0, 3, 1, 2)


def strips(input: Tensor, kernel: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Iterator[Tensor]:
    """The patches of images with channels last, one row of the kernel a time, stride 1: (n, positions, 1, columns).

    Rows of the kernel share the patches of a row of the image, so that a third of the numbers is copied for three.
    """
    n, channels = input.shape[:2]
    (up, side), (reach, spread) = padding, dilation
    image = F.pad(input.permute(0, 2, 3, 1), (0, 0, side, side, up, up))
    view = image.unfold(2, (kernel[1] - 1) * spread + 1, 1)[..., ::spread].mT
    rows, width = view.shape[1] - (kernel[0] - 1) * reach, view.shape[2]
    copied = view.reshape(n, view.shape[1] * width, 1, kernel[1] * channels)
    for start in range(0, kernel[0] * reach, reach):
        yield copied[:, start * width : (start + rows) * width]


def picked_patches(
    input: Tensor,
    places: Tensor,
    passes: Tensor | None,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Patches at some places of every channel of the output, (n, channels, positions) -> (n, positions, channels, q).

    Those that let no gradient pass are zero.
    """
    n, channels, positions = places.shape
    columns = input.shape[1] * math.prod(kernel)
    result = input.new_empty(n, channels, positions, columns)
    for start in range(0, n, _TOGETHER):
        part = slice(start, start + _TOGETHER)
        unfolded = patches(input[part], kernel, stride, padding, dilation, 1).squeeze(2)
        rows = input.new_zeros(1 + unfolded.shape[0] * unfolded.shape[1], columns)  # the first stands for no patch
        rows[1:].view(unfolded.shape).copy_(unfolded)
        index = places[part] + (1 + torch.arange(len(unfolded), device=input.device) * unfolded.shape[1]).view(-1, 1, 1)
        index = index if passes is None else index * passes[part]
        torch.index_select(rows, 0, index.flatten(), out=result[part].view(-1, columns))
    return result.transpose(1, 2)
