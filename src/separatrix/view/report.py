"""The report: one HTML file that holds everything it shows and asks the network for nothing."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.resources
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from separatrix.runs import Event, Finding, Run, SeriesData, UsageError
from separatrix.view import figures, sections
from separatrix.view.examples import example_lists, series_of_examples
from separatrix.view.facts import facts, last_step
from separatrix.view.figures import Band, Plot, Rule
from separatrix.view.text import count, number

if TYPE_CHECKING:
    from separatrix.analysis import Diagnosis
    from separatrix.analysis.phases import Phase

_LINE_POINTS = 150_000
_POINTS_A_LINE = (200, 4000)
_CELLS = 200_000
_COLUMNS = (40, 240)
_ROWS = 120
_MOST_MARKS = 200

_LOSS = ("loss", "eval_loss")
_RATES = ("learning_rate",)
_COST = ("step_seconds", "overhead")
_FIRST_LAYERS = ("gradient_rms", "update_ratio", "activation_rms")
_STABILITY = (("stability_ratio",), ("sharpness", "preconditioned_sharpness"))
_QUALITY = (("accuracy", "eval_accuracy"),)
_LAYERS_INTRO = (
    "<p>Rows run from the input side at the top to the output side at the bottom. "
    "A cell keeps the last measured value until the next.</p>"
)
_STABILITY_INTRO = (
    "<p>The stability ratio is the learning rate times the curvature that the optimizer meets, over what it bears: "
    "below 1 small disturbances die out, well above 1 they grow.</p>"
)
_CLUTTER = frozenset({"budget", "unseen", "resumed"})


def write_report(run: Run, destination: str | os.PathLike[str], diagnosis: Diagnosis | None = None) -> Path:
    """Write the report of `run` to the file `destination`, replacing an earlier one, and return its path.

    The diagnosis is computed unless given. Lines are thinned to a few thousand points with all extremes kept and heat
    maps to at most 120 rows, so that the file stays below 8 MB whatever the length of the run.

    Raises:
        UsageError: the file cannot be written.
        RunUnreadableError: the run is damaged.
    """
    if diagnosis is None:
        diagnosis = run.diagnose()
    page = _page(run, diagnosis)
    path = Path(destination)
    try:
        _replace(path, page)
    except OSError as error:
        raise UsageError(
            f"the report cannot be written to {path} ({error.strerror}): choose another file with -o"
        ) from error
    return path


def _replace(path: Path, text: str) -> None:
    if path.is_dir():
        raise IsADirectoryError(21, "is a folder")
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


@dataclasses.dataclass
class _Series:
    """All series of a run, read once, with the places on the page where they are shown."""

    data: dict[str, SeriesData]
    anchors: dict[str, str]
    rules: dict[str, list[Rule]]
    last_step: int | None
    points: int
    columns: int
    order: dict[str, int]

    def lines(
        self,
        *names: str,
        title: str = "",
        marks: Sequence[Mapping[str, Any]] = (),
        rules: Sequence[Rule] = (),
        bands: Sequence[Band] = (),
    ) -> list[Plot]:
        """One plot of those of the named series that exist; none if none does."""
        parts = [
            self.data.pop(name) for name in names if name in self.data and figures.is_drawn_as_lines(self.data[name])
        ]
        if not parts:
            return []
        anchor = self.anchors[parts[0].name]
        self.anchors.update({part.name: anchor for part in parts})
        own = [*rules, *(rule for part in parts for rule in self.rules.get(part.name, ()))]
        heading = title or " and ".join(part.name for part in parts)
        return [
            figures.line_plot(
                anchor,
                heading,
                parts,
                points=self.points,
                last_step=self.last_step,
                rules=own,
                marks=marks,
                bands=bands,
            )
        ]

    def cells(self, name: str) -> Plot:
        """The heat map of one series."""
        data = self.data[name]
        return figures.cell_plot(
            self.anchors[name],
            data,
            rows=_ROWS,
            columns=self.columns,
            order=self.order,
            nonfinite=self._companion(name),
            rules=self.rules.get(name, ()),
        )

    def _companion(self, name: str) -> SeriesData | None:
        other = figures.companion(name)
        return None if other is None else self.data.get(other)


def _page(run: Run, diagnosis: Diagnosis) -> str:
    from separatrix.analysis.phases import phases

    went_through = phases(run)
    findings = tuple(diagnosis.findings)
    series = _read(run, findings)
    head = facts(run)
    resumed = [Rule(s.first_step, "resumed", "segment") for s in run.segments[1:] if s.first_step is not None]
    remarks = [] if series.data else [f"This run holds no values yet; it is marked as {head.status}."]

    loss = series.lines(*_LOSS, title="loss", marks=_marks(run.events), rules=resumed, bands=_bands(went_through))
    rates = series.lines(*_RATES)
    stability = [plot for names in _STABILITY for plot in series.lines(*names)]
    layers, constants = _layers(series)
    cost = [plot for name in _COST for plot in series.lines(name)]
    others = [plot for names in _QUALITY for plot in series.lines(*names)]
    others, unchanged = _others(series, others)
    body = [
        sections.header(head),
        "<main>",
        sections.verdict_section(findings, tuple(diagnosis.not_assessed), series.anchors, remarks, run.traceback),
        sections.plots_section("loss", "Loss", loss, after=sections.phases_section(went_through) if loss else ""),
        sections.plots_section("learning-rate", "Learning rate", rates),
        sections.plots_section("stability", "Curvature and stability", stability, _STABILITY_INTRO),
        sections.plots_section(
            "layers",
            "Layer by layer",
            layers,
            _LAYERS_INTRO,
            _constants_table(constants),
        ),
        sections.examples_section(*example_lists(run)),
        sections.plots_section("cost", "Time and overhead", cost),
        sections.plots_section("others", "Accuracy and other series", others, after=_constants_table(unchanged)),
        sections.events_section(run.events),
        sections.setup_section(run),
        sections.segments_section(run.segments),
        "</main>",
    ]
    return _document(run.name, "".join(body), [*loss, *rates, *stability, *layers, *cost, *others])


def _bands(found: Sequence[Phase]) -> list[Band]:
    return [
        Band(phase.start, phase.end, phase.name, f"{phase.name}, steps {phase.start:,} to {phase.end:,}")
        for phase in found
    ]


def _constants_table(constants: Sequence[tuple[str, str, str]]) -> str:
    return sections.constants_section(constants) if constants else ""


def _others(series: _Series, plots: list[Plot]) -> tuple[list[Plot], list[tuple[str, str, str]]]:
    """Plots of all that is left, after `plots`; series whose value never changed apart."""
    constants = []
    for name, data in list(series.data.items()):
        value = figures.constant_value(data)
        if value is not None and np.isfinite(data.values).all() and not series.rules.get(name):
            constants.append((series.anchors[name], name, number(value)))
            del series.data[name]
        elif figures.is_drawn_as_lines(data):
            plots = [*plots, *series.lines(name)]
        else:
            plots = [*plots, series.cells(name)]
            del series.data[name]
    return plots, constants


def _layers(series: _Series) -> tuple[list[Plot], list[tuple[str, str, str]]]:
    """Heat maps of everything measured per parameter or module, the main ones first; constant series apart."""
    names = [n for n, d in series.data.items() if {"parameter", "module", "layer"} & d.coords.keys()]
    names.sort(key=lambda n: (_FIRST_LAYERS.index(n) if n in _FIRST_LAYERS else len(_FIRST_LAYERS), n))
    constants, plots = [], []
    for name in names:
        value = figures.constant_value(series.data[name])
        if value is not None and name not in _FIRST_LAYERS:
            constants.append((series.anchors[name], name, number(value)))
        else:
            plots.append(dataclasses.replace(series.cells(name), wide=name in _FIRST_LAYERS))
    for name in names:
        del series.data[name]
    return plots, constants


def _read(run: Run, findings: Sequence[Finding]) -> _Series:
    # Of single examples a panel tells: as pictures they would be thousands of rows.
    single = series_of_examples(run)
    data = {name: run.series(name) for name in run.names() if name not in single}
    data = {name: read for name, read in data.items() if read.values.size}
    anchors: dict[str, str] = dict.fromkeys(single, "examples") if "example_loss" in single else {}
    for index, name in enumerate(data):
        anchors[name] = f"plot-{name}" if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name) else f"plotted-{index}"
    rules: dict[str, list[Rule]] = {}
    for finding in _with_symptoms(findings):
        named = finding.evidence.get("series") or ()
        for name in [named] if isinstance(named, str) else named:
            if finding.step is not None:
                rules.setdefault(str(name), []).append(Rule(finding.step, finding.code))
    drawn = [read for read in data.values() if figures.is_drawn_as_lines(read)]
    lines = sum(len(figures.lines_of(read)) for read in drawn)
    points = int(np.clip(_LINE_POINTS // max(lines, 1), *_POINTS_A_LINE))
    pictures = [min(_ROWS, read.values[0].size) for read in data.values() if not figures.is_drawn_as_lines(read)]
    columns = int(np.clip(_CELLS // max(sum(pictures), 1), *_COLUMNS))
    return _Series(data, anchors, rules, last_step(run, run.segments), points, columns, _forward_order(run))


def _with_symptoms(findings: Sequence[Finding]) -> list[Finding]:
    return [found for finding in findings for found in (finding, *_with_symptoms(finding.symptoms))]


def _forward_order(run: Run) -> dict[str, int]:
    """Where each module and parameter stands in the order in which the forward pass uses them."""
    modules = {str(entry.get("name")): index for index, entry in enumerate(run.modules)}
    order = {name: index * 1_000_000 for name, index in modules.items()}
    for index, entry in enumerate(run.parameters):
        name = str(entry.get("name", ""))
        module = str(entry.get("module", name.rpartition(".")[0]))
        order[name] = modules.get(module, len(modules)) * 1_000_000 + index
    return order


def _marks(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Events for the loss plot, the gravest of very many."""
    placed = [event for event in events if event.step is not None and event.kind not in _CLUTTER]
    placed.sort(key=lambda event: ("error", "warning", "info").index(event.severity))
    return [
        {
            "step": event.step,
            "severity": event.severity,
            "text": f"{figures.plot_text(event.kind)}, step {event.step:,}<br>{figures.plot_text(event.message, 90)}",
        }
        for event in placed[:_MOST_MARKS]
    ]


def _asset(package: str, *path: str) -> str:
    return importlib.resources.files(package).joinpath(*path).read_text(encoding="utf-8")


def _for_script(payload: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(payload, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _document(name: str, body: str, plots: Sequence[Plot]) -> str:
    script = _asset("separatrix.view", "assets", "report.js")
    plotting = _asset("plotly", "package_data", "plotly.min.js") if plots else ""
    hashes = " ".join(_hash(source) for source in (plotting, script) if source)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    payloads = "".join(
        f'<script type="application/json" data-plot="{plot.anchor}">{_for_script(plot.payload)}</script>'
        for plot in plots
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<meta name="referrer" content="no-referrer"><link rel="icon" href="data:,">'
        f"<title>{sections.escaped(name)}: training report</title>"
        f"<style>{_asset('separatrix.view', 'assets', 'report.css')}</style></head><body>"
        f'<a class="skip" href="#verdict">Skip to the verdict</a>{body}'
        f"<footer>Written by Separatrix. {count(len(plots), 'plot')}; drag to zoom, double-click to reset.</footer>"
        f'{payloads}<script type="text/plain" id="plotting">{plotting}</script><script>{script}</script>'
        "</body></html>\n"
    )
