"""Families of optimizers: how a factor on a step becomes a learning rate, an epsilon and a weight decay."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from separatrix.steer.errors import ParametrizationError
from separatrix.steer.parametrization.rule import Descent, Scale
from separatrix.steer.parametrization.tensors import TensorFacts

OptimizerClass = type[torch.optim.Optimizer] | functools.partial[torch.optim.Optimizer]
"""The class of an optimizer, or a partial of one that holds some of its settings."""
FamilyName = Literal["sgd", "adam", "adafactor", "muon"]


@dataclasses.dataclass(frozen=True)
class Family:
    """Optimizers whose steps scale alike.

    `rate(scale, tensor, options)` is the factor on the learning rate for stored values with the factors of `scale`;
    `epsilon(eps, scale, tensor)` what an epsilon becomes.
    """

    name: FamilyName
    descent: Descent
    rate: Callable[[Scale, TensorFacts, Mapping[str, Any]], float]
    epsilon: Callable[[Any, Scale, TensorFacts], Any]


def _rate(scale: Scale, tensor: TensorFacts, options: Mapping[str, Any]) -> float:
    del tensor, options
    return scale.rate


def _relative_rate(scale: Scale, tensor: TensorFacts, options: Mapping[str, Any]) -> float:
    """Adafactor's steps are in units of the tensor's own root mean square."""
    del tensor, options
    return scale.rate / scale.initial


def _orthogonal_rate(scale: Scale, tensor: TensorFacts, options: Mapping[str, Any]) -> float:
    """A step of Muon has all singular values equal; one of Adam's with entries r, of low rank, r sqrt(in * out).

    What torch's Muon multiplies by the shape on its own is divided out again.
    """
    wide_in, wide_out = tensor.fan_in_ratio, tensor.fan_out_ratio
    base_in, base_out = tensor.fan_in / wide_in, tensor.fan_out / wide_out
    adjust = str(options.get("adjust_lr_fn") or "original")
    if scale.absolute:
        return scale.rate * math.sqrt(tensor.fan_in * tensor.fan_out) / _adjusted(adjust, tensor.fan_out, tensor.fan_in)
    adjusted = _adjusted(adjust, tensor.fan_out, tensor.fan_in) / _adjusted(adjust, base_out, base_in)
    return scale.rate * math.sqrt(wide_in * wide_out) / adjusted


def _adjusted(how: str, rows: float, columns: float) -> float:
    return math.sqrt(max(rows, columns)) if how == "match_rms_adamw" else math.sqrt(max(1.0, rows / columns))


def _epsilon(eps: Any, scale: Scale, tensor: TensorFacts) -> Any:
    del tensor
    return eps * scale.gradient


def _factored_epsilons(eps: Any, scale: Scale, tensor: TensorFacts) -> Any:
    """The first is held against squared gradients, the second against the tensor's root mean square."""
    del tensor
    first, second = eps
    if first is None:
        if scale.gradient == 1.0:
            return (None, second * scale.initial)
        first = torch.finfo(torch.float32).eps
    return (first * scale.gradient**2, second * scale.initial)


def _norm_epsilon(eps: Any, scale: Scale, tensor: TensorFacts) -> Any:
    """Muon's is held against the norm of the whole gradient."""
    return eps * scale.gradient * math.sqrt(tensor.fan_in_ratio * tensor.fan_out_ratio)


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("sgd", "sgd", _rate, _epsilon),
        Family("adam", "sign", _rate, _epsilon),
        Family("adafactor", "sign", _relative_rate, _factored_epsilons),
        Family("muon", "sign", _orthogonal_rate, _norm_epsilon),
    )
}

_BY_CLASS: Mapping[str, FamilyName] = {
    "torch.optim.sgd.SGD": "sgd",
    "torch.optim.asgd.ASGD": "sgd",
    "torch.optim.adam.Adam": "adam",
    "torch.optim.adamw.AdamW": "adam",
    "torch.optim.nadam.NAdam": "adam",
    "torch.optim.radam.RAdam": "adam",
    "torch.optim.adamax.Adamax": "adam",
    "torch.optim.rmsprop.RMSprop": "adam",
    "torch.optim.Adafactor": "adafactor",
    "torch.optim.Muon": "muon",
}
_COUPLED = ("Adam", "NAdam", "RAdam", "Adamax", "RMSprop")


def family_of(optimizer: OptimizerClass, name: str | None = None) -> Family:
    """The family of an optimizer's class, or the one that is named.

    Raises:
        ParametrizationError: neither is known.
    """
    chosen = class_of(optimizer)
    if name is None:
        paths = [f"{kind.__module__}.{kind.__qualname__}" for kind in chosen.__mro__]
        name = next((_BY_CLASS[path] for path in paths if path in _BY_CLASS), None)
        if name is None:
            raise ParametrizationError(
                f"how steps of {chosen.__name__} scale is not known: give family= one of {', '.join(FAMILIES)}"
            )
    if name not in FAMILIES:
        raise ParametrizationError(f"{name!r} is no family of optimizers: choose from {', '.join(FAMILIES)}")
    return FAMILIES[name]


def class_of(optimizer: object) -> type[torch.optim.Optimizer]:
    """The class of an optimizer that is given as such, or with settings by functools.partial.

    Raises:
        ParametrizationError: it is neither.
    """
    inner = optimizer.func if isinstance(optimizer, functools.partial) else optimizer
    if not isinstance(inner, type) or not issubclass(inner, torch.optim.Optimizer):
        raise ParametrizationError(
            f"{str(inner).splitlines()[0]!r:.80} is no class of optimizers: give one, such as torch.optim.AdamW"
        )
    return inner


def settings_of(optimizer: OptimizerClass) -> Mapping[str, Any]:
    """What functools.partial gives to an optimizer's constructor."""
    return optimizer.keywords if isinstance(optimizer, functools.partial) else {}


def default_of(optimizer: OptimizerClass, option: str) -> Any:
    """What an optimizer takes for an option that is not given, None where it has none of that name."""
    if option in settings_of(optimizer):
        return settings_of(optimizer)[option]
    parameter, _ = _parameter(class_of(optimizer), option)
    return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default


def has_option(optimizer: OptimizerClass, option: str, *, given: bool = False) -> bool:
    """Whether the optimizer's constructor takes the option, itself or by passing keywords on to a class above.

    Where it takes any keyword and no class names this one, only the user can know: then so if it is `given`.

    Raises:
        ParametrizationError: it is given, and the optimizer does not take it.
    """
    kind = class_of(optimizer)
    parameter, any_keyword = _parameter(kind, option)
    if given and parameter is None and not any_keyword:
        raise ParametrizationError(f"{kind.__name__} takes no {option}: leave it out, or take an optimizer that has it")
    return parameter is not None or given


def _parameter(kind: type, option: str) -> tuple[inspect.Parameter | None, bool]:
    """The parameter of that name of the constructor or one it passes keywords to, and whether it takes any keyword."""
    any_keyword = False
    for above in kind.__mro__:
        if "__init__" not in vars(above):
            continue
        parameters = inspect.signature(vars(above)["__init__"]).parameters
        if option in parameters:
            return parameters[option], any_keyword
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
        any_keyword = True
    return None, any_keyword


def couples_decay(optimizer: OptimizerClass, options: Mapping[str, Any]) -> bool:
    """Whether weight decay is added to gradients that are normalised afterwards."""
    for kind in class_of(optimizer).__mro__:
        if kind.__module__.startswith("torch.optim"):
            decoupled = options.get("decoupled_weight_decay", False)
            return kind.__name__ in _COUPLED and not decoupled
    return False
