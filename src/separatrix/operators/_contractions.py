"""Norms, inner products and sums of per-example gradients in factored form, without the Jacobian.

Letters are those of `_terms`: c cotangents, n and m examples, t and s positions within an example.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from separatrix.operators._row_products import row_products
from separatrix.operators._terms import CACHED, Lookup, Outer, Plain, Terms, slices_of, weights_of, written_out

_LONG = 512
"""Columns from which a product takes longer than adding it to others, so that cutting them up costs nothing."""

Grams = dict[tuple[object, ...], tuple[Tensor, Tensor, Tensor]]
"""Products of factors that have been made: a layer's weight and bias share that of their output gradients."""


@dataclasses.dataclass(frozen=True)
class Meeting:
    """Where two indices (1, n, t) and (1, m, s) of tables say the same, whatever the cotangent.

    `x` and `y` are the indices into the `rows` rows that occur. `members` and `others` are the positions of all
    examples, numbered through, by the row that they add to (rows, most of any), filled with -1. `sources` are copies of
    the indices themselves.
    """

    x: Tensor
    y: Tensor
    rows: int
    members: Tensor
    others: Tensor
    sources: tuple[Tensor, Tensor]

    @property
    def pairs(self) -> int:
        """Entries of the products of members with others."""
        return self.members.numel() * self.others.shape[1]

    @functools.cached_property
    def places(self) -> Tensor:
        """To which entry of (n, m), flattened, every product of members with others adds; n m where there is none."""
        (n, t), (m, s) = self.x.shape[1:], self.y.shape[1:]
        met = (self.members >= 0).unsqueeze(2) & (self.others >= 0).unsqueeze(1)
        pairs = (self.members // t * m).unsqueeze(2) + (self.others // s).unsqueeze(1)
        return torch.where(met, pairs, n * m).flatten()


def inner_products(
    x: Terms, y: Terms, entries: int, grams: Grams | None = None, meetings: list[Meeting] | None = None
) -> Tensor:
    """Sum over cotangents of <gradient of x_i, gradient of y_j>: (n, m), with at most about `entries` numbers held.

    Positions are either compared pair by pair, n m t s (p + q) multiplications, or contracted first to gradients,
    block by block, (n t + m s + n m) p q; the cheaper is taken. `grams` is shared by calls whose terms are alive
    together, `meetings` by those for several cotangents.
    """
    grams = {} if grams is None else grams
    meetings = [] if meetings is None else meetings
    if isinstance(x, Plain) and isinstance(y, Plain):
        first = x.values.transpose(0, 1).flatten(1)
        second = first if x is y else y.values.transpose(0, 1).flatten(1)
        views = first.data_ptr() == x.values.data_ptr() and second.data_ptr() == y.values.data_ptr()
        return _shared_gram(first, second, grams) if views else row_products(first, second)
    if isinstance(x, Lookup) and isinstance(y, Lookup):
        return _lookup_products(x, y, entries, meetings)
    if isinstance(x, Outer) and isinstance(y, Outer):
        return _outer_products(x, y, entries, grams)
    return inner_products(Plain(written_out(x)), Plain(written_out(y)), entries)


def squared_norms(terms: Terms, entries: int) -> Tensor:
    """Squared norm of every example's gradient, summed over cotangents: (n,)."""
    if isinstance(terms, Plain):
        return terms.values.square().sum((0, 2))
    if isinstance(terms, Outer) and terms.strips is not None and not _few_positions(terms):
        return _strip_norms(terms, terms.strips, min(entries, CACHED))
    results = []
    for block in _norm_blocks(terms, min(entries, CACHED)):
        if isinstance(block, Lookup):
            same = block.index.unsqueeze(-1) == block.index.unsqueeze(-2)
            results.append((same * (block.right @ block.right.mT)).sum((0, 2, 3)))
        elif _few_positions(block):
            left, right = (side.transpose(2, 3) for side in (block.left, block.right))
            results.append(((left @ left.mT) * (right @ right.mT)).sum((0, 2, 3, 4)))
        else:
            narrow = block.columns < block.left.shape[-1]  # products are faster with the narrower side's rows first
            sides = (block.right, block.left) if narrow else (block.left, block.right)
            results.append(weights_of(*sides).square().sum((0, 2, 3, 4)))
    return torch.cat(results)


def _strip_norms(terms: Outer, strips: Callable[[Tensor], Iterator[Tensor]], entries: int) -> Tensor:
    results = []
    each = max(1, terms.positions * terms.columns // 2)  # at least two strips
    for part in slices_of(terms.examples, entries // each):
        left = terms.left[:, part]
        squares = [weights_of(left, strip).square().sum((0, 2, 3, 4)) for strip in strips(terms.right[:, part])]
        results.append(torch.stack(squares).sum(0))
    return torch.cat(results)


def group_sums(terms: Terms, membership: Tensor) -> Tensor:
    """Sums of the gradients over groups of examples, (k, p): `membership` (k, n) weighs them; c must be 1."""
    if not isinstance(terms, Outer):
        return membership @ written_out(terms)[0]
    whole = terms.block(slice(None))
    left, right = whole.left[0].permute(2, 3, 0, 1), whole.right[0].permute(2, 0, 1, 3).flatten(1, 2)
    return torch.stack([((left * weights[:, None]).flatten(2) @ right).flatten() for weights in membership])


def _shared_gram(x: Tensor, y: Tensor, grams: Grams) -> Tensor:
    """The product of two matrices that nobody changes, made once; both are kept, so that addresses stay theirs."""
    key = (x.data_ptr(), y.data_ptr(), x.shape, y.shape, x.stride(), y.stride())
    if key not in grams:
        grams[key] = (x, y, row_products(x, y))
    return grams[key][2]


def _few_positions(terms: Outer) -> bool:
    t, _, p = terms.left.shape[2:]
    return t * (p + terms.columns) <= p * terms.columns


def _norm_blocks(terms: Outer | Lookup, entries: int) -> Iterator[Outer | Lookup]:
    if isinstance(terms, Lookup):
        each = terms.right.shape[0] * terms.right.shape[2] ** 2
    else:
        c, _, t, g, p = terms.left.shape
        each = c * g * (t * terms.columns + (2 * t * t if _few_positions(terms) else p * terms.columns))
    return (terms.block(part) for part in slices_of(terms.examples, entries // each))


def _lookup_products(x: Lookup, y: Lookup, entries: int, meetings: list[Meeting]) -> Tensor:
    (c, n, t, q), (m, s) = x.right.shape, y.right.shape[1:3]
    meeting, same = _meeting(x.index, y.index, meetings), x is y
    widths = meeting.members.shape[1] + meeting.others.shape[1]
    sparse = 4 * meeting.pairs <= min(meeting.rows, t * s) * n * m
    if sparse and c * q * meeting.rows * widths + 3 * meeting.pairs <= entries:
        return _matched_products(x, y, meeting)
    x = Lookup(meeting.x, x.right, meeting.rows)
    y = x if same else Lookup(meeting.y, y.right, meeting.rows)
    if t * s > meeting.rows:
        result = x.right.new_zeros(n, m)
        for a in range(c):
            for columns in slices_of(q, entries // (meeting.rows * (n if same else n + m))):
                first = _table(x, a, columns)
                result += row_products(first, first if same else _table(y, a, columns))
        return result
    rows = []
    flat = y.right.permute(1, 2, 0, 3).reshape(m * s, c * q)
    for part in slices_of(n, entries // (2 * t * m * s)):
        block = x.block(part)
        products = row_products(block.right.permute(1, 2, 0, 3).reshape(-1, c * q), flat)
        products *= block.index.reshape(-1, 1) == y.index.reshape(1, -1)
        rows.append(products.view(-1, t, m, s).sum((1, 3)))
    return torch.cat(rows)


def _table(terms: Lookup, cotangent: int, columns: slice) -> Tensor:
    """Some columns of the gradients of one cotangent written out, (n, rows columns)."""
    return written_out(Lookup(terms.index, terms.right[cotangent : cotangent + 1, ..., columns], terms.rows))[0]


def _meeting(x: Tensor, y: Tensor, meetings: list[Meeting]) -> Meeting:
    """The meeting of two indices among those known, or a new one."""
    for known in meetings:
        first, second = known.sources
        if torch.equal(first, x) and (torch.equal(second, y) if x is not y else first is second):
            return known
    used, inverse = torch.unique(torch.cat([x.flatten(), y.flatten()]), return_inverse=True)
    first, second = inverse[: x.numel()].view(x.shape), inverse[x.numel() :].view(y.shape)
    members, copy = _members(first, used.numel()), x.clone()
    others, other = (members, copy) if x is y else (_members(second, used.numel()), y.clone())
    meetings.append(Meeting(first, second, used.numel(), members, others, (copy, other)))
    return meetings[-1]


def _members(index: Tensor, rows: int) -> Tensor:
    """Positions of all examples, numbered through, by the row that they add to: (rows, most of any), filled with -1."""
    index = index.flatten()
    sizes = torch.bincount(index, minlength=rows)
    order = torch.argsort(index)
    place = torch.arange(len(order), device=index.device) - (sizes.cumsum(0) - sizes)[index[order]]
    result = index.new_full((rows, int(sizes.max())), -1)
    result[index[order], place] = order
    return result


def _matched_products(x: Lookup, y: Lookup, meeting: Meeting) -> Tensor:
    """Products of those positions alone that add to the same row."""
    n, m = x.examples, y.examples

    def rows(side: Lookup, chosen: Tensor) -> Tensor:
        flat = side.right.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)
        return flat.index_select(0, chosen.clamp(min=0).flatten()).view(*chosen.shape, -1)

    first = rows(x, meeting.members)
    products = first @ (first if x is y else rows(y, meeting.others)).mT
    return products.new_zeros(n * m + 1).scatter_add_(0, meeting.places, products.flatten())[:-1].view(n, m)


def _outer_products(x: Outer, y: Outer, entries: int, grams: Grams) -> Tensor:
    c, same = max(x.cotangents), x is y
    x = _reached(x.expanded(entries))
    y = x if same else _reached(y.expanded(entries))
    by_positions, by_weights = x.multiplications(x.examples, y.examples, y.positions, c)
    if by_positions <= by_weights:
        c = c if all(x.varies) else 1
        pairs = [(_cotangent(x, a, c), _cotangent(y, a, c)) for a in range(c)]
        parts = [_position_products(first, first if same else second, entries, grams) for first, second in pairs]
    else:
        parts = [_weight_products(_cotangent(x, a, c), _cotangent(y, a, c), same, entries) for a in range(c)]
    return torch.stack(parts).sum(0)


def _reached(terms: Outer) -> Outer:
    """The terms of the positions that a gradient reaches, where most have none: a model may be read at one position."""
    if terms.positions == 1 or terms.left.shape[3] > 1 or terms.columns <= terms.positions or terms.expand is not None:
        return terms
    side = terms.left if terms.varies[0] else terms.right
    if 2 * sum(side[0, 0].flatten(1).any(1).tolist()) > terms.positions:  # most often one example tells
        return terms
    reached = (side.amax((0, 1, 3, 4)) != 0) | (side.amin((0, 1, 3, 4)) != 0)
    kept = [position for position, is_reached in enumerate(reached.tolist()) if is_reached] or [0]
    if 2 * len(kept) > terms.positions:
        return terms
    if kept[-1] - kept[0] == len(kept) - 1:
        chosen: slice | Tensor = slice(kept[0], kept[-1] + 1)
    else:
        chosen = torch.tensor(kept, device=side.device)
    return dataclasses.replace(terms, left=terms.left[:, :, chosen], right=terms.right[:, :, chosen])


def _cotangent(terms: Outer, index: int, of: int) -> Outer:
    """The terms of one cotangent, all of them where `of` is 1."""
    if of == 1:
        return terms
    sides = zip((terms.left, terms.right), terms.varies, strict=True)
    left, right = (side[index : index + 1] if varies else side for side, varies in sides)
    return dataclasses.replace(terms, left=left, right=right)


def _position_products(x: Outer, y: Outer, entries: int, grams: Grams) -> Tensor:
    (n, t, g), (m, s) = x.left.shape[1:4], y.left.shape[1:3]

    def rows(side: Tensor) -> Tensor:
        return side.permute(3, 1, 2, 0, 4).reshape(g, side.shape[1] * side.shape[2], -1)

    size = max(1, entries // (2 * g * t * m * s))
    if g == 1 and x.expand is None and y.expand is None and size >= n:
        left, right = rows(x.left)[0], rows(x.right)[0]
        others = (left, right) if x is y else (rows(y.left)[0], rows(y.right)[0])
        share = _shared_gram if t == s == 1 else lambda first, second, _: row_products(first, second)
        products = share(left, others[0], grams) * row_products(right, others[1])
        return products if t == s == 1 else products.view(n, t, m, s).sum((1, 3))
    whole = y.block(slice(None))
    left, right = rows(whole.left), rows(whole.right)
    results = []
    for part in slices_of(n, size):
        block = x.block(part)
        products = (rows(block.left) @ left.mT).mul_(rows(block.right) @ right.mT)
        results.append(products.view(g, -1, t, m, s).sum((0, 2, 4)))
    return torch.cat(results)


def _weight_products(x: Outer, y: Outer, same: bool, entries: int) -> Tensor:
    (n, t, g, p), (m, s) = x.left.shape[1:], y.left.shape[1:3]

    def gradients(side: Outer, rows: slice, positions: int) -> Tensor:
        each = g * side.columns * (positions + p)
        blocks = (side.block(part) for part in slices_of(side.examples, entries // each))
        parts = [weights_of(block.left[..., rows], block.right).flatten(2)[0] for block in blocks]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    result = x.left.new_zeros(n, m)
    each = g * x.columns * (n if same else n + m)
    # an odd number, since gradients a power of two apart in memory would share few lines of a cache
    size = max(1, min(entries, max(2 * CACHED, _LONG * (n + m))) // each) | 1
    for rows in slices_of(p, size):
        first = gradients(x, rows, t)
        result += row_products(first, first if same else gradients(y, rows, s))
    return result
