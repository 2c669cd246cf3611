"""Per-example gradients of one parameter kept in factored form: made, joined, written out.

Everywhere c counts cotangents (output entries), n and m examples, t and s positions within an example. The leading axis
of what does not depend on the cotangent is 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor


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

    def multiplications(self, others: int, positions: int, cotangents: int) -> tuple[int, int]:
        """Cost of inner products with `others` examples of `positions`, pair by pair of positions and by gradients."""
        (n, t, _, p), q = self.left.shape[1:], self.columns
        left, right = (cotangents if varies else 1 for varies in self.varies)
        by_positions = n * others * t * positions * (left * p + right * q)
        return by_positions, cotangents * p * q * (n * t + others * positions + n * others)

    def smaller_written(self, others: int, cotangents: int) -> bool:
        """Whether the gradients written out take less room and less time than the factors."""
        t = self.positions
        by_positions, by_weights = self.multiplications(others, t, cotangents)
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
            c, n, t, q = terms.right.shape
            table = terms.right.new_zeros(c, n, terms.rows, q)
            return table.scatter_add_(2, terms.index[..., None].expand(c, n, t, q), terms.right).flatten(2)


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
    t, g, p = terms.left.shape[2:]
    each = max(terms.cotangents) * g * terms.columns * (t + p)
    return joined([Plain(written_out(terms.block(part))) for part in slices_of(terms.examples, entries // each)])


def joined(parts: Sequence[Terms]) -> Terms:
    """The terms of consecutive examples as one; all of one kind."""
    return parts[0] if len(parts) == 1 else _cat(parts, 1)


def stacked(parts: Sequence[Terms]) -> Terms:
    """The terms of consecutive cotangents as one; all of one kind."""
    return parts[0] if len(parts) == 1 else _cat(parts, 0)


def _cat(parts: Sequence[Terms], axis: int) -> Terms:
    def side(name: str, varies: bool) -> Tensor:
        tensors: list[Tensor] = [getattr(part, name) for part in parts]
        return torch.cat(tensors, axis) if axis or varies else tensors[0]

    match parts[0]:
        case Plain():
            # cotangents beside each other for every example, as a product over them reads them
            return Plain(
                torch.cat(
                    [part.values.transpose(0, 1) for part in parts if isinstance(part, Plain)], 1 - axis
                ).transpose(0, 1)
            )
        case Lookup():
            return Lookup(side("index", False), side("right", True), parts[0].rows)
        case Outer():
            left, right = side("left", parts[0].varies[0]), side("right", parts[0].varies[1])
            return dataclasses.replace(parts[0], left=left, right=right)


def numbers_held(terms: Terms) -> tuple[int, int]:
    """Numbers that one example takes: once, and for every cotangent."""
    match terms:
        case Plain():
            sides = [(terms.values, True)]
        case Lookup():
            sides = [(terms.index, False), (terms.right, True)]
        case Outer():
            sides = [(terms.left, terms.varies[0]), (terms.right, terms.varies[1])]
    counts = [(varies, tensor[0].numel() // terms.examples) for tensor, varies in sides]
    return sum(count for varies, count in counts if not varies), sum(count for varies, count in counts if varies)


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
    return left.permute(0, 1, 3, 4, 2) @ right.transpose(2, 3)


def slices_of(total: int, size: int) -> Iterator[slice]:
    """Consecutive parts of `total`, of `size` or one each."""
    size = max(1, size)
    return (slice(start, min(start + size, total)) for start in range(0, total, size))
