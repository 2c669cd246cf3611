"""Kernels of per-example gradients, a block of examples and a few cotangents at a time, in bounded memory."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from separatrix.operators._contractions import Grams, Meeting, inner_products
from separatrix.operators._structure import Block, Gradients, Trace, backward, dense_terms, shapes, terms_of
from separatrix.operators._terms import (
    Outer,
    Plain,
    Terms,
    alike,
    beside,
    compact,
    first_of,
    joined,
    numbers_held,
    place,
    room,
    spread,
    written_out,
)

Build = Callable[[slice], Trace]
"""From some of the examples to their trace."""

MEMORY = 44 * 2**20
"""Bytes that the parts of a kernel under construction may take, roughly: with less, forward passes are repeated."""

GRAPH_MEMORY = 4 * MEMORY
"""The same where it holds the graph of a forward, so that none is repeated for every cotangent."""

_FEW = 1024
"""Numbers of an example below which a product of its own would take longer than copying them beside others."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a kernel is cut up: examples a block and a forward, cotangents a block, numbers a contraction may hold."""

    examples: int
    forward: int
    cotangents: int
    entries: int


def plan(trace: Trace, n: int, m: int, memory: int | None, full: bool = False) -> Plan:
    """Cut so that terms take four fifths of the memory, forward or contraction the rest; `m` is 0 without y.

    Where cotangents share no work and a forward over all examples fits beside their terms, its graph is kept and
    cotangents are taken one at a time: a `full` kernel pairs them, and would repeat backward passes.
    """
    fifth = 5 * max(4, trace.outputs.dtype.itemsize)
    entries = max(1, (MEMORY if memory is None else memory) // fifth)
    kept = max(1, (GRAPH_MEMORY if memory is None else memory) // fifth)
    count, larger, sides = trace.outputs.shape[1], max(n, m), 1 if m == 0 else 2
    pulled = list(shapes(trace).values())
    some = [numbers_held(compact(terms, larger, count, entries)) for terms in pulled]
    once, each = (max(1, sum(numbers)) for numbers in zip(*some, strict=True))
    graph = trace.graph_numbers
    if (
        not full
        and sides * larger * (graph + once + each) <= 4 * kept
        and not any(_shares(terms, larger) for terms in pulled)
    ):
        return Plan(larger, larger, 1, kept)
    fits = sides * larger * (once + each) <= 4 * entries
    examples = larger if fits else max(1, min(larger, 4 * entries // (2 * (once + each))))
    cotangents = min(count, max(1, (4 * entries // ((sides if fits else 2) * examples) - once) // each))
    cotangents = -(-count // -(-count // cotangents))  # as many blocks, of equal size
    if examples == n and m == 0 and not full and n * (graph + cotangents * trace.numbers_held_without_tails) <= entries:
        return Plan(examples, examples, cotangents, entries)
    forward = max(8, entries // (graph + cotangents * trace.numbers_held))
    return Plan(examples, min(examples, forward), cotangents, entries)


def _shares(terms: Terms, n: int) -> bool:
    """Whether the terms of several cotangents are cheaper to contract together: inputs are unfolded or paired once."""
    if not isinstance(terms, Outer):
        return False
    by_positions, by_weights = terms.multiplications(n, n, terms.positions, 1)
    return terms.expand is not None or by_positions <= by_weights


def forward_size(trace: Trace, n: int, entries: int) -> int:
    """Examples of one forward, at most n: about `entries` numbers, which caches hold."""
    # an activation, its gradient and what the nonlinearity saved
    return min(n, max(8, entries // (3 * max(1, trace.numbers_held))))


def block_kernels(
    x: Build,
    n: int,
    y: Build | None,
    m: int,
    cut: Plan,
    full: bool,
    outputs: Tensor,
    layers: Sequence[str],
    per_layer: bool,
) -> Tensor | dict[str, Tensor]:
    """The kernel (n, m), or (n, m, c, c) where `full`, or that of each layer; zero for one without a gradient.

    `layers` tells the layer of every parameter, `outputs` (some, c) are those of some examples. Without `y` the kernel
    is that of x with itself, and blocks below the diagonal are mirrored.
    """
    count = outputs.shape[1]
    shape = (n, m, count, count) if full else (n, m)
    owners = layers if per_layer else [""] * len(layers)
    result: dict[str, Tensor] = {}
    first: dict[Block, Terms] = {}
    second: dict[Block, Terms] = {}
    if cut.forward >= cut.examples:
        x, y = _kept(x), y and _kept(y)
    # a kernel of one trace with itself
    summed = not full and y is None and min(cut.forward, cut.examples) >= n
    for i in _slices(n, cut.examples):
        for j in _slices(m, cut.examples):
            if y is None and j.start < i.start:
                continue
            meetings: list[Meeting] = []
            for a in _slices(count, cut.cotangents):
                second = {} if second is first else second
                first = _digest(x, i, a, m, cut, first, summed)
                for b in _slices(count, cut.cotangents) if full else [a]:
                    same = y is None and i == j and a == b
                    second = first if same else _digest(y or x, j, b, n, cut, {} if second is first else second)
                    if full:
                        products = _entry_products(first, second, cut.entries, owners)
                    else:
                        products = _products(first, second, cut.entries, owners, meetings)
                    for owner, product in products.items():
                        if owner not in result:
                            result[owner] = product.new_zeros(shape)
                        (result[owner][i, j, a, b] if full else result[owner][i, j]).add_(product)
    if y is None:
        _mirror(result.values(), cut.examples)
    dtype = torch.promote_types(outputs.dtype, torch.float32)
    parts = every_layer(result, owners, lambda: torch.zeros(shape, dtype=dtype, device=outputs.device))
    return parts if per_layer else parts[""]


def _kept(build: Build) -> Build:
    """The same, but with the traces of two blocks of examples kept for further cotangents."""
    cached = functools.lru_cache(2)(lambda start, stop: build(slice(start, stop)))
    return lambda examples: cached(examples.start, examples.stop)


def _mirror(kernels: Iterable[Tensor], size: int) -> None:
    for kernel in kernels:
        for i in _slices(len(kernel), size):
            upper = kernel[i, i.stop :]
            kernel[i.stop :, i] = upper.permute(1, 0, *reversed(range(2, kernel.ndim)))


def _digest(
    build: Build,
    examples: slice,
    entries: slice,
    others: int,
    cut: Plan,
    spent: dict[Block, Terms],
    summed: bool = False,
) -> dict[Block, Terms]:
    """Terms of some examples and output entries, from as many forwards as the plan says.

    The room of `spent` terms is used again where it fits, since an allocator may not find it a second time. Where
    `summed`, products summed over cotangents are all that is wanted, with these terms themselves: see `_pulled`.
    """
    count, outputs = examples.stop - examples.start, range(entries.start, entries.stop)
    rooms: dict[Block, Terms] = {}
    uneven: list[dict[Block, Terms]] = []
    for part in _slices(count, cut.forward):
        found = _pulled(build(slice(examples.start + part.start, examples.start + part.stop)), outputs, summed)
        if part == slice(0, count):
            return {block: compact(found.pop(block), others, len(outputs), cut.entries) for block in list(found)}
        if not rooms:
            fits = _fit(found, spent) and all(terms.examples == count for terms in spent.values())
            rooms = spent if fits else _rooms(found, count, others, len(outputs))
        if not uneven and not _fit(found, rooms):
            uneven.append({block: first_of(terms, part.start) for block, terms in rooms.items()})
        if uneven:
            uneven.append({block: compact(terms, others, len(outputs), cut.entries) for block, terms in found.items()})
        else:
            for block in list(found):
                place(found.pop(block), rooms[block], part.start, cut.entries)
    return _joined_uneven(uneven) if uneven else rooms


def _rooms(part: Mapping[Block, Terms], examples: int, others: int, cotangents: int) -> dict[Block, Terms]:
    return {
        block: room(terms, examples, isinstance(terms, Outer) and terms.smaller_written(others, cotangents))
        for block, terms in part.items()
    }


def _fit(part: Mapping[Block, Terms], rooms: Mapping[Block, Terms]) -> bool:
    return part.keys() == rooms.keys() and all(alike(terms, rooms[block]) for block, terms in part.items())


def _joined_uneven(parts: Sequence[dict[Block, Terms]]) -> dict[Block, Terms]:
    """Terms of parts whose forwards used the parameters differently."""
    kinds = {frozenset((block, type(terms)) for block, terms in part.items()) for part in parts}
    if len(kinds) > 1:
        parts = [_written(part, parts) for part in parts]
    return {block: joined([part.pop(block) for part in parts]) for block in list(parts[0])}


def _pulled(trace: Trace, outputs: range, summed: bool) -> dict[Block, Terms]:
    """Terms of all blocks for some outputs, whose gradients are gathered first, so that each is contracted at once.

    Where `summed`, those of a layer before the last stand for all cotangents at once: gradients d_np w_pa of cotangents
    a have the inner products, summed over a, of d_np (sum_a w_pa^2)^(1/2).
    """
    gathered: Gradients = {}
    dense: dict[Block, list[Tensor]] = {}
    tails = trace.tails if summed and len(outputs) > 1 else {}
    for row, output in enumerate(outputs):
        cotangent = _unit(trace, output)
        gradients = backward(trace, cotangent)
        if len(outputs) == 1:
            gathered = gradients
        for key in gradients.keys() - tails.keys() if len(outputs) > 1 else ():
            if key not in gathered:
                gathered[key] = _room(gradients[key], len(outputs))
            gathered[key][row] = gradients[key][0]
        del gradients
        for block, terms in dense_terms(trace, cotangent).items():
            dense.setdefault(block, []).append(terms.values)
    for key, (passes, weight) in tails.items():
        gathered[key] = (passes * weight[:, outputs.start : outputs.stop].square().sum(1).sqrt()).unsqueeze(0)
    result: dict[Block, Terms] = {block: Plain(torch.cat(rows)) for block, rows in dense.items()}
    return result | terms_of(trace, trace.structured, gathered)


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


def every_layer(parts: Mapping[str, Tensor], layers: Sequence[str], empty: Callable[[], Tensor]) -> dict[str, Tensor]:
    """The part of each layer, in their order; `empty()` where none of a layer's parameters is used."""
    return {layer: parts[layer] if layer in parts else empty() for layer in dict.fromkeys(layers)}


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _products(
    x: Mapping[Block, Terms], y: Mapping[Block, Terms], entries: int, layers: Sequence[str], meetings: list[Meeting]
) -> dict[str, Tensor]:
    """(n, m) for each layer, summed over cotangents."""
    result: dict[str, Tensor] = {}
    grams: Grams = {}
    for layer, first, second in _gathered(x, y, layers):
        product = inner_products(first, second, entries, grams, meetings)
        result[layer] = result[layer] + product if layer in result else product
    return result


def _entry_products(
    x: Mapping[Block, Terms], y: Mapping[Block, Terms], entries: int, layers: Sequence[str]
) -> dict[str, Tensor]:
    """(n, m, c, c') for each layer, for the c cotangents of x and c' of y."""
    result: dict[str, Tensor] = {}
    for layer, first, second in _gathered(x, y, layers):
        n, m = first.examples, second.examples
        wide = spread(first)
        product = inner_products(wide, wide if second is first else spread(second), entries)
        product = product.view(n, len(product) // n, m, -1).transpose(1, 2)
        result[layer] = result[layer] + product if layer in result else product
    return result


def _gathered(
    x: Mapping[Block, Terms], y: Mapping[Block, Terms], layers: Sequence[str]
) -> Iterator[tuple[str, Terms, Terms]]:
    """Terms of the same entries of the same parameters; those of few numbers of one layer beside each other."""
    few: dict[tuple[str, int, torch.dtype], list[tuple[Plain, Plain]]] = {}
    held = {terms.left.data_ptr() for terms in x.values() if isinstance(terms, Outer)}
    for index, first, second in _aligned(x, y):
        layer = layers[index]
        if isinstance(first, Plain) and isinstance(second, Plain) and _is_small(first, held):
            few.setdefault((layer, len(first.values), first.values.dtype), []).append((first, second))
        else:
            yield layer, first, second
    for (layer, *_), pairs in few.items():
        together = beside([first for first, _ in pairs])
        yield layer, together, together if pairs[0][0] is pairs[0][1] else beside([second for _, second in pairs])


def _is_small(terms: Plain, held: Collection[int]) -> bool:
    return terms.values.shape[2] <= _FEW and terms.values.data_ptr() not in held


def _aligned(x: Mapping[Block, Terms], y: Mapping[Block, Terms]) -> Iterator[tuple[int, Terms, Terms]]:
    """Terms of the same entries of the same parameters; written out where x and y use different parts."""
    if x.keys() != y.keys():
        x, y = _written(x, (x, y)), _written(y, (x, y))
    return ((block.index, x[block], y[block]) for block in x)
