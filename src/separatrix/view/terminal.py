"""Summaries of runs in a terminal, by Rich; nothing that a run contains is read as markup or control sequence."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from separatrix.runs import SEVERITIES, Finding, Run, SeriesData, UsageError
from separatrix.view.facts import SEVERITY_WORDS, STATUS_WORDS, facts, segment_notes, verdict
from separatrix.view.figures import is_drawn_as_lines, lines_of
from separatrix.view.sections import evidence_rows
from separatrix.view.sparkline import sparkline
from separatrix.view.text import TIMES, count, flattened, number, shortened, visible, when

if TYPE_CHECKING:
    from separatrix.analysis import Diagnosis
    from separatrix.analysis.comparison import Parting
    from separatrix.runs.catalogue import CatalogueEntry

_STYLES = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}
_MARKS = {"error": "✖", "warning": "▲", "info": "●"}
_ASCII_MARKS = {"error": "x", "warning": "!", "info": "-"}
_MAIN_SERIES = (
    "loss",
    "eval_loss",
    "accuracy",
    "eval_accuracy",
    "learning_rate",
    "gradient_norm",
    "step_seconds",
    "overhead",
)
_MOST_SPARKLINES = 14
_BETTER_HIGH = ("accuracy", "reward", "score", "f1", "auc", "bleu", "precision", "recall", "r2", "psnr", "iou")
_FEW_EVENTS = 5
_MOST_PARTINGS = 12


def render_terminal(run: Run, console: Console, diagnosis: Diagnosis | None = None) -> None:
    """Print how a run stands, its main series as sparklines, and what is wrong with it.

    The diagnosis is computed unless given. Where the console's encoding is not a Unicode one, ASCII stands in.
    """
    head = facts(run)
    state = "red" if head.status in ("crashed", "killed") else "green" if head.status == "finished" else "yellow"
    console.print(_text(console, head.name, "bold").append(f"  {head.status}", state))
    for label, value in head.rows:
        console.print(_text(console, f"  {label:<19}", "dim").append_text(_text(console, value)))
    for note in segment_notes(run.segments):
        console.print(_text(console, f"  {note}", "yellow"))
    _print_sparklines(run, console)
    _print_grave_events(run, console)
    console.print()
    diagnosis = run.diagnose() if diagnosis is None else diagnosis
    console.print(_verdict(diagnosis, console))
    _print_findings(diagnosis, console)
    if run.traceback:
        console.print()
        console.print(_text(console, "The error that ended the script", "bold"))
        console.print(_text(console, run.traceback.rstrip(), newlines=True))


def render_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Print the run's name and verdict, findings in their order with evidence and remedy, and what was not assessed."""
    console.print(_text(console, f"{diagnosis.run}: ", "bold").append_text(_verdict(diagnosis, console)))
    _print_findings(diagnosis, console)


def render_list(entries: Iterable[CatalogueEntry], console: Console) -> None:
    """Print a line for each run: status, last step, last loss, when it began; then why some could not be read."""
    listed = tuple(entries)
    if not listed:
        console.print(_text(console, "No runs found."))
        return
    table = _table(console, "run", "status", "steps", "loss", "started")
    for entry in listed:
        table.add_row(*(_text(console, cell) for cell in _list_row(entry)))
    console.print(table)
    for entry in listed:
        if entry.problem is not None:
            console.print(_text(console, f"unreadable: {entry.problem}", "yellow"))


def render_comparison(runs: Sequence[Run], console: Console) -> None:
    """Print last and best values of the scalar series that the runs share, settings that differ, and where runs part.

    Each further run is compared with the first; see `separatrix.analysis.comparison`. Best is the highest value for
    accuracy-like series and the lowest for others whose name holds "loss" or "error"; for the rest only the last value
    is given.

    Raises:
        UsageError: fewer than two runs are given.
    """
    from separatrix.analysis.comparison import partings

    if len(runs) < 2:
        raise UsageError(f"compare needs at least two runs, got {len(runs)}: give the paths of two or more")
    names = _distinct_names(runs)
    held = [{name: run.series(name) for name in run.names() if not run.spec(name).dims} for run in runs]
    shared = [name for name in held[0] if all(name in other and not other[name].coords for other in held)]
    shared.sort(key=lambda name: (_MAIN_SERIES.index(name) if name in _MAIN_SERIES else len(_MAIN_SERIES), name))
    if shared:
        table = _table(console, "series", *names)
        for name in shared:
            for title, values in _compared(name, [other[name] for other in held]):
                table.add_row(*(_text(console, cell) for cell in (title, *values)))
        console.print(table)
    else:
        console.print(_text(console, "The runs share no scalar series."))
    alone = sorted({name for other in held for name in other} - set(shared))
    if alone:
        console.print(_text(console, f"Not in all of them: {', '.join(alone)}", "dim"))
    _print_settings(runs, names, console)
    for other, name in zip(runs[1:], names[1:], strict=True):
        _print_partings(partings(runs[0], other), (names[0], name), console)


def _is_unicode(console: Console) -> bool:
    return console.encoding.lower().replace("-", "").startswith("utf")


def _text(console: Console, text: object, style: str = "", *, newlines: bool = False) -> Text:
    """`text` as it is, without markup; characters that the console cannot write become escapes."""
    shown = visible(text, newlines=newlines)
    if not _is_unicode(console):
        for fancy, simple in (("…", "..."), ("∞", "inf"), ("·", "-"), (TIMES, "x")):
            shown = shown.replace(fancy, simple)
        shown = shown.encode(console.encoding, "backslashreplace").decode(console.encoding)
    return Text(shown, style=style)


def _table(console: Console, *titles: str) -> Table:
    frame = box.SIMPLE_HEAD if _is_unicode(console) else box.ASCII
    table = Table(box=frame, pad_edge=False, header_style="dim")
    for title in titles:
        table.add_column(_text(console, title), overflow="fold")
    return table


def _verdict(diagnosis: Diagnosis, console: Console) -> Text:
    style = (
        _STYLES[min((f.severity for f in diagnosis.findings), key=SEVERITIES.index)]
        if diagnosis.findings
        else "bold green"
    )
    return _text(console, verdict(diagnosis.findings), style)


def _print_findings(diagnosis: Diagnosis, console: Console) -> None:
    for finding in diagnosis.findings:
        _print_finding(finding, console, indent=2)
    missing = diagnosis.not_assessed
    if missing:
        codes = ", ".join(entry.code for entry in missing)
        console.print(_text(console, f"{count(len(missing), 'check')} could not be made: {codes}", "dim"))


def _print_finding(finding: Finding, console: Console, indent: int) -> None:
    marks = _MARKS if _is_unicode(console) else _ASCII_MARKS
    style = _STYLES[finding.severity]
    step = "" if finding.step is None else f", {when(finding.step)}"
    line = Text(f"{marks[finding.severity]} {SEVERITY_WORDS[finding.severity]} ", style)
    line.append_text(_text(console, finding.code, "bold"))
    line.append_text(_text(console, f"{step} ({100 * finding.confidence:.0f} % sure)", "dim"))
    console.print(Padding(line, (0, 0, 0, indent), expand=False))
    console.print(Padding(_text(console, finding.summary), (0, 0, 0, indent + 2), expand=False))
    rows = evidence_rows(finding)
    if rows:
        told = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in rows)
        console.print(Padding(_text(console, f"Evidence: {told}", "dim"), (0, 0, 0, indent + 2), expand=False))
    console.print(Padding(_text(console, f"What to do: {finding.remedy}"), (0, 0, 0, indent + 2), expand=False))
    for symptom in finding.symptoms:
        _print_finding(symptom, console, indent + 4)


def _print_sparklines(run: Run, console: Console) -> None:
    rows = [row for name in _chosen_series(run) for row in _sparkline_rows(name, run.series(name))]
    if not rows:
        console.print(_text(console, "  No values recorded yet.", "dim"))
        return
    left = max(len(title) for title, _, _ in rows)
    width = max(10, min(60, console.width - left - 34))
    console.print()
    for title, values, logarithmic in rows:
        marks = sparkline(values, width, unicode=_is_unicode(console), logarithmic=logarithmic)
        line = _text(console, f"  {title:<{left}}  ", "dim").append(f"{marks:<{width}}", "cyan")
        ends = f"  {number(float(values[0]), 3)} to {number(float(values[-1]), 3)}"
        console.print(line.append_text(_text(console, ends)), no_wrap=True, overflow="crop")
        bad = int((~np.isfinite(values)).sum())
        if bad:
            console.print(_text(console, f"  {'':<{left}}  ! {count(bad, 'value')} not finite", "red"))


def _chosen_series(run: Run) -> list[str]:
    """The main series, then others over steps alone that vary."""
    known = [name for name in _MAIN_SERIES if name in run]
    others = [name for name in run.names() if name not in known and not run.spec(name).dims]
    varying = [name for name in others if np.unique(run.series(name).values).size > 1]
    return [*known, *varying][:_MOST_SPARKLINES]


def _sparkline_rows(name: str, data: SeriesData) -> list[tuple[str, np.ndarray, bool]]:
    if not is_drawn_as_lines(data):
        return []
    logarithmic = name in ("loss", "eval_loss", "learning_rate")
    return [
        (shortened(visible(f"{name} {label}".strip()), 28), values, logarithmic)
        for label, _, values in lines_of(data)
        if values.size
    ]


def _print_grave_events(run: Run, console: Console) -> None:
    grave = [event for event in run.events if event.severity != "info"]
    for event in grave[:_FEW_EVENTS]:
        step = "" if event.step is None else f" at step {event.step:,}"
        line = _text(console, f"  {event.kind}{step}: ", _STYLES[event.severity])
        console.print(line.append_text(_text(console, event.message)))
    if len(grave) > _FEW_EVENTS:
        console.print(_text(console, f"  {count(len(grave) - _FEW_EVENTS, 'further event')} like these", "dim"))


def _list_row(entry: CatalogueEntry) -> tuple[str, str, str, str, str]:
    status = "unreadable" if entry.status is None else STATUS_WORDS[entry.status.value]
    steps = "-" if entry.last_step is None else f"{entry.last_step:,}"
    loss = "-" if entry.last_loss is None else number(entry.last_loss)
    started = "-" if entry.started is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.started))
    return (str(entry.path), status, steps, loss, started)


def _distinct_names(runs: Sequence[Run]) -> list[str]:
    names = [run.name for run in runs]
    return [str(run.path) if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]


def _compared(name: str, held: Sequence[SeriesData]) -> list[tuple[str, list[str]]]:
    rows = [(f"{name}, last", [number(float(data.values[-1])) for data in held])]
    if any(word in name.lower() for word in _BETTER_HIGH):
        rows.append((f"{name}, best", [_best(data, 1.0) for data in held]))
    elif "loss" in name.lower() or "error" in name.lower() or "perplexity" in name.lower():
        rows.append((f"{name}, best", [_best(data, -1.0) for data in held]))
    return rows


def _best(data: SeriesData, sign: float) -> str:
    scored = np.where(np.isfinite(data.values), sign * data.values, -math.inf)
    if not np.isfinite(scored).any():
        return "not finite"
    best = int(scored.argmax())
    return f"{number(float(data.values[best]))} (step {int(data.steps[best]):,})"


def _print_partings(found: Sequence[Parting], names: tuple[str, str], console: Console) -> None:
    """Where two runs part, the earliest series first; series that never differ are only counted."""
    if not found:
        console.print(_text(console, f"{names[0]} and {names[1]} have no steps of a series in common.", "dim"))
        return
    differing = [each for each in found if each.differs_at is not None]
    first = next((each for each in found if each.parts_at is not None), None)
    title = f"{names[0]} and {names[1]} "
    if not differing:
        console.print(_text(console, f"{title}are the same in {_counted_series(len(found))}.", "bold"))
        return
    if first is None:
        console.print(_text(console, f"{title}differ by no more than their noise.", "bold"))
    else:
        where = f" ({first.label})" if first.label else ""
        console.print(_text(console, f"{title}part at step {first.parts_at:,}, in {first.series}{where}.", "bold"))
    table = _table(console, "series", "equal until", "differs at", "parts at", *names)
    for each in differing[:_MOST_PARTINGS]:
        cells = (
            f"{each.series} {each.label}".strip(),
            *("-" if step is None else f"{step:,}" for step in (each.equal_until, each.differs_at, each.parts_at)),
            number(each.first),
            number(each.second),
        )
        table.add_row(*(_text(console, cell) for cell in cells))
    console.print(table)
    rest = len(differing) - _MOST_PARTINGS
    if rest > 0:
        console.print(_text(console, f"{_counted_series(rest)} more differ; --json lists them all.", "dim"))
    if len(differing) < len(found):
        console.print(_text(console, f"{_counted_series(len(found) - len(differing))} never differ.", "dim"))


def _counted_series(amount: int) -> str:
    return f"{amount:,} series"


def _print_settings(runs: Sequence[Run], names: Sequence[str], console: Console) -> None:
    settings = [dict(flattened(run.config)) for run in runs]
    keys = dict.fromkeys(key for own in settings for key in own)
    differing = [key for key in keys if len({own.get(key) for own in settings}) > 1]
    if not differing:
        return
    table = _table(console, "setting", *names)
    for key in differing:
        table.add_row(*(_text(console, cell) for cell in (key, *(own.get(key, "-") for own in settings))))
    console.print(table)
