"""Forecasts in a terminal, and as a figure."""

from __future__ import annotations

import os
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from separatrix.analysis.forecasting import LAWS, Forecast
from separatrix.view.text import count, number, visible

_ROWS = 8
_COLOURS = ("#3366cc", "#ff9900", "#109618", "#990099", "#0099c6")
_BASELINES = {"power": "by a plain power law", "last": "by the last value"}


def render_forecast(forecast: Forecast, schedule: str, console: Console) -> None:
    """Print the final loss with its interval, the curve as a table, the law, and the baselines."""
    final, low, high = forecast.final
    steps = count(len(forecast.rates), "step")
    console.print(
        Text(f"{forecast.series} after {steps}, schedule {schedule}: {number(final)}"),
        Text(f"({forecast.level:.0%} interval {number(low)} to {number(high)})"),
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for title in ("step", "learning rate", "loss", "low", "high"):
        table.add_column(title, justify="right")
    for point in forecast.to_dict(points=_ROWS)["curve"]:
        table.add_row(*(number(point[name]) for name in ("step", "learning_rate", "loss", "low", "high")))
    console.print(table)
    for name, value in forecast.baselines.items():
        console.print(Text(f"{_BASELINES[name]}: {number(value)}"))
    constants = ", ".join(f"{name} {number(value)}" for name, value in forecast.fitted.constants.items())
    console.print(Text(f"law: {LAWS[forecast.fitted.law].says}; {constants}"))
    for note in forecast.notes:
        console.print(Text(visible(note)))
    if not forecast.annealed:
        console.print(Text(UNSEEN))


UNSEEN = (
    "The runs hold no fall of the learning rate: what annealing brings is unknown, and a schedule that falls will end"
    " lower than this. Add a run whose rate falls."
)


def write_figure(forecast: Forecast, destination: str | os.PathLike[str]) -> Path:
    """Write a page with the curves that were fitted, the forecast and its interval, and return its path."""
    import numpy as np
    import plotly.graph_objects as go

    steps = np.arange(1, len(forecast.rates) + 1)
    shown = np.unique(np.geomspace(1, len(steps), 500).astype(int)) - 1
    after = shown[shown >= int(0.02 * len(steps))]
    figure = go.Figure()
    for order, curve in enumerate(forecast.curves):
        figure.add_scatter(
            x=curve.updates,
            y=curve.losses,
            mode="lines",
            line={"color": _COLOURS[order % len(_COLOURS)], "width": 1},
            name=f"{visible(curve.name)} recorded",
        )
    band = np.concatenate([after, after[::-1]])
    edges = np.concatenate([forecast.high[after], forecast.low[after[::-1]]])
    figure.add_scatter(
        x=steps[band],
        y=edges,
        fill="toself",
        mode="none",
        fillcolor="rgba(220,57,18,0.2)",
        name=f"{forecast.level:.0%} interval",
    )
    figure.add_scatter(
        x=steps[after], y=forecast.losses[after], mode="lines", line={"color": "#dc3912"}, name="forecast"
    )
    figure.update_layout(
        title="Loss: recorded and forecast", xaxis_title="step", yaxis_title=forecast.series, template="plotly_white"
    )
    figure.update_yaxes(type="log")
    figure.write_html(os.fspath(destination), include_plotlyjs=True)
    return Path(destination)
