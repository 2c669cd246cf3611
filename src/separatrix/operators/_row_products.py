"""Inner products of the rows of two matrices, by the fastest kernel that torch brings for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ONEDNN: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
"""A linear layer by oneDNN, which uses all that the processor has. What `@` calls is MKL, which keeps its best kernels
for Intel's processors: on two cores of a Zen 5, 190 against 380 GFLOP/s in single precision."""

_WORTH = 1 << 22
"""Multiplications from which a product takes longer than what is done around it."""

_CUT = 1 << 20
"""Entries of a matrix from which its product with itself is made tile by tile, and half of the tiles are mirrored."""


def row_products(x: Tensor, y: Tensor) -> Tensor:
    """Inner products (n, m) of the rows of x (n, p) and y (m, p), without gradients."""
    by_onednn = _is_for_onednn(x, y)
    tile = max(64, -(-len(x) // 4))
    if x is not y or len(x) < 2 * tile or x.numel() < _CUT:
        return _product(x, y, by_onednn)
    result = x.new_empty(len(x), len(x))
    for start in range(0, len(x), tile):
        strip, after = slice(start, start + tile), start + tile
        for other in range(start, len(x), tile):
            columns = slice(other, other + tile)
            result[strip, columns] = _product(x[strip], x[columns], by_onednn)
        result[after:, strip] = result[strip, after:].mT
    return result


def _product(x: Tensor, y: Tensor, by_onednn: bool) -> Tensor:
    return _ONEDNN(x, y, None, "none", [], "") if by_onednn else x @ y.mT


def _is_for_onednn(x: Tensor, y: Tensor) -> bool:
    usable = _ONEDNN is not None and bool(torch.backends.mkldnn.enabled) and len(x) * y.numel() >= _WORTH
    return usable and _is_plain_single(x) and (x is y or _is_plain_single(y))


def _is_plain_single(matrix: Tensor) -> bool:
    """Whether oneDNN takes it as it is: with other strides it would go to code that is a thousand times slower."""
    plain = type(matrix) is Tensor and not matrix.requires_grad and matrix.device.type == "cpu"
    return plain and matrix.dtype == torch.float32 and matrix.is_contiguous()
