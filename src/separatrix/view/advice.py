"""Advice in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from separatrix.steer.advice import Advice, Advising, Expected
from separatrix.view.text import number, visible

_NOTHING = "nothing to change follows from this run"


def render_advice(advising: Advising, console: Console) -> None:
    """Print advice in order, numbered, each with what is expected of it and where it comes from."""
    if not advising.advice:
        console.print(Text(visible(advising.note) or _NOTHING))
    for place, advice in enumerate(advising.advice, 1):
        console.print(Text(f"{place}. {visible(advice.action)}"))
        for line in _details(advice):
            console.print(Padding(Text(visible(line), style="dim"), (0, 0, 0, 3)))


def _details(advice: Advice) -> list[str]:
    lines = [] if advice.expected is None else [f"expected: {_said(advice.expected)}"]
    why = f"follows from {advice.finding}" if advice.finding else "follows from measurements, nothing is wrong"
    return [*lines, f"{why}; confidence {number(advice.confidence, 2)}", f"source: {advice.source}"]


def _said(expected: Expected) -> str:
    before = "" if expected.before is None else f" from {number(expected.before)}"
    interval = ""
    if expected.low is not None and expected.high is not None:
        interval = f" ({number(expected.low)} to {number(expected.high)})"
    return f"{expected.quantity}{before} to {number(expected.after)}{interval}"
