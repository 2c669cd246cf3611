"""Kernels of per-example gradients, a block of examples and a few cotangents at a time, in bounded memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from separatrix.operators._contractions import Grams, inner_products
from separatrix.operators._structure import Block, Gradients, Trace, backward, dense_terms, pull, terms_of
from separatrix.operators._terms import (
    Outer,
    Plain,
    Terms,
    compact,
    joined,
    numbers_held,
    spread,
    stacked,
    written_out,
)
from separatrix.operators._watching import key_of

Build = Callable[[slice], Trace]
"""From some of the examples to their trace."""

MEMORY = 2**27
"""Bytes that the parts of a kernel under construction may take, roughly: 128 MB."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a kernel is cut up: examples a block and a forward, cotangents a block, numbers a contraction may hold."""

    examples: int
    forward: int
    cotangents: int
    entries: int


def plan(trace: Trace, n: int, m: int, memory: int) -> Plan:
    """Cut so that terms take three quarters of the memory, forward or contraction the rest; `m` is 0 without y."""
    entries = max(1, memory // (4 * max(4, trace.outputs.dtype.itemsize)))
    count = trace.outputs.shape[1]
    pulled = pull(trace, _unit(trace, 0)).values()
    some = [numbers_held(compact(terms, max(n, m), count, entries)) for terms in pulled]
    once, each = (max(1, sum(numbers)) for numbers in zip(*some, strict=True))
    larger, sides = max(n, m), 1 if m == 0 else 2
    fits = sides * larger * (once + each) <= 3 * entries
    examples = larger if fits else max(1, min(larger, 3 * entries // (2 * (once + each))))
    cotangents = (3 * entries // ((sides if fits else 2) * examples) - once) // each
    return Plan(examples, forward_size(trace, larger, entries), min(count, max(1, cotangents)), entries)


def forward_size(trace: Trace, n: int, entries: int) -> int:
    """Examples of one forward, at most n: about `entries` numbers, which caches hold."""
    # an activation, its gradient and what the nonlinearity saved
    return min(n, max(8, entries // (3 * max(1, trace.numbers_held))))


def block_kernels(x: Build, n: int, y: Build | None, m: int, cut: Plan, full: bool, count: int) -> dict[int, Tensor]:
    """Kernel of every parameter, by its place in the list: (n, m), or (n, m, c, c) where `full`, for `count` outputs.

    Without `y` the kernel is that of x with itself, and blocks below the diagonal are mirrored.
    """
    result: dict[int, Tensor] = {}
    for i in _slices(n, cut.examples):
        for j in _slices(m, cut.examples):
            if y is None and j.start < i.start:
                continue
            for a in _slices(count, cut.cotangents):
                first = _digest(x, i, a, m, cut)
                for b in _slices(count, cut.cotangents) if full else [a]:
                    same = y is None and i == j and a == b
                    second = first if same else _digest(y or x, j, b, n, cut)
                    for index, product in (_entry_products if full else _products)(first, second, cut.entries).items():
                        shape = (n, m, count, count) if full else (n, m)
                        kernel = result.setdefault(index, product.new_zeros(shape))
                        if full:
                            kernel[i, j, a, b] = product
                        else:
                            kernel[i, j] += product
    if y is None:
        _mirror(result.values(), cut.examples)
    return result


def _mirror(kernels: Iterable[Tensor], size: int) -> None:
    for kernel in kernels:
        for i in _slices(len(kernel), size):
            upper = kernel[i, i.stop :]
            kernel[i.stop :, i] = upper.permute(1, 0, *reversed(range(2, kernel.ndim)))


def _digest(build: Build, examples: slice, entries: slice, others: int, cut: Plan) -> dict[Block, Terms]:
    """Terms of some examples and output entries, from as many forwards as the plan says."""
    parts = []
    for part in _slices(examples.stop - examples.start, cut.forward):
        trace = build(slice(examples.start + part.start, examples.start + part.stop))
        parts.append(_pulled(trace, range(trace.outputs.shape[1])[entries], others, cut.entries))
        del trace
    kinds = {frozenset((block, type(terms)) for block, terms in part.items()) for part in parts}
    if len(kinds) > 1:
        parts = [_written(part, parts) for part in parts]
    return {block: joined([part.pop(block) for part in parts]) for block in list(parts[0])}


def _pulled(trace: Trace, outputs: Sequence[int], others: int, entries: int) -> dict[Block, Terms]:
    rights: dict[Block, Tensor] = {}
    rows: dict[Block, list[Terms]] = {}
    gathered: Gradients = {}
    together: set[Block] = set()
    for place, output in enumerate(outputs):
        cotangent = _unit(trace, output)
        gradients = backward(trace, cotangent)
        if place == 0 and len(outputs) > 1:
            together = _unchanged(trace, gradients, others, len(outputs), entries)
            keys = {key_of(use.edge) for block in together for use, _ in trace.structured[block]}
            gathered = {key: _room(gradients[key], len(outputs)) for key in keys}
        for key, room in gathered.items():
            room[place] = gradients[key][0]
        each = [block for block in trace.structured if block not in together]
        for block, terms in (terms_of(trace, each, gradients) | dense_terms(trace, cotangent)).items():
            if isinstance(terms, Outer) and terms.expand and terms.smaller_written(others, len(outputs)):
                whole = terms.expanded(entries) if block not in rights else terms
                if whole.expand is None:
                    rights[block] = whole.right
                if block in rights:
                    terms = dataclasses.replace(terms, right=rights[block], expand=None)
            rows.setdefault(block, []).append(compact(terms, others, len(outputs), entries))
    return terms_of(trace, together, gathered) | {block: stacked(rows.pop(block)) for block in list(rows)}


def _unchanged(trace: Trace, gradients: Gradients, others: int, count: int, entries: int) -> set[Block]:
    """Blocks whose terms are the gradients of layer outputs themselves, for all cotangents at once, not written out."""
    terms = terms_of(trace, trace.structured, gradients)
    kept = {
        block
        for block, own in terms.items()
        if isinstance(own, Outer) and own.varies == (True, False) and not own.smaller_written(others, count)
    }
    keys = {key_of(use.edge) for block in kept for use, _ in trace.structured[block]}
    return kept | {
        block
        for block, own in terms.items()
        if isinstance(own, Plain) and all(key_of(use.edge) in keys for use, _ in trace.structured[block])
    }


def _room(gradient: Tensor, count: int) -> Tensor:
    """Empty (count, *output shape), cotangents beside each other for every example: what a product over them reads."""
    first, *rest = gradient.shape[1:]
    return gradient.new_empty(first, count, *rest).transpose(0, 1)


def _unit(trace: Trace, output: int) -> Tensor:
    """The cotangent that picks one output entry of every example."""
    picked = torch.zeros_like(trace.outputs)
    picked[:, output] = 1
    return picked


def _written(part: Mapping[Block, Terms], parts: Sequence[Mapping[Block, Terms]]) -> dict[Block, Terms]:
    """The terms of a part written out for whole parameters, as far as any part uses them."""
    stops: dict[int, int] = {}
    for block in (block for other in parts for block in other):
        stops[block.index] = max(block.stop, stops.get(block.index, 0))
    some = next(iter(part.values()))
    c, n = max(len(getattr(some, side)) for side in ("values", "right", "left") if hasattr(some, side)), some.examples
    result: dict[Block, Terms] = {}
    for index, stop in stops.items():
        own = {block: written_out(terms) for block, terms in part.items() if block.index == index}
        whole = (next(iter(own.values())) if own else written_out(some)).new_zeros(c, n, stop)
        for block, values in own.items():
            whole[..., block.start : block.stop] += values
        result[Block(index, 0, stop)] = Plain(whole)
    return result


def layered(kernels: Mapping[int, Tensor], layers: Sequence[str], empty: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Sums over the parameters of each layer; `empty()` where none of a layer's parameters is used."""
    result: dict[str, Tensor] = {}
    for index, layer in enumerate(layers):
        part = kernels.get(index)
        if part is not None:
            result[layer] = result[layer] + part if layer in result else part
    return {layer: result[layer] if layer in result else empty() for layer in dict.fromkeys(layers)}


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _products(x: Mapping[Block, Terms], y: Mapping[Block, Terms], entries: int) -> dict[int, Tensor]:
    result: dict[int, Tensor] = {}
    grams: Grams = {}
    for index, first, second in _aligned(x, y):
        product = inner_products(first, second, entries, grams)
        result[index] = result[index] + product if index in result else product
    return result


def _entry_products(x: Mapping[Block, Terms], y: Mapping[Block, Terms], entries: int) -> dict[int, Tensor]:
    """(n, m, c, c') for the c cotangents of x and c' of y."""
    result: dict[int, Tensor] = {}
    for index, first, second in _aligned(x, y):
        n, m = first.examples, second.examples
        wide = spread(first)
        product = inner_products(wide, wide if second is first else spread(second), entries)
        product = product.view(n, len(product) // n, m, -1).transpose(1, 2)
        result[index] = result[index] + product if index in result else product
    return result


def _aligned(x: Mapping[Block, Terms], y: Mapping[Block, Terms]) -> Iterator[tuple[int, Terms, Terms]]:
    """Terms of the same entries of the same parameters; written out where x and y use different parts."""
    if x.keys() != y.keys():
        x, y = _written(x, (x, y)), _written(y, (x, y))
    return ((block.index, x[block], y[block]) for block in x)
