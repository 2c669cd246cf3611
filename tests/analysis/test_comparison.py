"""Runs part where the truth that was planted says so, and not where only their noise differs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tests.analysis.synthetic import run_of

from separatrix.analysis.comparison import Parting, parting, partings
from separatrix.runs import SeriesData


def series(values: np.ndarray, steps: np.ndarray | None = None, name: str = "loss", **coords: tuple[str, ...]):
    values = np.asarray(values, dtype=np.float64)
    steps = np.arange(len(values)) if steps is None else steps
    return SeriesData(name, steps, values, np.broadcast_to(True, values.shape), coords)


def falling(steps: int) -> np.ndarray:
    return 2.0 / (1.0 + 0.02 * np.arange(steps))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("at", "gap"), [(300, 0.35), (700, 0.5), (0, 0.35)])
def test_a_planted_gap_is_found_where_it_begins(seed: int, at: int, gap: float) -> None:
    draw = np.random.default_rng(seed)
    steps = 1000
    a, b = (falling(steps) + 0.1 * draw.standard_normal(steps) for _ in range(2))
    b[at:] += gap
    found = parting(series(a), series(b))
    assert found is not None
    assert found.parts_at is not None
    assert abs(found.parts_at - at) <= 15
    assert found.differs_at == 0
    assert found.equal_until is None
    assert (found.first, found.second) == (a[found.parts_at], b[found.parts_at])


def test_noise_alone_parts_no_runs() -> None:
    """Independent noise, noise that shrinks with the loss, and slow wandering, in 60 pairs of runs."""
    parted = 0
    for seed in range(20):
        draw = np.random.default_rng(seed)
        level = falling(600)
        slow = [np.convolve(draw.standard_normal(700), np.full(20, 0.05), "valid")[:600] for _ in range(2)]
        pairs = (
            [level + 0.2 * draw.standard_normal(600) for _ in range(2)],
            [level * (1 + 0.2 * draw.standard_normal(600)) for _ in range(2)],
            [level + 0.3 * wander for wander in slow],
        )
        for a, b in pairs:
            found = parting(series(a), series(b))
            assert found is not None
            parted += found.parts_at is not None
    assert parted <= 1


def test_an_equal_prefix_is_told_exactly() -> None:
    a = falling(200)
    b = a.copy()
    b[50] = np.nextafter(b[50], 2.0)
    found = parting(series(a), series(b))
    assert found is not None
    assert (found.equal_until, found.differs_at, found.parts_at) == (49, 50, None)
    same = parting(series(a), series(a.copy()))
    assert same is not None
    assert (same.equal_until, same.differs_at, same.parts_at, same.excess) == (199, None, None, 0.0)
    assert math.isnan(same.first)


def test_nan_equals_nan_and_a_run_that_breaks_parts() -> None:
    a = falling(100)
    b = a.copy()
    a[3] = b[3] = np.nan
    b[60:] = np.inf
    found = parting(series(a), series(b))
    assert found is not None
    assert (found.equal_until, found.differs_at, found.parts_at) == (59, 60, 60)


def test_smooth_curves_without_noise_part_where_they_split() -> None:
    steps = np.arange(400)
    a = np.exp(-steps / 100)
    b = np.where(steps < 250, a, a[250] * np.exp(-(steps - 250) / 50))
    found = parting(series(a), series(b))
    assert found is not None
    assert found.differs_at == 251
    assert found.parts_at is not None
    assert 251 <= found.parts_at <= 260


def test_steps_that_only_one_run_holds_are_left_out() -> None:
    found = parting(series(falling(50), np.arange(0, 100, 2)), series(falling(34), np.arange(0, 102, 3)))
    assert found is not None
    assert found.steps == 17
    assert parting(series(falling(5), np.arange(5)), series(falling(5), np.arange(5, 10))) is None


def test_the_label_that_parts_first_is_named() -> None:
    draw = np.random.default_rng(0)
    a = 1.0 + 0.01 * draw.standard_normal((300, 3))
    b = 1.0 + 0.01 * draw.standard_normal((300, 3))
    b[100:, 1] += 0.1
    b[200:, 2] += 0.5
    labels = ("w", "v", "u")
    found = parting(series(a, parameter=labels), series(b, parameter=labels))
    assert found is not None
    assert found.label == "v"
    assert abs(found.parts_at - 100) <= 5
    turned = parting(series(a, parameter=labels), series(b[:, ::-1], parameter=labels[::-1]))
    assert turned == found
    assert parting(series(a, parameter=labels), series(b, module=labels)) is None


def test_a_rate_recorded_when_it_changes_parts_where_it_differs() -> None:
    a = series([0.1, 0.05], np.array([0, 80]), name="learning_rate")
    b = series([0.1, 0.01], np.array([0, 50]), name="learning_rate")
    found = parting(a, b)
    assert found is not None
    assert (found.parts_at, found.first, found.second, found.equal_until) == (50, 0.1, 0.01, 0)


def test_series_are_ranked_by_when_they_part(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    base = {name: 1.0 + 0.05 * draw.standard_normal(400) for name in ("loss", "gradient_norm", "eval_loss")}
    other = {name: values.copy() for name, values in base.items()}
    other["gradient_norm"][100:] += 1.0
    other["loss"][200:] += 1.0
    clocks = {"step_seconds": draw.random(400), "memory_bytes": draw.random(400)}
    first = run_of(tmp_path / "a", {**base, **clocks})
    second = run_of(
        tmp_path / "b", {**other, "step_seconds": draw.random(400), "memory_bytes": draw.random(400), "own": [1.0]}
    )
    with first, second:
        found = partings(first, second)
    assert [each.series for each in found] == ["gradient_norm", "loss", "eval_loss"]
    assert [each.parts_at for each in found] == [100, 200, None]
    json.dumps([each.to_dict() for each in found], allow_nan=False)
    assert found[2].to_dict()["first"] is None


def test_few_values_are_compared_exactly_only() -> None:
    found = parting(series([1.0, 2.0, 3.0]), series([1.0, 2.0, 9.0]))
    assert found is not None
    assert isinstance(found, Parting)
    assert (found.differs_at, found.parts_at) == (2, None)
    assert math.isnan(found.excess)
