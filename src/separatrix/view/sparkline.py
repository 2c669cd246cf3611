"""A series as one line of block characters."""

from __future__ import annotations

import numpy as np

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-=+*%#"


def sparkline(values: np.ndarray, width: int = 40, *, unicode: bool = True, logarithmic: bool = False) -> str:
    """`values` in order as at most `width` characters, low to high; `!` marks a stretch with NaN or infinity.

    A character stands for an equal share of the values and shows the one farthest from the median. `logarithmic` spaces
    the heights by order of magnitude; it is ignored where a value is not positive.
    """
    values = np.asarray(values, dtype=np.float64)
    if not values.size:
        return ""
    finite = np.isfinite(values)
    if logarithmic and finite.any() and (values[finite] > 0).all():
        values = np.where(finite, np.log10(np.where(finite, values, 1.0)), values)
    middle = np.median(values[finite]) if finite.any() else 0.0
    pieces = np.array_split(values, min(width, len(values)))
    shown = [piece[np.abs(piece - middle).argmax()] if np.isfinite(piece).all() else np.nan for piece in pieces]
    usable = [value for value in shown if np.isfinite(value)]
    low, high = (min(usable), max(usable)) if usable else (0.0, 0.0)
    marks = _BLOCKS if unicode else _ASCII
    return "".join("!" if np.isnan(value) else marks[_height(value, low, high)] for value in shown)


def _height(value: float, low: float, high: float) -> int:
    if high <= low:
        return 3
    return min(7, int((value / 2 - low / 2) / (high / 2 - low / 2) * 8))
