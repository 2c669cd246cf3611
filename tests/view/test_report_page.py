"""The report as text: what it says, that it can act on nothing, and its size."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
import time

import numpy as np
import pytest
from tests.view.support import HEALTHY, HOSTILE, HandDiagnosis, finding

from separatrix.runs import Event, NotAssessed, RunWriter, SeriesSpec, Status, UsageError, open_run
from separatrix.view import write_report


class _Page(html.parser.HTMLParser):
    """Text and elements as a browser's parser would find them."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.elements, self.words, self.scripts, self._inside = [], [], [], None
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("script", "style"):
            self._inside = dict(attributes)
            self.scripts.append([tag, self._inside, ""])

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._inside = None

    def handle_data(self, data):
        if self._inside is not None:
            self.scripts[-1][2] += data
        else:
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))

    @property
    def plots(self):
        found = [(a["data-plot"], json.loads(s)) for t, a, s in self.scripts if a.get("type") == "application/json"]
        return dict(found)


def _unpacked(packed):
    kinds = {"i4": "<i4", "f4": "<f4", "f8": "<f8"}
    return np.frombuffer(base64.b64decode(packed["bdata"]), dtype=kinds[packed["dtype"]])


@pytest.fixture
def page(tmp_path):
    def write(path, diagnosis=HEALTHY):
        with open_run(path) as run:
            destination = write_report(run, tmp_path / "report.html", diagnosis)
        return _Page(destination.read_text(encoding="utf-8"))

    return write


def test_nothing_is_loaded_and_only_our_scripts_may_run(make_run, page):
    parsed = page(make_run(scalars={"loss": [2.0, 1.0]}))
    for tag, attributes in parsed.elements:
        assert not {"src", "srcset", "action", "data", "poster"} & attributes.keys(), tag
        assert not any(name.startswith("on") for name in attributes), tag
        assert attributes.get("href", "#").startswith(("#", "data:,")), tag
    policy = next(a["content"] for _, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in policy
    runnable = [
        text
        for tag, attributes, text in parsed.scripts
        if tag == "script" and attributes.get("type") != "application/json"
    ]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in runnable}
    assert set(re.findall(r"'sha256-[^']+'", policy)) == hashes


def test_findings_come_first_ranked_with_evidence_remedy_symptoms_and_links(make_run, page):
    path = make_run(
        scalars={"loss": [2.0, 1.0]}, labelled={"dead_unit_share": ("module", ["fc1"], [1, 2], [[0.1], [0.9]])}
    )
    symptom = finding("plateau", "info", step=2, evidence={"series": "loss", "slope": 0.0012345678})
    first = finding(
        "dead-units",
        "error",
        evidence={"series": ["dead_unit_share", "gone"], "labels": ["fc1"], "share": 0.9},
        symptoms=(symptom,),
        source="Lu 2020",
    )
    second = finding("unnormalized-inputs", "warning")
    parsed = page(
        path, HandDiagnosis(findings=(first, second), not_assessed=(NotAssessed("nonfinite", ("gradient_rms",)),))
    )
    order = [
        "1 error, 1 warning",
        "dead-units summary",
        "dead-units remedy",
        "plateau summary",
        "unnormalized-inputs summary",
        "nonfinite",
        "Loss",
        "Events",
    ]
    at = -1
    for phrase in order:
        at = parsed.text.index(phrase, at + 1)
    for phrase in ("share 0.9", "[fc1]", "slope 0.001235", "Lu 2020", "80 % sure", "step 2", "gradient_rms"):
        assert phrase in parsed.text
    links = [a["href"][1:] for tag, a in parsed.elements if tag == "a" and a.get("class") == "shows"]
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert links == ["plot-dead_unit_share", "plot-loss"]
    assert set(links) <= set(ids)
    assert len(ids) == len(set(ids))
    assert [rule["text"] for rule in parsed.plots["plot-loss"]["rules"]] == ["plateau"]


@pytest.mark.parametrize(
    ("diagnosis", "phrase"),
    [
        (HEALTHY, "Every check was made and none of them fired."),
        (HandDiagnosis(not_assessed=(NotAssessed("plateau", ()),)), "1 check could not be made"),
    ],
)
def test_a_healthy_run_says_so(make_run, page, diagnosis, phrase):
    text = page(make_run(scalars={"loss": [2.0, 1.0]}), diagnosis).text
    assert "Nothing wrong found" in text
    assert phrase in text


def test_hostile_text_stays_text_everywhere(make_run, page):
    path = make_run(
        scalars={"loss": [1.0, 2.0], **{name: [1.0, 2.0] for name in HOSTILE}},
        labelled={"gradient_rms": ("parameter", list(HOSTILE), [1, 2], np.ones((2, len(HOSTILE))) * [[1.0], [50.0]])},
        events=[Event(kind=name, message=name, step=1, severity="warning") for name in HOSTILE],
        meta={
            "config": {name: name for name in HOSTILE},
            "environment": {"cpu": HOSTILE[2]},
            "parameters": [{"name": name, "shape": [1], "module": name} for name in HOSTILE],
        },
        status=Status.CRASHED,
        traceback="\n".join(HOSTILE),
    )
    worst = finding(
        HOSTILE[0],
        "error",
        summary=HOSTILE[1],
        remedy=HOSTILE[2],
        source=HOSTILE[3],
        evidence={"series": list(HOSTILE), HOSTILE[0]: HOSTILE[2], "labels": list(HOSTILE)},
    )
    parsed = page(path, HandDiagnosis(findings=(worst,), not_assessed=(NotAssessed(HOSTILE[2], HOSTILE),)))
    tags = {tag for tag, _ in parsed.elements}
    assert not tags & {"img", "i", "iframe", "object", "embed"}
    # Of these only our own stand on the page: bold severity and "what to do", and links to findings and plots.
    assert sum(tag == "b" for tag, _ in parsed.elements) == 2
    assert all(
        "hack" not in script for _, attributes, script in parsed.scripts if attributes.get("type") != "application/json"
    )
    for name in HOSTILE[:5]:
        assert parsed.text.count(re.sub(r"\s+", " ", name)) >= 8, name
    assert "a\\x1b[31mb\\u202ec" in parsed.text
    assert not {"\x1b", "\u202e"} & set(parsed.text)
    for payload in parsed.plots.values():
        assert not re.search(
            r"[<>](?!br>)|<(?!br>)",
            json.dumps(
                [payload.get("labels", []), payload.get("y", ""), [line["name"] for line in payload.get("lines", [])]]
            ),
        )


def test_the_picture_shows_what_was_recorded(make_run, page):
    loss = np.exp(-np.arange(1, 51) / 10.0)
    grid = 10.0 ** -np.arange(12.0).reshape(4, 3)
    modules = [{"name": "b", "kind": "Linear"}, {"name": "a", "kind": "Linear"}]
    path = make_run(
        scalars={"loss": list(loss), "eval_loss": {25: 0.5, 50: 0.4}},
        labelled={"gradient_rms": ("parameter", ["a.weight", "b.weight", "b.bias"], [1, 2, 4, 8], grid)},
        meta={
            "modules": modules,
            "parameters": [{"name": n, "module": n[0]} for n in ("a.weight", "b.weight", "b.bias")],
        },
    )
    plots = page(path).plots
    train, evaluation = plots["plot-loss"]["lines"]
    np.testing.assert_array_equal(_unpacked(train["x"]), np.arange(1, 51))
    np.testing.assert_array_equal(_unpacked(train["y"]), loss.astype(np.float32))
    np.testing.assert_array_equal(_unpacked(evaluation["x"]), [25, 50])
    cells = plots["plot-gradient_rms"]
    assert cells["labels"] == ["b.weight", "b.bias", "a.weight"]
    np.testing.assert_array_equal(_unpacked(cells["x"])[:4], [1, 2, 4, 8])
    np.testing.assert_array_equal(_unpacked(cells["z"]).reshape(3, 4), grid.T[[1, 2, 0]].astype(np.float32))
    assert cells["scale"] == "log"


def test_values_that_are_not_finite_are_marked_and_counted(make_run, page):
    loss = [2.0, 1.0, np.nan, np.nan, 3.0, np.inf, 1.0]
    table = [[1.0, 1.0], [np.nan, 2.0], [30.0, 3.0]]
    path = make_run(
        scalars={"loss": loss},
        labelled={
            "gradient_rms": ("parameter", ["a", "b"], [1, 2, 3], table),
            "nonfinite_share": ("parameter", ["a", "b"], [1, 2, 3], [[0, 0], [0.5, 0], [0, 0]]),
        },
    )
    parsed = page(path)
    gaps = parsed.plots["plot-loss"]["gaps"]
    assert [(gap["first"], gap["last"]) for gap in gaps] == [(3, 4), (6, 6)]
    assert "∞" in gaps[1]["text"]
    assert "3 values not finite, the first at step 3" in parsed.text
    cells = _unpacked(parsed.plots["plot-gradient_rms"]["z"]).reshape(2, 3)
    np.testing.assert_array_equal(cells, np.array([[1, np.inf, 30], [1, 2, 3]], dtype=np.float32))


def test_every_plot_has_a_text_alternative(make_run, page):
    path = make_run(
        scalars={"loss": [3.0, 1.0, 2.0], "overhead": [0.1, 0.2]},
        labelled={"activation_rms": ("module", ["a", "b"], [1, 2], [[1, 20], [3, 4]])},
    )
    parsed = page(path)
    canvases = [a for tag, a in parsed.elements if a.get("class") == "canvas"]
    assert len(canvases) == len(parsed.plots) == 3
    for canvas in canvases:
        assert canvas["role"] == "img"
        assert canvas["aria-label"] in parsed.text
    assert "loss goes from 3 at step 1 to 2 at step 3; lowest 1 (step 2), highest 3 (step 1)." in parsed.text
    assert "lowest 1 (a, step 1), highest 20 (b, step 1)" in parsed.text


def _empty(make_run):
    return make_run(status=Status.CRASHED, traceback="ValueError: no data")


def _imported(make_run):
    return make_run(scalars={"loss": [2.0, 1.0]}, meta={"config": {"imported_from": "log.csv", "format": "csv"}})


def _one_step(make_run):
    return make_run(scalars={"loss": [2.0]}, labelled={"gradient_rms": ("parameter", ["w"], [1], [[0.5]])})


def _all_nan(make_run):
    return make_run(
        scalars={"loss": [np.nan] * 5, "accuracy": [np.inf]},
        labelled={"weight_rms": ("parameter", ["w"], [1], [[np.nan]])},
    )


def _constants(make_run):
    return make_run(
        scalars={"loss": [1.0]}, labelled={"nonfinite_share": ("parameter", ["v", "w"], [1, 2], np.zeros((2, 2)))}
    )


def _all_zero(make_run):
    return make_run(labelled={"gradient_rms": ("parameter", ["v", "w"], [1, 2], np.zeros((2, 2)))})


@pytest.mark.parametrize(
    ("build", "phrases"),
    [
        (_empty, ["crashed", "holds no values yet", "ValueError: no data"]),
        (_imported, ["log.csv", "Loss"]),
        (_one_step, ["2 at step 1, its only value", "gradient_rms"]),
        (_all_nan, ["5 values not finite"]),
        (_constants, ["Never changed", "nonfinite_share"]),
        (_all_zero, ["gradient_rms of 2 parameters at 2 steps: lowest 0"]),
    ],
)
def test_odd_runs_have_a_report(make_run, page, build, phrases):
    parsed = page(build(make_run))
    for phrase in phrases:
        assert phrase in parsed.text


def test_several_optimizers_are_several_lines(tmp_path, page):
    writer = RunWriter(tmp_path / "run")
    for name, points in (("generator", {1: 1.0, 3: 3.0}), ("critic", {2: 2.0, 4: np.inf})):
        series = writer.series(SeriesSpec("loss", labels={"optimizer": name}))
        for step, value in points.items():
            writer.scalar(series, step, value)
    writer.close()
    plot = page(tmp_path / "run").plots["plot-loss"]
    lines = {line["name"]: (_unpacked(line["x"]).tolist(), _unpacked(line["y"]).tolist()) for line in plot["lines"]}
    assert lines["generator"] == ([1, 3], [1.0, 3.0])
    assert lines["critic"][0] == [2, 4]
    assert lines["critic"][1][0] == 2.0
    assert [gap["first"] for gap in plot["gaps"]] == [4]


def test_stability_is_drawn_against_the_edge(make_run, page):
    run = make_run(scalars={"loss": [2.0, 1.0], "stability_ratio": [0.2, 0.4], "sharpness": [3.0, 4.0]})
    plots = page(run).plots
    assert plots["plot-stability_ratio"]["levels"] == [{"value": 1.0, "text": "edge of stability"}]
    assert plots["plot-loss"]["levels"] == plots["plot-sharpness"]["levels"] == []
    assert "Curvature and stability" in page(run).text


def test_values_recorded_on_change_hold_to_the_end(make_run, page):
    path = make_run(scalars={"loss": [1.0] * 9, "learning_rate": {1: 0.1, 4: 0.01}})
    line = page(path).plots["plot-learning_rate"]["lines"][0]
    assert line["held"]
    np.testing.assert_array_equal(_unpacked(line["x"]), [1, 4, 9])
    np.testing.assert_array_equal(_unpacked(line["y"]), np.array([0.1, 0.01, 0.01], dtype=np.float32))


def test_a_resumed_run_says_overlap_and_gap(tmp_path, page):
    path = tmp_path / "run"
    for first, last in ((1, 10), (8, 20), (31, 40)):
        writer = RunWriter(path, resume=first > 1)
        series = writer.series(SeriesSpec("loss"))
        for step in range(first, last + 1):
            writer.scalar(series, step, 1.0)
        writer.close()
    parsed = page(path)
    assert "steps 8 to 10 were recorded twice" in parsed.text
    assert "steps 21 to 30 were not recorded" in parsed.text
    assert [rule["step"] for rule in parsed.plots["plot-loss"]["rules"]] == [8, 31]


def test_very_many_events_are_counted_and_the_gravest_kept(make_run, page):
    events = [Event(kind="skipped-step", message=f"step {i} skipped", step=i) for i in range(500)]
    events.append(Event(kind="nonfinite", message="the loss became NaN", step=600, severity="error"))
    text = page(make_run(scalars={"loss": [1.0]}, events=events)).text
    assert "501 events in all (500 skipped-step, 1 nonfinite)" in text
    assert "the loss became NaN" in text


def test_a_million_points_and_thousands_of_parameters_stay_below_eight_megabytes(tmp_path, page):
    writer = RunWriter(tmp_path / "large")
    random = np.random.default_rng(0)
    loss = random.random(1_000_000)
    loss[345_678] = 1e6
    series = writer.series(SeriesSpec("loss"))
    for step, value in enumerate(loss.tolist()):
        writer.scalar(series, step, value)
    names = [f"blocks.{i}.{kind}" for i in range(500) for kind in ("q", "k", "v", "o")]
    writer.positions("parameter", names)
    for name in ("gradient_rms", "update_ratio", "weight_rms"):
        labelled = writer.series(SeriesSpec(name, dims=("parameter",)))
        for step in range(0, 1_000_000, 5000):
            writer.vector(labelled, step, (10.0 ** random.normal(-3, 2, len(names))).astype(np.float32))
    for number in range(60):
        user = writer.series(SeriesSpec(f"user/{number}"))
        for step in range(500):
            writer.scalar(user, step, float(step * number))
    writer.close()
    began = time.perf_counter()
    parsed = page(tmp_path / "large")
    size = (tmp_path / "report.html").stat().st_size
    print(f"report of 1,030,000 points: {time.perf_counter() - began:.2f} s, {size / 1e6:.2f} MB")
    assert size < 8_000_000
    # The first user series never changes and stands in a table instead.
    assert len(parsed.plots) == 63
    assert "Never changed series value user/0 0" in parsed.text
    shown = _unpacked(parsed.plots["plot-loss"]["lines"][0]["y"])
    assert 1000 < len(shown) <= 4000
    assert shown.max() == np.float32(1e6)
    assert "2,000 parameters in 120 rows" in parsed.text


def test_a_report_is_replaced_whole_or_not_at_all(make_run, tmp_path):
    with open_run(make_run(scalars={"loss": [1.0]})) as run:
        target = tmp_path / "report.html"
        target.write_text("old")
        assert write_report(run, target, HEALTHY) == target
        assert target.read_text().startswith("<!doctype html>")
        with pytest.raises(UsageError, match=r"cannot be written to .*missing.*choose another file"):
            write_report(run, tmp_path / "missing" / "report.html", HEALTHY)
        with pytest.raises(UsageError, match="is a folder"):
            write_report(run, tmp_path, HEALTHY)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "run"]


def test_without_a_diagnosis_the_run_is_diagnosed(make_run, tmp_path):
    with open_run(make_run(scalars={"loss": [1.0, np.nan, np.nan]})) as run:
        text = _Page(write_report(run, tmp_path / "r.html").read_text()).text
        codes = [found.code for found in run.diagnose().findings]
    assert codes
    assert all(code in text for code in codes)


def test_a_line_has_a_gap_where_its_value_was_nan_and_none_where_it_has_no_value(make_run, page):
    specs = [SeriesSpec("loss", labels={"optimizer": name}) for name in ("opt_d", "opt_g")]
    path = make_run(scalars={specs[0]: {1: 1.0, 2: 2.0, 3: 1.5, 4: 1.2}, specs[1]: {1: 3.0, 3: float("nan"), 4: 2.5}})
    (plot,) = (plot for plot in page(path).plots.values() if plot["kind"] == "lines")
    assert [(line["name"], len(_unpacked(line["x"]))) for line in plot["lines"]] == [("opt_d", 4), ("opt_g", 3)]
    (gap,) = plot["gaps"]
    assert (gap["first"], gap["last"]) == (3, 3)
    assert gap["text"].startswith("opt_g")
