"""The one table of a parametrization."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from separatrix.steer.parametrization.parametrization import Factors, Parametrization

_WIDTH = 120


def table_of(parametrization: Parametrization, factors: Mapping[str, Factors], optimizer: str) -> Table:
    """One row for each kind of tensor, layers of a stack in one; factors are over the base model's."""
    table = Table(title=f"{parametrization.rule.name}, {optimizer}", caption="\n".join(parametrization.notes) or None)
    for header in ("tensors", "role"):
        table.add_column(header, overflow="fold")
    for header in ("fan-in", "fan-out", "init", "lr", "decay", "output"):
        table.add_column(header, justify="right")
    rows: dict[tuple[str, ...], int] = {}
    for name, found in factors.items():
        pattern = re.sub(r"(^|\.)\d+(?=\.|$)", r"\1*", name)
        initial = f"= {found.initial:.4g}" if found.absolute else f"x {found.initial:.4g}"
        numbers = (f"x {number:.4g}" for number in (found.rate, found.decay, found.multiplier))
        row = (pattern, found.tensor.role, str(found.tensor.fan_in), str(found.tensor.fan_out), initial, *numbers)
        rows[row] = rows.get(row, 0) + 1
    for (pattern, *cells), count in rows.items():
        table.add_row(Text(f"{pattern} ({count})" if count > 1 else pattern), *cells)
    return table


def as_text(table: Table) -> str:
    """The table as plain text."""
    console = Console(width=_WIDTH, color_system=None, force_terminal=False)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip("\n")
