"""Per-example gradients of one parameter kept in factored form: made, joined, written out.

Everywhere c counts cotangents (output entries), n and m examples, t and s positions within an example. The leading axis
of what does not depend on the cotangent is 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

CACHED = 2**20
"""Numbers a block of examples may take where blocks are independent: what fits in a cache is faster."""


@dataclasses.dataclass(frozen=True)
class Plain:
    """Gradients written out: `values` (c, n, p)."""

    values: Tensor

    def block(self, examples: slice) -> Plain:
        """The terms of some examples."""
        return Plain(self.values[:, examples])

    @property
    def examples(self) -> int:
        """Number of examples."""
        return self.values.shape[1]


@dataclasses.dataclass(frozen=True)
class Outer:
    """Gradients as sums of outer products over positions, group by group.

    `left` (c, n, t, g, p) and `right` (c, n, t, g, q) stand for the gradient sum_t left[t] right[t]^T of shape
    (g p, q); `varies` tells which of the two depend on the cotangent. Where `expand` is given, `right` (1, n, ...) is
    what it turns into that shape, a block of examples at a time:
    the patches of a convolution need not be held for all examples. `columns` is q. Where `strips` is given, it turns
    `right` into parts of the columns in any order, at less cost: enough for norms.
    """

    left: Tensor
    right: Tensor
    columns: int
    expand: Callable[[Tensor], Tensor] | None = None
    varies: tuple[bool, bool] = (True, False)
    strips: Callable[[Tensor], Iterator[Tensor]] | None = None

    def block(self, examples: slice) -> Outer:
        """The terms of some examples, their right factors expanded."""
        right = self.right[:, examples]
        right = right if self.expand is None else self.expand(right)
        return dataclasses.replace(self, left=self.left[:, examples], right=right, expand=None, strips=None)

    @property
    def examples(self) -> int:
        """Number of examples."""
        return self.left.shape[1]

    @property
    def positions(self) -> int:
        """Number of positions of an example."""
        return self.left.shape[2]

    def expanded(self, entries: int) -> Outer:
        """The same with the right factors expanded for all examples, where they fit."""
        each = self.positions * self.left.shape[3] * self.columns
        return self.block(slice(None)) if self.expand is not None and self.examples * each <= entries else self

    def multiplications(self, n: int, others: int, positions: int, cotangents: int) -> tuple[int, int]:
        """Cost of inner products of n examples with others of so many positions, by pairs of these and by gradients."""
        (t, _, p), q = self.left.shape[2:], self.columns
        left, right = (cotangents if varies else 1 for varies in self.varies)
        by_positions = n * others * t * positions * (left * p + right * q)
        return by_positions, cotangents * p * q * (n * t + others * positions + n * others)

    def smaller_written(self, others: int, cotangents: int) -> bool:
        """Whether the gradients written out take less room and less time than the factors."""
        t = self.positions
        by_positions, by_weights = self.multiplications(self.examples, others, t, cotangents)
        return self.columns <= t and by_weights < by_positions if self.varies == (True, False) else False

    @property
    def cotangents(self) -> tuple[int, int]:
        """Number of cotangents on either side; 1 where the side does not depend on them."""
        return self.left.shape[0], self.right.shape[0]


@dataclasses.dataclass(frozen=True)
class Lookup:
    """Gradients of a table: `index` (1, n, t) says to which of `rows` rows `right` (c, n, t, q) is added."""

    index: Tensor
    right: Tensor
    rows: int

    def block(self, examples: slice) -> Lookup:
        """The terms of some examples."""
        return Lookup(self.index[:, examples], self.right[:, examples], self.rows)

    def outer(self) -> Outer:
        """The same with one-hot left factors."""
        left = torch.nn.functional.one_hot(self.index, self.rows).to(self.right.dtype)
        return Outer(left.unsqueeze(-2), self.right.unsqueeze(-2), self.right.shape[-1], varies=(False, True))

    @property
    def examples(self) -> int:
        """Number of examples."""
        return self.index.shape[1]


Terms = Plain | Outer | Lookup


def written_out(terms: Terms) -> Tensor:
    """The gradients themselves, (c, n, p): as large as the Jacobian of this parameter."""
    match terms:
        case Plain():
            return terms.values
        case Outer():
            whole = terms.block(slice(None))
            return weights_of(whole.left, whole.right).flatten(2)
        case Lookup():
            c, n, _, q = terms.right.shape
            tables = torch.arange(c * n, device=terms.index.device).view(c, n, 1) * terms.rows
            table = terms.right.new_zeros(c * n * terms.rows, q)
            table.index_add_(0, (tables + terms.index).flatten(), terms.right.reshape(-1, q))
            return table.view(c, n, terms.rows * q)


def merged(parts: Sequence[Terms]) -> Terms:
    """The sum of the terms of several uses of one parameter."""
    if len(parts) == 1:
        return parts[0]
    tables = [part for part in parts if isinstance(part, Lookup)]
    if len(tables) == len(parts):
        index, right = torch.cat([part.index for part in tables], 2), torch.cat([part.right for part in tables], 2)
        return Lookup(index, right, tables[0].rows)
    outers = [part.outer() for part in tables] + [part.block(slice(None)) for part in parts if isinstance(part, Outer)]
    if len(outers) < len(parts) or len({(part.left.shape[3:], part.columns) for part in outers}) > 1:
        return Plain(torch.stack([written_out(part) for part in parts]).sum(0))
    c = max(max(part.cotangents) for part in outers)
    varies = any(part.varies[0] for part in outers), any(part.varies[1] for part in outers)
    left = torch.cat([part.left.expand(c if varies[0] else 1, *part.left.shape[1:]) for part in outers], 2)
    right = torch.cat([part.right.expand(c if varies[1] else 1, *part.right.shape[1:]) for part in outers], 2)
    return Outer(left, right, outers[0].columns, varies=varies)


def compact(terms: Terms, others: int, cotangents: int, entries: int) -> Terms:
    """The same, written out where that is smaller and cheaper for inner products with `others` examples."""
    if not isinstance(terms, Outer) or not terms.smaller_written(others, cotangents):
        return terms
    result = room(terms, terms.examples, True)
    place(terms, result, 0, entries)
    return result


def beside(parts: Sequence[Plain]) -> Plain:
    """The gradients of several parameters as those of one, cotangents beside each other for every example."""
    if len(parts) == 1:
        return parts[0]
    return Plain(torch.cat([part.values.transpose(0, 1) for part in parts], 2).transpose(0, 1))


def joined(parts: Sequence[Terms]) -> Terms:
    """The terms of consecutive examples as one; all of one kind."""
    if len(parts) == 1:
        return parts[0]
    result, at = room(parts[0], sum(part.examples for part in parts)), 0
    for part in parts:
        at = place(part, result, at)
    return result


def room(terms: Terms, examples: int, written: bool = False) -> Terms:
    """Terms of the same kind, or written out, for so many examples, of unset numbers: cotangents beside each other."""

    def empty(tensor: Tensor) -> Tensor:
        strides = tensor.stride()
        order = sorted(range(tensor.ndim), key=lambda axis: (axis != 1, -strides[axis]))
        sizes = [examples if axis == 1 else tensor.shape[axis] for axis in order]
        return tensor.new_empty(sizes).permute([order.index(axis) for axis in range(tensor.ndim)])

    if written and isinstance(terms, Outer):
        c, size = _written_shape(terms)
        return Plain(terms.left.new_empty(examples, c, size).transpose(0, 1))
    return _mapped(terms, empty)


def place(terms: Terms, into: Terms, at: int, entries: int = CACHED) -> int:
    """Copy or write out terms to the examples from `at` on of what has room; returns where the next ones go."""
    stop = at + terms.examples
    if isinstance(into, Plain) and isinstance(terms, Outer):
        _write_out(terms, into.values[:, at:stop], min(entries, CACHED // 2))
    else:
        for name, tensor in _tensors(terms).items():
            getattr(into, name)[:, at:stop] = tensor
    return stop


def _write_out(terms: Outer, result: Tensor, entries: int) -> None:
    """Gradients into `result` (c, n, g p q), which holds cotangents beside each other for every example."""
    (t, g, p), q = terms.left.shape[2:], terms.columns
    c = len(result)
    for part in slices_of(terms.examples, entries // (g * (t * (c * p + q) + c * p * q))):
        block = terms.block(part)
        target = result[:, part].view(c, -1, g, p, q)
        if g == 1 and len(block.right) == 1:
            rows = block.left[:, :, :, 0].permute(1, 0, 3, 2).flatten(1, 2)
            torch.bmm(rows, block.right[0, :, :, 0], out=target.transpose(0, 1).view(-1, c * p, q))
        else:
            target.copy_(weights_of(block.left, block.right))


def _written_shape(terms: Outer) -> tuple[int, int]:
    """Cotangents and numbers of gradients written out."""
    return max(terms.cotangents), terms.left.shape[3] * terms.left.shape[4] * terms.columns


def first_of(terms: Terms, examples: int) -> Terms:
    """The terms of the first examples, no factor expanded."""
    return _mapped(terms, lambda tensor: tensor[:, :examples])


def alike(terms: Terms, other: Terms) -> bool:
    """Whether terms are of the kind and sizes of others, or go there written out, but for the number of examples."""
    if isinstance(terms, Outer) and isinstance(other, Plain):
        return (other.values.shape[0], other.values.shape[2]) == _written_shape(terms)
    sides, others = _tensors(terms), _tensors(other)
    return sides.keys() == others.keys() and all(
        (tensor.shape[0], *tensor.shape[2:]) == (others[name].shape[0], *others[name].shape[2:])
        for name, tensor in sides.items()
    )


def _mapped(terms: Terms, change: Callable[[Tensor], Tensor]) -> Terms:
    match terms:
        case Plain():
            return Plain(change(terms.values))
        case Lookup():
            return Lookup(change(terms.index), change(terms.right), terms.rows)
        case Outer():
            return dataclasses.replace(terms, left=change(terms.left), right=change(terms.right))


def _tensors(terms: Terms) -> dict[str, Tensor]:
    match terms:
        case Plain():
            return {"values": terms.values}
        case Lookup():
            return {"index": terms.index, "right": terms.right}
        case Outer():
            return {"left": terms.left, "right": terms.right}


def numbers_held(terms: Terms) -> tuple[int, int]:
    """Numbers that one example takes: once, and for every cotangent."""
    match terms:
        case Plain():
            varies = [True]
        case Lookup():
            varies = [False, True]
        case Outer():
            varies = list(terms.varies)
    sides = zip(varies, _tensors(terms).values(), strict=True)
    counts = [(each, tensor[0].numel() // terms.examples) for each, tensor in sides]
    return sum(count for each, count in counts if not each), sum(count for each, count in counts if each)


def spread(terms: Terms) -> Terms:
    """One cotangent over n c examples instead of c cotangents over n, cotangents varying fastest."""

    def rows(side: Tensor, c: int) -> Tensor:
        return side.expand(c, *side.shape[1:]).transpose(0, 1).flatten(0, 1).unsqueeze(0)

    match terms:
        case Plain():
            return Plain(rows(terms.values, len(terms.values)))
        case Lookup():
            return Lookup(rows(terms.index, len(terms.right)), rows(terms.right, len(terms.right)), terms.rows)
        case Outer():
            c = max(terms.cotangents)
            return dataclasses.replace(
                terms, left=rows(terms.left, c), right=rows(terms.right, c), varies=(True, False)
            )


def weights_of(left: Tensor, right: Tensor) -> Tensor:
    """Gradients (c, n, g, p, q) of factors (c, n, t, g, p) and (c, n, t, g, q)."""
    if len(left) == 1 or len(right) > 1:
        return left.permute(0, 1, 3, 4, 2) @ right.transpose(2, 3)
    c, p = left.shape[0], left.shape[4]
    product = left.permute(1, 3, 0, 4, 2).flatten(2, 3) @ right[0].transpose(1, 2)  # one for all cotangents
    return product.view(*product.shape[:2], c, p, -1).permute(2, 0, 1, 3, 4)


def slices_of(total: int, size: int) -> Iterator[slice]:
    """Consecutive parts of `total`, of `size` or one each."""
    size = max(1, size)
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
