"""Sweeps of learning rates over sizes, on losses whose best rates are known."""

from __future__ import annotations

import numpy as np
import pytest

from separatrix.steer import SteerError, judge_transfer, transfer_sweep

RATES = tuple(2.0**power for power in range(-8, 1))
SIZES = (16, 64, 256)


def valley(power: float, start: float = -4.0) -> object:
    """A loss whose best log2 rate moves as `power` times that of the size, and which breaks 4 octaves above."""

    def train(size: int, rate: float, seed: int) -> float:
        best = start + power * np.log2(size / SIZES[0])
        away = np.log2(rate) - best
        return float("nan") if away > 4 else 1.0 + 0.1 * away**2 + 0.001 * seed

    return train


@pytest.mark.parametrize(
    ("power", "drift", "verdict"),
    [
        (0.0, 0, "transfers"),
        (0.2, 1, "transfers"),
        (-0.5, -2, "drifts by -2 grid steps"),
        (-1.0, -4, "drifts by -4 grid steps; the best rate of size 256 is at the end of the grid: widen it"),
    ],
)
def test_planted_drifts_are_found(power: float, drift: int, verdict: str) -> None:
    found = transfer_sweep(valley(power), SIZES, RATES)  # type: ignore[arg-type]
    assert (found.drift, found.verdict) == (drift, verdict)
    assert found.transfers == verdict.startswith("transfers")
    assert found.losses.shape == (3, 9, 2)
    if power > -1:
        assert found.slope == pytest.approx(power, abs=1e-9)
        expected = [-4 + power * step for step in (0, 2, 4)]
        assert found.optima == pytest.approx(expected, abs=1e-9)
        assert found.cost[0] == 0
        assert found.cost[2] == pytest.approx(0.1 * ((4 * power) ** 2 - (4 * power - drift) ** 2), abs=1e-3)


def test_a_rate_that_breaks_one_seed_is_not_the_best() -> None:
    losses = np.ones((2, 4, 2))
    losses[:, 1] = 0.5
    losses[1, 1, 0] = np.nan
    losses[1, 2] = 0.9
    assert judge_transfer((8, 16), RATES[:4], losses).best == (1, 2)


@pytest.mark.parametrize(
    ("sizes", "rates", "losses", "message"),
    [
        ((8,), RATES[:3], np.ones((1, 3, 1)), "two sizes or more"),
        ((8, 16), RATES[:2], np.ones((2, 2, 1)), "three rates or more"),
        ((8, 16), RATES[:3], np.ones((2, 3, 0)), "and a seed"),
        ((8, 16), (0.1, 0.2, 0.3), np.ones((2, 3, 1)), "must rise by one factor"),
        ((8, 16), RATES[:3][::-1], np.ones((2, 3, 1)), "must rise by one factor"),
        ((8, 16), RATES[:3], np.full((2, 3, 1), np.nan), "at size 8 no rate gives a finite loss"),
    ],
)
def test_bad_input_is_refused(
    sizes: tuple[int, ...], rates: tuple[float, ...], losses: np.ndarray, message: str
) -> None:
    with pytest.raises(SteerError, match=message):
        judge_transfer(sizes, rates, losses)
