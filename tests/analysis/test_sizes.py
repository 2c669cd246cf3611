"""The loss of a large model from small ones, against planted laws."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from separatrix.analysis.forecasting import SizeLaw, Training, fit_sizes, size_interval
from separatrix.runs.errors import UsageError

PLANTED = SizeLaw(1.7, 12.0, 0.4, np.empty(0))
SIZES = (8e3, 1.7e4, 2.8e4, 1.1e5)


def trainings(noise: float = 0.0, starts: int = 1, seed: int = 0) -> list[Training]:
    random = np.random.default_rng(seed)
    return [
        Training(size, 1e6, PLANTED.loss(size) * math.exp(noise * random.standard_normal()))
        for size in SIZES
        for _ in range(starts)
    ]


def test_fit_finds_a_planted_law() -> None:
    law = fit_sizes(trainings())
    assert (law.floor, law.scale, law.exponent) == pytest.approx((1.7, 12.0, 0.4), rel=1e-4)
    assert np.abs(law.residuals).max() < 1e-6
    assert law.loss(1e7) == pytest.approx(1.7 + 12.0 * 1e7**-0.4, rel=1e-4)


def test_one_start_gone_wrong_moves_the_forecast_little() -> None:
    good = trainings(2e-3, 6)
    wrong = [dataclasses.replace(good[0], loss=1.3 * good[0].loss), *good[1:]]
    assert fit_sizes(wrong).loss(1e6) == pytest.approx(fit_sizes(good).loss(1e6), rel=0.01)


def test_intervals_hold_the_planted_loss_as_often_as_they_say() -> None:
    """Nominal 60 % over 20 sets of trainings: the bounds are a binomial's, at 1 in 500 on both sides."""
    hits = 0
    for seed in range(20):
        some = trainings(5e-3, 6, seed)
        low, high = size_interval(fit_sizes(some), some, 1e6, level=0.6, draws=40, seed=seed)
        hits += low <= PLANTED.loss(1e6) <= high
    assert 5 <= hits <= 19


def test_trainings_that_tell_no_law_of_the_size_are_refused() -> None:
    with pytest.raises(UsageError, match="2 sizes fit no law of the size: give at least 3 sizes"):
        fit_sizes(trainings()[:2])
    longer = dataclasses.replace(trainings()[0], data=2e6)
    with pytest.raises(UsageError, match=r"saw from 1e\+06 to 2e\+06 data.*use fit_scaling"):
        fit_sizes([*trainings(), longer])
    with pytest.raises(UsageError, match="no probability"):
        size_interval(PLANTED, trainings(), 1e6, level=1.0)
    with pytest.raises(UsageError, match="one training of 8000 parameters shows no scatter"):
        size_interval(PLANTED, trainings(), 1e6)
