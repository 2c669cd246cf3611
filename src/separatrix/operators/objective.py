"""A model, a loss and data as something to differentiate, without a trace left on any of them."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from separatrix.operators._channels_last import ChannelsLast, hooked
from separatrix.operators._forwards import understood, whole
from separatrix.operators._watching import tensors_in
from separatrix.operators.checks import check_parameters
from separatrix.operators.differentiation import nodes, worth_batching
from separatrix.operators.errors import OperatorUsageError, ParameterError
from separatrix.operators.products import CurvatureOperator, Term, kept

Loss = Callable[[Any, Any], Tensor]
"""Takes outputs and targets to a scalar: the mean over examples."""
Data = Any
"""One batch (inputs, targets), or an iterable of batches that can be iterated again and again."""
Parameters = Sequence[str | Tensor] | None
Blocks = Literal["layer"] | Sequence[Sequence[str | Tensor]] | None


@dataclasses.dataclass(frozen=True)
class Objective:
    """What an operator of a module differentiates: parameters by name, batches, and the random state of every pass."""

    model: nn.Module
    batches: Iterable[Any]
    single: bool
    names: tuple[str, ...]
    parameters: tuple[Tensor, ...]
    states: tuple[Any, ...]
    suited: dict[tuple[torch.Size, ...], bool] = dataclasses.field(default_factory=dict, repr=False)
    """By the shapes of inputs, whether channels last suits the model."""

    def outputs(self, inputs: Any) -> Any:
        """The model's outputs, with buffers as they are now: what a forward does to them is dropped."""
        shapes = tuple(leaf.shape for leaf in tensors_in(inputs))
        if shapes not in self.suited:
            self.suited[shapes] = self._suits_channels_last(inputs)
        if not self.suited[shapes] or hooked(self.model):
            return self._forward(inputs)
        with ChannelsLast() as mode:
            return mode.settled(self._forward(inputs))

    def _suits_channels_last(self, inputs: Any) -> bool:
        """Whether channels last pays and changes nothing, tried on two examples in both layouts.

        Not where several products go at a time (vmap knows one layout), or where anything goes wrong.
        """
        if not any(parameter.ndim == 4 for parameter in self.parameters):
            return False
        few = tree_map(lambda leaf: leaf[:2] if isinstance(leaf, Tensor) and leaf.ndim else leaf, inputs)
        states = _current_states(self.parameters[0].device)
        try:
            with _random_states(states):
                plain = list(tensors_in(self._forward(few)))
            graph = [node for output in plain for node in nodes(output)]
            if worth_batching(graph, self.parameters[0].device, _examples(inputs) / 2):
                return False
            with _random_states(states), ChannelsLast() as mode:
                changed = list(tensors_in(mode.settled(self._forward(few))))
        except Exception:  # a model may mind its layout, or so few examples, in any way
            return False
        return len(plain) == len(changed) and all(map(_alike, plain, changed))

    def _forward(self, inputs: Any) -> Any:
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        arguments = () if isinstance(inputs, Mapping) else inputs if isinstance(inputs, (tuple, list)) else (inputs,)
        with understood(self.model):
            return functional_call(
                self.model, buffers, tuple(arguments), dict(inputs) if isinstance(inputs, Mapping) else None
            )

    def operator(
        self, term: Callable[[Any, Any, float, int], Term], blocks: Blocks = None, *, centred: bool = False
    ) -> CurvatureOperator:
        """The operator whose terms are made of the batches: `term(inputs, targets, batch size, position)`."""
        options: dict[str, Any] = {
            "blocks": _positions(blocks, self.names, self.parameters),
            "centred": centred,
            "name_module": self._module_of,
        }
        if self.single:
            inputs, targets = next(iter(self.batches))

            def build() -> Term:
                with _random_states(self.states):
                    return term(inputs, targets, _examples(inputs), 0)

            return kept(self.parameters, build, **options)

        @contextlib.contextmanager
        def terms() -> Iterator[Iterator[Term]]:
            with _random_states(self.states):
                yield self._each(term)

        check_parameters(self.parameters, self.names)
        return CurvatureOperator(self.parameters, terms, **options)

    def _each(self, term: Callable[[Any, Any, float, int], Term]) -> Iterator[Term]:
        position = -1
        for position, batch in enumerate(self.batches):
            inputs, targets = _pair(batch)
            yield term(inputs, targets, _examples(inputs), position)
        if position < 0:
            raise OperatorUsageError("the data holds no batch: pass (inputs, targets) or an iterable of such pairs")

    def _module_of(self, operations: frozenset[str]) -> str:
        """The first module, innermost first, whose output's graph has a node of these names."""
        wanted = {_plain(name) for name in operations}
        found: list[str] = []

        def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def look(module: nn.Module, inputs: Any, output: Any) -> None:
                if not found and isinstance(output, Tensor) and wanted & {_plain(n.name()) for n in nodes(output)}:
                    found.append(f"module '{name}' ({type(module).__name__}): " if name else "")

            return look

        handles = [module.register_forward_hook(hook(name)) for name, module in self.model.named_modules()]
        try:
            with _random_states(self.states):
                self.outputs(_pair(next(iter(self.batches)))[0])
        finally:
            for handle in handles:
                handle.remove()
        return found[0] if found else ""


def objective(model: nn.Module, data: Data, parameters: Parameters) -> Objective:
    """Checks and resolves what a module operator is built from.

    Parameters are all trainable ones, tied ones once, or those selected by name or tensor.

    Raises:
        ParameterError: the selection is empty, frozen, unknown or of an unsupported dtype.
        OperatorUsageError: the data is neither a batch nor a re-iterable of batches.
    """
    model = whole(model)
    names, tensors = _selected(model, parameters)
    check_parameters(tensors, names)
    single = _is_pair(data)
    if not single and (not isinstance(data, Iterable) or isinstance(data, (Tensor, str, Iterator))):
        raise OperatorUsageError(
            f"data of type {type(data).__name__}: pass one batch (inputs, targets), or a list or DataLoader of batches"
            " that can be iterated again"
        )
    return Objective(model, [data] if single else data, single, names, tensors, _current_states(tensors[0].device))


def _alike(one: Tensor, other: Tensor) -> bool:
    tolerance = torch.finfo(one.dtype).eps ** 0.5 if one.is_floating_point() else 0.0
    return torch.allclose(one, other, rtol=0, atol=tolerance * float(one.detach().abs().max()))


def _is_pair(data: Any) -> bool:
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        return False
    return isinstance(data, tuple) or isinstance(data[0], (Tensor, Mapping))


def _pair(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise OperatorUsageError(f"a batch of type {type(batch).__name__}: every batch must be (inputs, targets)")
    return batch[0], batch[1]


def _examples(inputs: Any) -> int:
    if isinstance(inputs, Mapping):
        inputs = tuple(inputs.values())
    first = inputs
    while isinstance(first, (tuple, list)) and first:
        first = first[0]
    if not isinstance(first, Tensor) or first.ndim == 0 or len(first) == 0:
        raise OperatorUsageError("a batch's inputs must be a tensor, or tensors, with at least one example first")
    return len(first)


def _selected(model: nn.Module, parameters: Parameters) -> tuple[tuple[str, ...], tuple[Tensor, ...]]:
    every = dict(model.named_parameters(remove_duplicate=False))
    if parameters is None:
        chosen = {name: p for name, p in model.named_parameters() if p.requires_grad}
        return tuple(chosen), tuple(chosen.values())
    name_of = {id(tensor): name for name, tensor in reversed(every.items())}
    found: dict[str, Tensor] = {}
    for entry in parameters:
        name = entry if isinstance(entry, str) else name_of.get(id(entry))
        if name not in every:
            what = repr(entry) if isinstance(entry, str) else f"a tensor of shape {tuple(entry.shape)}"
            raise ParameterError(f"{what} is no parameter of the model: choose from {', '.join(every) or 'none'}")
        found[name_of[id(every[name])]] = every[name]
    return tuple(found), tuple(found.values())


def _positions(blocks: Blocks, names: Sequence[str], parameters: Sequence[Tensor]) -> list[list[int]] | None:
    if blocks is None:
        return None
    if blocks == "layer":
        layers: dict[str, list[int]] = {}
        for position, name in enumerate(names):
            layers.setdefault(name.rpartition(".")[0], []).append(position)
        return list(layers.values())
    if isinstance(blocks, str):
        raise ParameterError(f"blocks={blocks!r} is unknown: use 'layer' or groups of names or tensors")
    place = {name: i for i, name in enumerate(names)} | {id(p): i for i, p in enumerate(parameters)}
    keys = [[entry if isinstance(entry, str) else id(entry) for entry in group] for group in blocks]
    unknown = [key for group in keys for key in group if key not in place]
    if unknown:
        raise ParameterError(f"blocks name {unknown[0]!r}, which is not among the operator's parameters")
    return [[place[key] for key in group] for group in keys]


def _current_states(device: torch.device) -> tuple[Any, ...]:
    devices = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return (torch.get_rng_state(), random.getstate(), np.random.get_state(), device, *devices)


def _restore(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])
    if len(states) > 4:
        torch.cuda.set_rng_state(states[4], states[3])


@contextlib.contextmanager
def _random_states(states: tuple[Any, ...]) -> Iterator[None]:
    """Global random states as they were when the operator was made, and afterwards as they are now."""
    before = _current_states(states[3])
    _restore(states)
    try:
        yield
    finally:
        _restore(before)


def _plain(name: str) -> str:
    """A node's or operation's name reduced to what forward and backward share."""
    return name.lower().replace("backward", "").replace("_", "").rstrip("0123456789")
