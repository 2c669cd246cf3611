"""First convolutions whose outputs are read through rectification and max pooling: the few entries that are read.

Pooling passes a gradient on to one place a window, the same for every cotangent. Where no gradient is wanted before the
convolution, that of its whole output need not be made: the pooled gradient and the patches at those places do.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from separatrix.operators._watching import Key, Use, key_of

_RECTIFIERS = frozenset({"ReluBackward0"})
_POOLINGS = frozenset({"MaxPool2DWithIndicesBackward0", "MaxPool3DWithIndicesBackward0"})

_COPIES = 2
"""Numbers copied to pick patches for each that a pass over the unpooled gradients would take: both are memory-bound."""


def behind_pooling(use: Use, consumers: Mapping[Key, Sequence[Node]], cotangents: int) -> Use:
    """The use read behind the pooling of its output, where that takes less time for so many cotangents; else itself."""
    node = use.edge.node
    if use.local.picking is None or use.transposed or node.name() != "ConvolutionBackward0" or _passes_on(node):
        return use
    chain = _chain(key_of(use.edge), consumers)
    pooling = next((node for node in chain if node.name() in _POOLINGS), None)
    if pooling is None:
        return use
    places: Tensor = pooling._saved_result1  # type: ignore[attr-defined]
    read, whole = math.prod(places.shape[2:]), math.prod(use.edge.node._input_metadata[0].shape[2:])
    if read * use.local.picking.columns > _COPIES * cotangents * whole:
        return use
    places = places.flatten(2)
    local = use.local.picking.local(places, _passes(chain, places))
    return dataclasses.replace(use, local=local, edge=GradientEdge(chain[-1], 0))


def _passes_on(convolution: Node) -> bool:
    """Whether a gradient goes on to what the convolution was applied to."""
    return convolution.next_functions[0][0] is not None


def _chain(key: Key, consumers: Mapping[Key, Sequence[Node]]) -> list[Node]:
    """The rectifications and the pooling that an output goes through and nothing else gets, in their order."""
    chain: list[Node] = []
    while len(after := consumers.get(key, ())) == 1:
        pooled = any(node.name() in _POOLINGS for node in chain)
        if after[0].name() not in (_RECTIFIERS if pooled else _RECTIFIERS | _POOLINGS):
            break
        chain.append(after[0])
        key = after[0], 0
    return chain


def _passes(chain: Sequence[Node], places: Tensor) -> Tensor | None:
    """Whether the rectifications let a gradient through at the places of the pooling; None if there are none."""
    result: Tensor | None = None
    pooled = False
    for node in chain:
        if node.name() in _POOLINGS:
            pooled = True
            continue
        rectified: Tensor = node._saved_result.detach().flatten(2)  # type: ignore[attr-defined]
        own = (rectified if pooled else rectified.gather(2, places)) > 0
        result = own if result is None else result & own
    return result
