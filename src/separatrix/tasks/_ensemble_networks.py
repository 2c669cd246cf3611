"""Networks that differ in their values only, stacked along a first dimension."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from separatrix.tasks._ensemble_likeness import check_alike
from separatrix.tasks.errors import EnsembleError

Tensors = Tensor | tuple[Tensor, ...]


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Copies of one network: trainable parameters in one array, buffers and frozen parameters by name.

    `template` gives the structure; its own values are not used. `parameters` has shape (copies, size), `fixed` holds
    arrays of shape (copies, ...).
    """

    template: nn.Module
    parameters: Float[Tensor, " copies size"]
    fixed: Mapping[str, Tensor]

    @property
    def copies(self) -> int:
        """How many networks there are."""
        return len(self.parameters)

    @functools.cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Shape of each trainable parameter of one copy, tied ones once, in the order of their columns."""
        return {name: values.shape for name, values in self.template.named_parameters() if values.requires_grad}

    def named(self) -> dict[str, Tensor]:
        """Views of the trainable parameters by name, of shape (copies, ...)."""
        return split(self.shapes, self.parameters)

    def module(self, index: int) -> nn.Module:
        """Copy `index` as an ordinary module of its own.

        Raises:
            IndexError: there is no such copy.
        """
        if not -self.copies <= index < self.copies:
            raise IndexError(f"copy {index} of an ensemble of {self.copies}: give an index from 0 to {self.copies - 1}")
        module = copy.deepcopy(self.template)
        values = {**self.named(), **self.fixed}
        with torch.no_grad():
            for name, tensor in _tensors(module):
                tensor.copy_(values[name][index])
        return module

    def outputs(self, inputs: Tensors, *, shared: bool = False, training: bool = False) -> Any:
        """Outputs (copies, batch, ...) without gradients, in evaluation mode unless `training`; buffers stay.

        Inputs have shape (copies, batch, ...), or (batch, ...) when they are `shared`; a tuple gives several arguments.

        Raises:
            EnsembleError: the leading size of an input is not the number of copies.
        """
        arguments = as_tuple(inputs)
        if not shared:
            check_leading(arguments, self.copies, "inputs")
        template, shapes = copy.deepcopy(self.template).train(training), self.shapes

        def one(row: Tensor, fixed: dict[str, Tensor], *given: Tensor) -> Any:
            held = {name: values.clone() for name, values in fixed.items()}
            return functional_call(template, {**split(shapes, row), **held}, given)

        dims = (0, 0, *(None if shared else 0 for _ in arguments))
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            return vmap(one, in_dims=dims, randomness="different")(self.parameters, dict(self.fixed), *arguments)


def split(shapes: Mapping[str, torch.Size], values: Tensor) -> dict[str, Tensor]:
    """Parameters by name from their columns (..., size)."""
    pieces = torch.split(values, [shape.numel() for shape in shapes.values()], dim=-1)
    leading = values.shape[:-1]
    return {name: piece.reshape(leading + shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def stack(build: Callable[[], nn.Module], seeds: Sequence[int]) -> Ensemble:
    """One copy of the network for each seed, built after `torch.manual_seed(seed)`; the generators are put back.

    Raises:
        EnsembleError: see `from_modules`.
    """
    with torch.random.fork_rng():
        return from_modules([_seeded(build, seed) for seed in seeds])


def _seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build()


def from_modules(modules: Sequence[nn.Module]) -> Ensemble:
    """Stacks copies of the values of networks that differ in nothing else.

    Raises:
        EnsembleError: there are no modules, they differ in something else than parameters and buffers, nothing can be
            trained, or the trainable parameters are not of one floating-point type.
    """
    if not modules:
        raise EnsembleError("an ensemble of no networks: give at least one seed or module")
    check_alike(modules)
    named = [dict(_tensors(module)) for module in modules]
    with torch.no_grad():
        return _stacked(modules[0], {name: torch.stack([held[name] for held in named]) for name in named[0]})


def from_values(module: nn.Module, values: Mapping[str, Tensor]) -> Ensemble:
    """Copies of one network, each with its own of these `values`: parameters and buffers (copies, ...) by name.

    What is not named all copies have from the module, whose other values are not used.

    Raises:
        EnsembleError: the module has no tensor of a name, of a shape after the copies, or of a type; numbers of copies
            differ; nothing can be trained, or the trainable parameters are not of one floating-point type.
    """
    own = {name: tensor.detach() for name, tensor in _tensors(module)}
    if not values or values.keys() - own.keys():
        raise EnsembleError(f"values of {', '.join(sorted(values)) or 'nothing'}: give some of {', '.join(own)}")
    copies = len(next(iter(values.values())))
    for name, given in values.items():
        if given.shape != (copies, *own[name].shape) or given.dtype != own[name].dtype:
            raise EnsembleError(
                f"values of {name} of shape {tuple(given.shape)} and {given.dtype} for {copies} copies: give"
                f" {(copies, *own[name].shape)} and {own[name].dtype}"
            )
    shared = {name: tensor.expand(copies, *tensor.shape) for name, tensor in own.items()}
    return _stacked(module, {**shared, **{name: given.detach() for name, given in values.items()}})


def _stacked(module: nn.Module, held: Mapping[str, Tensor]) -> Ensemble:
    """From one network and all values (copies, ...) by name."""
    template = copy.deepcopy(module)
    trainable = [name for name, values in template.named_parameters() if values.requires_grad]
    kinds = {held[name].dtype for name in trainable}
    if len(kinds) != 1 or not next(iter(kinds)).is_floating_point:
        raise EnsembleError(
            f"trainable parameters of types {sorted(map(str, kinds)) or 'none'}: an ensemble needs trainable parameters"
            " of one floating-point type"
        )
    parameters = torch.cat([held[name].reshape(len(held[name]), -1) for name in trainable], 1)
    fixed = {name: values.clone() for name, values in held.items() if name not in set(trainable)}
    return Ensemble(template, parameters, fixed)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return itertools.chain(module.named_parameters(), module.named_buffers())


def as_tuple(tensors: Tensors) -> tuple[Tensor, ...]:
    """One tensor or several as several."""
    return tensors if isinstance(tensors, tuple) else (tensors,)


def check_leading(tensors: Sequence[Tensor], copies: int, what: str) -> None:
    """Refuse tensors whose first size is not the number of copies.

    Raises:
        EnsembleError: one is like that; `what` says in the message what it is.
    """
    for tensor in tensors:
        if tensor.dim() == 0 or len(tensor) != copies:
            raise EnsembleError(
                f"{what} of shape {tuple(tensor.shape)} for {copies} copies: the first dimension must be the copy"
            )
