"""Figures of sweeps and checks over sizes of a model, for notebooks: lines by size, on logarithmic axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from separatrix.steer.coordinates import CoordinateCheck, Quantity
from separatrix.steer.transfer import TransferSweep

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_TITLES: dict[Quantity, str] = {
    "activation": "root mean square of outputs",
    "feature_change": "change of outputs",
    "update": "change of parameters",
    "own_effect": "change of outputs by the module's own update",
    "passed_on": "change of outputs by that of the input",
}


def transfer_figure(sweep: TransferSweep) -> Figure:
    """Mean loss over the learning rate, a line for each size with its best rate marked; the verdict is the title."""
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    for size, row, best in zip(sweep.sizes, sweep.means, sweep.best, strict=True):
        losses = np.where(np.isfinite(row), row, np.nan)
        marks = [12 if index == best else 5 for index in range(len(row))]
        figure.add_trace(Scatter(x=sweep.rates, y=losses, name=str(size), mode="lines+markers", marker={"size": marks}))
    figure.update_layout(title=sweep.verdict, legend_title_text="size")
    figure.update_xaxes(type="log", dtick=float(np.log10(2)), tickformat=".0e", title_text="learning rate")
    figure.update_yaxes(title_text="loss")
    return figure


def coordinate_figure(check: CoordinateCheck, quantity: Quantity = "feature_change") -> Figure:
    """One quantity over the size, a line for each module that has it, with its exponent in the legend."""
    from plotly.graph_objects import Figure, Scatter

    figure = Figure()
    for module, values in zip(check.modules, check.values[quantity], strict=True):
        if np.isnan(values).all():
            continue
        slope = check.slope(quantity, module)
        means = np.exp(np.log(np.where(values > 0, values, np.nan)).mean(1))
        name = f"{module}: {slope.value:+.2f}"
        figure.add_trace(Scatter(x=check.sizes, y=means, name=name, mode="lines+markers"))
    figure.update_layout(title=f"{check.verdict}", legend_title_text="module: exponent")
    figure.update_xaxes(type="log", tickvals=list(check.sizes), title_text="size")
    figure.update_yaxes(type="log", title_text=_TITLES[quantity])
    return figure
