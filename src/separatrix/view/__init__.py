"""What people look at: the report as one HTML file, and summaries in a terminal."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from separatrix.view.report import write_report
    from separatrix.view.scaling import coordinate_figure, transfer_figure
    from separatrix.view.terminal import render_comparison, render_diagnosis, render_list, render_terminal

__all__ = [
    "coordinate_figure",
    "render_comparison",
    "render_diagnosis",
    "render_list",
    "render_terminal",
    "transfer_figure",
    "write_report",
]

# Resolved on first use: the report needs no rich, the terminal needs neither plotly nor a downsampler.
_HOMES = {
    "coordinate_figure": "separatrix.view.scaling",
    "render_comparison": "separatrix.view.terminal",
    "render_diagnosis": "separatrix.view.terminal",
    "render_list": "separatrix.view.terminal",
    "render_terminal": "separatrix.view.terminal",
    "transfer_figure": "separatrix.view.scaling",
    "write_report": "separatrix.view.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'separatrix.view' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
