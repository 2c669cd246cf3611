"""Long series made short enough to draw, with every extreme and every gap kept."""

from __future__ import annotations

import dataclasses

import numpy as np

_MOST_GAPS = 500


@dataclasses.dataclass(frozen=True)
class Gap:
    """A stretch of steps, both ends included, whose values are not finite; `count` of them."""

    first: float
    last: float
    count: int
    value: float


@dataclasses.dataclass(frozen=True)
class Line:
    """Points to draw: `values` is NaN where the line breaks. `total` is how many values the series holds."""

    steps: np.ndarray
    values: np.ndarray
    gaps: tuple[Gap, ...]
    total: int


def downsampled(steps: np.ndarray, values: np.ndarray, points: int) -> Line:
    """At most about `points` points that draw the same picture as all.

    The finite values are reduced by M4: the first, last, lowest and highest of each of `points / 4` stretches of steps,
    so that no spike is lost. Stretches of NaN or infinity become gaps; beyond 500 of them neighbours are joined.
    `steps` must increase.
    """
    values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values)
    kept = np.flatnonzero(finite)
    kept = kept[_m4(steps[kept], values[kept], points)]
    gaps, breaks = _gaps(steps, values, finite)
    chosen = np.union1d(kept, breaks)
    return Line(steps[chosen], np.where(finite[chosen], values[chosen], np.nan), gaps, len(values))


def _m4(steps: np.ndarray, values: np.ndarray, points: int) -> np.ndarray:
    if len(values) <= points:
        return np.arange(len(values))
    from tsdownsample import M4Downsampler

    size = max(4, points // 4 * 4)
    x = np.ascontiguousarray(steps, dtype=np.float64)
    return np.unique(M4Downsampler().downsample(x, np.ascontiguousarray(values), n_out=size)).astype(np.int64)


def _gaps(steps: np.ndarray, values: np.ndarray, finite: np.ndarray) -> tuple[tuple[Gap, ...], np.ndarray]:
    """The stretches without finite values and one index in each at which the line breaks."""
    edges = np.diff(np.concatenate([[0], (~finite).astype(np.int8), [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    if not starts.size:
        return (), starts
    groups = np.arange(starts.size)
    if starts.size > _MOST_GAPS:
        groups = np.searchsorted(np.linspace(steps[0], steps[-1], _MOST_GAPS + 1)[1:-1], steps[starts], side="right")
    heads = np.flatnonzero(np.diff(groups, prepend=-1))
    tails = np.append(heads[1:], starts.size) - 1
    amounts = np.add.reduceat(ends - starts + 1, heads)
    gaps = tuple(
        Gap(float(steps[starts[head]]), float(steps[ends[tail]]), int(amount), float(values[starts[head]]))
        for head, tail, amount in zip(heads, tails, amounts, strict=True)
    )
    return gaps, starts[heads]


@dataclasses.dataclass(frozen=True)
class Cells:
    """A picture of values over rows and stretches of steps.

    `values` has shape (rows, stretches): of each stretch the value that lies farthest, in orders of magnitude or
    plainly, from the row's median; ±inf where any was not finite; NaN where nothing had been measured yet. `edges`
    holds the steps between stretches, one more than there are.
    """

    edges: np.ndarray
    values: np.ndarray
    labels: tuple[str, ...]
    members: tuple[int, ...]


def pictured(
    steps: np.ndarray, values: np.ndarray, labels: tuple[str, ...], *, rows: int, columns: int, logarithmic: bool
) -> Cells:
    """Values of shape (steps, labels) as at most `rows` by `columns` cells, the last value carried forward.

    Labels beyond `rows` are grouped with their neighbours by common dotted prefix where that suffices, else in equal
    blocks; a group shows its most extreme member. Nothing is averaged away.
    """
    groups, names = _grouped(labels, rows)
    table = np.asarray(values, dtype=np.float64).T
    scores = _scores(table, logarithmic)
    row_heads = np.flatnonzero(np.diff(groups, prepend=-1))
    members = tuple(int(n) for n in np.diff(np.append(row_heads, len(labels))))
    column_heads = np.unique(np.linspace(0, len(steps), min(columns, len(steps)) + 1)[:-1].astype(np.int64))
    by_column = _most_extreme(table, scores, column_heads, axis=1)
    picked, _ = _most_extreme(*by_column, row_heads, axis=0)
    last = steps[-1] + (np.median(np.diff(steps)) if len(steps) > 1 else 1)
    return Cells(np.append(steps[column_heads], last), _carried_forward(picked), names, members)


def _scores(table: np.ndarray, logarithmic: bool) -> np.ndarray:
    """How far each value lies from its row's median; unmeasured lowest, not finite highest."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.log10(np.abs(table)) if logarithmic else table.copy()
    zero = np.isneginf(scale) & (table == 0)
    scale[zero] = -60.0
    usable = np.isfinite(scale)
    distance = np.full(table.shape, -1.0)
    for row in np.flatnonzero(usable.any(axis=1)):
        distance[row, usable[row]] = np.abs(scale[row, usable[row]] - np.median(scale[row, usable[row]]))
    distance[np.isinf(table)] = np.inf
    return distance


def _most_extreme(table: np.ndarray, scores: np.ndarray, heads: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    size = table.shape[axis]
    if len(heads) == size:
        return table, scores
    chosen = []
    for first, end in zip(heads, np.append(heads[1:], size), strict=True):
        block = np.take(scores, np.arange(first, end), axis=axis)
        chosen.append(first + block.argmax(axis=axis))
    index = np.stack(chosen, axis=axis)
    return np.take_along_axis(table, index, axis), np.take_along_axis(scores, index, axis)


def _carried_forward(table: np.ndarray) -> np.ndarray:
    source = np.where(np.isnan(table), 0, np.arange(table.shape[1]))
    np.maximum.accumulate(source, axis=1, out=source)
    return np.take_along_axis(table, source, axis=1)


def _grouped(labels: tuple[str, ...], rows: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """For each label the number of its group, never decreasing, and the groups' names."""
    if len(labels) <= rows:
        return np.arange(len(labels)), labels
    deepest = max(label.count(".") for label in labels)
    for depth in range(deepest, 0, -1):
        prefixes = [".".join(label.split(".")[:depth]) for label in labels]
        heads = [i for i, prefix in enumerate(prefixes) if i == 0 or prefix != prefixes[i - 1]]
        if rows // 4 <= len(heads) <= rows:
            return _numbered(heads, labels, tuple(prefixes[i] for i in heads))
    heads = sorted({int(i) for i in np.linspace(0, len(labels), rows + 1)[:-1]})
    ends = [*heads[1:], len(labels)]
    names = tuple(
        labels[head] if end == head + 1 else f"{labels[head]} to {labels[end - 1]}"
        for head, end in zip(heads, ends, strict=True)
    )
    return _numbered(heads, labels, names)


def _numbered(heads: list[int], labels: tuple[str, ...], names: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    marks = np.zeros(len(labels), dtype=np.int64)
    marks[heads] = 1
    ends = [*heads[1:], len(labels)]
    titled = tuple(
        f"{name} ({end - head} together)" if end - head > 1 else labels[head]
        for name, head, end in zip(names, heads, ends, strict=True)
    )
    return np.cumsum(marks) - 1, titled
