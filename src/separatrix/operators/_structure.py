"""Per-example gradients from the structure of layers: one forward watched, one backward a cotangent, no Jacobian.

A torch function mode sees every call that gets a parameter, or a view of one, and a rule says how the parameter's
gradient for one example follows from what entered the call and from the gradient of its output. Three things are
checked on every trace rather than assumed: that the autograd graph uses each parameter as often as was seen, that
examples do not mix, and along which axis of a layer's output they lie. Parameters that fail get exact Jacobian rows,
announced.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from separatrix.operators._examples import CoupledExamplesError, StructureError
from separatrix.operators._layouts import (
    Layout,
    at_least_single,
    complete_layouts,
    fitted_layouts,
    found_layouts,
    gradients_at,
    shape_at,
    tables_of,
    terms_in,
    zeros_at,
)
from separatrix.operators._pooling import behind_pooling
from separatrix.operators._terms import Plain, Terms, merged
from separatrix.operators._watching import Key, Use, Watch, key_of
from separatrix.operators.errors import NonFiniteError

_VIEWS = frozenset(
    f"{name}Backward"
    for name in (
        *("View", "UnsafeView", "ReshapeAlias", "T", "Transpose", "Permute", "Unbind", "Select", "Slice", "Split"),
        *("Expand", "Squeeze", "Unsqueeze", "Alias", "AsStrided", "Unfold"),
    )
)
"""Nodes of the graph whose outputs share the memory of their inputs."""

PROBED = 4
"""Examples on which the layouts of a module's layers are found."""


@dataclasses.dataclass(frozen=True)
class Block:
    """Entries `start` to `stop` of a parameter; `index` is its place in the list of parameters."""

    index: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Trace:
    """A forward over n examples: outputs (n, c) with their graph, and how parameters' gradients follow from it.

    `structured` lists the uses of each block with the layout of their outputs; gradients of the parameters in `dense`
    are taken from `sources`, the outputs (c,) of one example each. `layouts` are those of all uses, None where a
    gradient
    vanished and proved nothing. `graph_numbers` is about how many numbers the graph holds for one example. `tails` are
    the edges behind which only a rectification and the last linear layer come, with where it lets gradients through
    (n, p) and the layer's weight (p, c): the gradient of an output is their product. No block uses another edge too.
    """

    outputs: Tensor
    edges: tuple[GradientEdge, ...]
    structured: Mapping[Block, tuple[tuple[Use, Layout], ...]]
    dense: Mapping[Block, Tensor]
    sources: tuple[Tensor, ...]
    layouts: tuple[Layout | None, ...] | None
    graph_numbers: int
    tails: Mapping[Key, tuple[Tensor, Tensor]]

    @property
    def numbers_held(self) -> int:
        """Numbers that the gradients of one example and one cotangent take, before they are contracted."""
        outputs = sum(math.prod(shape_at(edge)) for edge in self.edges)
        return outputs // len(self.outputs) + sum(parameter.numel() for parameter in self.dense.values())

    @property
    def numbers_held_without_tails(self) -> int:
        """The same where the gradients at tails stand for all cotangents at once."""
        return self.numbers_held - sum(passes[0].numel() for passes, _ in self.tails.values())


def watch(
    forward: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    replay: Callable[[int], Tensor] | None = None,
    layouts: tuple[Layout | None, ...] | None = None,
) -> tuple[Trace, Mapping[int, str]]:
    """Run a forward to outputs (n, ...): the trace, and why which parameters have no structure.

    `replay(i)` runs the forward for example i alone; without it, gradients of unstructured parameters come from the
    graph of the whole batch, n times slower. `layouts` are those found on other examples; where they fit, nothing is
    checked again.

    Raises:
        StructureError: outputs without batch axis or gradient, or a graph that hides parameters.
        NonFiniteError: an output that is not finite.
        CoupledExamplesError: example 0 alone gives something else than example 0 in the batch.
    """
    observer = Watch(parameters)
    with observer:
        outputs = forward()
    outputs = _checked(outputs)
    if replay is not None and layouts is None and len(outputs) > 1:
        _compare(replay(0), outputs, 0)
    consumers = _graph(outputs)
    reachable = {entry for entry, _ in consumers}
    counts = Counter({key: len(consumers[key]) for key in observer.origins if key in consumers})
    calls = [call for call in observer.calls if call.node in reachable and call.index < len(parameters)]
    reasons = {call.index: call.reason for call in calls if call.reason}
    watched = Counter(key for call in calls for key in call.edges)
    for key, index in observer.origins.items():
        if index < len(parameters) and counts[key] != watched[key]:
            reasons.setdefault(index, "used out of sight: compiled, scripted, or in a custom autograd function")
    seen = [use for use in observer.uses if use.edge.node in reachable]
    uses = [behind_pooling(use, consumers, outputs[0].numel()) for use in seen]
    for use in uses:
        if any(tensor._version != version for tensor, version in use.versions):
            reasons.setdefault(use.index, "the input of its layer is overwritten in place")
    placed = []
    fitted = fitted_layouts(layouts, uses, len(outputs))
    found, certain = (fitted, True) if fitted is not None else found_layouts(outputs, uses)
    if fitted is None:
        found = complete_layouts(outputs, observer.tables, uses, found)
    tables = tables_of(observer.tables, dict(zip(uses, found, strict=True)))
    for use, layout in zip(uses, found, strict=True):
        if use in tables:
            placed += tables[use]
        elif use.index >= len(parameters):
            continue
        elif layout is None:
            reasons.setdefault(use.index, "no axis of its layer's output separates the examples")
        else:
            placed.append((use, layout))
    structured: dict[Block, tuple[tuple[Use, Layout], ...]] = {}
    for use, layout in placed:
        block = Block(use.index, use.start, use.start + use.local.tensor.numel())
        structured[block] = (*structured.get(block, ()), (use, layout))
    parts = Counter(block.index for block in structured)
    for block in structured:
        if parts[block.index] > 1 and any(_overlap(block, other) for other in structured):
            reasons.setdefault(block.index, "used whole and in parts")
    structured = {block: parts for block, parts in structured.items() if block.index not in reasons}
    dense = {Block(index, 0, parameters[index].numel()): parameters[index] for index in sorted(reasons)}
    sources: tuple[Tensor, ...] = ()
    if dense:
        sources = outputs.unbind() if replay is None else tuple(_replayed(replay, outputs))
    edges = {key_of(use.edge): use.edge for parts in structured.values() for use, _ in parts}
    held = sum(math.prod(shape_at(GradientEdge(*key))) for key in consumers if _is_own(key, observer.origins))
    layouts = found if certain else None
    shared = {key_of(use.edge) for parts in structured.values() if len(parts) > 1 for use, _ in parts}
    tails = {key: tail for key in edges.keys() - shared if (tail := _tail(key, consumers, outputs)) is not None}
    return Trace(
        outputs, tuple(edges.values()), structured, dense, sources, layouts, held // len(outputs), tails
    ), reasons


def _tail(key: Key, consumers: Mapping[Key, Sequence[Node]], outputs: Tensor) -> tuple[Tensor, Tensor] | None:
    """Where the rectification of an output lets gradients through, and the last layer's weight; None without these."""
    nodes: list[Any] = []
    for name in ("ReluBackward0", "AddmmBackward0"):
        after = consumers.get(key, ())
        if len(after) != 1 or after[0].name() != name:
            return None
        nodes.append(after[0])
        key = after[0], 0
    rectifier, last = nodes
    if key != key_of(get_gradient_edge(outputs)) or last._saved_alpha != 1 or last._saved_mat2 is None:
        return None
    return rectifier._saved_result.detach() > 0, at_least_single(last._saved_mat2.detach())


def _is_own(key: Key, origins: Mapping[Key, int]) -> bool:
    """Whether an output in the graph has numbers of its own: it is no parameter and no view."""
    return key not in origins and key[0].name().rstrip("0123456789") not in _VIEWS


Gradients = dict[Key, Tensor]
"""Gradients (c, *output shape) by the edge of the output, for c cotangents."""


def pull(trace: Trace, cotangent: Tensor) -> dict[Block, Terms]:
    """Per-example gradients of <cotangent[i], outputs[i]>, cotangent (n, entries), in factored form."""
    return terms_of(trace, trace.structured, backward(trace, cotangent)) | dense_terms(trace, cotangent)


def shapes(trace: Trace) -> dict[Block, Terms]:
    """Terms of one cotangent whose gradients are zero and take no memory."""
    gradients = {key_of(edge): at_least_single(zeros_at(edge)).unsqueeze(0) for edge in trace.edges}
    rows = torch.zeros(1, len(trace.outputs), 1)
    dense = {block: Plain(rows.expand(-1, -1, block.stop)) for block in trace.dense}
    return terms_of(trace, trace.structured, gradients) | dense


def backward(trace: Trace, cotangent: Tensor) -> Gradients:
    """Gradients (1, *output shape) of one cotangent (n, entries)."""
    gradients = gradients_at(trace.outputs, trace.edges, cotangent)
    return {key_of(edge): gradient.unsqueeze(0) for edge, gradient in zip(trace.edges, gradients, strict=True)}


def terms_of(trace: Trace, blocks: Iterable[Block], gradients: Gradients) -> dict[Block, Terms]:
    """Per-example gradients of some structured blocks in factored form."""
    return {
        block: merged([terms_in(use, layout, gradients[key_of(use.edge)]) for use, layout in trace.structured[block]])
        for block in blocks
    }


def dense_terms(trace: Trace, cotangent: Tensor) -> dict[Block, Plain]:
    """Per-example gradients of the parameters without structure, from the graph of one example each."""
    parameters = list(trace.dense.values())
    if not parameters:
        return {}
    rows = [
        torch.autograd.grad(source, parameters, row, retain_graph=True, materialize_grads=True)
        for source, row in zip(trace.sources, cotangent, strict=True)
    ]
    return {
        block: Plain(torch.stack([at_least_single(row[k].flatten()) for row in rows]).unsqueeze(0))
        for k, block in enumerate(trace.dense)
    }


def _overlap(block: Block, other: Block) -> bool:
    return block != other and block.index == other.index and block.start < other.stop and other.start < block.stop


def _checked(outputs: Any) -> Tensor:
    if not isinstance(outputs, Tensor):
        raise StructureError(
            f"The forward returns {type(outputs).__name__}, not a tensor: wrap it to return the outputs."
        )
    if outputs.ndim == 0 or len(outputs) == 0:
        raise StructureError(f"Outputs of shape {tuple(outputs.shape)} hold no examples along their first axis.")
    if not outputs.requires_grad:
        raise StructureError("No gradient reaches the outputs: run the forward with gradients and unfrozen parameters.")
    if not outputs.isfinite().all():
        worst = int((~outputs.isfinite()).flatten(1 if outputs.ndim > 1 else 0).nonzero()[0, 0])
        raise NonFiniteError(
            f"The output for example {worst} is not finite: look at its input or lower the learning rate."
        )
    return outputs.flatten(1) if outputs.ndim > 1 else outputs.unsqueeze(1)


def _replayed(replay: Callable[[int], Tensor], outputs: Tensor) -> Iterator[Tensor]:
    for i in range(len(outputs)):
        yield _compare(replay(i), outputs, i)


def _compare(alone: Tensor, outputs: Tensor, example: int) -> Tensor:
    alone = alone.flatten()
    scale = float(outputs.detach().abs().max())
    if alone.shape != outputs[example].shape or float((alone - outputs[example]).detach().abs().max()) > (
        torch.finfo(outputs.dtype).eps ** 0.5 * scale
    ):
        raise CoupledExamplesError(
            f"Example {example} gives other outputs alone than in its batch (batch statistics, dropout): call"
            " model.eval() or take the mixing out."
        )
    return alone


def _graph(outputs: Tensor) -> dict[Key, list[Node]]:
    """What the outputs were computed from, and the nodes that each was used by, once for every use."""
    edge = get_gradient_edge(outputs)
    consumers: dict[Key, list[Node]] = {key_of(edge): []}
    waiting, seen = [edge.node], set[Node]()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.name().startswith("CheckpointFunction"):
            raise StructureError("Reentrant checkpointing hides parameters: pass use_reentrant=False to checkpoint().")
        for entry, number in node.next_functions:
            if entry is not None:
                waiting.append(entry)
                consumers.setdefault((entry, number), []).append(node)
    return consumers
