"""Series as plots: what to draw as plain data, and the same in words and numbers for those who cannot see it."""

from __future__ import annotations

import base64
import dataclasses
import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from separatrix.runs import SeriesData
from separatrix.view.downsampling import Cells, Gap, Line, downsampled, pictured
from separatrix.view.text import TIMES, count, number, shortened, visible

CHANGE_SERIES = frozenset(
    {"learning_rate", "momentum", "weight_decay", "beta1", "beta2", "epsilon", "skipped_steps", "loss_scale"}
)
"""Series recorded only when they change: each value holds until the next one."""

LEVELS = {"stability_ratio": (1.0, "edge of stability"), "sgd_trace_ratio": (1.0, "edge for single examples")}
"""Values that a series is to be read against, and what they are."""

_MOST_LINES = 12
_MOST_UNORDERED_LINES = 4
_TABLE_ROWS = 24
_NAME_LENGTH = 60
_TICK_LENGTH = 30
_DECADES_BEYOND = 1.0
# A stored NaN cannot be told from "not measured" in a labelled series; these say which values were not finite.
_COMPANIONS = {
    "gradient_rms": "nonfinite_share",
    "activation_rms": "activation_nonfinite_share",
    "activation_mean": "activation_nonfinite_share",
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """A vertical line at a step, with a word on it."""

    step: float
    text: str
    kind: str = "finding"


@dataclasses.dataclass(frozen=True)
class Plot:
    """One plot: `payload` is what the page's script draws, the rest says the same as text."""

    anchor: str
    title: str
    series: tuple[str, ...]
    payload: Mapping[str, Any]
    summary: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    wide: bool = False

    @property
    def is_cells(self) -> bool:
        """Whether it is a heat map."""
        return bool(self.payload["kind"] == "cells")


def plot_text(text: object, length: int = _NAME_LENGTH) -> str:
    """Text for inside a plot, where plotly would else read some HTML: shown as it is, shortened in the middle."""
    return html.escape(shortened(visible(text), length), quote=False)


def packed(values: np.ndarray) -> dict[str, str]:
    """Numbers in the page: little-endian, base64; single precision where every magnitude fits it."""
    if values.dtype.kind in "iu":
        small = not values.size or int(np.abs(values).max()) < 2**31
        kind, values = ("i4", values.astype("<i4")) if small else ("f8", values.astype("<f8"))
    else:
        magnitudes = np.abs(values[np.isfinite(values) & (values != 0)])
        fits = not magnitudes.size or (magnitudes.max() < 1e37 and magnitudes.min() > 1e-37)
        kind, values = ("f4", values.astype("<f4")) if fits else ("f8", values.astype("<f8"))
    return {"dtype": kind, "bdata": base64.b64encode(values.tobytes()).decode("ascii")}


def is_drawn_as_lines(data: SeriesData) -> bool:
    """Whether a series is drawn as lines: scalars and few labels; layers and many labels become heat maps."""
    if not data.coords:
        return True
    labels = math.prod(len(names) for names in data.coords.values())
    most = _MOST_LINES if data.coords.keys() <= {"optimizer", "group", "term"} else _MOST_UNORDERED_LINES
    layered = bool({"parameter", "module", "layer"} & data.coords.keys())
    return labels <= most and not layered


def lines_of(data: SeriesData) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Each line of a series: its label (empty for a scalar), and the steps at which it has a value, with the values."""
    if not data.coords:
        return [("", data.steps, data.values)]
    table = data.values.reshape(len(data.steps), -1)
    measured = data.measured.reshape(table.shape)
    return [
        (label, data.steps[measured[:, index]], table[measured[:, index], index])
        for index, label in enumerate(_flat_labels(data.coords))
    ]


def line_plot(
    anchor: str,
    title: str,
    parts: Sequence[SeriesData],
    *,
    points: int,
    last_step: int | None = None,
    rules: Sequence[Rule] = (),
    marks: Sequence[Mapping[str, Any]] = (),
) -> Plot:
    """Series in one coordinate system over the steps; `points` bounds the points of each line."""
    drawn: list[dict[str, Any]] = []
    gaps: list[dict[str, Any]] = []
    rows: list[tuple[str, ...]] = []
    sentences: list[str] = []
    for data in parts:
        for label, steps, values in lines_of(data):
            name = f"{data.name} {label}".strip() if len(parts) > 1 or not label else label
            rows.append(_line_row(name, steps, values))
            sentences.append(_line_sentence(name, steps, values))
            line = downsampled(steps, values, points)
            gaps += [_gap(name, gap) for gap in line.gaps]
            drawn.append(_line(name, line, held=data.name in CHANGE_SERIES, last_step=last_step))
    finite = np.concatenate([values[np.isfinite(values)] for data in parts for _, _, values in lines_of(data)] or [[]])
    payload = {
        "kind": "lines",
        "lines": drawn,
        "gaps": gaps,
        "marks": list(marks),
        "rules": _rules(rules),
        "levels": [{"value": v, "text": plot_text(text)} for data in parts for v, text in _levels(data.name)],
        "y": plot_text(parts[0].units or ("" if len(parts) > 1 else parts[0].name)),
        "log": _wants_log(finite, title),
        "positive": bool((finite > 0).any()),
        "decades": _decades(finite),
        "flat": float(finite[0]) if finite.size and finite.min() == finite.max() else None,
    }
    head = ("line", "values", "first", "last", "lowest (step)", "highest (step)", "not finite")
    note = "" if len(sentences) <= 4 else f"{count(len(sentences), 'line')}; the first four: "
    series = tuple(data.name for data in parts)
    return Plot(anchor, title, series, payload, note + " ".join(sentences[:4]), head, tuple(rows))


def cell_plot(
    anchor: str,
    data: SeriesData,
    *,
    rows: int,
    columns: int,
    order: Mapping[str, int],
    nonfinite: SeriesData | None = None,
    rules: Sequence[Rule] = (),
) -> Plot:
    """A series over layers or many labels as a heat map: a row a label in `order`, a column a stretch of steps."""
    labels = _flat_labels(data.coords)
    table = np.array(data.values, dtype=np.float64).reshape(len(data.steps), -1)
    if nonfinite is not None:
        table = _marked(table, labels, data.steps, nonfinite)
    arrangement = sorted(range(len(labels)), key=lambda i: (order.get(labels[i], len(order)), i))
    table, labels = table[:, arrangement], tuple(labels[i] for i in arrangement)
    scale = _scale(data.name, table)
    cells = pictured(data.steps, table, labels, rows=rows, columns=columns, logarithmic=scale == "log")
    low, high = _colour_range(cells.values, scale)
    payload = {
        "kind": "cells",
        "x": packed(cells.edges),
        "z": packed(cells.values.ravel()),
        "labels": [plot_text(label) for label in cells.labels],
        "ticks": [plot_text(label, _TICK_LENGTH) for label in cells.labels],
        "scale": scale,
        "low": low,
        "high": high,
        "unit": plot_text(data.units),
        "rules": _rules(rules),
    }
    dim = f" {TIMES} ".join(data.coords)
    note = ""
    if len(cells.labels) < len(labels):
        note = (
            f"{count(len(labels), dim)} in {count(len(cells.labels), 'row')}: neighbours share a row, "
            "which shows the most extreme member."
        )
    title = data.name
    shown, left_out = _table_rows(table, labels)
    summary = _cells_sentence(data, table, labels, cells)
    if left_out:
        summary += f" The table holds the {len(shown)} with the most extreme values; {left_out:,} lie between them."
    head = (dim, "measured", "first", "last", "lowest", "highest", "not finite")
    return Plot(anchor, title, (data.name,), payload, summary, head, shown, note)


def companion(name: str) -> str | None:
    """The series that says where values of `name` were not finite."""
    return _COMPANIONS.get(name)


def constant_value(data: SeriesData) -> float | None:
    """The one value that a series holds everywhere, or None."""
    values = data.values[~np.isnan(data.values)]
    return float(values[0]) if values.size and (values == values[0]).all() else None


def _flat_labels(coords: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    flat: tuple[str, ...] = ("",)
    for names in coords.values():
        flat = tuple(f"{before} · {name}" if before else name for before in flat for name in names)
    return flat


def _line(name: str, line: Line, *, held: bool, last_step: int | None) -> dict[str, Any]:
    steps, values = line.steps, line.values
    if held and last_step is not None and steps.size and last_step > steps[-1]:
        steps, values = np.append(steps, last_step), np.append(values, values[-1])
    return {"name": plot_text(name), "x": packed(steps), "y": packed(values), "held": held}


def _gap(name: str, gap: Gap) -> dict[str, Any]:
    where = f"step {gap.first:,.0f}" if gap.first == gap.last else f"steps {gap.first:,.0f} to {gap.last:,.0f}"
    what = number(gap.value) if gap.count == 1 else f"{gap.count:,} values not finite, first {number(gap.value)}"
    return {"first": gap.first, "last": gap.last, "text": f"{plot_text(name)}: {what}, {where}"}


def _rules(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    return [{"step": float(rule.step), "text": plot_text(rule.text, 32), "kind": rule.kind} for rule in rules]


def _levels(name: str) -> Sequence[tuple[float, str]]:
    return [LEVELS[name]] if name in LEVELS else []


def _wants_log(finite: np.ndarray, title: str) -> bool:
    return bool(finite.size and title == "loss" and finite.min() > 0 and finite.max() > 20 * np.median(finite))


def _decades(finite: np.ndarray) -> float:
    positive = finite[finite > 0]
    return float(np.log10(positive.max()) - np.log10(positive.min())) if positive.size else 0.0


def _line_row(name: str, steps: np.ndarray, values: np.ndarray) -> tuple[str, ...]:
    finite = np.isfinite(values)
    ends = (number(float(values[0])), number(float(values[-1]))) if values.size else ("none", "none")
    extremes = ["none", "none"]
    if finite.any():
        inside, at = values[finite], steps[finite]
        extremes = [f"{number(float(inside[i]))} ({int(at[i]):,})" for i in (inside.argmin(), inside.argmax())]
    return (name, f"{len(values):,}", *ends, *extremes, f"{int((~finite).sum()):,}")


def _line_sentence(name: str, steps: np.ndarray, values: np.ndarray) -> str:
    if not values.size:
        return f"{name}: no values."
    finite = np.isfinite(values)
    if len(values) == 1:
        return f"{name} is {number(float(values[0]))} at step {int(steps[0]):,}, its only value."
    ends = [f"{number(float(values[i]))} at step {int(steps[i]):,}" for i in (0, -1)]
    text = f"{name} goes from {ends[0]} to {ends[1]}"
    if finite.any():
        inside, at = values[finite], steps[finite]
        low, high = inside.argmin(), inside.argmax()
        text += (
            f"; lowest {number(float(inside[low]))} (step {int(at[low]):,}), "
            f"highest {number(float(inside[high]))} (step {int(at[high]):,})"
        )
    if not finite.all():
        text += f"; {count(int((~finite).sum()), 'value')} not finite, the first at step {int(steps[~finite][0]):,}"
    return f"{text}."


def _marked(table: np.ndarray, labels: tuple[str, ...], steps: np.ndarray, shares: SeriesData) -> np.ndarray:
    """`table` with infinity where the share of non-finite entries says that NaN stands for a bad value."""
    positions = {label: index for index, label in enumerate(_flat_labels(shares.coords))}
    common, here, there = np.intersect1d(steps, shares.steps, return_indices=True)
    bad = shares.values.reshape(len(shares.steps), -1) > 0
    for index, label in enumerate(labels):
        if common.size and label in positions:
            flagged = here[bad[there, positions[label]]]
            table[flagged, index] = np.where(np.isfinite(table[flagged, index]), table[flagged, index], np.inf)
    return table


def _scale(name: str, table: np.ndarray) -> str:
    finite = table[np.isfinite(table)]
    if name in ("label_share", "prediction_share"):
        return "linear"
    if name.endswith("_share") or name == "gradient_absent":
        return "share"
    if finite.size and finite.min() < 0:
        return "signed"
    positive = finite[finite > 0]
    return "log" if positive.size and positive.max() > 10 * positive.min() else "linear"


def _colour_range(values: np.ndarray, scale: str) -> tuple[float, float]:
    if scale == "share":
        return 0.0, 1.0
    finite = values[np.isfinite(values)]
    if scale == "log":
        logs = np.log10(finite[finite > 0])
        if not logs.size:
            return -1.0, 1.0
        low, high = np.percentile(logs, [1, 99])
        return max(float(logs.min()), float(low) - _DECADES_BEYOND), min(
            float(logs.max()), float(high) + _DECADES_BEYOND
        )
    if not finite.size:
        return 0.0, 1.0
    if scale == "signed":
        limit = float(np.percentile(np.abs(finite), 99)) or 1.0
        return -limit, limit
    return float(finite.min()), float(finite.max()) if finite.max() > finite.min() else float(finite.min()) + 1.0


def _table_rows(table: np.ndarray, labels: tuple[str, ...]) -> tuple[tuple[tuple[str, ...], ...], int]:
    chosen = list(range(len(labels)))
    if len(labels) > _TABLE_ROWS:
        with np.errstate(invalid="ignore"):
            peaks = np.where(np.isnan(table), -np.inf, table).max(axis=0)
        ranked = np.argsort(peaks, kind="stable")
        chosen = sorted({*ranked[: _TABLE_ROWS // 2].tolist(), *ranked[-_TABLE_ROWS // 2 :].tolist()})
    return tuple(_cell_row(labels[i], table[:, i]) for i in chosen), len(labels) - len(chosen)


def _cell_row(label: str, column: np.ndarray) -> tuple[str, ...]:
    values = column[~np.isnan(column)]
    if not values.size:
        return (label, "0", "none", "none", "none", "none", "0")
    finite = values[np.isfinite(values)]
    extremes = (number(float(finite.min())), number(float(finite.max()))) if finite.size else ("none", "none")
    ends = (number(float(values[0])), number(float(values[-1])))
    return (label, f"{values.size:,}", *ends, *extremes, f"{values.size - finite.size:,}")


def _cells_sentence(data: SeriesData, table: np.ndarray, labels: tuple[str, ...], cells: Cells) -> str:
    finite = np.isfinite(table)
    dim = f" {TIMES} ".join(data.coords)
    text = f"{data.name} of {count(len(labels), dim)} at {count(len(data.steps), 'step')}"
    if finite.any():
        inside = np.where(finite, table, np.nan)
        low, high = (np.unravel_index(f(inside), inside.shape) for f in (np.nanargmin, np.nanargmax))
        text += (
            f": lowest {number(float(table[low]))} ({labels[low[1]]}, step {int(data.steps[low[0]]):,}), "
            f"highest {number(float(table[high]))} ({labels[high[1]]}, step {int(data.steps[high[0]]):,})"
        )
    bad = int(np.isinf(table).sum())
    if bad:
        text += f"; {count(bad, 'value')} not finite"
    return f"{text}."
