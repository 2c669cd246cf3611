"""Stacks of layers that grow with the depth: which layer of a deeper build is compared with which of the base."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from separatrix.steer.errors import ParametrizationError
from separatrix.steer.parametrization.layout import Shape

_Layer = tuple[tuple[str, Shape], ...]


@dataclasses.dataclass(frozen=True)
class Stack:
    """A container of `few` numbered layers in the base model, and how those of deeper builds are compared with them.

    The first `before` and the last `after` layers are compared with those at the same place, layers between them with
    the base's between them, over and over. Layers whose tensors scale in the same dimensions are of one of `kinds`.
    """

    few: int
    before: int = 0
    after: int = 0
    kinds: tuple[int, ...] = ()

    def counterpart(self, index: int, many: int) -> int:
        """The base model's layer that layer `index` of `many` is compared with."""
        if index < self.before:
            return index
        if index >= many - self.after:
            return index - many + self.few
        return self.before + (index - self.before) % (self.few - self.before - self.after)

    def depth_at(self, index: int, many: int) -> tuple[int, int]:
        """How many of `many` layers are of the kind of layer `index`, and how many of the base's are."""
        kinds = [self.kinds[self.counterpart(other, many)] for other in range(many)]
        return kinds.count(kinds[index]), self.kinds.count(kinds[index])


def stacks_of(model: Mapping[str, Shape], small: Mapping[str, Shape], varied: Mapping[str, Shape]) -> dict[str, Stack]:
    """By name the containers with more numbered children in delta than in the base.

    All layers that are compared with one of the base have to be of the same shapes, in the model and in delta.

    Raises:
        ParametrizationError: the layers of a stack are not alike, and no order of theirs fits.
    """
    found = {}
    for prefix in sorted({prefix for name in small for prefix in _containers(name)}):
        few, many, deep = (children(names, prefix) for names in (small, varied, model))
        if few and many and few != many:
            layers = [_layers(names, prefix) for names in (small, varied, model)]
            # With fewer layers than the base has, which are missing is said where parameters are compared.
            fits = min(many, deep) >= few
            found[prefix] = _paired(prefix, *layers) if fits else Stack(few, kinds=(0,) * few)
    return found


def namesake(name: str, stacks: Mapping[str, Stack], many: Mapping[str, int]) -> str:
    """The name in the base model of what has that name in a build with so many layers in each stack."""
    parts = name.split(".")
    for index, part in enumerate(parts):
        prefix = ".".join(parts[:index])
        if part.isdigit() and prefix in stacks:
            parts[index] = str(stacks[prefix].counterpart(int(part), many[prefix]))
    return ".".join(parts)


def index_in(name: str, prefix: str) -> int | None:
    """The number of the child of a container that has or is what is named, None outside of it."""
    start = f"{prefix}." if prefix else ""
    head = name[len(start) :].split(".", 1)[0] if name.startswith(start) else ""
    return int(head) if head.isdigit() else None


def children(names: Iterable[str], prefix: str) -> int:
    """How many children the container has that are numbered from 0 on without a gap; 0 if others have parameters."""
    start = f"{prefix}." if prefix else ""
    heads = {name[len(start) :].split(".", 1)[0] for name in names if name.startswith(start)}
    return len(heads) if heads == {str(index) for index in range(len(heads))} else 0


def _containers(name: str) -> Iterable[str]:
    parts = name.split(".")
    return (".".join(parts[:index]) for index, part in enumerate(parts) if part.isdigit())


def _layers(shapes: Mapping[str, Shape], prefix: str) -> list[_Layer]:
    """For each child of a container the names and shapes of its parameters."""
    start = f"{prefix}." if prefix else ""
    found: dict[int, list[tuple[str, Shape]]] = {}
    for name, shape in shapes.items():
        if name.startswith(start):
            index, _, rest = name[len(start) :].partition(".")
            found.setdefault(int(index), []).append((rest, shape))
    return [tuple(sorted(found[index])) for index in sorted(found)]


def _paired(prefix: str, small: Sequence[_Layer], varied: Sequence[_Layer], model: Sequence[_Layer]) -> Stack:
    few = len(small)
    uniform = len(set(small)) == len(set(varied)) == len(set(model)) == 1
    alike, fitting = [], {}
    for repeated in range(few, few - 1 if uniform else 0, -1):
        for before in range(few - repeated + 1):
            stack = Stack(few, before, few - repeated - before)
            theirs, ours = _of_each(stack, varied), _of_each(stack, model)
            if not all(map(_comparable, small, theirs)) or not all(map(_comparable, small, ours)):
                continue
            alike.append(stack)
            if all(map(_fits, ours, small, theirs)):
                learnt = [(small[place], theirs[place]) for place in _places(stack, len(model))]
                fitting[stack] = tuple(learnt)
    if not alike:
        raise ParametrizationError(
            f"the layers of {prefix or 'the model'} are not alike, and no order of them fits model, base and delta: "
            "give base and delta at least one layer of each shape, or the model's depth"
        )
    if len(set(fitting.values())) > 1:
        raise ParametrizationError(
            f"which layers of {prefix or 'the model'} repeat cannot be told from sizes that coincide: "
            "give delta another width, or base and delta the model's depth"
        )
    chosen = next(iter(fitting), alike[0])
    return dataclasses.replace(chosen, kinds=_kinds(small, _of_each(chosen, varied)))


def _places(stack: Stack, many: int) -> list[int]:
    return [stack.counterpart(index, many) for index in range(many)]


def _of_each(stack: Stack, layers: Sequence[_Layer]) -> list[_Layer | None]:
    """What is compared with each layer of the base, None where that is not one and the same."""
    found: list[set[_Layer]] = [set() for _ in range(stack.few)]
    for place, layer in zip(_places(stack, len(layers)), layers, strict=True):
        found[place].add(layer)
    return [group.pop() if len(group) == 1 else None for group in found]


def _comparable(small: _Layer, other: _Layer | None) -> bool:
    """Whether a layer has the parameters of the base's, with as many dimensions."""
    if other is None or len(small) != len(other):
        return False
    return all(a == b and len(one) == len(two) for (a, one), (b, two) in zip(small, other, strict=True))


def _fits(ours: _Layer | None, small: _Layer, theirs: _Layer | None) -> bool:
    """Whether a layer of the model has the base's sizes where delta does not vary them."""
    assert ours is not None and theirs is not None
    return all(
        mine == base or base != varied
        for (_, one), (_, two), (_, three) in zip(ours, small, theirs, strict=True)
        for mine, base, varied in zip(one, two, three, strict=True)
    )


def _kinds(small: Sequence[_Layer], varied: Sequence[_Layer | None]) -> tuple[int, ...]:
    """For each layer of the base the first one whose tensors, where both have them, scale in the same dimensions."""
    scaling: list[dict[str, tuple[bool, ...]]] = []
    for layer, other in zip(small, varied, strict=True):
        assert other is not None
        scaling.append(
            {
                name: tuple(a != b for a, b in zip(one, two, strict=True))
                for (name, one), (_, two) in zip(layer, other, strict=True)
            }
        )
    return tuple(
        next(
            place
            for place, first in enumerate(scaling)
            if all(first.get(name, flags) == flags for name, flags in own.items())
        )
        for own in scaling
    )
