"""Models and inputs whose examples are looked at one by one: what is chosen, run, left as it was, and told."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from separatrix.operators._forwards import understood
from separatrix.operators.errors import OperatorError, ParameterError

Inputs = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""A tensor, several that the model takes in order, or by name; examples first."""


class CoupledExamplesError(OperatorError):
    """A model whose output for one example depends on the rest of the batch, or on chance."""


class StructureError(OperatorError):
    """A model, output or loss of which per-example gradients cannot be taken."""


class JacobianFallbackWarning(UserWarning):
    """Parameters used in ways that no rule covers: their gradients are exact, but taken one example at a time."""


def selected(
    modules: Mapping[str, nn.Module], parameters: Sequence[str | Tensor] | None
) -> tuple[list[Tensor], list[str]]:
    """The parameters asked for (default: all that train) and the layer each belongs to, by its first owner's name.

    Raises:
        ParameterError: none to differentiate, or one that is unknown, frozen, complex or not among the modules.
        CoupledExamplesError: a batch normalisation that uses the batch's statistics.
    """
    owners: dict[int, str] = {}
    everything: list[Tensor] = []
    for prefix, root in modules.items():
        for name, module in root.named_modules(prefix=prefix):
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or module.running_mean is None):
                remedy = "call model.eval()" if module.running_mean is not None else "track its running statistics"
                raise CoupledExamplesError(
                    f"{type(module).__name__} {name!r} couples examples by the batch's statistics: {remedy}."
                )
            for parameter in module.parameters(recurse=False):
                if id(parameter) not in owners:
                    owners[id(parameter)] = name
                    everything.append(parameter)
    named = {
        name: parameter
        for prefix, root in modules.items()
        for name, parameter in root.named_parameters(prefix=prefix, remove_duplicate=False)
    }
    unknown = [entry for entry in parameters or () if isinstance(entry, str) and entry not in named]
    if unknown:
        raise ParameterError(f"{unknown[0]!r} is no parameter of the model: choose from {', '.join(named) or 'none'}.")
    chosen = (
        [parameter for parameter in everything if parameter.requires_grad]
        if parameters is None
        else [named[entry] if isinstance(entry, str) else entry for entry in parameters]
    )
    chosen = list({id(parameter): parameter for parameter in chosen}.values())
    if not chosen:
        raise ParameterError("No parameter requires a gradient: unfreeze some or name the ones to use.")
    for position, parameter in enumerate(chosen):
        if id(parameter) not in owners:
            raise ParameterError(f"Parameter {position} of shape {tuple(parameter.shape)} belongs to no given module.")
        if not parameter.requires_grad or not parameter.is_floating_point():
            layer = owners[id(parameter)]
            raise ParameterError(f"A parameter of layer {layer!r} is frozen or not real: leave it out or unfreeze it.")
    return chosen, [owners[id(parameter)] for parameter in chosen]


def announce(reasons: Mapping[int, str], layers: Sequence[str], stacklevel: int) -> None:
    """Warn once of the parameters without structure."""
    if reasons:
        told = sorted({f"{layers[index] or 'the model itself'} ({reason})" for index, reason in reasons.items()})
        warnings.warn(
            f"Exact Jacobian rows, slower, instead of layer structure for: {'; '.join(told)}.",
            JacobianFallbackWarning,
            stacklevel=stacklevel,
        )


@contextlib.contextmanager
def undisturbed(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Gradients on and autocast off; random states and buffers as they were, afterwards."""
    roots = list(modules)
    buffers = {id(buffer): buffer for root in roots for buffer in root.buffers()}.values()
    kept = [(buffer, buffer._version, buffer.detach().clone()) for buffer in buffers]
    devices = {parameter.device for root in roots for parameter in root.parameters() if parameter.device.type == "cuda"}
    device = next((parameter.device.type for root in roots for parameter in root.parameters()), "cpu")
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device, enabled=False),
        torch.random.fork_rng(sorted(devices, key=str)),
    ):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            with torch.no_grad():
                for buffer, version, value in kept:
                    if buffer._version != version:
                        buffer.copy_(value)


def examples_of(inputs: Inputs) -> int:
    """Number of examples along the first axis, the same for every input.

    Raises:
        StructureError: no inputs, none along the first axis, or different numbers of them.
    """
    counts = {len(tensor) if tensor.ndim else 0 for tensor in _tensors(inputs)}
    if len(counts) != 1 or 0 in counts:
        raise StructureError(f"Inputs hold {sorted(counts)} examples: give the same number, at least one, in each.")
    return counts.pop()


def run(model: nn.Module, inputs: Inputs, examples: slice) -> Any:
    """The model's outputs for some examples."""
    with understood(model):
        if isinstance(inputs, Mapping):
            return model(**{name: tensor[examples] for name, tensor in inputs.items()})
        return model(*(tensor[examples] for tensor in _tensors(inputs)))


def _tensors(inputs: Inputs) -> tuple[Tensor, ...]:
    if isinstance(inputs, Tensor):
        return (inputs,)
    found = tuple(inputs.values() if isinstance(inputs, Mapping) else inputs)
    if not all(isinstance(tensor, Tensor) for tensor in found):
        kinds = ", ".join(sorted({type(tensor).__name__ for tensor in found if not isinstance(tensor, Tensor)}))
        raise StructureError(f"Inputs hold {kinds}: give tensors with the examples first, by position or by name.")
    return found
