"""From a call of the model to its loss again: what was called, and how the output became the loss function's input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from separatrix.record.isolation import Aside
from separatrix.record.ownership import flattened_tensors
from separatrix.record.shadow import RandomState
from separatrix.runs.errors import SeparatrixError

Way = Callable[[torch.Tensor], torch.Tensor]

_PRODUCTS = ("DivBackward", "MulBackward", "DotBackward")
_RESHAPINGS = ("ViewBackward", "UnsafeViewBackward", "ReshapeAliasBackward", "AliasBackward", "CloneBackward")
_LINEAR = (
    *(*_PRODUCTS, *_RESHAPINGS),
    *(f"{name}Backward" for name in ("Mean", "Sum", "Neg", "Add", "ToCopy", "Squeeze", "Unsqueeze", "Expand")),
    *(f"{name}Backward" for name in ("Transpose", "Permute", "T", "Index", "Select", "Slice", "Where")),
    *(f"{name}Backward" for name in ("MaskedFill", "MaskedSelect")),
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


def weights_in(loss: torch.Tensor, losses: torch.Tensor, source: Any, output: int = 0) -> torch.Tensor | None:
    """Weights, of the shape of `losses`, with which these values of the node `source` are summed to `loss`.

    `output` says which of the node's values they are: what is compiled is one node with many. None where the loss
    depends on anything else that learns, or is no weighted sum of them by its graph and its value.
    """
    if loss.grad_fn is None or loss.numel() != 1:
        return None
    weights = torch.zeros_like(losses)
    waiting: list[tuple[Any, int, torch.Tensor]] = [(loss.grad_fn, loss.output_nr, torch.ones_like(loss))]
    # Nodes are called one by one, not by the engine, which would run hooks of the training.
    with Aside(), torch.no_grad():
        for _ in range(_LONGEST_CHAIN):
            node, number, gradient = waiting.pop()
            if node is source and number == output:
                weights += gradient.reshape(weights.shape)
            elif not _linear(node):
                return None
            else:
                back = node(gradient)
                parts = back if isinstance(back, tuple) else (back,)
                waiting += [
                    (following, place, part)
                    for (following, place), part in zip(node.next_functions, parts, strict=False)
                    if following is not None and part is not None
                ]
            if not waiting:
                allowed = tolerance(losses.dtype) * float((weights * losses).abs().sum())
                return weights if abs(float((weights * losses).sum()) - float(loss.detach())) <= allowed else None
    return None


def _linear(node: Any) -> bool:
    """Whether a node's output is linear in what learns among its inputs."""
    name, inputs = node.name(), [following for following, _ in node.next_functions]
    if not name.startswith(_LINEAR) or (name.startswith("Div") and inputs[0] is None):
        return False
    return not name.startswith(_PRODUCTS) or None in inputs or len(inputs) == 1


def tolerance(dtype: torch.dtype) -> float:
    """Relative difference that two evaluations of the same loss may have in this number format."""
    return _TOLERANCES.get(dtype, 1e-5)
