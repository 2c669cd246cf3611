"""Scales a model's initial values, multipliers and learning rates with its size, by one of several rules."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from separatrix.steer.errors import ParametrizationError, ParametrizationWarning
from separatrix.steer.parametrization.building import Build, has_values, shapes_only, unwrapped, with_values
from separatrix.steer.parametrization.comparing import Learnt, checked_roles, learn
from separatrix.steer.parametrization.families import (
    Family,
    OptimizerClass,
    class_of,
    couples_decay,
    default_of,
    family_of,
    has_option,
    settings_of,
)
from separatrix.steer.parametrization.initial import Ratios, Size, law_of, rescale, size_of
from separatrix.steer.parametrization.multipliers import hold_input, hold_output
from separatrix.steer.parametrization.placing import Hooks, Placed, module_multipliers, place
from separatrix.steer.parametrization.quiet import quiet
from separatrix.steer.parametrization.registry import find_rule
from separatrix.steer.parametrization.rule import Rule
from separatrix.steer.parametrization.tensors import ROLES, Role, TensorFacts

if TYPE_CHECKING:
    from rich.table import Table

_WRAPPINGS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
ByRole = float | Mapping[str, float]
"""A number for all tensors, or one for each role."""


@dataclasses.dataclass(frozen=True)
class Factors:
    """Factors of one tensor over the base model's: its initial root mean square, its learning rate, its weight decay.

    `initial` is the root mean square itself where `absolute`; a law of the depth that the constructor follows comes on
    top where the rule has none. `multiplier` is what hooks multiply it by.
    """

    tensor: TensorFacts
    initial: float
    absolute: bool
    multiplier: float
    rate: float
    decay: float


@dataclasses.dataclass(frozen=True)
class Parametrization:
    """A model scaled by a rule; gives the groups of parameters that any optimizer takes.

    It holds names, not tensors: groups are of the parameters that the model has when they are asked for, sharded ones
    included, or of those of another copy of the model. `notes` say what had to be assumed. Printed, it is a table.
    """

    rule: Rule
    model: nn.Module = dataclasses.field(repr=False)
    learnt: Learnt = dataclasses.field(repr=False)
    placed: Placed = dataclasses.field(repr=False)
    notes: tuple[str, ...] = ()

    def param_groups(
        self,
        optimizer: OptimizerClass,
        *,
        lr: ByRole,
        weight_decay: ByRole | None = None,
        eps: Any = None,
        roles: Sequence[str] | None = None,
        model: nn.Module | None = None,
        family: str | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Groups for `optimizer(groups, ...)` whose rates, decays and epsilons are those of the base model, scaled.

        `optimizer` is a class, or a functools.partial of one, whose settings count as its defaults. `lr`, `eps` and
        `weight_decay` are what was tuned on the base model, numbers for all or by role; the latter two default to the
        optimizer's. Weight decay is scaled so that its product with the rate, what a step shrinks by, is that of the
        base model. `roles` picks parameters, so that two optimizers can share a model. `model` is a copy of the
        parametrized model, such as one loaded or copied; `family` says how the steps of an optimizer scale that is not
        one of torch's ("sgd", "adam", "adafactor", "muon"). Other options go to every group. Frozen parameters are left
        out.

        Raises:
            ParametrizationError: the optimizer is no class, of no known family, or cannot take a tensor or an option
                that is given, a role has no value, or weight decay would be normalised with the gradient.
        """
        kind = family_of(optimizer, family)
        decay = default_of(optimizer, "weight_decay") if weight_decay is None else weight_decay
        epsilon = default_of(optimizer, "eps") if eps is None else eps
        settings = {**settings_of(optimizer), **options}
        if decay and couples_decay(optimizer, settings):
            raise ParametrizationError(
                f"{class_of(optimizer).__name__} normalises its weight decay with the gradient, which no width keeps: "
                "use AdamW, decoupled_weight_decay=True or weight_decay=0"
            )
        decays = has_option(optimizer, "weight_decay", given=weight_decay is not None)
        has_epsilon = has_option(optimizer, "eps", given=eps is not None)
        wanted = _chosen_roles(roles)
        target = self.model if model is None else unwrapped(model)
        groups: dict[tuple[Any, ...], dict[str, Any]] = {}
        for name, parameter in self._parameters(target):
            tensor = self.learnt.primary(name)
            if tensor.role not in wanted or not parameter.requires_grad:
                continue
            if kind.name == "muon" and parameter.dim() != 2:
                raise ParametrizationError(
                    f"Muon takes matrices, not {name} of shape {tensor.shape}: give it roles=['hidden'], AdamW the rest"
                )
            factor = self._rate(name, kind, settings)
            group: dict[str, Any] = {"lr": _by_role(lr, tensor.role, "lr") * factor}
            if decays:
                group["weight_decay"] = _by_role(decay or 0.0, tensor.role, "weight_decay") / factor
            if has_epsilon and epsilon is not None:
                group["eps"] = kind.epsilon(epsilon, self.placed.scales[name][kind.descent], tensor)
            key = tuple(group.values())
            groups.setdefault(key, {"params": [], **group, **options})["params"].append(parameter)
        if not groups:
            raise ParametrizationError(f"no parameter to train has a role of {', '.join(wanted)}: choose other roles")
        return list(groups.values())

    def factors(
        self, optimizer: OptimizerClass = torch.optim.AdamW, *, family: str | None = None, **options: Any
    ) -> dict[str, Factors]:
        """The factors of every tensor, by name, for an optimizer; a tied one has those of each of its uses.

        Raises:
            ParametrizationError: the optimizer is of no known family.
        """
        kind = family_of(optimizer, family)
        settings = {**settings_of(optimizer), **options}
        found = {}
        for first, names in self.learnt.shared.items():
            scale, rate = self.placed.scales[first][kind.descent], self._rate(first, kind, settings)
            for name in names:
                held = self.placed.hooks.get(self.learnt.uses[name].module, Hooks())
                inside = held.output * (1.0 if name.endswith("bias") else held.input)
                found[name] = Factors(self.learnt.facts[name], scale.initial, scale.absolute, inside, rate, 1.0 / rate)
        return found

    def table(
        self, optimizer: OptimizerClass = torch.optim.AdamW, *, family: str | None = None, **options: Any
    ) -> Table:
        """One row for each kind of tensor: role, fans, and factors on initial scale, rate, decay and output."""
        from separatrix.steer.parametrization.table import table_of

        return table_of(self, self.factors(optimizer, family=family, **options), class_of(optimizer).__name__)

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        from separatrix.steer.parametrization.table import as_text

        return as_text(self.table())

    def _rate(self, name: str, kind: Family, options: Mapping[str, Any]) -> float:
        return kind.rate(self.placed.scales[name][kind.descent], self.learnt.primary(name), options)

    def _parameters(self, model: nn.Module) -> list[tuple[str, nn.Parameter]]:
        """The tensors of `model` by the names that were learnt.

        Raises:
            ParametrizationError: it has others.
        """
        found = {_plain(name): parameter for name, parameter in model.named_parameters(remove_duplicate=False)}
        if strange := sorted(set(found).symmetric_difference(self.learnt.facts)):
            raise ParametrizationError(
                f"this model and the parametrized one differ in {strange[0]!r}: give a copy of it"
            )
        return [(name, found[name]) for name in self.learnt.shared]


def parametrize(
    model: nn.Module,
    *,
    base: Build,
    delta: Build,
    rule: str | Rule = "maximal-update",
    roles: Mapping[str, str] | None = None,
    layouts: Mapping[str, str] | None = None,
    branches: Sequence[str] = (),
    multipliers: Mapping[str, float] | None = None,
    absorb: bool | None = None,
    initialize: bool = True,
) -> Parametrization:
    """Scale `model` in place from a smaller `base`, so that what was tuned there can be used here.

    `base` and `delta` are models of the same kind or functions that build one: `base` of the size that was tuned,
    `delta` with every size changed that is to scale (width, depth). Their shapes are compared, of builds on the meta
    device, or on the CPU if the constructor fails there, with a warning. At the size of `base` nothing changes, but for
    the unit-scaled rule, under which the base is to be tuned parametrized, too. Call it once, on a model as its
    constructor leaves it.

    Initial values are rescaled in place: the law that the constructor follows is read from builds of `base` and `delta`
    and replaced by the rule's; constants stay constants and zeros zeros. Under a rule that says nothing of the depth,
    what the constructor divides by a power of the number of layers stays divided. With `initialize=False` (a checkpoint
    will be loaded) they stay as they are. No layer is replaced and no tensor gets an attribute. Multipliers go into
    initial values, rates and epsilons; those of tied tensors, and all if `absorb` is false, are held by forward hooks.

    `roles` corrects roles by pattern of parameter names. `layouts` says by pattern what the dimensions of a tensor are
    whose module is not known, a word for each: "in", "out", "kernel" for what is summed over with the inputs, "each"
    for what holds separate tensors, such as "each out in" for a batch of experts; without "in" it is a vector.
    `branches` names the last modules of residual branches for rules that scale them, `multipliers` puts constants of
    one's own on outputs of modules; in patterns a star stands for one part of a dotted name. Heads of attention should
    grow in number, not in size, or divide their logits by the size of a head.

    Raises:
        ParametrizationError: model, base and delta do not fit together, a pattern matches nothing, or the rule is
            unknown.

    Source: Yang et al. 2022, arXiv:2203.03466.
    """
    chosen, inner = find_rule(rule), unwrapped(model)
    small, refused = shapes_only(base, "base")
    large, refused_too = shapes_only(delta, "delta")
    learnt = learn(inner, small, large, roles=checked_roles(roles or {}), layouts=layouts or {})
    extra = module_multipliers(inner, learnt, chosen, branches, multipliers or {})
    placed = place(inner, learnt, chosen, extra, not chosen.held if absorb is None else absorb)
    notes = [note for note in (refused, refused_too, *learnt.notes) if note]
    if initialize:
        varied = learn(large, small, large, roles={}, layouts={}, like=learnt)
        notes += _initialize(inner, base, delta, learnt, varied, placed, chosen)
    for name, module in inner.named_modules():
        held = placed.hooks.get(name, Hooks())
        hold_input(module, held.input)
        hold_output(module, held.output)
    for note in notes:
        warnings.warn(note, ParametrizationWarning, stacklevel=2)
    return Parametrization(chosen, inner, learnt, placed, tuple(notes))


def _initialize(
    model: nn.Module, base: Build, delta: Build, learnt: Learnt, varied: Learnt, placed: Placed, rule: Rule
) -> list[str]:
    """Rescale initial values; what had to be assumed."""
    if not has_values(model):
        raise ParametrizationError("the model has no values yet: materialise it first, or give initialize=False")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    small = with_values(base, "base")
    started = _sizes(small) if has_values(small) else None
    notes = [] if started else ["base has no values: initial values are taken to follow 1 / sqrt(fan-in)"]
    calm = None if isinstance(base, nn.Module) or isinstance(delta, nn.Module) else (quiet(base), quiet(delta))
    laws = None if calm is None else (_sizes(calm[0]), _sizes(calm[1]))
    factors, unsure = {}, []
    for name in learnt.shared:
        scale = placed.scales[name]["sign"]
        size, counterpart = size_of(parameters[name]), learnt.namesakes[name]
        if scale.absolute:
            factors[name] = scale.initial / size.value if size.value else 1.0
        elif started is None:
            factors[name] = scale.initial * learnt.primary(name).fan_in_ratio ** 0.5
        elif 0.0 in (size.value, started[counterpart].value):
            factors[name] = 1.0
        else:
            theirs = varied.named_after(counterpart)
            law = None if laws is None else (laws[0][counterpart], laws[1][theirs])
            found = law_of(size, started[counterpart], law, *_ratios(learnt, varied, name, theirs))
            kept = 0.0 if rule.has_depth(learnt.primary(name)) else found.by_depth
            factors[name] = scale.initial * math.exp(kept - found.change)
            if not found.sure and not rule.has_depth(learnt.primary(name)):
                unsure.append(name)
    rescale(model, factors)
    if unsure:
        notes.append(
            f"initial values of {len(unsure)} tensors, such as {unsure[0]}, may follow the width or the depth, which "
            "grow alike, and are taken to follow the width: in delta, let the two grow by different factors"
        )
    return notes


def _sizes(model: nn.Module) -> dict[str, Size]:
    return {name: size_of(tensor) for name, tensor in unwrapped(model).named_parameters(remove_duplicate=False)}


def _ratios(learnt: Learnt, varied: Learnt, name: str, theirs: str) -> tuple[list[Ratios], Ratios]:
    """Ratios of the sizes that a tensor's initial values may depend on, in the model and in delta over the base.

    Those are widths, its fans and the fan-in of what its module adds up (a bias is often drawn by that), and the depth.
    """
    found = set()
    for mine, other in zip(learnt.siblings(name), varied.siblings(theirs), strict=True):
        ours, his = learnt.facts[mine], varied.facts[other]
        found.add((ours.fan_in_ratio, his.fan_in_ratio))
        if mine == name:
            found.add((ours.fan_out_ratio, his.fan_out_ratio))
            depth = (ours.depth_ratio, his.depth_ratio)
    return sorted(found - {(1.0, 1.0)}), depth


def _plain(name: str) -> str:
    """A parameter's name without what wrappers of inner modules add."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPINGS)


def _chosen_roles(roles: Sequence[str] | None) -> tuple[Role, ...]:
    if roles is None:
        return ROLES
    checked = checked_roles({role: role for role in roles})
    return tuple(checked.values())


def _by_role(value: ByRole, role: Role, what: str) -> float:
    if not isinstance(value, Mapping):
        return value
    if role not in value:
        raise ParametrizationError(f"{what} has no value for tensors of the role {role!r}: give one")
    return value[role]
