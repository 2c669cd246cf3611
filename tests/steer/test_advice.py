"""Advice: what findings and measurements ask for, as numbers that can be checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import MakeRun

import separatrix
from separatrix.analysis import Diagnosis
from separatrix.analysis.forecasting import LAWS
from separatrix.cli import main
from separatrix.runs import Finding, Run, open_run
from separatrix.steer.advice import Advice, Adviser, advise, advisers
from separatrix.steer.schedules import best_base_rate, linear

FALLING = [2.0 / (1 + 0.01 * step) + 0.5 for step in range(200)]


def found(code: str, severity: Any = "warning", **evidence: Any) -> Finding:
    return Finding(code, severity, 0.9, f"{code} was seen", f"mend {code}", evidence=evidence, source="a paper")


def advice_for(run: Run, *findings: Finding) -> tuple[Advice, ...]:
    return advise(run, Diagnosis("run", findings)).advice


@pytest.fixture
def run(make_run: MakeRun) -> Run:
    return open_run(make_run(scalars={"loss": FALLING, "learning_rate": {1: 0.1}}))


@pytest.mark.parametrize(
    ("finding", "setting", "before", "after", "expected"),
    [
        (
            found("lr-too-high", learning_rate=0.1, suggested=0.01, stability_ratio=20.0, update_ratio=0.5),
            "learning_rate",
            0.1,
            0.01,
            (20.0, 2.0),
        ),
        (
            found("lr-too-low", learning_rate=1e-5, suggested=1e-3, stability_ratio=None, update_ratio=1e-5),
            "learning_rate",
            1e-5,
            1e-3,
            (1e-5, 1e-3),
        ),
        (found("batch-too-large", batch_size=1000.0, suggested=62.5), "batch_size", 1000.0, 62.0, (1.0, 1000 / 62)),
        (
            found("weight-decay-dominates", weight_decay=10.0, suggested=0.05, ratio=10.0),
            "weight_decay",
            10.0,
            0.05,
            (10.0, 0.05),
        ),
        (
            found("epsilon-underflow", epsilon=1.0, suggested=1e-5, root_of_second_moment=1e-3),
            "epsilon",
            1.0,
            1e-5,
            (1e-3 / 1.001, 1 / 1.01),
        ),
        (
            found("clipping-always-active", suggested=2.0, median_factor=0.01, median_norm=1.0, share_of_steps=1.0),
            "clip_norm",
            0.01,
            2.0,
            (1.0, 0.1),
        ),
    ],
)
def test_findings_become_numbers(
    run: Run, finding: Finding, setting: str, before: float, after: float, expected: tuple[float, float]
) -> None:
    first = advice_for(run, finding)[0]
    assert (first.setting, first.before, first.after) == (setting, pytest.approx(before), pytest.approx(after))
    assert first.expected is not None and first.numeric and first.finding == finding.code
    assert (first.expected.before, first.expected.after) == pytest.approx(expected)


def test_numbers_come_first_and_graver_findings_before_others(run: Run) -> None:
    told = advice_for(
        run,
        found("missing-zero-grad", "error"),
        found("weight-decay-dominates", weight_decay=10.0, suggested=0.05, ratio=10.0),
        found("lr-too-high", learning_rate=0.1, suggested=0.01, update_ratio=0.5),
    )
    assert [advice.setting for advice in told] == ["weight_decay", "learning_rate", "code"]
    assert told[-1].action == "mend missing-zero-grad" and not told[-1].numeric


def test_a_symptom_is_left_to_its_cause(run: Run) -> None:
    symptom = found("lr-too-high", learning_rate=0.1, suggested=0.01)
    cause = Finding("unnormalized-inputs", "warning", 0.9, "inputs", "normalise them", symptoms=(symptom,))
    assert [advice.setting for advice in advice_for(run, cause)] == ["code"]


def test_divergence_asks_for_a_tenth_of_the_rate(run: Run) -> None:
    first, second = advice_for(run, found("diverging", "error"))
    assert (first.setting, first.before, first.after) == ("learning_rate", 0.1, pytest.approx(0.01))
    assert second.setting == "code"


def test_the_rate_that_was_set_is_named_whatever_the_schedule(make_run: MakeRun) -> None:
    shares = np.minimum(1.0, np.arange(1, 201) / 20) * (0.1 + 0.45 * (1 + np.cos(np.pi * np.arange(200) / 200)))
    peak = 0.1 * float(shares.max())
    rates = {step + 1: 0.1 * float(share) for step, share in enumerate(shares)}
    gradients = ("parameter", ["w"], [1, 100, 200], [[0.01]] * 3)
    meta = {
        "parameters": [{"name": "w", "shape": [10, 10], "numel": 100}],
        "config": {"optimizers": [{"class": "SGD"}]},
    }
    scalars = {"loss": FALLING, "learning_rate": rates}
    run = open_run(make_run("slow", scalars=scalars, labelled={"gradient_rms": gradients}, meta=meta))
    (raised, *_) = advice_for(run)
    assert (raised.setting, raised.before, raised.after) == (
        "learning_rate",
        pytest.approx(peak),
        pytest.approx(3 * peak),
    )
    lowered = advice_for(run, found("diverging", "error"))[0]
    assert (lowered.before, lowered.after) == (pytest.approx(peak), pytest.approx(0.1 * peak))


def test_a_first_step_that_was_long_counts_and_those_after_a_divergence_do_not(make_run: MakeRun) -> None:
    for name, sizes in (("short", [0.5, 1e3, 1e6]), ("long", [5.0, 1e3, 1e6])):
        labelled = {"update_ratio": ("parameter", ["w"], [1, 3, 5], [[size] for size in sizes])}
        parameters = [{"name": "w", "shape": [4, 4], "numel": 16, "optimizer": "o", "module": ""}]
        scalars = {"loss": [1.0] * 60, "learning_rate": {1: 0.1}}
        path = make_run(name, scalars=scalars, labelled=labelled, meta={"parameters": parameters})
        for step in (1, 2):
            diverging = Finding("diverging", "error", 0.9, "it diverged", "mend it", step=step)
            assert advice_for(open_run(path), diverging)[0].after == pytest.approx(0.1 * 5e-3 / sizes[0])


@pytest.mark.parametrize("rate", [2.0, 100.0])
def test_the_rate_that_is_advised_after_a_blow_up_trains(rate: float, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(512, 20, generator=generator)
    targets = torch.sin(inputs @ (torch.randn(20, 1, generator=generator) / torch.arange(1, 21)[:, None]))

    def trained(rate: float, name: str) -> float:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(20, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        with separatrix.record(model, optimizer, run=tmp_path / name):
            for step in range(300):
                optimizer.zero_grad()
                chosen = slice(step * 16 % 512, step * 16 % 512 + 16)
                torch.nn.functional.mse_loss(model(inputs[chosen]), targets[chosen]).backward()
                optimizer.step()
        return float(torch.nn.functional.mse_loss(model(inputs), targets).detach())

    assert not trained(rate, "blown") < 1e3
    advised = next(a for a in advise(tmp_path / "blown").advice if a.setting == "learning_rate").after
    assert isinstance(advised, float) and 0.005 < advised < 0.1
    assert trained(advised, "advised") < 0.5 * float(targets.square().mean())


def test_a_healthy_constant_run_is_told_to_decay(run: Run) -> None:
    (advice,) = advice_for(run)
    assert (advice.setting, advice.before, advice.after, advice.finding) == ("schedule", "constant", "linear", "")
    ratio = best_base_rate(linear(200).values()).bound / best_base_rate(np.ones(200)).bound
    assert advice.expected is not None and advice.expected.after == pytest.approx(ratio)
    assert 0.3 < ratio < 1.0


def _annealed(make_run: MakeRun, low: float) -> Run:
    """A cosine to a share of its peak that follows the annealing law."""
    steps = 600
    rates = 0.01 * (low + (1 - low) * (1 + np.cos(np.pi * np.arange(steps) / steps)) / 2)
    truth: Mapping[str, float] = {"floor": 1.0, "scale": 0.8, "exponent": 0.5, "annealing": 1.0, "memory": 0.97}
    losses = LAWS["annealing"].value(truth, rates).tolist()
    changes = {step + 1: float(rate) for step, rate in enumerate(rates)}
    return open_run(make_run(f"low{low}", scalars={"loss": losses, "learning_rate": changes}))


def test_an_unfinished_decay_is_forecast(make_run: MakeRun) -> None:
    (advice,) = advice_for(_annealed(make_run, 0.5))
    assert advice.setting == "schedule" and advice.expected is not None
    assert advice.expected.quantity == "final loss" and advice.expected.before is not None
    assert advice.expected.after < 0.99 * advice.expected.before
    assert advice_for(_annealed(make_run, 0.0)) == ()


def test_batches_far_from_the_noise_scale(make_run: MakeRun) -> None:
    steps = range(1, 201)
    for size, scale, told in ((2, 256.0, True), (64, 256.0, False), (8192, 64.0, True)):
        path = make_run(
            f"noise{size}",
            scalars={
                "loss": FALLING,
                "batch_size": dict.fromkeys(steps, float(size)),
                "gradient_noise_scale": dict.fromkeys(steps, scale),
            },
        )
        settings = [advice.setting for advice in advice_for(open_run(path))]
        assert settings == (["batch_size"] if told else [])


def test_every_adviser_is_found_and_says_what_it_does() -> None:
    known = advisers()
    assert {"learning-rate", "batch-size", "schedule", "clipping", "weight-decay", "epsilon", "remedies"} <= set(known)
    assert all(isinstance(adviser, Adviser) and adviser.says for adviser in known.values())


def test_command(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    broken = [2.0, 2.5, 40.0, 1e6, math.inf, math.nan, math.nan, math.nan]
    path = make_run(scalars={"loss": broken, "learning_rate": {1: 0.5}})
    assert main(["advise", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["run"] == "run"
    assert {"action", "setting", "from", "to", "expected", "evidence", "source"} <= set(document["advice"][0])
    assert main(["advise", str(path)]) == 0
    assert capsys.readouterr().out.startswith("1. ")
    fine = make_run("fine", scalars={"loss": FALLING})
    assert main(["advise", str(fine)]) == 0
    assert capsys.readouterr().out == "nothing to change follows from this run\n"
    for name, losses, said in (
        ("empty", {}, "nothing was recorded in this run: train with torch under separatrix watch or record"),
        ("short", {"loss": FALLING[:20]}, "too little was recorded for advice: 20 finite losses, of which it takes 40"),
    ):
        short = make_run(name, scalars=losses)
        assert main(["advise", str(short)]) == 0
        assert " ".join(capsys.readouterr().out.split()) == said
        assert main(["advise", str(short), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"run": name, "advice": [], "note": said}
    assert main(["advise", "nowhere"]) == 2
