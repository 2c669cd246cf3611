"""Which calls of a forward get which parameters, seen by a torch function mode."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from separatrix.operators._layer_rules import EXPANSIONS, RULES, Local
from separatrix.operators._terms import Terms

_BARE = frozenset({int, float, bool, str, torch.dtype, torch.device, torch.Size, types.NoneType})

Key = tuple[Node, int]
"""What tells an edge of the graph apart."""


@dataclasses.dataclass(frozen=True, eq=False)
class Use:
    """One use of a parameter's entries from `start` on, perhaps transposed, in a call whose output is at `edge`.

    With `chain` the call used a table made of the parameter: it takes the table's gradients to the parameter's.
    """

    index: int
    start: int
    transposed: bool
    local: Local
    edge: GradientEdge
    versions: tuple[tuple[Tensor, int], ...]
    chain: Callable[[Tensor], Terms] | None = None


@dataclasses.dataclass(frozen=True)
class Call:
    """A call that led to `node` and got parameter `index`, or views of it, from `edges`.

    `reason` says why no rule covers it.
    """

    index: int
    edges: tuple[Key, ...]
    node: Node
    reason: str


class Watch(TorchFunctionMode):
    """Notes what calls do with parameters while a forward runs.

    `tables` are outputs computed from a parameter by a use that can be chained; they count as further parameters.
    `origins` are the edges at which parameters and their views enter the graph.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self.parameters = list(parameters)
        self.tables: dict[int, Use] = {}
        self.numbers = {id(parameter): i for i, parameter in enumerate(parameters)}
        self.origins = {key_at(parameter): i for i, parameter in enumerate(parameters)}
        self.entries = dict(zip(map(id, parameters), self.origins, strict=True))
        self.uses: list[Use] = []
        self.calls: list[Call] = []

    def number(self, tensor: Tensor) -> int | None:
        """Which parameter a tensor is, or is a view of."""
        return self.numbers.get(id(tensor), self.numbers.get(id(tensor._base)))

    def __torch_function__(
        self, func: Any, types_: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [*tensors_in(args), *(tensors_in(kwargs) if kwargs else ())]
        numbered = [(tensor, index) for tensor in tensors if (index := self.number(tensor)) is not None]
        used = [(tensor, index) for tensor, index in numbered if tensor.requires_grad]
        if not used or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if func not in RULES and isinstance(func, types.FunctionType):
            with self:
                return _opened(func)(*args, **kwargs)
        output = func(*args, **kwargs)
        results = [leaf for leaf in tensors_in(output) if leaf.requires_grad]
        if not results or any(result is tensor for result in results for tensor, _ in used):
            return output
        numbers, reason = [self.number(result) for result in results], ""
        is_view = None not in numbers
        if not is_view or func in EXPANSIONS:
            copied = results[0] is output and output._is_view() and not any(output is tensor for tensor in tensors)
            result = output.clone() if copied else output  # a later in-place change of a view would cut its edge off
            uses = self._uses(func, args, kwargs, result)
            if self._occurrences(use.index for use in uses) == self._occurrences(index for _, index in used):
                self.uses += uses
                output, results = result, [result]
                for use in uses:
                    if use.local.chain is not None:
                        self.tables[len(self.parameters)] = use
                        self.numbers[id(result)] = len(self.parameters)
                        self.parameters.append(result)
                numbers = [self.number(result)]
            elif not is_view:
                reason = f"used in {getattr(func, '__name__', func)}"
        results_at = [key_at(result) for result in results]
        edges: dict[int, list[Key]] = {}
        for tensor, index in used:
            edges.setdefault(index, []).append(self.entries.get(id(tensor)) or key_at(tensor))
        self.calls += [Call(index, tuple(at), results_at[0][0], reason) for index, at in edges.items()]
        views = zip(results_at, numbers, strict=True)
        self.origins.update({key: index for key, index in views if index is not None})
        return output

    def _occurrences(self, indices: Iterable[int]) -> list[int]:
        """Each parameter as often as it occurs, in order, tables left out."""
        return sorted(index for index in indices if index not in self.tables)

    def _uses(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> list[Use]:
        """What the rule of a function makes of a call; nothing where there is none or it refuses the arguments."""
        rule = RULES.get(func)
        if rule is None or not isinstance(output, Tensor):
            return []
        origins: dict[int, Tensor] = {}

        def constant(tensor: Any) -> Any:
            if not isinstance(tensor, Tensor):
                return tensor
            copy = tensor.detach()
            copy = copy.float() if copy.is_floating_point() and copy.itemsize < 4 else copy
            origins[id(copy)] = tensor
            return copy

        plain_args, plain_kwargs = map(constant, args), {name: constant(value) for name, value in kwargs.items()}
        try:
            with torch.no_grad():
                locals_ = rule(output.detach(), *plain_args, **plain_kwargs)
        except TypeError:
            return []
        versions = tuple((tensor, tensor._version) for tensor in origins.values())
        edge = GradientEdge(*key_at(output))
        uses = []
        for local in locals_:
            tensor = origins[id(local.tensor)]
            index = self.number(tensor)
            if index is None or not self.parameters[index].is_contiguous():
                continue
            transposed = not tensor.is_contiguous()
            if not transposed or (tensor.ndim == 2 and tensor.t().is_contiguous()):
                start = int(tensor.storage_offset()) - int(self.parameters[index].storage_offset())
                uses.append(Use(index, start, transposed, local, edge, versions))
        return uses


def key_of(edge: GradientEdge) -> Key:
    """What tells an edge apart."""
    return edge.node, edge.output_nr


def key_at(tensor: Tensor) -> Key:
    """What tells the edge of a tensor apart."""
    return (tensor.grad_fn, tensor.output_nr) if tensor.grad_fn is not None else key_of(get_gradient_edge(tensor))


def tensors_in(value: object) -> Iterator[Tensor]:
    """The tensors among arguments or results, in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif type(value) in _BARE:
        return
    elif isinstance(value, (tuple, list, Mapping)):
        for item in value if isinstance(value, (tuple, list)) else value.values():
            if isinstance(item, Tensor):
                yield item
            elif type(item) not in _BARE:
                yield from tensors_in(item)
    else:
        yield from (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _opened(function: types.FunctionType) -> Callable[..., Any]:
    """A function written in Python without its own check for overrides, so that the calls inside it are seen."""
    unchecked = {name: _never for name in function.__globals__ if name.startswith("has_torch_function")}
    opened = types.FunctionType(
        function.__code__,
        function.__globals__ | unchecked,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


def _never(*arguments: Any) -> bool:
    return False
