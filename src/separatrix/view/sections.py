"""The parts of the report's page other than its plots, as HTML; every text from a run passes through `escaped`."""

from __future__ import annotations

import dataclasses
import html
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from separatrix.runs import Event, Finding, NotAssessed, Run, Segment
from separatrix.view.examples import ExampleList
from separatrix.view.facts import SEVERITY_WORDS, STATUS_WORDS, Facts, segment_notes, verdict
from separatrix.view.figures import Plot
from separatrix.view.text import TIMES, count, flattened, plain, visible, when

if TYPE_CHECKING:
    from separatrix.analysis.phases import Phase

_MOST_EVENTS = 300
_MOST_PARAMETERS = 1000
_MOST_LABELS = 12
_SEVERITY_RANK = {"error": 0, "warning": 1, "info": 2}
_CIRCLE = "M1.5 8a6.5 6.5 0 1 0 13 0a6.5 6.5 0 1 0 -13 0"
_ICONS = {
    "error": "M5.3 1.5h5.4l3.8 3.8v5.4l-3.8 3.8H5.3l-3.8-3.8V5.3zM5.6 5.6l4.8 4.8M10.4 5.6l-4.8 4.8",
    "warning": "M8 1.8l6.6 12H1.4zM8 6.2v3.6M8 11.6v.6",
    "info": f"{_CIRCLE}M8 7.2v4M8 4.6v.6",
    "good": f"{_CIRCLE}M5 8.3l2.1 2.1L11 6.2",
}


def escaped(text: object) -> str:
    """Text from a run as HTML that shows exactly this text."""
    return html.escape(visible(text, newlines=True), quote=True)


def icon(name: str) -> str:
    """A small drawing beside a word that says the same."""
    return f'<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><path d="{_ICONS[name]}"/></svg>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "", kind: str = "") -> str:
    """A table that scrolls by itself where the page is too narrow for it."""
    titles = "".join(f'<th scope="col">{escaped(title)}</th>' for title in head)
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    named = f"<caption>{escaped(caption)}</caption>" if caption else ""
    label = escaped(caption or "table")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table class="{kind}">{named}'
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )


@dataclasses.dataclass(frozen=True)
class _Picture:
    """A cell that shows an image, given as a data address made here."""

    address: str
    name: str


def _cell(cell: object) -> str:
    if isinstance(cell, _Picture):
        return f'<img class="thumbnail" alt="example {escaped(cell.name)}" src="{escaped(cell.address)}">'
    return escaped(cell)


def header(facts: Facts) -> str:
    """The run's name, how it stands, and its facts."""
    rows = "".join(f"<div><dt>{escaped(label)}</dt><dd>{escaped(value)}</dd></div>" for label, value in facts.rows)
    state = facts.status.split()[-1]
    return (
        f'<header><div class="title"><h1>{escaped(facts.name)}</h1><span class="status {state}">{facts.status}</span>'
        '<button type="button" id="theme" aria-pressed="false">Dark</button></div>'
        f'<dl class="facts">{rows}</dl></header>'
    )


def verdict_section(
    findings: Sequence[Finding],
    not_assessed: Sequence[NotAssessed],
    anchors: Mapping[str, str],
    remarks: Sequence[str],
    traceback: str | None,
) -> str:
    """What is wrong, ranked as given, with evidence, remedy and a link to the plot that shows it."""
    mark = icon(min((f.severity for f in findings), key=_SEVERITY_RANK.__getitem__, default="good"))
    worst = min((f.severity for f in findings), key=_SEVERITY_RANK.__getitem__, default="good")
    parts = [f'<section id="verdict" aria-labelledby="verdict-title"><h2 id="verdict-title" class="{worst}">{mark}']
    parts.append(f"<span>{verdict(findings)}</span></h2>")
    parts += [f'<p class="remark">{escaped(remark)}</p>' for remark in remarks]
    if not findings:
        parts.append(f'<p class="remark">{_nothing_found(not_assessed)}</p>')
    parts.append('<ol class="findings">')
    parts += [f"<li>{_finding(f'finding-{i}', f, anchors)}</li>" for i, f in enumerate(findings, 1)]
    parts.append("</ol>")
    if traceback:
        parts.append(
            '<details open class="traceback"><summary>The error that ended the script</summary>'
            f'<pre tabindex="0">{escaped(traceback)}</pre></details>'
        )
    if not_assessed:
        rows = [(entry.code, ", ".join(entry.missing) or "not said") for entry in not_assessed]
        title = f"{count(len(rows), 'check')} could not be made"
        parts.append(
            f"<details><summary>{title}</summary>{table(('check', 'what it would need'), rows, title)}</details>"
        )
    return "".join([*parts, "</section>"])


def _nothing_found(not_assessed: Sequence[NotAssessed]) -> str:
    if not not_assessed:
        return "Every check was made and none of them fired."
    amount = count(len(not_assessed), "check")
    return f"None of the checks that could be made fired. {amount} could not be made; see below what they would need."


def _finding(anchor: str, finding: Finding, anchors: Mapping[str, str]) -> str:
    step = "" if finding.step is None else f" · {when(finding.step)}"
    sure = f" · {100 * finding.confidence:.0f} % sure"
    shown = [name for name in _named_series(finding) if name in anchors]
    links = "".join(
        f'<a class="shows" href="#{anchors[name]}">See {escaped(name)}<span aria-hidden="true"> ↓</span></a>'
        for name in shown
    )
    symptoms = ""
    if finding.symptoms:
        inner = "".join(
            f"<li>{_finding(f'{anchor}-{i}', symptom, anchors)}</li>" for i, symptom in enumerate(finding.symptoms, 1)
        )
        title = f"Explains {count(len(finding.symptoms), 'further finding')}"
        symptoms = f'<details class="symptoms"><summary>{title}</summary><ol class="findings">{inner}</ol></details>'
    source = f'<p class="source">{escaped(finding.source)}</p>' if finding.source else ""
    return (
        f'<article class="finding {finding.severity}" id="{anchor}"><p class="kind">{icon(finding.severity)}'
        f"<b>{SEVERITY_WORDS[finding.severity]}</b> <code>{escaped(finding.code)}</code>"
        f"<span>{step}{sure}</span></p><h3>{escaped(finding.summary)}</h3>{_evidence(finding)}"
        f'<p class="remedy"><b>What to do</b> {escaped(finding.remedy)}</p>'
        f'<p class="links">{links}</p>{symptoms}{source}</article>'
    )


def _named_series(finding: Finding) -> list[str]:
    named = finding.evidence.get("series", ())
    return [named] if isinstance(named, str) else [str(name) for name in named or ()]


def _evidence(finding: Finding) -> str:
    rows = [(key.replace("_", " "), value) for key, value in evidence_rows(finding)]
    items = "".join(f"<div><dt>{escaped(key)}</dt><dd>{escaped(value)}</dd></div>" for key, value in rows)
    return f'<dl class="evidence">{items}</dl>' if items else ""


def evidence_rows(finding: Finding) -> list[tuple[str, str]]:
    """A finding's numbers as text, without the names of the series, long lists of labels shortened."""
    facts = {key: _short(value) for key, value in finding.evidence.items()}
    told = {key: value for key, value in facts.items() if key != "series" and value not in (None, "", [], (), {})}
    return flattened(told, digits=4) if told else []


def _short(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) > _MOST_LABELS:
        return f"{plain(list(value[:_MOST_LABELS]), 4)[:-1]}, … {len(value) - _MOST_LABELS:,} more]"
    return value


def plot_figure(plot: Plot) -> str:
    """A plot's place on the page, with its text alternative; the script draws it when it comes into view."""
    lines = not plot.is_cells
    toggle = (
        '<button type="button" class="scale" aria-pressed="false">Log scale</button>'
        if lines and plot.payload["positive"]
        else ""
    )
    keys = "" if lines else _cell_keys(plot)
    note = f'<p class="note">{escaped(plot.note)}</p>' if plot.note else ""
    rows = len(plot.payload["labels"]) if plot.is_cells else 0
    height = f' style="height:{min(640, max(190, 96 + 17 * rows))}px"' if rows else ""
    return (
        f'<figure id="{plot.anchor}" class="plot {plot.payload["kind"]}{" main" * plot.wide}" tabindex="-1">'
        f"<figcaption><h3>{escaped(plot.title)}</h3>{toggle}</figcaption>"
        f'{keys}<div class="canvas" role="img" aria-label="{escaped(plot.summary)}"{height}></div>{note}'
        f"<details><summary>The same in numbers</summary><p>{escaped(plot.summary)}</p>"
        f"{table(plot.head, plot.rows, f'{plot.title} in numbers')}</details></figure>"
    )


def _cell_keys(plot: Plot) -> str:
    zero = '<span><span class="swatch zero"></span>exactly zero</span>' if plot.payload["scale"] == "log" else ""
    return (
        f'<p class="keys">{zero}<span><span class="swatch bad"></span>not finite</span>'
        '<span><span class="swatch none"></span>not measured yet</span></p>'
    )


def phases_section(phases: Sequence[Phase]) -> str:
    """The named phases of a run as a table; empty without any."""
    if not phases:
        return ""
    rows = []
    for phase in phases:
        facts = {key: _short(value) for key, value in phase.evidence.items() if key != "series"}
        told = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in flattened(facts, digits=4))
        steps = f"{phase.start:,} to {phase.end:,}"
        rows.append((phase.name, steps, f"{100 * phase.confidence:.0f} % sure", told))
    return f'<div id="phases"><h3>Phases</h3>{table(("phase", "steps", "how sure", "evidence"), rows, "Phases")}</div>'


def events_section(events: Sequence[Event]) -> str:
    """What happened once; of very many events the gravest, in their order, and the counts of all."""
    if not events:
        return _section("events", "Events", "<p>No events.</p>")
    ranked = sorted(range(len(events)), key=lambda i: (_SEVERITY_RANK.get(events[i].severity, 2), i))
    shown = [events[i] for i in sorted(ranked[:_MOST_EVENTS])]
    note = ""
    if len(shown) < len(events):
        kinds = ", ".join(f"{amount:,} {kind}" for kind, amount in Counter(e.kind for e in events).most_common(20))
        note = f"<p>{len(events):,} events in all ({escaped(kinds)}); the table holds the {len(shown)} gravest.</p>"
    rows = [
        ("" if e.step is None else f"{e.step:,}", SEVERITY_WORDS.get(e.severity, e.severity), e.kind, e.message)
        for e in shown
    ]
    return _section("events", "Events", note + table(("step", "severity", "kind", "what happened"), rows, "Events"))


def setup_section(run: Run) -> str:
    """Configuration, environment and parameters."""
    parts = []
    for title, given in (("Configuration", run.config), ("Environment", run.environment)):
        if given:
            rows = flattened(given)
            parts.append(f"<div><h3>{title}</h3>{table(('setting', 'value'), rows, title, 'settings')}</div>")
    parameters = run.parameters
    folded = ""
    if parameters:
        named = [_parameter_row(entry) for entry in parameters[:_MOST_PARAMETERS]]
        rest = len(parameters) - len(named)
        more = f"<p>{count(rest, 'further parameter')} not listed here; the run holds them all.</p>" if rest else ""
        head = ("name", "shape", "type", "trained", "optimizer", "shares memory with")
        listed = table(head, named, "Parameters")
        folded = f"<details><summary>{count(len(parameters), 'parameter')}</summary>{listed}{more}</details>"
    content = f'<div class="columns">{"".join(parts)}</div>{folded}'
    return _section("setup", "Configuration and environment", content if parts or folded else "<p>None recorded.</p>")


def _parameter_row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    shape = entry.get("shape")
    size = f" {TIMES} ".join(str(n) for n in shape) if isinstance(shape, list | tuple) else ""
    trained = "yes" if entry.get("requires_grad", True) else "frozen"
    tied = ", ".join(str(name) for name in entry.get("tied") or ())
    return (
        str(entry.get("name", "")),
        size,
        str(entry.get("dtype", "")),
        trained,
        str(entry.get("optimizer") or ""),
        tied,
    )


def segments_section(segments: Sequence[Segment]) -> str:
    """The pieces of a resumed run, with overlaps and gaps said; empty for a run never resumed."""
    if len(segments) < 2:
        return ""
    notes = "".join(f"<li>{escaped(note)}</li>" for note in segment_notes(segments))
    rows = [
        (
            segment.index + 1,
            _steps(segment),
            STATUS_WORDS.get(segment.status.value, segment.status.value),
            time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(segment.started)),
        )
        for segment in segments
    ]
    head = ("segment", "steps", "how it ended", "started (UTC)")
    return _section("segments", "Segments", f"<ul>{notes}</ul>{table(head, rows, 'Segments')}")


def _steps(segment: Segment) -> str:
    if segment.first_step is None or segment.last_step is None:
        return "not known"
    return f"{segment.first_step:,} to {segment.last_step:,}"


def examples_section(lists: Sequence[ExampleList], remark: str) -> str:
    """Which examples were hardest, most forgotten, or may carry a wrong label; empty where none were recorded."""
    if not lists and not remark:
        return ""
    parts = [f"<p>{escaped(remark)}</p>"] if remark else []
    for one in lists:
        listed = _listed(one) if one.rows else "<p>None.</p>"
        parts.append(f"<h3>{escaped(one.title)}</h3><p>{escaped(one.summary)}</p>{listed}")
    return _section("examples", "Single examples", "".join(parts))


def _listed(one: ExampleList) -> str:
    if not one.pictures:
        return table(one.head, one.rows, one.title)
    shown = [_Picture(one.pictures[row[0]], row[0]) if row[0] in one.pictures else "" for row in one.rows]
    rows = [(image, *row) for image, row in zip(shown, one.rows, strict=True)]
    return table(("image", *one.head), rows, one.title)


def constants_section(constants: Sequence[tuple[str, str, str]]) -> str:
    """Series over layers that never changed: (anchor, name, value)."""
    rows = "".join(
        f'<tr id="{anchor}" tabindex="-1"><td>{escaped(name)}</td><td>{escaped(value)}</td></tr>'
        for anchor, name, value in constants
    )
    return (
        '<div class="constants"><h3>Never changed</h3>'
        '<table><thead><tr><th scope="col">series</th><th scope="col">value</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _section(anchor: str, title: str, content: str) -> str:
    heading = f'<h2 id="{anchor}-title">{title}</h2>'
    return f'<section id="{anchor}" aria-labelledby="{anchor}-title">{heading}{content}</section>'


def plots_section(anchor: str, title: str, plots: Sequence[Plot], intro: str = "", after: str = "") -> str:
    """A titled grid of plots; empty when there is nothing to show."""
    if not plots and not after:
        return ""
    figures = "".join(plot_figure(plot) for plot in plots)
    return _section(anchor, title, f'{intro}<div class="plots">{figures}</div>{after}')
