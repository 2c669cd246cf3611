"""From a call of the model to its loss again: what was called, and how the output became the loss function's input."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from separatrix.record.isolation import Aside
from separatrix.record.ownership import flattened_tensors
from separatrix.record.shadow import RandomState
from separatrix.runs.errors import SeparatrixError

Way = Callable[[torch.Tensor], torch.Tensor]

_SCALINGS = ("DivBackward", "MulBackward", "ToCopyBackward", "ViewBackward", "SqueezeBackward", "MeanBackward")
_PRODUCTS = ("DivBackward", "MulBackward")
_RESHAPINGS = ("ViewBackward", "UnsafeViewBackward", "ReshapeAliasBackward", "AliasBackward", "CloneBackward")
_LINEAR = (
    *(*_SCALINGS, *_RESHAPINGS),
    *(f"{name}Backward" for name in ("Sum", "Neg", "Add", "Dot", "Unsqueeze", "Expand", "Transpose", "Permute", "T")),
    *(f"{name}Backward" for name in ("Index", "Select", "Slice", "Where", "MaskedFill", "MaskedSelect")),
)
"""Nodes whose outputs are linear in their inputs, products where one factor does not learn."""
_LONGEST_CHAIN = 16
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


class ReplayError(SeparatrixError):
    """A step cannot be replayed; the message says because of what."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of the model: copies of its arguments, the random state at its beginning, the number formats it used."""

    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    random: RandomState
    dtypes: tuple[torch.dtype, ...]
    device: str


@dataclasses.dataclass(frozen=True)
class Link:
    """How the loss function's input is got from the model's output: which of its tensors, and what was done to it."""

    slot: int
    name: str
    way: Way

    def __call__(self, result: Any) -> torch.Tensor:
        """The loss function's input for an output of the model."""
        return self.way(slot_of(result, self.slot))


def slot_of(result: Any, slot: int) -> torch.Tensor:
    """One of the tensors in an output, counted in order."""
    return list(flattened_tensors(result))[slot]


def copied(value: Any) -> Any:
    """Nested containers with their tensors cloned and cut off from any graph."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return type(value)((key, copied(item)) for key, item in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(copied, value))
    if isinstance(value, list | tuple):
        return type(value)(map(copied, value))
    return value


def find_link(result: Any, given: torch.Tensor) -> Link:
    """The way from the model's output `result` to `given`, what the loss function was given.

    Found by trying: reshaping, moving classes to the second place, leaving out the first or last position, a single
    position, a mean over positions; then softmax, log-softmax or sigmoid. Where numbers do not tell one way from
    another, as those of a head that starts at zero, only an output that was given as it is, or reshaped, counts.

    Raises:
        ReplayError: no way leads there, or several do.
    """
    numbers = given.detach()
    for slot, output in enumerate(flattened_tensors(result)):
        if not output.is_floating_point():
            continue
        for name, way in _ways(output.detach(), numbers.shape):
            found = way(output.detach())
            if found.shape == numbers.shape and _equal(found, numbers):
                if not _telling(output.detach()) and not (name == "output" and _only_reshaped(given, output)):
                    raise ReplayError(
                        "the model's outputs are so alike that it cannot be told what was done to them before the loss"
                    )
                return Link(slot, name, way)
    if not numbers.isfinite().all():
        raise ReplayError("the loss function was given numbers that are not finite")
    shape = tuple(numbers.shape)
    raise ReplayError(f"the loss function was given a tensor of shape {shape} that is no simple part of the output")


def _only_reshaped(given: torch.Tensor, output: torch.Tensor) -> bool:
    """Whether `given` is the output itself or, by its graph, a view of all its entries in order."""
    node, number = given.grad_fn, given.output_nr
    for _ in range(_LONGEST_CHAIN):
        if node is None:
            return given is output
        if node is output.grad_fn:
            return number == output.output_nr
        if not node.name().startswith(_RESHAPINGS):
            return False
        node, number = node.next_functions[0]
    return False


def _telling(output: torch.Tensor) -> bool:
    """Whether an output is not zero and differs along every axis but that of the examples: else ways look the same."""
    along = (
        output != output.select(axis, 0).unsqueeze(axis) for axis in range(1, output.dim()) if output.shape[axis] > 1
    )
    return bool(output.any()) and all(bool(differs.any()) for differs in along)


def _equal(found: torch.Tensor, given: torch.Tensor) -> bool:
    if found.dtype == given.dtype and torch.equal(found, given):
        return True
    coarse = max(_TOLERANCES.get(t.dtype, 0.0) for t in (found, given)) / 10
    return torch.allclose(found.to(given.dtype), given, rtol=coarse, atol=coarse)


def _ways(output: torch.Tensor, shape: torch.Size) -> Iterator[tuple[str, Way]]:
    numel = shape.numel()
    for name, part in _PARTS.items():
        try:
            piece = part(output)
        except (IndexError, RuntimeError):
            continue
        if piece.numel() != numel:
            continue
        for ending, finish in _ENDS.items():
            yield f"{name}{ending}", _composed(part, finish, shape)


def _composed(part: Way, finish: Way, shape: torch.Size) -> Way:
    return lambda output: finish(part(output)).reshape(shape)


_PARTS: dict[str, Way] = {
    "output": lambda x: x,
    "output, classes second": lambda x: x.movedim(-1, 1) if x.dim() > 2 else x[:0],
    "output, classes last": lambda x: x.movedim(1, -1) if x.dim() > 2 else x[:0],
    "all but the last position": lambda x: x[:, :-1] if x.dim() > 2 else x[:0],
    "all but the last position, classes second": lambda x: x[:, :-1].movedim(-1, 1) if x.dim() > 2 else x[:0],
    "all but the first position": lambda x: x[:, 1:] if x.dim() > 2 else x[:0],
    "the last position": lambda x: x[:, -1] if x.dim() > 2 else x[:0],
    "the first position": lambda x: x[:, 0] if x.dim() > 2 else x[:0],
    "the mean over positions": lambda x: x.mean(1) if x.dim() > 2 else x[:0],
    "the last of the sequence": lambda x: x[-1] if x.dim() > 2 else x[:0],
}
_ENDS: dict[str, Way] = {
    "": lambda x: x,
    ", log-softmax": lambda x: torch.log_softmax(x, -1),
    ", softmax": lambda x: torch.softmax(x, -1),
    ", sigmoid": torch.sigmoid,
    ", tanh": torch.tanh,
}


def scaled_only(loss: torch.Tensor, source: Any, output: int = 0) -> bool:
    """Whether `loss` is a value computed by the graph node `source`, or its mean, at most multiplied by a number.

    `output` says which of the node's values: what is compiled is one node with many.
    """
    node, number = loss.grad_fn, loss.output_nr
    for _ in range(_LONGEST_CHAIN):
        if node is source:
            return source is not None and number == output
        if node is None or not node.name().startswith(_SCALINGS):
            return False
        if node.name().startswith(_PRODUCTS) and not _by_number(node):
            return False
        following = [(n, number) for n, number in node.next_functions if n is not None]
        if len(following) != 1:
            return False
        node, number = following[0]
    return False


def weights_in(loss: torch.Tensor, source: Any, losses: torch.Tensor) -> torch.Tensor | None:
    """Weights, of the shape of `losses`, with which these values of the node `source` are summed to `loss`.

    None where the loss depends on anything else that learns, or is no weighted sum of them by its graph and its value.
    """
    if loss.grad_fn is None or loss.numel() != 1:
        return None
    weights = torch.zeros_like(losses)
    waiting: list[tuple[Any, torch.Tensor]] = [(loss.grad_fn, torch.ones_like(loss))]
    # Nodes are called one by one, not by the engine, which would run hooks of the training.
    with Aside(), torch.no_grad():
        for _ in range(_LONGEST_CHAIN):
            if not waiting:
                allowed = tolerance(losses.dtype) * float((weights * losses).abs().sum())
                return weights if abs(float((weights * losses).sum()) - float(loss.detach())) <= allowed else None
            node, gradient = waiting.pop()
            if not _linear(node):
                return None
            back = node(gradient)
            for (following, number), part in zip(
                node.next_functions, back if isinstance(back, tuple) else (back,), strict=False
            ):
                if part is None:
                    continue
                if following is source and number == 0 and part.shape == weights.shape:
                    weights += part
                elif following is not None:
                    waiting.append((following, part))
    return None


def _linear(node: Any) -> bool:
    """Whether a node's output is linear in what learns among its inputs."""
    if not node.name().startswith(_LINEAR):
        return False
    inputs = [following for following, _ in node.next_functions]
    if node.name().startswith("Div") and inputs[0] is None:
        return False
    return not node.name().startswith((*_PRODUCTS, "DotBackward")) or None in inputs or len(inputs) == 1


def _by_number(node: Any) -> bool:
    """Whether a product or quotient multiplies what has a gradient by one number: no weights of single entries."""
    if node.name().startswith("Div") and node.next_functions[0][0] is None:
        return False
    if math.prod(node._input_metadata[0].shape) == 1:
        return True
    other = node._saved_other if node.next_functions[0][0] is not None else node._saved_self
    return isinstance(other, torch.Tensor) and other.numel() == 1


def tolerance(dtype: torch.dtype) -> float:
    """Relative difference that two evaluations of the same loss may have in this number format."""
    return _TOLERANCES.get(dtype, 1e-5)
