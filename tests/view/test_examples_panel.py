"""The panel of single examples: the right ones in the right order, against counts by hand."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from tests.view.support import HandDiagnosis, finding

from separatrix.runs import Run, open_run
from separatrix.view.examples import example_lists
from separatrix.view.report import write_report

PASSES, EXAMPLES = 6, 200
WRONG = tuple(range(5, 200, 20))


@pytest.fixture
def recorded(make_run) -> Path:
    """Ten examples whose label is wrong, and one that is forgotten twice."""
    random = np.random.default_rng(0)
    margin = 2.0 + random.normal(0, 0.3, (PASSES, EXAMPLES)) + np.arange(PASSES)[:, None]
    margin[:, list(WRONG)] = -3.0 - 0.1 * np.arange(len(WRONG))
    margin[[1, 3], 8] = -0.2
    loss = np.log1p(np.exp(-margin))
    names = [str(i) for i in range(EXAMPLES)]
    steps = list(range(10, 10 * PASSES + 1, 10))
    labelled = {
        "example_loss": ("example", names, steps, loss),
        "example_margin": ("example", names, steps, margin),
        "example_correct": ("example", names, steps, margin > 0),
        "example_prediction": ("example", names, steps, np.where(margin > 0, 1, 0)),
        "example_target": ("example", names, steps[:1], np.ones((1, EXAMPLES))),
    }
    return make_run(scalars={"loss": [1.0, 0.5]}, labelled=labelled)


def opened(path: Path) -> Run:
    return open_run(path)


def test_the_lists_hold_the_right_examples(recorded) -> None:
    with opened(recorded) as run:
        (hardest, forgotten, suspected), remark = example_lists(run)
        means = run["example_loss"].values.mean(axis=0)
    assert remark == ""
    assert [row[0] for row in hardest.rows] == [str(i) for i in np.argsort(-means)[:12]]
    assert {row[0] for row in hardest.rows[:10]} == {str(i) for i in WRONG}
    assert [(row[0], row[3], row[4]) for row in forgotten.rows] == [("8", "2", "1")]
    assert {row[0] for row in suspected.rows[:10]} == {str(i) for i in WRONG}
    assert all(row[1] == "1" and row[2] == "0" for row in suspected.rows[:10])
    chances = [float(row[3].split()[0]) for row in suspected.rows]
    assert chances == sorted(chances, reverse=True) and min(chances) >= 50


def test_the_page_shows_the_panel_instead_of_pictures_and_findings_lead_there(recorded, tmp_path) -> None:
    found = finding("label-noise", evidence={"series": ["example_margin"]})
    with opened(recorded) as run:
        page = write_report(run, tmp_path / "report.html", HandDiagnosis(findings=(found,))).read_text()
    assert 'id="examples"' in page and "Suspected wrong labels" in page
    assert 'href="#examples"' in page
    assert 'data-plot="plot-example_loss"' not in page


def test_without_examples_there_is_no_panel(make_run, tmp_path) -> None:
    with opened(make_run(scalars={"loss": [1.0]})) as run:
        assert example_lists(run) == ((), "")
        assert 'id="examples"' not in write_report(run, tmp_path / "r.html", HandDiagnosis()).read_text()


def test_very_many_values_are_left_to_python(recorded) -> None:
    with opened(recorded) as run, mock.patch("separatrix.view.examples._MOST_CELLS", 100):
        lists, remark = example_lists(run)
    assert lists == () and "200 examples in 6 passes" in remark


def test_a_log_whose_columns_only_sound_like_it_is_drawn(make_run, tmp_path) -> None:
    scalars = {name: [2.0, 1.0] for name in ("example_loss", "example_margin", "example_count")}
    with opened(make_run(scalars=scalars)) as run:
        page = write_report(run, tmp_path / "r.html", HandDiagnosis()).read_text()
    assert 'id="examples"' not in page
    assert all(f'data-plot="plot-{name}"' in page for name in scalars)
