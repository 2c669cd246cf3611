"""Per-example dynamics of runs: what is read back from disk is what the arrays say; probabilities of wrong labels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.analysis.synthetic import run_of

from separatrix.analysis.examples import (
    ExamplesError,
    Mislabeled,
    area_under_margin,
    data_map,
    forgetting,
    kinds,
    mislabeled,
    opposing_groups,
    reliability,
    run_area_under_margin,
    run_data_map,
    run_forgetting,
    run_kinds,
    run_mislabeled,
    run_opposing_groups,
    run_scores,
    trajectories,
)
from separatrix.analysis.examples.mislabeled import ANCHOR_SHARE
from separatrix.runs import Run, UnknownSeriesError
from separatrix.studies import _examples
from separatrix.tasks import GaussianMixture

STEPS = [10, 20, 30, 40]


def _recorded(path: Path, tables: dict[str, np.ndarray]) -> Run:
    vectors: Any = {
        name: ("example", {str(7 * index): column.tolist() for index, column in enumerate(table.T)})
        for name, table in tables.items()
    }
    return run_of(path, {}, vectors, steps=STEPS)


def _tables(seed: int, examples: int = 60) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    loss = generator.exponential(size=(4, examples)).astype(np.float32).astype(np.float64)
    loss[1, ::5] = math.nan
    correct = np.where(np.isnan(loss), math.nan, loss < 0.7)
    margin = np.where(np.isnan(loss), math.nan, 1.0 - loss).astype(np.float32).astype(np.float64)
    return {"example_loss": loss, "example_correct": correct, "example_margin": margin, "example_error_norm": loss / 8}


def test_what_is_read_from_a_run_is_what_the_arrays_say(tmp_path: Path) -> None:
    tables = _tables(0)
    run = _recorded(tmp_path / "run", tables)
    loss, correct, margin = (tables[f"example_{name}"] for name in ("loss", "correct", "margin"))
    np.testing.assert_array_equal(run_forgetting(run).events, forgetting(correct).events)
    np.testing.assert_allclose(run_area_under_margin(run), area_under_margin(margin), rtol=1e-6)
    np.testing.assert_allclose(run_area_under_margin(run, last_epoch=1), area_under_margin(margin[:2]), rtol=1e-6)
    mapped, expected = run_data_map(run), data_map(np.exp(-loss), correct)
    np.testing.assert_allclose(mapped.confidence, expected.confidence, rtol=1e-6)
    np.testing.assert_allclose(mapped.variability, expected.variability, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(run_scores(run, 2), loss[2] / 8, rtol=1e-6)
    found = run_mislabeled(run)
    np.testing.assert_allclose(found.probability, mislabeled(loss, margin).probability, rtol=1e-5)
    suites = {"low": np.arange(20), "high": np.arange(20, 40)}
    named = {suite: tuple(str(7 * index) for index in chosen) for suite, chosen in suites.items()}
    np.testing.assert_allclose(run_kinds(run, named, 5).probabilities, kinds(loss, suites, 5).probabilities)
    assert run_opposing_groups(run, 3, row=2).rising.tolist() == opposing_groups(loss, 3, row=2).rising.tolist()


def test_rows_are_those_of_the_epochs_and_examples_of_the_first_series(tmp_path: Path) -> None:
    tables = _tables(1)
    run = _recorded(tmp_path / "run", {**tables, "example_margin": tables["example_margin"][:, :50]})
    read = trajectories(run, "example_loss", "example_margin")
    assert (read.steps.tolist(), read.epochs.tolist()) == (STEPS, [0, 1, 2, 3])
    assert read.examples[:3] == ("0", "7", "14")
    np.testing.assert_allclose(read.values["example_margin"][:, :50], tables["example_margin"][:, :50], rtol=1e-6)
    assert np.isnan(read.values["example_margin"][:, 50:]).all()


def test_what_a_run_does_not_hold_is_named(tmp_path: Path) -> None:
    tables = _tables(2)
    run = _recorded(tmp_path / "run", {"example_loss": tables["example_loss"]})
    with pytest.raises(UnknownSeriesError, match="example_correct"):
        run_forgetting(run)
    with pytest.raises(ExamplesError, match="holds no example 'x'"):
        run_kinds(run, {"a": ("0", "x"), "b": ("7",)})
    with pytest.raises(ExamplesError, match="begins at epoch 0"):
        run_scores(run, -1, "example_loss")
    other = run_of(tmp_path / "other", {"loss": [1.0, 2.0]})
    with pytest.raises(ExamplesError, match="dimensions step: name one over step and example"):
        trajectories(other, "loss")


def _planted(share: float, separation: float, seed: int = 0) -> tuple[_examples.Watched, np.ndarray]:
    torch.set_num_threads(1)
    inputs, targets = GaussianMixture(classes=4, separation=separation).sample(1200, seed)
    labels, wrong = _examples.flipped(targets, share, 4, torch.Generator().manual_seed(seed))
    build = _examples.perceptron(20, 64, 4)
    return _examples.watch(build, inputs, labels[None], epochs=12, batch=32, rate=0.02, seed=seed), wrong


@pytest.mark.parametrize(("share", "separation"), [(0.05, 6.0), (0.2, 4.0), (0.4, 5.0)])
def test_probabilities_of_planted_wrong_labels_are_calibrated(share: float, separation: float) -> None:
    watched, wrong = _planted(share, separation)
    found = mislabeled(watched.losses(0), watched.margins(0))
    check = reliability(found.probability, wrong)
    anchors = round(ANCHOR_SHARE * len(wrong))
    assert found.noise_rate == pytest.approx(
        share, abs=3 * math.sqrt(share * (1 - share) / anchors)
    )  # 3 standard errors
    assert found.probability.mean() == pytest.approx(found.noise_rate, rel=1e-6)
    assert check.error < 0.06
    assert check.brier < 0.5 * check.brier_of_base_rate
    suspected = found.suspected()
    assert wrong[suspected].mean() > 0.8
    assert (np.diff(found.probability[suspected]) <= 0).all()
    other = reliability(found.probability, np.random.default_rng(0).permutation(wrong))
    assert other.brier > other.brier_of_base_rate


@pytest.mark.parametrize(("disagreeing", "anchors"), [(1, 40), (13, 390), (30, 60)])
def test_the_least_noise_rate_is_a_quantile_of_jeffreys_posterior(disagreeing: int, anchors: int) -> None:
    found = Mislabeled(0.0, np.empty(0), anchors, disagreeing)
    rates = (np.arange(1_000_000) + 0.5) / 1e6
    logs = (disagreeing - 0.5) * np.log(rates) + (anchors - disagreeing - 0.5) * np.log1p(-rates)
    mass = np.cumsum(np.exp(logs - logs.max()))
    for level in (0.99, 0.5):
        expected = rates[np.searchsorted(mass, (1 - level) * mass[-1])]
        assert found.at_least(level) == pytest.approx(expected, abs=2e-5)


def test_clean_labels_are_not_suspected() -> None:
    watched, _ = _planted(0.0, 6.0)
    found = mislabeled(watched.losses(0), watched.margins(0))
    assert found.noise_rate < 0.005
    assert len(found.suspected()) < 6


def test_probabilities_bear_unseen_examples_and_a_training_without_difference() -> None:
    watched, _ = _planted(0.2, 5.0)
    losses, edges = watched.losses(0), watched.margins(0)
    losses[:, 3], edges[:, 3] = math.nan, math.nan
    losses[:9, 4], edges[:9, 4] = math.nan, math.nan
    found = mislabeled(losses, edges).probability
    assert math.isnan(found[3])
    assert not np.isnan(np.delete(found, 3)).any()
    flat = mislabeled(np.full((3, 20), 0.1), np.full((3, 20), 2.0))
    np.testing.assert_allclose(flat.probability, flat.noise_rate, rtol=1e-9)
    with pytest.raises(ExamplesError, match="give both"):
        mislabeled(losses, edges[:2])
    with pytest.raises(ExamplesError, match="no example was seen"):
        mislabeled(losses * math.nan, edges * math.nan)


def test_reliability_follows_its_definition() -> None:
    generator = np.random.default_rng(3)
    chance = generator.random(500)
    wrong = generator.random(500) < chance**2
    check = reliability(np.append(chance, math.nan), np.append(wrong, True), bins=5)
    total = 0.0
    for low in np.arange(0.0, 1.0, 0.2):
        inside = (chance >= low) & (chance < low + 0.2)
        total += abs(chance[inside].mean() - wrong[inside].mean()) * inside.sum() / 500
    assert check.error == pytest.approx(total, rel=1e-9)
    assert check.brier == pytest.approx(((chance - wrong) ** 2).mean())
    assert check.brier_of_base_rate == pytest.approx(wrong.mean() * (1 - wrong.mean()))
    assert check.counts.sum() == 500
    exact = reliability(wrong.astype(float), wrong)
    assert (exact.error, exact.brier) == (0.0, 0.0)
    with pytest.raises(ExamplesError, match="one for each"):
        reliability(chance, wrong[:2])
    with pytest.raises(ExamplesError, match="all in"):
        reliability(chance + 1, wrong)
