"""The report in a real headless Chromium: drawn, quiet, zoomable, reachable, readable."""

from __future__ import annotations

import numpy as np
import pytest
from tests.view.support import HOSTILE, HandDiagnosis, finding

from separatrix.runs import Event, RunWriter, SeriesSpec, open_run
from separatrix.view import write_report

WIDE, NARROW = (1280, 900), (390, 844)


class _Opened:
    """A page with everything it complained about and everything it asked the network for."""

    def __init__(self, browser, path, size=WIDE, scheme="light"):
        self.context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.complaints, self.requests = [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def drawn(self, anchor):
        self.page.locator(f"#{anchor}").scroll_into_view_if_needed()
        self.page.wait_for_selector(f"#{anchor}[data-drawn]", timeout=20_000)
        return self.page.locator(f"#{anchor}")

    def axis(self, anchor, name="xaxis"):
        return self.page.evaluate(f"document.querySelector('#{anchor} .canvas')._fullLayout.{name}.range.map(Number)")


@pytest.fixture
def opened(browser, tmp_path):
    contexts = []

    def open_report(run_path, diagnosis=HandDiagnosis(), **how):  # noqa: B008
        with open_run(run_path) as run:
            path = write_report(run, tmp_path / "report.html", diagnosis)
        contexts.append(_Opened(browser, path, **how))
        return contexts[-1]

    yield open_report
    for one in contexts:
        one.context.close()


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    """A run with all kinds of plots, and a finding on one of them."""
    path = tmp_path_factory.mktemp("ordinary") / "run"
    steps = range(1, 41)
    random = np.random.default_rng(0)
    writer = RunWriter(path)
    scalars = {
        "loss": {step: 3.0 / step**0.75 for step in steps},
        "learning_rate": {1: 0.1},
        "overhead": dict.fromkeys(steps, 0.01),
        "my metric": {1: 1.0, 2: np.nan, 3: 2.0},
    }
    for name, points in scalars.items():
        series = writer.series(SeriesSpec(name))
        for step, value in points.items():
            writer.scalar(series, step, value)
    layers = {"parameter": ["a.weight", "a.bias", "b.weight"], "module": ["a", "relu", "b"]}
    for name, dim in (("gradient_rms", "parameter"), ("update_ratio", "parameter"), ("activation_rms", "module")):
        series = writer.series(SeriesSpec(name, dims=(dim,)))
        writer.positions(dim, layers[dim])
        for step in steps:
            writer.vector(series, step, (10.0 ** random.normal(-2, 1, 3)).astype(np.float32))
    writer.event("user", "halved the rate", step=20)
    writer.meta("config", {"lr": 0.1})
    writer.close()
    return path


ACTIVATIONS = HandDiagnosis(findings=(finding(step=7, evidence={"series": "activation_rms"}),))


@pytest.fixture(scope="module")
def shared(browser, ordinary):
    """One page of the ordinary run for the tests that leave it as they found it."""
    with open_run(ordinary) as run:
        path = write_report(run, ordinary.parent / "report.html", ACTIVATIONS)
    view = _Opened(browser, path)
    yield view
    view.context.close()


def _check_all_drawn(view):
    anchors = view.page.eval_on_selector_all("figure.plot", "figures => figures.map(f => f.id)")
    assert len(anchors) == 7
    for anchor in anchors:
        figure = view.drawn(anchor)
        assert figure.locator(".main-svg").count() > 0
        assert figure.locator("path.js-line, .heatmaplayer image").count() > 0
    assert view.complaints == []
    assert [url for url in view.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def test_all_plots_are_drawn_without_complaint_or_request(shared):
    _check_all_drawn(shared)


def test_the_policy_stops_what_the_page_must_not_do(shared):
    view = shared
    blocked = view.page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hacked = true";
            document.head.append(script);
            return fetch("https://example.invalid/").then(() => "fetched", () => window.hacked ?? "blocked");
        }"""
    )
    told, view.complaints[:] = list(view.complaints), []
    assert blocked == "blocked"
    assert len(told) >= 2
    assert all("Content Security Policy" in complaint for complaint in told)


def test_dragging_zooms_and_a_double_click_resets(shared):
    view = shared
    area = view.drawn("plot-loss").locator(".nsewdrag").first.bounding_box()
    before = view.axis("plot-loss")
    middle = area["y"] + area["height"] / 2
    view.page.mouse.move(area["x"] + 0.25 * area["width"], middle)
    view.page.mouse.down()
    view.page.mouse.move(area["x"] + 0.5 * area["width"], middle + 3, steps=5)
    view.page.mouse.up()
    view.page.wait_for_timeout(400)
    after = view.axis("plot-loss")
    span = before[1] - before[0]
    assert after[0] == pytest.approx(before[0] + 0.25 * span, abs=0.02 * span)
    assert after[1] == pytest.approx(before[0] + 0.5 * span, abs=0.02 * span)
    view.page.mouse.dblclick(area["x"] + 0.5 * area["width"], middle)
    view.page.wait_for_timeout(700)
    assert view.axis("plot-loss") == pytest.approx(before)


def test_the_log_button_changes_the_axis(shared):
    view = shared
    button = view.drawn("plot-loss").locator("button.scale")
    kind = "document.querySelector('#plot-loss .canvas')._fullLayout.yaxis.type"
    assert (view.page.evaluate(kind), button.get_attribute("aria-pressed")) == ("linear", "false")
    button.click()
    assert (view.page.evaluate(kind), button.get_attribute("aria-pressed")) == ("log", "true")
    low, high = view.axis("plot-loss", "yaxis")
    button.click()
    assert low == pytest.approx(np.log10(3 / 40**0.75), abs=0.2)
    assert high == pytest.approx(np.log10(3), abs=0.2)


def test_a_finding_leads_to_its_plot(shared):
    view = shared
    view.page.locator("a.shows").click()
    view.page.wait_for_selector("#plot-activation_rms[data-drawn]", timeout=20_000)
    view.page.wait_for_function(
        "() => { const top = document.querySelector('#plot-activation_rms').getBoundingClientRect().top;"
        " return top > -5 && top < innerHeight / 2; }"
    )
    assert view.page.evaluate("document.activeElement.id") == "plot-activation_rms"
    assert "dead-units" in view.page.locator("#plot-activation_rms .annotation-text").text_content()


@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "dark"), (NARROW, "light")])
def test_no_page_scrolls_sideways(opened, ordinary, size, scheme):
    long = finding("dead-units", summary="x" * 300, evidence={"series": "loss", "labels": ["encoder." * 20] * 30})
    view = opened(ordinary, HandDiagnosis(findings=(long,)), size=size, scheme=scheme)
    _check_all_drawn(view)
    for summary in view.page.locator("summary").all():
        summary.click()
    assert view.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_the_keyboard_reaches_everything_and_shows_where_it_is(shared):
    view = shared
    view.drawn("plot-loss")
    view.page.locator(".skip").focus()
    view.page.keyboard.press("Tab")
    view.page.keyboard.press("Shift+Tab")
    reached = []
    for _ in range(6):
        reached.append(
            view.page.evaluate(
                "(() => { const e = document.activeElement, s = getComputedStyle(e);"
                " return [e.className || e.id || e.tagName, s.outlineStyle, parseFloat(s.outlineWidth)]; })()"
            )
        )
        view.page.keyboard.press("Tab")
    names = [name for name, _, _ in reached]
    assert names[:4] == ["skip", "theme", "shows", "scale"]
    assert reached and all(style == "solid" and width >= 2 for _, style, width in reached)


def test_the_theme_button_recolours_page_and_plots(shared):
    view = shared
    view.drawn("plot-loss")
    look = (
        "[getComputedStyle(document.body).backgroundColor,"
        " document.querySelector('#plot-loss .canvas')._fullLayout.font.color]"
    )
    light = view.page.evaluate(look)
    view.page.locator("#theme").click()
    dark = view.page.evaluate(look)
    pressed = view.page.locator("#theme").get_attribute("aria-pressed")
    view.page.locator("#theme").click()
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    assert pressed == "true"
    assert view.page.evaluate(look) == light


def test_text_can_be_read_before_and_without_the_plots(shared, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(shared.page.url.partition("#")[0])
    assert "dead-units remedy" in page.locator("main").inner_text()
    page.locator("#plot-loss summary").click()
    assert "loss goes from 3 at step 1" in page.locator("#plot-loss").inner_text()
    context.close()


def test_printing_draws_every_plot(opened, ordinary):
    view = opened(ordinary)
    view.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert view.page.locator("figure.plot:not([data-drawn])").count() == 0
    view.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert view.complaints == []


def test_hostile_names_are_shown_as_text_in_plots(opened, make_run):
    table = 10.0 ** np.arange(2.0 * len(HOSTILE)).reshape(2, -1)
    path = make_run(
        scalars={"loss": [1.0, 2.0], HOSTILE[0]: [1.0, 2.0]},
        labelled={
            "gradient_rms": ("parameter", list(HOSTILE), [1, 2], table),
            "prediction_share": ("class", list(HOSTILE[:4]), [1, 2], [[0.1, 0.2, 0.3, 0.4]] * 2),
        },
        events=[Event(kind=HOSTILE[0], message=HOSTILE[4], step=1)],
    )
    view = opened(path, HandDiagnosis(findings=(finding(HOSTILE[3], step=2, evidence={"series": "loss"}),)))
    expected = [*HOSTILE[:5], "a\\x1b[31mb\\u202ec"]
    ticks = view.drawn("plot-gradient_rms").locator(".ytick text").all_text_contents()
    assert sorted(ticks) == sorted(expected)
    legend = view.drawn("plot-prediction_share").locator(".legendtext").all_text_contents()
    assert legend == expected[:4]
    figure = view.drawn("plot-gradient_rms")
    box = figure.locator(".nsewdrag").first.bounding_box()
    for row, name in enumerate(expected):
        view.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + (row + 0.5) * box["height"] / len(expected))
        view.page.wait_for_function(
            "name => document.querySelector('#plot-gradient_rms .hoverlayer')?.textContent.includes(name)", arg=name
        )
    annotation = view.drawn("plot-loss").locator(".annotation-text")
    assert annotation.text_content() == HOSTILE[3]
    assert view.page.locator("svg a, img, main h3 b, td b").count() == 0
    assert view.page.evaluate("typeof window.hack") == "undefined"
    assert view.complaints == []


def test_a_million_points_open_with_few_drawn(opened, tmp_path):
    writer = RunWriter(tmp_path / "long")
    series = writer.series(SeriesSpec("loss"))
    values = np.random.default_rng(0).random(1_000_000)
    values[500_000] = 40.0
    for step, value in enumerate(values.tolist()):
        writer.scalar(series, step, value)
    writer.close()
    view = opened(tmp_path / "long")
    view.drawn("plot-loss")
    print(f"a million points: drawn {view.page.evaluate('performance.now()'):.0f} ms after opening")
    drawn = view.page.evaluate("[...document.querySelector('#plot-loss .canvas').data[0].y]")
    assert 1000 < len(drawn) <= 4000
    assert max(drawn) == 40.0


def test_the_edge_of_stability_is_in_view_however_far_the_run_stays_from_it(opened, make_run):
    report = opened(make_run(scalars={"loss": [2.0, 1.0, 0.5], "stability_ratio": [0.010, 0.012, 0.011]}))
    report.drawn("plot-stability_ratio")
    low, high = report.axis("plot-stability_ratio", "yaxis")
    assert low < 0.01 and high > 1.0
    assert "edge of stability" in report.page.locator("#plot-stability_ratio .canvas").inner_text()
    assert report.complaints == []
