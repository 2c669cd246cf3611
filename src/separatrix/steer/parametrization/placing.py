"""Where the factors of a rule go: into tensors, or into hooks where a tensor cannot hold them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch import nn

from separatrix.steer.errors import ParametrizationError
from separatrix.steer.parametrization.comparing import Learnt, matching
from separatrix.steer.parametrization.layout import is_linear, is_lookup
from separatrix.steer.parametrization.rule import Descent, Rule, Scale

Scales = Mapping[Descent, Scale]
_DESCENTS: tuple[Descent, ...] = ("sgd", "sign")


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Constants that a module's input and output are multiplied by."""

    input: float = 1.0
    output: float = 1.0


@dataclasses.dataclass(frozen=True)
class Placed:
    """Scales of every tensor, by its first name and kind of descent, and hooks by name of the module."""

    scales: Mapping[str, Scales]
    hooks: Mapping[str, Hooks]


def place(model: nn.Module, learnt: Learnt, rule: Rule, extra: Mapping[str, float], absorb: bool) -> Placed:
    """Put the multipliers of `rule`, and of modules in `extra`, into tensors if `absorb`, else into hooks.

    A tensor with several uses keeps its multipliers in hooks of the modules that use it, and takes initial values and
    rates from its use as an input, or else from its first. Where no hook can act, as inside of attention's own forward,
    a tensor absorbs the rule's multiplier in any case; modules that are not linear have their own held by a hook.
    """
    scales: dict[str, Scales] = {}
    hooks: dict[str, Hooks] = {}
    absorbing = {name for name in extra if _absorbs(model, learnt, name, absorb)}
    for first, names in learnt.shared.items():
        module = learnt.uses[first].module
        alone = len(names) == 1 and (absorb or not _hookable(model, module))
        own = extra[module] if module in absorbing else 1.0
        found: dict[Descent, Scale] = {}
        for kind in _DESCENTS:
            scale = rule.scale(learnt.primary(first), kind)
            whole = dataclasses.replace(scale, multiplier=scale.multiplier * own)
            found[kind] = whole.absorbed(own * (scale.multiplier if alone else 1.0), kind)
        scales[first] = found
        if not alone:
            for name in names:
                _hold(model, learnt, name, rule.scale(learnt.facts[name], "sign").multiplier, hooks)
    for module in set(extra).difference(absorbing):
        held = hooks.get(module, Hooks())
        hooks[module] = dataclasses.replace(held, output=held.output * extra[module])
    return Placed(scales, hooks)


def _absorbs(model: nn.Module, learnt: Learnt, module: str, absorb: bool) -> bool:
    """Whether a module's own multiplier goes into its tensors.

    Raises:
        ParametrizationError: it has to and cannot.
    """
    firsts = [first for first in learnt.shared if learnt.uses[first].module == module]
    names = [name for name, use in learnt.uses.items() if use.module == module]
    able = bool(firsts) and is_linear(model.get_submodule(module))
    able = able and len(names) == len(firsts) and all(len(learnt.shared[first]) == 1 for first in firsts)
    if not able and _inside_attention(model, module):
        raise ParametrizationError(f"{module} is used by attention without being called: it can have no multiplier")
    return able and (absorb or _inside_attention(model, module))


def _hookable(model: nn.Module, module: str) -> bool:
    """Whether a hook on the module's input or output multiplies what its tensor does."""
    return is_linear(model.get_submodule(module)) and not _inside_attention(model, module)


def _inside_attention(model: nn.Module, module: str) -> bool:
    """Whether torch's attention uses the module's tensors without calling it."""
    return bool(module) and isinstance(model.get_submodule(module.rpartition(".")[0]), nn.MultiheadAttention)


def _hold(model: nn.Module, learnt: Learnt, name: str, multiplier: float, hooks: dict[str, Hooks]) -> None:
    """Hold a tensor's multiplier at the module that uses it: at its input, so that a bias stays as it is."""
    if multiplier == 1.0:
        return
    module = learnt.uses[name].module
    held = hooks.get(module, Hooks())
    if is_lookup(model.get_submodule(module)):
        hooks[module] = dataclasses.replace(held, output=held.output * multiplier)
    elif _hookable(model, module):
        hooks[module] = dataclasses.replace(held, input=held.input * multiplier)
    else:
        raise ParametrizationError(
            f"{name} shares its tensor and wants a multiplier of {multiplier:g}, which no hook can hold: untie it"
        )


def module_multipliers(
    model: nn.Module, learnt: Learnt, rule: Rule, branches: Sequence[str], multipliers: Mapping[str, float]
) -> dict[str, float]:
    """The constants on outputs of modules: of residual branches by the rule, and those that the user gives.

    Raises:
        ParametrizationError: a pattern matches no module; the rule scales branches and none is named, or the other way.
    """
    modules = [name for name, _ in model.named_modules() if name]
    found: dict[str, float] = {}
    if rule.branch is None and branches:
        raise ParametrizationError(f"the parametrization {rule.name!r} scales no residual branches: leave them out")
    if rule.branch is not None and learnt.stacks and not branches:
        raise ParametrizationError(
            f"the parametrization {rule.name!r} scales residual branches: name their ends, branches=['blocks.*.out']"
        )
    if rule.branch is not None:
        for name in sorted(matching(branches, modules, "branch")):
            found[name] = rule.branch(*learnt.depth_of(name))
    for pattern, factor in multipliers.items():
        for name in sorted(matching([pattern], modules, "multiplier")):
            found[name] = found.get(name, 1.0) * factor
    return found
