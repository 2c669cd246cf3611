"""From a call of the model to its loss again: what was called, and how the output became the loss function's input."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from separatrix.record.ownership import flattened_tensors
from separatrix.record.shadow import RandomState
from separatrix.runs.errors import SeparatrixError

Way = Callable[[torch.Tensor], torch.Tensor]

_SCALINGS = ("DivBackward", "MulBackward", "ToCopyBackward", "ViewBackward", "SqueezeBackward", "MeanBackward")
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
    position, a mean over positions; then softmax, log-softmax or sigmoid.

    Raises:
        ReplayError: no way leads there.
    """
    given = given.detach()
    for slot, output in enumerate(flattened_tensors(result)):
        if output is given or not output.is_floating_point():
            continue
        for name, way in _ways(output.detach(), given.shape):
            found = way(output.detach())
            if found.shape == given.shape and _equal(found, given):
                return Link(slot, name, way)
    shape = tuple(given.shape)
    raise ReplayError(f"the loss function was given a tensor of shape {shape} that is no simple part of the output")


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
    """Whether `loss` is a value computed by the graph node `source`, at most multiplied by a number.

    `output` says which of the node's values: what is compiled is one node with many.
    """
    node, number = loss.grad_fn, loss.output_nr
    for _ in range(_LONGEST_CHAIN):
        if node is source:
            return source is not None and number == output
        if node is None or not node.name().startswith(_SCALINGS):
            return False
        following = [(n, number) for n, number in node.next_functions if n is not None]
        if len(following) != 1:
            return False
        node, number = following[0]
    return False


def tolerance(dtype: torch.dtype) -> float:
    """Relative difference that two evaluations of the same loss may have in this number format."""
    return _TOLERANCES.get(dtype, 1e-5)
