"""Differentiating a graph twice: what must be checked before, and what torch's refusals mean."""

from __future__ import annotations

import contextlib
import math
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel

from separatrix.operators._second_order import is_lean
from separatrix.operators.errors import NotTwiceDifferentiableError, OperatorError, StaleOperatorError

_BATCHED_ELEMENTS = 16_384
"""Below this mean size of a tensor in the graph, calling operations costs more than computing them (measured on CPU:
several vectors at a time gain 1.2 to 3 times a vector below it, and lose up to 3 times above, most with convolutions).
"""


_REENTRANT = (
    "the model uses reentrant checkpointing, through which no gradient can be taken twice: pass use_reentrant=False"
    " to torch.utils.checkpoint"
)
_COMPILED = (
    "the model or loss is compiled, and compiled graphs cannot be differentiated twice: pass the original module"
)


@contextlib.contextmanager
def differentiable_twice(device: torch.device) -> Iterator[None]:
    """Gradients on, autocast off, and attention by the one kernel whose backward has a derivative."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        sdpa_kernel(SDPBackend.MATH),
    ):
        yield


def nodes(tensor: Tensor) -> list[Any]:
    """All nodes of a tensor's graph."""
    found: dict[Any, None] = {}
    waiting: list[Any] = [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found[node] = None
            waiting.extend(following for following, _ in node.next_functions)
    return list(found)


def worth_batching(graph: Sequence[Any], device: torch.device, times: float = 1.0) -> bool:
    """Whether several vectors at a time are faster than one after another, decided by sizes, not by time.

    `times` as large as in the graph are the tensors meant.
    """
    if device.type != "cpu":
        return True
    sizes = [math.prod(entry.shape) for node in graph for entry in node._input_metadata if hasattr(entry, "shape")]
    return bool(times * sum(sizes) <= _BATCHED_ELEMENTS * max(len(sizes), 1))


def gradient_graph(
    output: Tensor, graph: Sequence[Any], parameters: Sequence[Tensor], cotangent: Tensor | None = None
) -> list[Tensor | None]:
    """Gradients with a graph of their own; None for parameters that the output does not reach.

    Custom autograd functions that return gradients cut off from the incoming one are caught here; ones that cut off
    only what they saved (by `detach`, `data` or NumPy) cannot be told from linear ones.

    Raises:
        NotTwiceDifferentiableError: a node is known to have no second derivative, or cuts the graph.
    """
    custom: list[Any] = [node for node in graph if isinstance(node, BackwardCFunction) and not is_lean(node)]
    for node in custom:
        _refuse_known(node.name())
    if custom and cotangent is None:
        cotangent = torch.ones_like(output, requires_grad=True)
    handles = [node.register_hook(_connected(node.name())) for node in custom]
    try:
        return list(torch.autograd.grad(output, parameters, cotangent, create_graph=True, allow_unused=True))
    finally:
        for handle in handles:
            handle.remove()


def pull_back(
    outputs: Sequence[Tensor | None], inputs: Sequence[Tensor], cotangents: Sequence[Tensor], *, batched: bool
) -> list[Tensor]:
    """Vector-Jacobian products of k cotangents (k, *shape) through a retained graph: gradients (k, *shape)."""
    count = len(cotangents[0])
    live = [i for i, output in enumerate(outputs) if output is not None and output.requires_grad]
    targets = [output for output in outputs if output is not None and output.requires_grad]

    def pulled(vectors: list[Tensor], together: bool) -> list[Tensor]:
        gradients = torch.autograd.grad(
            targets, inputs, vectors, retain_graph=True, allow_unused=True, is_grads_batched=together
        )
        shape = (count,) if together else ()
        return [
            tensor.new_zeros(*shape, *tensor.shape) if gradient is None else gradient
            for tensor, gradient in zip(inputs, gradients, strict=True)
        ]

    if not live:
        return [tensor.new_zeros(count, *tensor.shape) for tensor in inputs]
    if batched:
        return pulled([cotangents[i] for i in live], True)
    columns = [pulled([cotangents[i][column] for i in live], False) for column in range(count)]
    return [torch.stack(row) for row in zip(*columns, strict=True)]


def explained(error: Exception) -> OperatorError | None:
    """What torch's refusal means here, or None for an error of another kind."""
    text = str(error)
    if isinstance(error, NotTwiceDifferentiableError):
        return error
    if "modified by an inplace operation" in text:
        return StaleOperatorError(
            "a tensor of the graph was changed in place since the operator was built (an optimizer step, or an"
            " in-place operation in the model): build the operator again, or replace the in-place operation"
        )
    missing = re.search(r"derivative for '?(?:aten::)?(\w+)'? is not implemented", text)
    if missing:
        return _refusal(frozenset({missing.group(1)}), missing.group(1))
    if "double backward" in text or "Double backward" in text:
        return _refusal(frozenset(), f"an operation ({text.splitlines()[0][:120]})")
    return None


def _refusal(operations: frozenset[str], what: str) -> NotTwiceDifferentiableError:
    error = NotTwiceDifferentiableError(
        f"the gradient of {what} cannot be differentiated again: write its backward with torch operations and without"
        " once_differentiable, use another operation, or leave its parameters and those before it out"
    )
    error.operations = operations
    return error


def _refuse_known(name: str) -> None:
    if name == "CheckpointFunctionBackward":
        raise NotTwiceDifferentiableError(_REENTRANT)
    if name.startswith("CompiledFunction"):
        raise NotTwiceDifferentiableError(_COMPILED)


def _connected(name: str) -> Any:
    """A hook on a custom function's node that refuses gradients which do not lead back to the incoming ones."""

    def hook(inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor | None, ...]) -> None:
        given = {get_gradient_edge(tensor).node for tensor in outputs if tensor is not None and tensor.requires_grad}
        returned = [tensor for tensor in inputs if tensor is not None]
        if given and returned and not any(_leads_to(tensor, given) for tensor in returned):
            raise _refusal(frozenset({name}), f"{name} (once_differentiable, or cut off from the graph)")

    return hook


def _leads_to(tensor: Tensor, wanted: set[Any]) -> bool:
    waiting = deque([get_gradient_edge(tensor).node] if tensor.requires_grad else [])
    seen = set(waiting)
    while waiting:
        node = waiting.popleft()
        if node in wanted:
            return True
        following = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= following
        waiting.extend(following)
    return False
