"""Weight normalisation whose gradient can be differentiated again.

torch computes the gradient of `torch._weight_norm` from norms that it saved, and forgets that these depend on the
weights when that gradient is differentiated: rows of the Hessian come out wrong (torch 2.13, CPU).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_FUSED = "WeightNormInterfaceBackward"


class PlainWeightNorm(TorchFunctionMode):
    """Calls of torch's weight normalisation inside are written out in operations with right second derivatives."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        function = _normalised if func is torch._weight_norm else func
        return function(*args, **(kwargs or {}))


def is_weight_norm(node: Any) -> bool:
    """Whether a graph's node is torch's weight normalisation."""
    return str(node.name()).startswith(_FUSED)


def _normalised(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """The directions v times g over the norms of v along `dim`, or over its whole norm where that is -1."""
    axes = None if dim == -1 else [axis for axis in range(v.ndim) if axis != dim % v.ndim]
    norms: Tensor = torch.linalg.vector_norm(v, dim=axes, keepdim=axes is not None)
    return v * (g / norms)
