"""A benchmark of forecasters as lines of text, as plain data, and as a page with a critical-difference diagram."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from separatrix.reconstruct.benchmark import Outcome, Ranking

Table = Mapping[str, Mapping[str, Sequence[Outcome]]]
"""Outcomes, one a seed, by system and model."""


def valid_time_table(table: Table) -> list[str]:
    """A line a system: the mean valid time of each model over its seeds, in Lyapunov times; `-` where all failed."""
    models = list(dict.fromkeys(model for row in table.values() for model in row))
    width = max((len(name) for name in (*table, "system")), default=0)
    head = "  ".join(f"{model:>{max(6, len(model))}}" for model in models)
    lines = [f"{'system':<{width}}  {head}"]
    for system, row in table.items():
        cells = "  ".join(f"{_cell(row.get(model, ())):>{max(6, len(model))}}" for model in models)
        lines.append(f"{system:<{width}}  {cells}")
    return lines


def _cell(outcomes: Sequence[Outcome]) -> str:
    if not outcomes or all(outcome.failure for outcome in outcomes):
        return "-"
    return f"{np.mean([outcome.valid_time for outcome in outcomes]):.2f}"


def ranking_lines(ranking: Ranking) -> list[str]:
    """Mean ranks from the best on, and what can be told apart."""
    lines = [f"mean rank over {ranking.systems} systems (1 is best):"]
    by_name = dict(zip(ranking.names, ranking.ranks.tolist(), strict=True))
    lines += [f"  {by_name[name]:5.2f}  {name}" for name in ranking.order]
    lines.append(f"chance of ranks so uneven if all were alike: {ranking.chance:.2g} (Friedman)")
    lines.append(f"told apart from a difference of {ranking.critical_difference:.2f} on (Nemenyi, 5 %)")
    lines += [f"not told apart: {', '.join(group)}" for group in ranking.groups]
    return lines


def as_json(table: Table, ranking: Ranking | None) -> dict[str, Any]:
    """Plain data for strict JSON: what is not finite is null."""
    trials = [
        {"system": system, "model": model, **{name: _finite(value) for name, value in vars(outcome).items()}}
        for system, row in table.items()
        for model, outcomes in row.items()
        for outcome in outcomes
    ]
    ranked = ranking and {
        "ranks": dict(zip(ranking.names, ranking.ranks.tolist(), strict=True)),
        "systems": ranking.systems,
        "chance": ranking.chance,
        "critical_difference": ranking.critical_difference,
        "not_told_apart": [list(group) for group in ranking.groups],
    }
    return {"trials": trials, "ranking": ranked}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_figure(table: Table, ranking: Ranking, destination: str | os.PathLike[str]) -> Path:
    """Write a page: mean ranks, with bars over what cannot be told apart, and valid times of each model."""
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=2,
        cols=1,
        row_heights=[0.35, 0.65],
        vertical_spacing=0.14,
        subplot_titles=(
            f"mean rank over {ranking.systems} systems; bars join what cannot be told apart",
            "valid time of each system, in Lyapunov times",
        ),
    )
    ranks = dict(zip(ranking.names, ranking.ranks.tolist(), strict=True))
    figure.add_scatter(
        x=[ranks[name] for name in ranking.order],
        y=[0.0] * len(ranks),
        mode="markers+text",
        text=list(ranking.order),
        textposition=["top center" if i % 2 == 0 else "bottom center" for i in range(len(ranks))],
        marker={"size": 10, "color": "#3366cc"},
        showlegend=False,
        row=1,
        col=1,
    )
    for level, group in enumerate(ranking.groups, 1):
        figure.add_scatter(
            x=[ranks[group[0]] - 0.05, ranks[group[-1]] + 0.05],
            y=[-0.5 - 0.25 * level] * 2,
            mode="lines",
            line={"width": 5, "color": "#444"},
            hovertext=", ".join(group),
            showlegend=False,
            row=1,
            col=1,
        )
    for name in ranking.order:
        values = [float(np.mean([o.valid_time for o in row[name]])) for row in table.values() if name in row]
        systems = [system for system, row in table.items() if name in row]
        figure.add_box(y=values, name=name, boxpoints="all", text=systems, pointpos=0, jitter=0.4, row=2, col=1)
    figure.update_yaxes(visible=False, range=[-0.8 - 0.25 * max(1, len(ranking.groups)), 0.8], row=1, col=1)
    figure.update_xaxes(title_text="mean rank (1 is best)", row=1, col=1)
    figure.update_yaxes(title_text="Lyapunov times", rangemode="tozero", row=2, col=1)
    figure.update_layout(height=820, template="plotly_white", showlegend=False, title="Forecasters compared")
    figure.write_html(os.fspath(destination), include_plotlyjs=True)
    return Path(destination)
