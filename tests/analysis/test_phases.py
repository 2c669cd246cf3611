"""Each named phase is found in a run in which it was planted, and not in its healthy opposite."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.analysis.synthetic import run_of

from separatrix.analysis.phases import Phase, PhaseRule, phase_rules, phases
from separatrix.runs import open_run

STEPS = 1000
AT = np.arange(STEPS)
Curves = Mapping[str, Any]


def noise(seed: int, size: float) -> np.ndarray:
    return size * np.random.default_rng(seed).standard_normal(STEPS)


def falling(seed: int = 0, to: float = 0.2) -> np.ndarray:
    return to + 2.0 * np.exp(-AT / 100) + noise(seed, 0.02)


def every(values: np.ndarray, stride: int) -> dict[int, float]:
    return {int(step): float(values[step]) for step in range(0, STEPS, stride)}


def sigmoid(middle: float, width: float) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-(AT - middle) / width))


def warm_up(seed: int) -> Curves:
    return {"loss": falling(seed), "learning_rate": np.minimum(1.0, (AT + 1) / 100) * 0.1}


def jump(seed: int) -> Curves:
    return {"loss": falling(seed), "learning_rate": {0: 0.01, 100: 0.1}}


def cosine(seed: int) -> Curves:
    rate = 0.1 * np.where(AT < 400, 1.0, 0.5 * (1 + np.cos(np.pi * (AT - 400) / 600)))
    loss = 1.0 + 2.0 * np.exp(-AT / 60) - 0.3 * np.clip((AT - 400) / 600, 0, 1) + noise(seed, 0.05)
    return {"loss": loss, "learning_rate": rate}


def idle_schedule(seed: int) -> Curves:
    return {**cosine(seed), "loss": 1.0 + 2.0 * np.exp(-AT / 60) + noise(seed, 0.05)}


def step_decay(seed: int) -> Curves:
    loss = np.where(AT < 600, 1.0, 0.6 + 0.4 * np.exp(-np.clip(AT - 600, 0, None) / 20)) + 2.0 * np.exp(-AT / 60)
    return {"loss": loss + noise(seed, 0.05), "learning_rate": {0: 0.1, 600: 0.01}}


def to_the_edge(seed: int) -> Curves:
    ratio = np.minimum(1.02, 0.2 * np.exp(AT / 250)) + np.where(AT > 410, noise(seed, 0.04), noise(seed, 0.005))
    return {"loss": falling(seed), "learning_rate": {0: 0.1}, "stability_ratio": every(ratio, 20)}


def sharpness_of_plain_descent(seed: int) -> Curves:
    curves = to_the_edge(seed)
    sharpness = {step: 20.0 * value for step, value in curves["stability_ratio"].items()}
    return {**curves, "stability_ratio": {}, "sharpness": sharpness, "momentum": {0: 0.0}}


def sharpness_of_momentum(seed: int) -> Curves:
    return {**sharpness_of_plain_descent(seed), "momentum": {0: 0.9}}


def flat_ratio(seed: int) -> Curves:
    return {**to_the_edge(seed), "stability_ratio": every(0.3 + noise(seed, 0.02), 20)}


def ratio_that_follows_the_rate(seed: int) -> Curves:
    rate = np.minimum(1.0, (AT + 1) / 800) * 0.1
    return {"loss": falling(seed), "learning_rate": rate, "stability_ratio": every(10.5 * rate + noise(seed, 0.01), 20)}


def ratio_that_passes(seed: int) -> Curves:
    return {**to_the_edge(seed), "stability_ratio": every(0.2 * np.exp(AT / 200) + noise(seed, 0.005), 20)}


def grokking(seed: int) -> Curves:
    train = np.clip(0.1 + 0.9 * sigmoid(60, 10) + noise(seed, 0.005), 0, 1)
    evaluation = np.clip(0.1 + 0.88 * sigmoid(700, 20) + noise(seed + 1, 0.01), 0, 1)
    return {"loss": falling(seed), "accuracy": train, "eval_accuracy": every(evaluation, 10)}


def memorising(seed: int) -> Curves:
    return {**grokking(seed), "eval_accuracy": every(np.clip(0.1 + noise(seed + 1, 0.01), 0, 1), 10)}


def generalising(seed: int) -> Curves:
    evaluation = np.clip(0.1 + 0.85 * sigmoid(65, 12) + noise(seed + 1, 0.01), 0, 1)
    return {**grokking(seed), "eval_accuracy": every(evaluation, 10)}


def overfitting(seed: int) -> Curves:
    evaluation = np.clip(0.1 + 0.5 * sigmoid(60, 12) + noise(seed + 1, 0.01), 0, 1)
    return {**grokking(seed), "eval_accuracy": every(evaluation, 10)}


def waiting(seed: int) -> Curves:
    return {"loss": 0.1 + 0.6 * sigmoid(600, -15) + noise(seed, 0.02)}


def resting(seed: int) -> Curves:
    return {"loss": falling(seed)}


def steady(seed: int) -> Curves:
    return {"loss": 2.0 - 1.5 * AT / STEPS + noise(seed, 0.02)}


PLANTED: list[tuple[Callable[[int], Curves], dict[str, tuple[int, int]]]] = [
    (warm_up, {"warm-up": (0, 99)}),
    (cosine, {"annealing": (486, 999)}),
    (step_decay, {"annealing": (600, 999)}),
    (to_the_edge, {"progressive sharpening": (20, 380), "edge of stability": (370, 980)}),
    (sharpness_of_plain_descent, {"progressive sharpening": (20, 380), "edge of stability": (370, 980)}),
    (grokking, {"memorisation": (88, 650), "grokking": (656, 744)}),
    (memorising, {"memorisation": (88, 990)}),
    (waiting, {"plateau": (0, 560)}),
]
TOLERANCE = 60
HEALTHY = [
    jump,
    idle_schedule,
    sharpness_of_momentum,
    flat_ratio,
    ratio_that_passes,
    generalising,
    overfitting,
    resting,
    steady,
]


def run(folder: Path, make_run: Any, curves: Curves) -> tuple[Phase, ...]:
    scalars = {
        name: values if isinstance(values, Mapping) else dict(enumerate(values.tolist()))
        for name, values in curves.items()
        if len(values)
    }
    with open_run(make_run(scalars=scalars, folder=folder)) as opened, warnings.catch_warnings():
        warnings.simplefilter("error")
        return phases(opened)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("plant", "truth"), PLANTED, ids=lambda value: getattr(value, "__name__", ""))
def test_planted_phases_are_found_where_they_are(
    plant: Callable[[int], Curves], truth: dict[str, tuple[int, int]], seed: int, make_run: Any, tmp_path: Path
) -> None:
    found = {phase.name: phase for phase in run(tmp_path, make_run, plant(seed))}
    assert found.keys() == truth.keys()
    for name, (start, end) in truth.items():
        assert abs(found[name].start - start) <= TOLERANCE, found[name]
        assert abs(found[name].end - end) <= TOLERANCE, found[name]
        assert 0.5 <= found[name].confidence <= 1.0
        assert set(found[name].evidence["series"]) <= plant(seed).keys()
        json.dumps(found[name].to_dict(), allow_nan=False)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("healthy", HEALTHY, ids=lambda value: value.__name__)
def test_healthy_opposites_have_no_named_phase(
    healthy: Callable[[int], Curves], seed: int, make_run: Any, tmp_path: Path
) -> None:
    assert [phase.name for phase in run(tmp_path, make_run, healthy(seed))] in ([], ["progressive sharpening"])[
        : 1 + (healthy is ratio_that_passes)
    ]


def test_a_rising_rate_alone_is_no_sharpening(make_run: Any, tmp_path: Path) -> None:
    names = [phase.name for phase in run(tmp_path, make_run, ratio_that_follows_the_rate(0))]
    assert "progressive sharpening" not in names


@pytest.mark.parametrize("share", [0.005, 0.02])
def test_too_few_values_name_nothing(share: float, make_run: Any, tmp_path: Path) -> None:
    for index, (plant, _) in enumerate(PLANTED):
        if plant in (warm_up, cosine, step_decay):
            continue
        kept = {
            name: {step: value for step, value in _points(values).items() if step < share * STEPS}
            for name, values in plant(0).items()
        }
        assert run(tmp_path / str(index), make_run, kept) == ()


def _points(values: Any) -> Mapping[int, float]:
    return values if isinstance(values, Mapping) else dict(enumerate(values.tolist()))


@pytest.mark.parametrize(
    "curves",
    [
        {},
        {"loss": np.array([np.nan] * 200)},
        {"loss": np.array([1.0])},
        {"loss": np.ones(500), "learning_rate": np.zeros(500)},
        {"accuracy": np.full(300, np.nan), "eval_accuracy": np.ones(300)},
        {"stability_ratio": np.full(50, np.inf), "learning_rate": np.ones(50)},
    ],
)
def test_odd_runs_have_no_phases(curves: Curves, make_run: Any, tmp_path: Path) -> None:
    assert run(tmp_path, make_run, curves) == ()


def test_every_rule_is_found_and_says_what_it_needs() -> None:
    rules = phase_rules()
    assert set(rules) == {name for _, truth in PLANTED for name in truth}
    for rule in rules.values():
        assert isinstance(rule, PhaseRule)
        assert rule.title and rule.source and rule.needs


def test_series_by_optimizer_are_no_single_curve(tmp_path: Path) -> None:
    values = waiting(0)["loss"]
    with run_of(tmp_path / "run", {"loss": {"one": values, "two": values[::-1]}}) as opened:
        assert phases(opened) == ()


def test_a_rule_that_fails_is_said_and_hides_no_other(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: Any) -> list[Phase]:
        raise ZeroDivisionError("oops")

    rules = {"odd": PhaseRule("odd", "Odd", (("loss",),), "nobody", broken), **phase_rules()}
    monkeypatch.setattr("separatrix.analysis.phases.phase.phase_rules", lambda: rules)
    with (
        open_run(make_run(scalars={"loss": waiting(0)["loss"]})) as opened,
        pytest.warns(RuntimeWarning, match="'odd' failed on run .ZeroDivisionError: oops."),
    ):
        assert [phase.name for phase in phases(opened)] == ["plateau"]
