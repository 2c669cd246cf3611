"""Which dimension of a parameter counts inputs and which outputs: known by the module that owns it."""

from __future__ import annotations

import dataclasses
import math

from torch import nn

_INPUTS_FIRST = (nn.Embedding, nn.EmbeddingBag, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NAMED_INPUTS_FIRST = ("transformers.pytorch_utils.Conv1D",)
_OUTPUTS_FIRST = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.Bilinear,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
)
_LINEAR = (*_OUTPUTS_FIRST[:4], *_INPUTS_FIRST)


@dataclasses.dataclass(frozen=True)
class Layout:
    """The dimensions of a parameter that its inputs and outputs lie in, and whether the owner's type says so."""

    inputs: int
    outputs: int
    known: bool = True

    def fans(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Fan-in and fan-out of a tensor of at least two dimensions, those of a kernel included."""
        kernel = math.prod(size for index, size in enumerate(shape) if index not in (self.inputs, self.outputs))
        return shape[self.inputs] * kernel, shape[self.outputs] * kernel


def layout_of(owner: nn.Module, parameter: str, dimensions: int) -> Layout:
    """The layout of the owner's parameter of that name.

    A matrix called weight of an unknown module is taken to have outputs first, as torch has it; any other tensor of an
    unknown module is taken to be added to or looked up in, with outputs last.
    """
    if is_inputs_first(owner):
        return Layout(0, 1)
    if isinstance(owner, _OUTPUTS_FIRST):
        return Layout(1, 0)
    if "weight" in parameter:
        return Layout(1, 0, known=False)
    return Layout(max(dimensions - 2, 0), dimensions - 1, known=False)


def is_inputs_first(owner: nn.Module) -> bool:
    """Whether weights of the module have their inputs in the first dimension."""
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(owner).__mro__]
    return isinstance(owner, _INPUTS_FIRST) or any(name in _NAMED_INPUTS_FIRST for name in names)


def is_linear(owner: nn.Module) -> bool:
    """Whether the module's output is linear in its own parameters."""
    return isinstance(owner, _LINEAR) or is_inputs_first(owner)


def is_lookup(owner: nn.Module) -> bool:
    """Whether the module's input are indices."""
    return isinstance(owner, nn.Embedding | nn.EmbeddingBag)
