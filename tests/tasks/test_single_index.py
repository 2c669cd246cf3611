"""Single-index polynomials: orthonormal links, moments as derived, and knobs that are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from separatrix.tasks import SingleIndex, TaskError
from separatrix.tasks.single_index import hermite


def test_the_links_are_orthonormal_under_a_normal_variable() -> None:
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    values = torch.stack([hermite(torch.tensor(nodes), degree) for degree in range(7)]).numpy()
    gram = (values * weights / math.sqrt(2 * math.pi)) @ values.T
    np.testing.assert_allclose(gram, np.eye(7), atol=1e-12)
    np.testing.assert_allclose(values[3], (nodes**3 - 3 * nodes) / math.sqrt(6), atol=1e-10)


def test_moments_and_power_are_those_of_a_large_sample() -> None:
    task = SingleIndex(dimension=3, coefficients=(0.3, -0.5, 0.7, 0.4), dtype=torch.float64)
    x, y = task.sample(400_000, 1)
    constant, slope, bend = task.moments
    assert float(y.mean()) == pytest.approx(constant, abs=0.01)
    torch.testing.assert_close((x * y[:, None]).mean(0), slope, rtol=0, atol=0.01)
    found = (x.T * y) @ x / len(x) - y.mean() * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(found / 2, bend, rtol=0, atol=0.015)
    assert float(y.square().mean()) == pytest.approx(task.power, rel=0.02)
    assert task.information_exponent == 1 and SingleIndex().information_exponent == 2


def test_the_default_is_half_the_square_of_one_direction() -> None:
    task = SingleIndex(dimension=5, dtype=torch.float64)
    x, y = task.sample(20, 0)
    torch.testing.assert_close(y, (x @ task.direction).square() / 2)


@pytest.mark.parametrize("coefficients", [(1.0,), (1.0, 0.0), (0.0, math.nan), [0.0, 1.0]])
def test_a_link_without_a_direction_is_refused(coefficients: tuple[float, ...]) -> None:
    with pytest.raises(TaskError, match="coefficients"):
        SingleIndex(coefficients=coefficients)
