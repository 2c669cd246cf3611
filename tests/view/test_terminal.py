from __future__ import annotations

import io
import re
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console
from tests.view.support import HEALTHY, HOSTILE, HandDiagnosis, finding

from separatrix.runs import Event, NotAssessed, RunWriter, SeriesSpec, Status, UsageError, open_run
from separatrix.runs.catalogue import find_runs
from separatrix.view import render_comparison, render_diagnosis, render_list, render_terminal

META = {
    "config": {
        "models": [{"name": "net", "class": "Net", "parameters": 206922}],
        "optimizers": [{"name": "opt", "class": "Adam", "defaults": {"lr": 0.001}}],
    }
}


class _Terminal:
    """A console that writes bytes of one encoding, and what it wrote."""

    def __init__(self, encoding="utf-8", width=100, color=False):
        self.raw = io.BytesIO()
        stream = io.TextIOWrapper(self.raw, encoding=encoding, write_through=True)
        self.console = Console(file=stream, width=width, force_terminal=color, no_color=not color, highlight=True)

    @property
    def text(self):
        return self.raw.getvalue().decode(self.console.encoding)


def _shown(path, diagnosis=HEALTHY, **how):
    terminal = _Terminal(**how)
    with open_run(path) as run:
        render_terminal(run, terminal.console, diagnosis)
    return terminal.text


def test_show_tells_facts_series_and_findings(make_run):
    symptom = finding("plateau", "info", summary="The loss stands still.")
    found = finding(
        "dead-units",
        "error",
        step=12,
        summary="Half the units are dead.",
        remedy="Lower the rate.",
        evidence={"series": "loss", "share": 0.51234},
        symptoms=(symptom,),
    )
    path = make_run(scalars={"loss": list(2.0 ** -np.arange(12.0)), "learning_rate": {1: 0.1}}, meta=META)
    text = _shown(path, HandDiagnosis(findings=(found,), not_assessed=(NotAssessed("nonfinite", ("x",)),)))
    for phrase in (
        "run  finished",
        "12",
        "Net, 206,922 parameters",
        "Adam, learning rate 0.001",
        "1 error",
        "Error dead-units, step 12 (80 % sure)",
        "Half the units are dead.",
        "Evidence: share 0.5123",
        "What to do: Lower the rate.",
        "Note plateau",
        "1 check could not be made: nonfinite",
    ):
        assert phrase in text, phrase
    assert re.search(r"loss +█[▁-█]{10}▁ +1 to 0\.000488", text)
    assert text.index("1 error") < text.index("dead-units") < text.index("plateau")


def test_a_healthy_run_says_so(make_run):
    assert "Nothing wrong found" in _shown(make_run(scalars={"loss": [1.0]}))


def test_values_that_are_not_finite_are_marked(make_run):
    text = _shown(make_run(scalars={"loss": [1.0, 2.0, np.nan, np.inf]}))
    assert re.search(r"loss +▁█!! +1 to ∞", text)
    assert "! 2 values not finite" in text


def test_an_empty_crashed_run_shows_its_traceback(make_run):
    path = make_run(status=Status.CRASHED, traceback='  File "a.py", line 3\nValueError: [bold]no[/bold] data')
    text = _shown(path)
    assert "crashed" in text
    assert "No values recorded yet." in text
    assert '  File "a.py", line 3\nValueError: [bold]no[/bold] data' in text


@pytest.mark.parametrize("color", [False, True])
def test_names_are_neither_markup_nor_control_sequences(make_run, color):
    names = (*HOSTILE, "[red]x[/red]", "[link=http://x.test]y[/link]", "\x1b]0;owned\x07", ":boom:")
    path = make_run(
        scalars={"loss": [1.0, 2.0], **{name: [1.0, 2.0] for name in names}},
        events=[Event(kind=names[6], message=names[8], severity="warning")],
        meta={"config": {"models": [{"class": names[6]}], "optimizers": [{"class": names[8]}]}},
        status=Status.CRASHED,
        traceback=names[8],
    )
    worst = finding(names[6], "error", summary=names[8], remedy=names[7], evidence={"note": names[5]})
    text = _shown(
        path, HandDiagnosis(findings=(worst,), not_assessed=(NotAssessed(names[8], ()),)), color=color, width=160
    )
    colourless = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", colourless)
    for name in ("[red]x[/red]", "[link=http://x.test]y[/link]", "\\x1b]0;owned\\x07", "a\\x1b[31mb\\u202ec", ":boom:"):
        assert name in colourless, name
    assert color or "\x1b" not in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_terminals_without_unicode_get_ascii(make_run, encoding):
    path = make_run("größe", scalars={"loss": [1.0, np.inf, 3.0], "重み": [1.0, 2.0]}, meta=META)
    text = _shown(path, HandDiagnosis(findings=(finding("a", "error", summary="rate → 0"),)), encoding=encoding)
    assert re.search(r"loss +_!# +1 to 3", text)
    assert "x Error a" in text
    assert "\\u91cd\\u307f" in text
    assert "rate \\u2192 0" in text
    terminal = _Terminal(encoding=encoding)
    render_list(find_runs(path.parent), terminal.console)
    assert "finished" in terminal.text


def test_a_resumed_run_says_overlap(tmp_path):
    for first, last in ((1, 10), (8, 20)):
        writer = RunWriter(tmp_path / "run", resume=first > 1)
        series = writer.series(SeriesSpec("loss"))
        for step in range(first, last + 1):
            writer.scalar(series, step, 1.0)
        writer.close()
    assert "steps 8 to 10 were recorded twice" in _shown(tmp_path / "run")


def test_a_diagnosis_alone_names_its_run():
    terminal = _Terminal()
    render_diagnosis(
        HandDiagnosis(run="[b]mine[/b]", findings=(finding("a", "warning"), finding("b", "warning"))), terminal.console
    )
    assert terminal.text.startswith("[b]mine[/b]: 2 warnings\n")


def test_list_holds_readable_and_unreadable_runs(make_run, tmp_path):
    make_run("good", scalars={"loss": [2.0, 0.5]})
    make_run("[red]odd", status=Status.CRASHED)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.sqlite").write_text("no database")
    terminal = _Terminal(width=250)
    render_list(find_runs(tmp_path), terminal.console)
    lines = [line.split() for line in terminal.text.splitlines() if "/" in line.partition(":")[0]]
    rows = {words[0].rpartition("/")[2]: words[1:] for words in lines if words[0] != "unreadable:"}
    assert rows["good"][:3] == ["finished", "2", "0.5"]
    assert "crashed" in rows["[red]odd"]
    assert "unreadable" in rows["broken"]
    assert re.search(r"unreadable: .*broken.*not a database", terminal.text)
    empty = _Terminal()
    render_list((), empty.console)
    assert empty.text == "No runs found.\n"


def test_compare_sets_last_and_best_side_by_side(make_run):
    first = make_run(
        "a",
        scalars={"loss": [3.0, 1.0, 2.0], "accuracy": [0.5, 0.9, 0.8], "own": [1.0]},
        meta={"config": {"lr": 0.1, "seed": 1}},
    )
    second = make_run(
        "b", scalars={"loss": [4.0, np.nan], "accuracy": [0.25, 0.5]}, meta={"config": {"lr": 0.2, "seed": 1}}
    )
    terminal = _Terminal()
    with open_run(first) as one, open_run(second) as two:
        render_comparison([one, two], terminal.console)
        with pytest.raises(UsageError, match="at least two runs, got 1"):
            render_comparison([one], terminal.console)
    text = terminal.text
    for pattern in (
        r"loss, last +2 +NaN",
        r"loss, best +1 \(step 2\) +4 \(step 1\)",
        r"accuracy, last +0\.8 +0\.5",
        r"accuracy, best +0\.9 \(step 2\) +0\.5 \(step 2\)",
        r"lr +0\.1 +0\.2",
        r"Not in all of them: own",
    ):
        assert re.search(pattern, text), pattern
    assert "seed" not in text


@pytest.mark.parametrize(
    ("module", "barred"),
    [("report", "rich"), ("terminal", "plotly"), ("report", "torch"), ("terminal", "tsdownsample")],
)
def test_each_door_imports_only_what_it_needs(module, barred):
    code = f"import sys, separatrix.view.{module}; sys.exit({barred!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
