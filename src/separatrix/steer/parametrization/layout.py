"""Which dimension of a parameter counts inputs and which outputs: known by the module that owns it."""

from __future__ import annotations

import dataclasses
import math

from torch import nn

Shape = tuple[int, ...]
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_INPUTS_FIRST = (nn.Embedding, nn.EmbeddingBag, *_TRANSPOSED)
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

    def fans(self, shape: Shape) -> tuple[int, int]:
        """Fan-in and fan-out of a tensor of at least two dimensions, those of a kernel included."""
        kernel = math.prod(size for index, size in enumerate(shape) if index not in (self.inputs, self.outputs))
        return shape[self.inputs] * kernel, shape[self.outputs] * kernel


def shapes_of(model: nn.Module) -> dict[str, Shape]:
    """The shape of every parameter by each of its names; of a transposed convolution's weight that of a plain one's.

    It is stored as (inputs, outputs / groups, kernel), though an output adds up inputs / groups; a plain convolution
    has (outputs, inputs / groups, kernel).
    """
    found = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shape, owner = tuple(parameter.shape), model.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, _TRANSPOSED) and len(shape) > 1:
            shape = (shape[1] * owner.groups, shape[0] // owner.groups, *shape[2:])
        found[name] = shape
    return found


def layout_of(owner: nn.Module, parameter: str, dimensions: int) -> Layout:
    """The layout of the owner's parameter of that name, in the shape that `shapes_of` gives it.

    A matrix called weight of an unknown module is taken to have outputs first, as torch has it; any other tensor of an
    unknown module is taken to be added to or looked up in, with outputs last.
    """
    if isinstance(owner, (*_OUTPUTS_FIRST, *_TRANSPOSED)):
        return Layout(1, 0)
    if is_inputs_first(owner):
        return Layout(0, 1)
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
