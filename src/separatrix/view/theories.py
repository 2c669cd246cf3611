"""Theories in words, as plain data, and as a figure with trainings laid over what was predicted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from separatrix.runs.settings import setting_as_json
from separatrix.theory import Prediction, Theory

_COLOURS = ("#3366cc", "#dc3912", "#ff9900", "#109618", "#990099", "#0099c6", "#dd4477", "#66aa00")
_MOST_LINES = 8
_PANEL_HEIGHT = 320
_MOST_CIRCLES = 40
_MARGIN = 0.3  # of a decade


def described(theory: Theory) -> dict[str, Any]:
    """What `theory list --json` and `theory show --json` say of a theory."""
    return {
        "name": theory.name,
        "question": theory.question,
        "assumptions": list(theory.assumptions),
        "papers": [{"paper": str(paper), "url": paper.url} for paper in theory.papers],
        "series": [
            {"name": spec.name, "dims": list(spec.dims), "units": spec.units, "description": spec.description}
            for spec in theory.series
        ],
        "settings": [setting_as_json(setting) for setting in theory.settings],
        "bands": [{"series": band.series, "share": band.share, "reason": band.reason} for band in theory.bands],
        "laws": [{"name": law.name, "says": law.says} for law in theory.laws],
    }


def lines(theory: Theory) -> Iterator[str]:
    """What `theory show` prints."""
    yield f"{theory.name}: {theory.question}"
    yield from (f"{paper} {paper.url}".rstrip() for paper in theory.papers)
    yield "holds when:"
    yield from (f"  {assumption}" for assumption in theory.assumptions)
    yield "series:"
    for spec in theory.series:
        dims = f" ({', '.join(('step', *spec.dims))})" if spec.dims else ""
        yield f"  {spec.name}{dims}: {spec.description}"
    yield "settings (default; range in which it is held to account):"
    for setting in theory.settings:
        reason = f" ({setting.reason})" if setting.reason else ""
        yield f"  {setting.name} = {setting.default}; {setting.kind}, {setting.range}: {setting.description}{reason}"
    yield "how far a training may lie from it, as a share of the predicted span:"
    yield from (f"  {band.series}: {band.share:g}, since {band.reason}" for band in theory.bands)
    yield "laws of every prediction:"
    yield from (f"  {law.name}: {law.says}" for law in theory.laws)


def write_figure(
    theory: Theory,
    predicted: Prediction,
    simulated: Prediction,
    errors: Prediction,
    destination: str | os.PathLike[str],
) -> Path:
    """Write a page with a panel for each series, prediction as lines and training as points, and return its path.

    At most eight labels of a series are drawn, evenly spaced, and the legend has each label once. Bars show two
    standard errors of simulated means. A series whose values are positive and span more than two decades gets a
    logarithmic axis, down to where trainings still are.
    """
    from plotly.subplots import make_subplots

    names = list(predicted.series)
    titles = [f"{name}{_units(predicted.series[name].units)}" for name in names]
    figure = make_subplots(rows=len(names), cols=1, subplot_titles=titles, vertical_spacing=0.25 / len(names))
    shown = _shown(simulated.steps)
    listed: set[str] = set()
    for row, name in enumerate(names, 1):
        series = predicted.series[name]
        labels = next(iter(series.coords.values()), ("",))
        picked = np.unique(np.linspace(0, len(labels) - 1, min(_MOST_LINES, len(labels))).astype(int))
        tables = [each[name].reshape(len(each.steps), -1) for each in (predicted, simulated, errors)]
        for order, column in enumerate(picked.tolist()):
            colour = _COLOURS[order % len(_COLOURS)]
            label = f"{next(iter(series.coords), '')} {labels[column]}".strip()
            line, points, bars = (table[:, column] for table in tables)
            legend = {"legendgroup": label or "whole", "showlegend": label not in listed}
            listed.add(label)
            figure.add_scatter(
                x=predicted.steps, y=line, mode="lines", line={"color": colour, "width": 2},
                name=f"{label} predicted".strip(), row=row, col=1, **legend,
            )  # fmt: skip
            figure.add_scatter(
                x=simulated.steps[shown], y=points[shown], mode="markers",
                marker={"color": colour, "size": 6, "symbol": "circle-open"},
                error_y={"array": 2 * bars[shown], "visible": bool(bars.any()), "thickness": 1},
                name=f"{label} trained".strip(), row=row, col=1, **legend,
            )  # fmt: skip
        if _decades(tables[0]) > 2:
            seen = tables[1][tables[1] > 0]
            low = max(float(tables[0].min()), float(seen.min()) if seen.size else 0.0)
            limits = [np.log10(low) - _MARGIN, np.log10(float(tables[0].max())) + _MARGIN]
            figure.update_yaxes(type="log", exponentformat="power", range=limits, row=row, col=1)
        figure.update_xaxes(title_text="step", row=row, col=1)
    figure.update_layout(
        title=f"{theory.name}: lines predicted, circles trained",
        height=120 + _PANEL_HEIGHT * len(names),
        template="plotly_white",
    )
    figure.write_html(os.fspath(destination), include_plotlyjs=True)
    return Path(destination)


def _units(units: str) -> str:
    return f", {units}" if units else ""


def _shown(steps: np.ndarray) -> np.ndarray:
    """Positions of at most forty steps, evenly spread, so that circles leave the lines in sight."""
    return np.unique(np.linspace(0, len(steps) - 1, min(_MOST_CIRCLES, len(steps))).astype(int))


def _decades(values: np.ndarray) -> float:
    """What all but the smallest twentieth span, which may be rounding of what starts at 0; 0 if not all are above 0."""
    low, high = float(np.quantile(values, 0.05)), float(values.max())
    return float(np.log10(high / low)) if values.min() > 0 else 0.0
