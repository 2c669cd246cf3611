"""Which dimension of a parameter counts inputs and which outputs: known by the module that owns it, or said."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import nn

from separatrix.steer.errors import ParametrizationError

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
    """The dimensions of a parameter that its inputs and outputs lie in, and whether that is known rather than guessed.

    Without inputs it is added or multiplied entry by entry. Dimensions `apart` hold one tensor for each index, such as
    one for each expert; all others of a known layout are a kernel, which is summed over with the inputs.
    """

    inputs: int | None
    outputs: int
    apart: tuple[int, ...] = ()
    known: bool = True

    def kernel(self, dimensions: int) -> list[int]:
        """The dimensions that count for both fans."""
        outside = (self.inputs, self.outputs, *self.apart)
        return [index for index in range(dimensions) if self.known and index not in outside]

    def fans(self, shape: Shape) -> tuple[int, int]:
        """Fan-in and fan-out of a tensor of at least two dimensions, those of a kernel included."""
        kernel = math.prod(shape[index] for index in self.kernel(len(shape)))
        return (1 if self.inputs is None else shape[self.inputs] * kernel), shape[self.outputs] * kernel


def layout_from(words: str, name: str, dimensions: int) -> Layout:
    """The layout that a user gives to a parameter by a word for each dimension: in, out, kernel or each.

    Raises:
        ParametrizationError: they are no layout of as many dimensions.
    """
    said = words.split()
    unknown = set(said) - {"in", "out", "kernel", "each"}
    if unknown or len(said) != dimensions or said.count("out") != 1 or said.count("in") > 1:
        raise ParametrizationError(
            f"{words!r} is no layout of {name}, which has {dimensions} dimensions: give one word for each of them, "
            "'out' once, 'in' at most once, 'kernel' for what is summed over, 'each' for what holds separate tensors"
        )
    apart = tuple(index for index, word in enumerate(said) if word == "each")
    return Layout(said.index("in") if "in" in said else None, said.index("out"), apart)


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
    if (experts := _layout_in_experts(owner, parameter, dimensions)) is not None:
        return experts
    if "weight" in parameter:
        return Layout(1, 0, known=False)
    return Layout(max(dimensions - 2, 0), dimensions - 1, known=False)


def _layout_in_experts(owner: nn.Module, parameter: str, dimensions: int) -> Layout | None:
    """The layout of a tensor that holds those of all experts, as transformers has them: (experts, outputs, inputs).

    Some models have inputs before outputs, which the shapes of the two projections tell where one of them is gated, and
    a flag elsewhere. Their biases are (experts, outputs).
    """
    first = next((name for name in ("gate_up_proj", "up_proj") if hasattr(owner, name)), "")
    up, down = getattr(owner, first, None), getattr(owner, "down_proj", None)
    if not isinstance(up, torch.Tensor) or not isinstance(down, torch.Tensor) or not up.dim() == down.dim() == 3:
        return None
    (_, rows, columns), (_, inner, outer) = up.shape, down.shape
    if first == "up_proj":
        inputs_first = getattr(owner, "is_transposed", None)
    else:
        plain, turned = (rows, columns) == (2 * outer, inner), (rows, columns) == (outer, 2 * inner)
        inputs_first = turned if plain or turned else None
    if inputs_first is None:
        return None
    if parameter in (f"{first}_bias", "down_proj_bias") and dimensions == 2:
        return Layout(None, 1, apart=(0,))
    if parameter in (first, "down_proj"):
        return Layout(1, 2, apart=(0,)) if inputs_first else Layout(2, 1, apart=(0,))
    return None


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
