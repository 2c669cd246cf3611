"""Learns which dimensions of a model scale, by comparing builds of it at two sizes."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from separatrix.steer.errors import ParametrizationError
from separatrix.steer.parametrization.layout import Layout, Shape, is_lookup, layout_from, layout_of, shapes_of
from separatrix.steer.parametrization.stacks import Stack, children, index_in, namesake, stacks_of
from separatrix.steer.parametrization.tensors import ROLES, Role, TensorFacts


@dataclasses.dataclass(frozen=True)
class Use:
    """One place where a parameter is used: its full name there and the module that owns it."""

    name: str
    module: str
    parameter: str


@dataclasses.dataclass(frozen=True)
class Learnt:
    """Facts of every parameter by the name of each of its uses, which uses share a tensor, and what was assumed.

    `namesakes` are the names of counterparts in the base model, `layouts` those that were given, by such a name.
    """

    facts: Mapping[str, TensorFacts]
    uses: Mapping[str, Use]
    shared: Mapping[str, tuple[str, ...]]
    namesakes: Mapping[str, str]
    stacks: Mapping[str, Stack]
    layers: Mapping[str, int]
    layouts: Mapping[str, Layout]
    notes: tuple[str, ...]

    def primary(self, first: str) -> TensorFacts:
        """The facts that decide for a tensor: those of its use as an input, or else of its first."""
        found = [self.facts[name] for name in self.shared[first]]
        return next((facts for facts in found if facts.role == "input"), found[0])

    def siblings(self, name: str) -> tuple[str, ...]:
        """The names of all tensors of the module that owns this one."""
        return tuple(other for other, use in self.uses.items() if use.module == self.uses[name].module)

    def named_after(self, counterpart: str) -> str:
        """The first tensor whose counterpart in the base model has that name."""
        return next(name for name, other in self.namesakes.items() if other == counterpart)

    def depth_of(self, name: str) -> tuple[int, float]:
        """Layers of its kind in the stacks that hold the parameter or module, and that number over the base model's."""
        inside = [
            stack.depth_at(index, self.layers[prefix])
            for prefix, stack in self.stacks.items()
            if (index := index_in(name, prefix)) is not None
        ]
        return math.prod(many for many, _ in inside), math.prod(many / few for many, few in inside)


def uses(model: nn.Module) -> dict[str, Use]:
    """Every use of every parameter by its name, tied ones once for each of their names."""
    found = {}
    for name, _ in model.named_parameters(remove_duplicate=False):
        module, _, parameter = name.rpartition(".")
        found[name] = Use(name, module, parameter)
    return found


def learn(
    model: nn.Module,
    base: nn.Module,
    delta: nn.Module,
    *,
    roles: Mapping[str, Role],
    layouts: Mapping[str, str],
    like: Learnt | None = None,
) -> Learnt:
    """Compare a model with its base; what may scale is what differs between base and delta.

    Stacks of layers are told by containers whose numbered children are more in delta than in base; their layers are
    compared with layers of the base that scale alike. Stacks, and layouts that were given, are those of `like`, if any.

    Raises:
        ParametrizationError: the models have other parameters than their builds differ in, a dimension differs from the
            base's though delta does not vary it, or a layout is none.
    """
    shapes, small, varied = shapes_of(model), shapes_of(base), shapes_of(delta)
    stacks = stacks_of(shapes, small, varied) if like is None else like.stacks
    layers = {prefix: children(shapes, prefix) for prefix in stacks}
    names = {name: _namesake(name, stacks, layers, small, "the model") for name in shapes}
    _complete(names.values(), small, "the model")
    scaling = _scaling(small, varied, stacks)
    chosen = {name: role for pattern, role in roles.items() for name in matching([pattern], list(shapes), "role")}
    given = {
        names[name]: layout_from(words, name, len(shapes[name]))
        for pattern, words in layouts.items()
        for name in matching([pattern], list(shapes), "layout")
    }
    given = given if like is None else dict(like.layouts)
    learnt = Learnt({}, uses(model), _shared(model), names, stacks, layers, given, ())
    facts, notes = {}, []
    for name, use in learnt.uses.items():
        owner = model.get_submodule(use.module)
        free = scaling[names[name]]
        layout = given.get(names[name]) or layout_of(owner, use.parameter, len(shapes[name]))
        if names[name] in given and (grown := [index for index in layout.kernel(len(free)) if free[index]]):
            raise ParametrizationError(f"dimension {grown[0]} of {name} scales: its layout cannot call it a kernel")
        _same_where_fixed(name, shapes[name], small[names[name]], free)
        fact = _fact(name, shapes[name], small[names[name]], free, layout, chosen.get(name))
        depth, ratio = learnt.depth_of(name)
        stored = tuple(owner.get_parameter(use.parameter).shape)
        lookup = is_lookup(owner)
        facts[name] = dataclasses.replace(fact, shape=stored, depth=depth, depth_ratio=ratio, lookup=lookup)
        if not layout.known and name not in chosen and len(shapes[name]) > 1 and any(free):
            guess = f"{name} of shape {shapes[name]} is taken as {facts[name].role}"
            notes.append(f"{guess}; roles={{...}} or layouts={{...}} says otherwise")
    return dataclasses.replace(learnt, facts=facts, notes=tuple(notes))


def _namesake(
    name: str, stacks: Mapping[str, Stack], many: Mapping[str, int], small: Mapping[str, Shape], what: str
) -> str:
    """The name of the parameter's counterpart in the base model."""
    counterpart = namesake(name, stacks, many)
    if counterpart not in small:
        raise ParametrizationError(
            f"{what} has a parameter {name!r} and the base model none: build both alike, vary in delta what varies"
        )
    return counterpart


def _complete(found: Iterable[str], small: Mapping[str, Shape], what: str) -> None:
    if lost := sorted(set(small).difference(found)):
        raise ParametrizationError(f"the base model has a parameter {lost[0]!r} and {what} none: build both in one way")


def _scaling(
    small: Mapping[str, Shape], varied: Mapping[str, Shape], stacks: Mapping[str, Stack]
) -> dict[str, tuple[bool, ...]]:
    """For every parameter of the base which dimensions differ in delta."""
    found: dict[str, tuple[bool, ...]] = {}
    many = {prefix: children(varied, prefix) for prefix in stacks}
    for name, shape in varied.items():
        counterpart = _namesake(name, stacks, many, small, "delta")
        if len(shape) != len(small[counterpart]):
            raise ParametrizationError(
                f"{name} has {len(shape)} dimensions in delta and {len(small[counterpart])} in base: build them alike"
            )
        found[counterpart] = tuple(a != b for a, b in zip(shape, small[counterpart], strict=True))
    _complete(found, small, "delta")
    if not stacks and not any(any(free) for free in found.values()):
        raise ParametrizationError("delta has the shapes of base: build it with every size changed that is to scale")
    return found


def _same_where_fixed(name: str, shape: Shape, small: Shape, free: tuple[bool, ...]) -> None:
    if len(shape) != len(small):
        raise ParametrizationError(
            f"{name} has {len(shape)} dimensions and {len(small)} in base: build both in one way"
        )
    for index, (size, other, scales) in enumerate(zip(shape, small, free, strict=True)):
        if size != other and not scales:
            raise ParametrizationError(
                f"dimension {index} of {name} is {size} and {other} in base, but delta does not vary it: "
                "change it in delta too, or give the base the model's size"
            )


def _fact(
    name: str, shape: Shape, small: Shape, free: tuple[bool, ...], layout: Layout, chosen: Role | None
) -> TensorFacts:
    if len(shape) < 2:
        ratio = shape[0] / small[0] if shape and free[0] else 1.0
        role: Role = "vector" if any(free) else "scalar"
        if chosen == "output":
            return TensorFacts(name, chosen, shape, math.prod(shape), 1, ratio)
        return TensorFacts(name, chosen or role, shape, 1, math.prod(shape), 1.0, ratio)
    scaled = [index for index, scales in enumerate(free) if scales and index not in layout.apart]
    if layout.inputs is None:
        role = "vector" if scaled else "scalar"
        ratio = _ratio(shape, small, scaled)
        return TensorFacts(name, chosen or role, shape, *layout.fans(shape), 1.0, ratio)
    if len(scaled) > 2:
        raise ParametrizationError(
            f"{name} of shape {shape} scales in {len(scaled)} dimensions and at most two can: "
            "if it holds separate tensors, layouts={'name': 'each out in'} says so"
        )
    inputs, outputs = layout.inputs, layout.outputs
    if len(scaled) == 2 and set(scaled) != {inputs, outputs}:
        inputs, outputs = (scaled[1], scaled[0]) if inputs > outputs else (scaled[0], scaled[1])
    if len(scaled) == 1 and scaled[0] not in (inputs, outputs):
        outputs = scaled[0]
    role = "scalar"
    if scaled:
        role = "hidden" if len(scaled) == 2 else "input" if scaled[0] == outputs else "output"
    if chosen in ("input", "output") and len(scaled) == 1 and chosen != role:
        inputs, outputs, role = outputs, inputs, chosen
    fan_in, fan_out = dataclasses.replace(layout, inputs=inputs, outputs=outputs).fans(shape)
    if chosen == "vector":
        return TensorFacts(name, chosen, shape, 1, fan_out, 1.0, _ratio(shape, small, scaled))
    return TensorFacts(
        name,
        chosen or role,
        shape,
        fan_in,
        fan_out,
        shape[inputs] / small[inputs] if inputs in scaled else 1.0,
        shape[outputs] / small[outputs] if outputs in scaled else 1.0,
    )


def _ratio(shape: Shape, small: Shape, scaled: Sequence[int]) -> float:
    return math.prod(shape[index] / small[index] for index in scaled)


def matching(patterns: Iterable[str], names: Sequence[str], what: str) -> set[str]:
    """Names that match one of the patterns, in which a star stands for one part of a dotted name.

    Raises:
        ParametrizationError: a pattern matches nothing.
    """
    found: set[str] = set()
    for pattern in patterns:
        parts = pattern.split(".")
        fitting = [name for name in names if _fits(name.split("."), parts)]
        if not fitting:
            raise ParametrizationError(f"{what} {pattern!r} matches nothing: choose from {', '.join(names[:12])}, ...")
        found.update(fitting)
    return found


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    return len(parts) == len(pattern) and all(map(fnmatch.fnmatchcase, parts, pattern))


def _shared(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """For the first name of every tensor all its names."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {group[0]: tuple(group) for group in names.values()}


def checked_roles(roles: Mapping[str, str]) -> dict[str, Role]:
    """The roles that a user gives to parameters by pattern.

    Raises:
        ParametrizationError: one is no role.
    """
    known = {str(role): role for role in ROLES}
    if wrong := [role for role in roles.values() if role not in known]:
        raise ParametrizationError(f"{wrong[0]!r} is no role of a parameter: choose from {', '.join(ROLES)}")
    return {pattern: known[role] for pattern, role in roles.items()}
