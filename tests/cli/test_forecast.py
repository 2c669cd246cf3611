"""`separatrix forecast`: from runs to a loss under a schedule."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import MakeRun

from separatrix.analysis.forecasting import LAWS
from separatrix.cli import main
from separatrix.commands.forecast import SCHEDULES
from separatrix.steer import outlook
from separatrix.steer.schedules import cosine, wsd

PEAK, STEPS = 0.01, 600
TRUTH = {"floor": 1.5, "scale": 1.2, "exponent": 0.45, "annealing": 0.3, "memory": 0.97}


@pytest.fixture
def runs(make_run: MakeRun) -> list[str]:
    """Two runs that follow the annealing law: a constant rate after a warm-up, and a cosine."""
    ramp = np.minimum(1.0, np.arange(1, STEPS + 1) / 21)
    paths = []
    for name, factors in (("constant", ramp), ("cosine", cosine(STEPS, warmup=20, final=0.1).values())):
        rates = PEAK * factors
        losses = LAWS["annealing"].value(TRUTH, rates)
        changes = {s + 1: float(r) for s, r in enumerate(rates) if s == 0 or r != rates[s - 1]}
        paths.append(str(make_run(name, scalars={"loss": losses.tolist(), "learning_rate": changes})))
    return paths


def test_forecast_of_planted_runs(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", *runs, "--steps", "1200", "--schedule", "wsd", "--law", "annealing", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    truth = LAWS["annealing"].value(TRUTH, PEAK * wsd(1200, warmup=20).values())[-1]
    assert found["final_loss"] == pytest.approx(truth, rel=2e-3)
    assert found["low"] <= found["final_loss"] <= found["high"]
    assert found["annealed"] and found["steps"] == 1200 and found["runs"] == ["constant", "cosine"]
    assert min(abs(value / truth - 1) for value in found["baselines"].values()) > 0.01
    assert found["curve"][-1]["step"] == 1200


def test_forecast_in_words_and_as_a_figure(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "forecast.html"
    assert main(["forecast", *runs, "--steps", "900", "--schedule", "linear", "-o", str(figure)]) == 0
    out = capsys.readouterr().out
    for words in ("loss after 900 steps, schedule linear", "by a plain power law", "by the last value", "exponent"):
        assert words in out
    assert out.endswith(f"{figure}\n") and "interval" in figure.read_text(encoding="utf-8")


def test_a_constant_run_says_what_it_cannot_know(runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["forecast", runs[0], "--steps", "900", "--schedule", "linear"]) == 0
    assert "Add a run whose rate falls" in capsys.readouterr().out


def test_runs_are_compared_by_one_series(
    runs: list[str], make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = PEAK * np.minimum(1.0, np.arange(1, STEPS + 1) / 21)
    losses = LAWS["annealing"].value(TRUTH, rates)
    scalars = {"loss": losses.tolist(), "learning_rate": {s + 1: float(rate) for s, rate in enumerate(rates)}}
    evaluated = {step: float(3.0 * losses[step - 1]) for step in range(10, STEPS + 1, 10)}
    other = str(make_run("evaluated", scalars=scalars | {"eval_loss": evaluated}))
    for paths, series, factor in (
        ([runs[0], other], "loss", 1.0),
        ([other, runs[1]], "loss", 1.0),
        ([other], "eval_loss", 3.0),
    ):
        assert main(["forecast", *paths, "--steps", "1200", "--schedule", "constant", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        truth = factor * LAWS["annealing"].value(TRUTH, np.append(rates, np.full(600, PEAK)))[-1]
        assert (found["series"], found["notes"]) == (series, [])
        assert found["final_loss"] == pytest.approx(truth, rel=0.01)
    assert main(["forecast", other, "--steps", "1200"]) == 0
    assert capsys.readouterr().out.startswith("eval_loss after 1,200 steps")
    assert main(["forecast", other, "--steps", "1200", "--until", "200"]) == 0
    assert capsys.readouterr().out.startswith("loss after 1,200 steps"), "20 evaluations up to there are too few"


def test_a_loss_that_is_not_finite_at_the_end_is_told(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    losses = LAWS["annealing"].value(TRUTH, np.full(STEPS, PEAK))
    losses[7] = math.nan  # one alone says nothing
    whole, cut = losses.tolist(), [*losses[:300].tolist(), *[math.nan] * 300]
    paths = {
        name: str(make_run(name, scalars={"loss": values, "learning_rate": {1: PEAK}}))
        for name, values in (("whole", whole), ("cut", cut), ("useless", [*whole[:5], *[math.inf] * 50]))
    }
    said = "loss of run cut is not finite from step 301 on: only what came before is used"
    assert main(["forecast", paths["cut"], "--steps", "900"]) == 0
    shown = capsys.readouterr().out
    assert said in shown.splitlines()
    for name, notes in (("cut", [said]), ("whole", [])):
        assert main(["forecast", paths[name], "--steps", "900", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["notes"] == notes
    assert main(["forecast", paths["useless"], "--steps", "900"]) == 2
    expected = "run useless holds 5 losses, since loss of run useless is not finite from step 6 on: a forecast needs"
    assert expected in capsys.readouterr().err


def test_own_schedule_is_the_recorded_one_and_then_its_last_rate(
    runs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["forecast", runs[1], "--steps", "700", "--until", "500", "--json"]) == 0
    curve = json.loads(capsys.readouterr().out)["curve"]
    rates = PEAK * cosine(STEPS, warmup=20, final=0.1).values()
    expected = [rates[min(point["step"], STEPS) - 1] for point in curve]
    assert [point["learning_rate"] for point in curve] == pytest.approx(expected)
    assert len({point["learning_rate"] for point in curve if point["step"] > 500}) > 3


def test_schedules_are_those_of_the_library() -> None:
    assert (outlook.OWN, *outlook.SCHEDULES) == SCHEDULES


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "0"], "at least 1"),
        (
            ["--steps", "10", "--schedule", "constant", "--warmup", "11"],
            "warmup=11 exceeds steps=10: shorten the warm-up",
        ),
        (["--steps", "100", "--peak", "-1"], "no learning rate"),
        (["--steps", "100", "--until", "5"], "at least 12"),
        (["--steps", "100", "--level", "1"], "no probability"),
    ],
)
def test_bad_requests_are_one_line(
    runs: list[str], arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["forecast", runs[0], *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
