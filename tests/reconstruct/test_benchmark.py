"""The benchmark of forecasters: known ranks and tests, resumable trials, models that must win or fail."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from separatrix.reconstruct.benchmark import Outcome, Trial, ranking, run_trial, run_trials
from separatrix.reconstruct.benchmark.ranking import critical_difference
from separatrix.runs.errors import UsageError
from separatrix.systems import Trajectory, simulate


def test_friedman_is_scipys_and_ranks_are_counted() -> None:
    scores = np.random.default_rng(0).normal(size=(12, 4)) + np.array([0.0, 0.5, 1.0, 2.0])
    found = ranking(list("abcd"), scores)
    assert found.order == ("d", "c", "b", "a")
    assert math.isclose(found.chance, scipy.stats.friedmanchisquare(*scores.T).pvalue, rel_tol=1e-12)
    by_hand = np.mean([[sum(other >= one for other in row) for one in row] for row in scores], axis=0)
    assert np.allclose(found.ranks, by_hand)
    tied = np.round(scores)
    assert math.isclose(ranking(list("abcd"), tied).chance, scipy.stats.friedmanchisquare(*tied.T).pvalue, rel_tol=1e-9)


def test_the_critical_difference_is_the_published_one() -> None:
    # Demšar 2006, table 5(a): q_0.05 = 2.569 for four and 2.728 for five; his example of four on 14 data sets: 1.25.
    assert abs(critical_difference(4, 14) - 1.25) < 0.005
    assert abs(critical_difference(5, 30) / math.sqrt(5 * 6 / 180) - 2.728) < 1e-3


def test_groups_hold_what_cannot_be_told_apart() -> None:
    noise = np.random.default_rng(1).normal(size=(30, 4)) * [0.5, 0.5, 0.1, 0.1]
    scores = np.tile([3.0, 2.9, 1.0, 0.0], (30, 1)) + noise
    found = ranking(list("abcd"), scores)
    assert found.groups[0] == tuple(sorted("ab", key=found.order.index))
    assert all(len(group) == 2 for group in found.groups)
    assert len(ranking(["a", "b", "c"], np.ones((5, 3))).groups) == 1


@pytest.mark.parametrize("scores", [np.ones((1, 2)), np.ones((4, 3)), np.full((4, 2), np.nan)])
def test_scores_that_cannot_be_ranked(scores: np.ndarray) -> None:
    with pytest.raises(UsageError):
        ranking(["a", "b"], scores)


def test_polynomials_forecast_lorenz_and_lines_do_not() -> None:
    trials = [Trial("Lorenz", model, starts=5) for model in ("ndvar", "var")]
    nonlinear, linear = (run_trial(trial) for trial in trials)
    assert nonlinear.failure == linear.failure == ""
    assert nonlinear.valid_time > 3.0 > 1.5 > linear.valid_time
    assert nonlinear.low <= nonlinear.valid_time <= nonlinear.high
    assert nonlinear.smape < linear.smape
    assert nonlinear.divergence < linear.divergence
    assert 0.0 <= nonlinear.spectrum_distance < linear.spectrum_distance <= 1.0


def test_models_are_compared_on_the_same_trajectories(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated: list[int] = []

    def counted(*given: Any, **chosen: Any) -> Trajectory:
        simulated.append(chosen["seed"])
        return simulate(*given, **chosen)

    monkeypatch.setattr("separatrix.reconstruct.benchmark.trial.simulate", counted)
    alone = run_trial(Trial("Rossler", "ndvar", seed=7, points=300, starts=3))
    after = [run_trial(Trial("Rossler", model, seed=7, points=300, starts=3)) for model in ("var", "ndvar")][1]
    assert simulated == [14, 15]
    assert dataclasses.replace(after, seconds=alone.seconds) == alone


def test_more_noise_is_worse() -> None:
    clean, noisy = (run_trial(Trial("Lorenz", "ndvar", starts=5, noise=noise)) for noise in (0.0, 0.05))
    assert clean.valid_time > 2 * noisy.valid_time


def test_trials_are_kept_and_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def fake(trial: Trial) -> Outcome:
        ran.append(trial.key)
        return Outcome(valid_time=float(len(ran)), divergence=math.inf)

    monkeypatch.setattr("separatrix.reconstruct.benchmark.running.run_trial", fake)
    trials = [Trial(system, "var") for system in ("Lorenz", "Rossler")]
    kept = tmp_path / "deep" / "trials.jsonl"
    first = run_trials(trials[:1], kept)
    with kept.open("a") as file:
        file.write('{"trial": "Ross')  # cut off by a kill
    both = run_trials(trials, kept)
    assert [trial.split("/")[0] for trial in ran] == ["Lorenz", "Rossler"]
    assert both[0] == first[0] and math.isinf(both[0].divergence)
    assert json.loads(kept.read_text().splitlines()[0])["divergence"] is None
    again = run_trials(trials, kept)
    assert len(ran) == 2 and again == both


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trials.jsonl").write_text("hello\nworld\n")
    with pytest.raises(UsageError, match="line 1"):
        run_trials([Trial("Lorenz", "var")], tmp_path / "trials.jsonl")
