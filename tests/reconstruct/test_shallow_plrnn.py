"""The shallow network on maps that are piecewise linear themselves, so that all is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from tests.reconstruct.test_piecewise_linear import drawn

from separatrix.reconstruct import TrajectoryError, fit, trajectories
from separatrix.reconstruct.piecewise_linear import PiecewiseLinearMap, lyapunov_exponents
from separatrix.reconstruct.shallow_plrnn import least_squares_start

A, B = 1.7, 0.5
# Lozi's map x' = 1 - a |x| + y, y' = b x, with |x| = 2 max(x, 0) - x.
LOZI = PiecewiseLinearMap(
    np.array([[A, 1.0], [B, 0.0]]),
    np.array([[-2 * A], [0.0]]),
    np.array([[1.0, 0.0]]),
    np.zeros(1),
    np.array([1.0, 0.0]),
)


def lozi(samples: int) -> np.ndarray:
    return LOZI.orbit(np.array([[0.1, 0.1]]), samples + 100)[100:, 0]


def test_the_least_squares_start_solves_its_normal_equations() -> None:
    points = np.random.default_rng(0).standard_normal((400, 2))
    truth = drawn(2, 3)
    start = least_squares_start(points, truth.step(points), 30, seed=1)
    residual = truth.step(points) - start.step(points)
    units = np.maximum(points @ start.inward.T + start.threshold, 0.0)
    # What is left is orthogonal to the features, but for the ridge.
    assert np.abs(residual.T @ units).max() < 1e-3 * np.abs(truth.step(points)).max() * len(points)
    assert residual.std() < 0.2 * truth.step(points).std()


def test_the_lozi_map_is_recovered_with_its_exponents_fixed_points_and_cycles() -> None:
    points = lozi(3000)
    settings = {"hidden": 6, "sequence": 5, "batch": 64, "rate": 3e-2}
    before, after = (fit(points, "shallow-plrnn", dt=0.5, steps=steps, **settings) for steps in (0, 2000))
    fresh = lozi(4000)[3000:]
    errors = [float(np.abs(each.forecast(fresh[:-1, None], 1)[:, 0] - fresh[1:]).mean()) for each in (before, after)]
    assert errors[1] < 1e-4 < 1e-2 < errors[0]
    analysis = after.analyse()
    truth = lyapunov_exponents(LOZI, lozi(50), 4000, transient=100) / 0.5
    np.testing.assert_allclose(analysis.exponents, truth, atol=0.02)  # 32,000 steps whose logarithms spread by about 1
    assert analysis.codes["bounded_orbits"] == 1.0
    for point in (np.array([1.0, B]) / (1 + A - B), np.array([1.0, B]) / (1 - A - B)):
        assert min(np.abs(each.points[0] - point).max() for each in analysis.fixed_points) < 1e-3
    assert analysis.cycles
    for cycle in analysis.cycles:
        np.testing.assert_allclose(LOZI.step(cycle.points), np.roll(cycle.points, -1, axis=0), atol=1e-3)


@pytest.mark.parametrize("estimator", ["product", "maximum", "mean", "bound", "constant"])
def test_the_forcing_is_that_of_its_estimator(estimator: str) -> None:
    model = fit(
        lozi(500), "shallow-plrnn", dt=1.0, hidden=10, sequence=5, steps=1, estimator=estimator, forcing=0.3
    ).model
    forcing, system = model.codes["forcing"], model.map
    norms = np.linalg.norm(system.jacobian(system.pattern(model.states(lozi(500)))), 2, axis=(1, 2))
    if estimator == "constant":
        assert forcing == 0.3
    elif estimator == "bound":
        assert forcing > 1 - 1 / norms.max()
    else:
        assert 0 < forcing <= 1 - 1 / norms.max() + 0.02


def test_windows_longer_than_every_trajectory_are_refused() -> None:
    with pytest.raises(TrajectoryError, match=r"longest trajectory has 20 samples .* set sequence lower"):
        fit(trajectories([lozi(19), lozi(9)], 1.0), "shallow-plrnn", sequence=20)
    fit(trajectories([lozi(20), lozi(9)], 1.0), "shallow-plrnn", sequence=20, steps=1)
