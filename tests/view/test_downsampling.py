from __future__ import annotations

import numpy as np
import pytest

from separatrix.view.downsampling import downsampled, pictured


def _shown(line):
    return {(float(step), float(value)) for step, value in zip(line.steps, line.values, strict=True)}


@pytest.mark.parametrize("seed", range(5))
def test_every_bucket_keeps_its_lowest_and_highest_value(seed):
    random = np.random.default_rng(seed)
    steps = np.sort(random.choice(10**7, 50_000, replace=False))
    values = random.standard_cauchy(50_000)
    line = downsampled(steps, values, 400)
    assert len(line.steps) <= 400
    assert np.all(np.diff(line.steps) > 0)
    shown = _shown(line)
    assert shown <= {(float(s), float(v)) for s, v in zip(steps, values, strict=True)}
    # An independent reduction: the extremes of ten stretches, each much wider than a bucket, must all be there.
    for stretch in np.array_split(np.arange(50_000), 10)[1:-1]:
        inner = values[stretch]
        for extreme in (inner.min(), inner.max()):
            assert extreme in line.values
    assert {line.values[0], line.values[-1]} == {values[0], values[-1]}


def test_a_single_spike_in_a_million_points_survives():
    values = np.zeros(1_000_000)
    values[617_283] = 1e-3
    line = downsampled(np.arange(1_000_000), values, 2000)
    assert (617_283.0, 1e-3) in _shown(line)
    assert len(line.steps) <= 2000
    assert line.total == 1_000_000


def test_short_series_are_left_as_they_are():
    steps, values = np.arange(100) * 3, np.random.default_rng(0).standard_normal(100)
    line = downsampled(steps, values, 100)
    np.testing.assert_array_equal(line.steps, steps)
    np.testing.assert_array_equal(line.values, values)
    assert line.gaps == ()


@pytest.mark.parametrize("amount", [10, 100_000])
def test_non_finite_stretches_break_the_line_and_are_told(amount):
    values = np.ones(amount)
    middle = amount // 2
    values[middle : middle + 3] = np.nan
    values[-1] = np.inf
    line = downsampled(np.arange(amount), values, 1000)
    assert [(gap.first, gap.last, gap.count) for gap in line.gaps] == [
        (middle, middle + 2, 3),
        (amount - 1, amount - 1, 1),
    ]
    assert np.isnan(line.gaps[0].value)
    assert line.gaps[1].value == np.inf
    breaks = line.steps[np.isnan(line.values)]
    np.testing.assert_array_equal(breaks, [middle, amount - 1])


def test_very_many_gaps_are_joined_without_losing_count():
    values = np.arange(100_000.0)
    values[::2] = np.nan
    line = downsampled(np.arange(100_000), values, 1000)
    assert sum(gap.count for gap in line.gaps) == 50_000
    assert len(line.gaps) <= 500
    assert line.gaps[0].first == 0
    assert line.gaps[-1].last == 99_998


@pytest.mark.parametrize("values", [[], [np.nan], [np.inf, np.nan], [1.0]])
def test_degenerate_series(values):
    line = downsampled(np.arange(len(values)), np.array(values), 100)
    assert line.total == len(values)
    assert np.isfinite(line.values).sum() == np.isfinite(values).sum()
    assert sum(gap.count for gap in line.gaps) == len(values) - np.isfinite(values).sum()


def _names(*counts):
    return tuple(f"blocks.{i}.layer{j}.weight" for i in range(counts[0]) for j in range(counts[1]))


def test_cells_carry_the_last_measured_value_forward_but_not_backward():
    values = np.full((4, 3), np.nan)
    values[0, 0], values[1, 1], values[2, 2], values[3, 0] = 1.0, 2.0, 3.0, 4.0
    cells = pictured(np.array([0, 10, 20, 30]), values, ("a", "b", "c"), rows=10, columns=10, logarithmic=True)
    nan = np.nan
    np.testing.assert_array_equal(cells.values, [[1, 1, 1, 4], [nan, 2, 2, 2], [nan, nan, 3, 3]])
    np.testing.assert_array_equal(cells.edges, [0, 10, 20, 30, 40])


def test_a_shared_cell_shows_the_member_farthest_from_the_rows_median():
    values = np.ones((1000, 40)) * 10.0 ** -np.arange(40)
    values[317, 5] = 1e3
    values[713, 9] = 1e-30
    values[900, 20] = 0.0
    values[950, 30] = np.inf
    cells = pictured(np.arange(1000), values, _names(4, 10), rows=8, columns=10, logarithmic=True)
    assert len(cells.labels) <= 8
    assert sum(cells.members) == 40
    assert cells.values.shape == (len(cells.labels), 10)
    for extreme, column in ((1e3, 3), (1e-30, 7), (0.0, 9), (np.inf, 9)):
        assert extreme in cells.values[:, column]


def test_thousands_of_labels_are_grouped_by_prefix_in_their_order():
    values = np.ones((3, 2400))
    cells = pictured(np.arange(3), values, _names(60, 40), rows=120, columns=10, logarithmic=False)
    assert cells.labels == tuple(f"blocks.{i} (40 together)" for i in range(60))
    assert cells.members == (40,) * 60


def test_labels_without_prefixes_are_grouped_in_blocks():
    names = tuple(f"w{i}" for i in range(1001))
    cells = pictured(np.arange(2), np.ones((2, 1001)), names, rows=100, columns=10, logarithmic=False)
    assert len(cells.labels) == 100
    assert sum(cells.members) == 1001
    assert cells.labels[0].startswith("w0 to w")


def test_one_step_has_an_extent():
    cells = pictured(np.array([7]), np.array([[0.5, 0.25]]), ("a", "b"), rows=5, columns=5, logarithmic=False)
    np.testing.assert_array_equal(cells.edges, [7, 8])
    np.testing.assert_array_equal(cells.values, [[0.5], [0.25]])
