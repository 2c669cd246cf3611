"""Scaling laws against planted ones and against the closed forms of the best size."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from tests.conftest import MakeRun

from separatrix.analysis.forecasting import ScalingLaw, Training, fit_scaling, isoflop, scaling_intervals, trainings_of
from separatrix.analysis.forecasting.scaling import scaling_as_json
from separatrix.runs import open_run
from separatrix.runs.errors import UsageError

CHINCHILLA = ScalingLaw(1.69, 406.4, 0.34, 410.7, 0.28, np.empty(0))


def grid(noise: float = 0.0, seed: int = 0) -> list[Training]:
    random = np.random.default_rng(seed)
    return [
        Training(n, d, CHINCHILLA.loss(n, d) * math.exp(noise * random.standard_normal()))
        for n in np.geomspace(1e8, 1e10, 5)
        for d in np.geomspace(1e9, 1e11, 5)
    ]


def test_fit_finds_a_planted_law() -> None:
    assert fit_scaling(grid()).constants == pytest.approx(CHINCHILLA.constants, rel=1e-4)


def test_the_best_size_is_a_minimum_and_grows_as_the_share_says() -> None:
    flops = 1e21
    size, data = CHINCHILLA.best(flops)
    assert 6 * size * data == pytest.approx(flops)
    assert all(
        CHINCHILLA.loss(size, data) < CHINCHILLA.loss(size * factor, data / factor) for factor in (0.9, 0.99, 1.01, 1.1)
    )
    assert math.log(CHINCHILLA.best(100 * flops)[0] / size) / math.log(100) == pytest.approx(CHINCHILLA.share)


def test_intervals_hold_the_share_as_often_as_they_say() -> None:
    """Nominal 60 % over 20 sets of trainings: the bounds are a binomial's, at 1 in 500 on both sides."""
    hits = 0
    for seed in range(20):
        trainings = grid(2e-3, seed)
        law = fit_scaling(trainings)
        found = scaling_intervals(law, trainings, level=0.6, draws=25, seed=seed)
        low, high = found["share"]
        hits += low <= CHINCHILLA.share <= high
    assert 5 <= hits <= 19
    document = scaling_as_json(law, found)
    assert document["share"] == {"value": law.share, "interval": [low, high]}


def test_isoflop_finds_the_minima_of_planted_losses() -> None:
    """Losses that are parabolas of log size about the best one, which grows as the root of compute."""
    trainings = []
    for flops in (1e18, 1e19, 1e20):
        best = math.sqrt(flops) / 50
        trainings += [
            Training(best * f, flops / 6 / best / f, 2.0 + 0.1 * math.log(f) ** 2 + 1e18 / flops)
            for f in (0.25, 0.5, 1.1, 2.0, 3.0)
        ]
    found, exponent = isoflop(trainings)
    assert exponent == pytest.approx(0.5)
    assert [each.parameters for each in found] == pytest.approx([math.sqrt(f) / 50 for f in (1e18, 1e19, 1e20)])
    assert [each.loss for each in found] == pytest.approx([3.0, 2.1, 2.01])
    assert all(each.inside and 6 * each.parameters * each.data == pytest.approx(each.flops) for each in found)
    assert isoflop(trainings[:5])[0] and math.isnan(isoflop(trainings[:5])[1])
    assert isoflop([dataclasses.replace(t, loss=5 - t.loss) for t in trainings])[0] == ()


def test_runs_become_trainings_with_either_accounting(make_run: MakeRun) -> None:
    parameters = [
        {"name": "embed.weight", "module": "embed", "shape": [100, 8], "numel": 800, "optimizer": "opt"},
        {"name": "head.weight", "module": "head", "shape": [8, 100], "numel": 50, "optimizer": "opt"},
        {"name": "frozen.weight", "module": "frozen", "shape": [8, 8], "numel": 64, "optimizer": ""},
    ]
    modules = [{"name": "embed", "kind": "Embedding"}, {"name": "head", "kind": "Linear"}]
    path = make_run(
        scalars={
            "loss": [2.0 + 1.0 / step for step in range(1, 101)],
            "learning_rate": {1: 0.1},
            "batch_size": dict.fromkeys(range(1, 101), 16.0),
        },
        meta={"parameters": parameters, "modules": modules},
    )
    (whole,) = trainings_of([open_run(path)])
    assert (whole.parameters, whole.data, whole.flops) == (850, 1600, 6 * 850 * 1600)
    assert whole.loss == pytest.approx(2.01, abs=1e-3)
    (inner,) = trainings_of([open_run(path)], accounting="inner", per_example=32.0)
    assert (inner.parameters, inner.data) == (50, 51200)
    bad: Any = "some"
    with pytest.raises(UsageError, match="choose all or inner"):
        trainings_of([open_run(path)], accounting=bad)


def test_bad_trainings_are_refused() -> None:
    with pytest.raises(UsageError, match="positive"):
        Training(0, 1, 1)
    with pytest.raises(UsageError, match="at least 5"):
        fit_scaling(grid()[:4])
    with pytest.raises(UsageError, match="two or more of each"):
        fit_scaling([Training(1e8, d, 1.0) for d in range(1, 7)])
    with pytest.raises(UsageError, match="no probability"):
        scaling_intervals(CHINCHILLA, grid(), level=0.0)
