"""Neural differential equations on systems that are known, and their derivatives against finite differences."""

from __future__ import annotations

import math

import numpy as np
import torch

from separatrix.reconstruct import Trajectories, fit, trajectories
from separatrix.reconstruct.neural_ode import Network

ROOT = math.sqrt(2) / 2


def brusselator(samples: int, dt: float = 0.05) -> Trajectories:
    """x' = 1 - 2.5 x + x^2 y / 2, y' = 1.5 x - x^2 y / 2: a fixed point at (1, 3), just about to turn unstable."""

    def rates(state: np.ndarray) -> np.ndarray:
        x, y = state[..., 0], state[..., 1]
        return np.stack([1 - 2.5 * x + x * x * y / 2, 1.5 * x - x * x * y / 2], -1)

    state = np.random.default_rng(0).uniform([0.4, 1.5], [2.0, 4.5], (30, 2))
    states, small = [state], dt / 10
    for _ in range(samples):
        for _ in range(10):
            one = rates(state)
            two = rates(state + small / 2 * one)
            three = rates(state + small / 2 * two)
            state = state + small / 6 * (one + 2 * two + 2 * three + rates(state + small * three))
        states.append(state)
    return trajectories(np.array(states).swapaxes(0, 1), dt)


def test_the_networks_jacobian_is_that_of_autograd() -> None:
    network = Network.drawn(3, 7, torch.Generator().manual_seed(0))
    points = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([torch.autograd.functional.jacobian(network, point) for point in points])
    torch.testing.assert_close(network.jacobian(points), expected)


def test_a_right_hand_side_is_recovered_with_its_fixed_point() -> None:
    data = brusselator(80)
    model = fit(data, "neural-ode", hidden=32, matching=4000, steps=50, batch=32, sequence=4, rate=1e-2)
    points = data.points[::7]
    x, y = points.T
    truth = np.stack([1 - 2.5 * x + x * x * y / 2, 1.5 * x - x * x * y / 2], -1)
    error = np.abs(model.model.field(points) - truth).mean() / np.abs(truth).mean()
    assert error < 0.05
    (focus,) = [each for each in model.analyse().fixed_points if np.abs(each.points[0] - [1.0, 3.0]).max() < 0.1]
    # The Jacobian at (1, 3) is [[1/2, 1/2], [-3/2, -1/2]]: eigenvalues +-i sqrt(2) / 2, on the border of stability.
    rates = np.log(focus.multipliers) / data.dt
    np.testing.assert_allclose(np.abs(rates.imag), ROOT, atol=0.05)
    np.testing.assert_allclose(rates.real, 0.0, atol=0.05)


def test_the_adjoint_learns_what_the_solver_learns() -> None:
    data = brusselator(20)
    settings = {"hidden": 8, "matching": 50, "steps": 3, "batch": 16, "sequence": 3, "within": 2}
    by_solver, by_adjoint, untrained = (
        fit(data, "neural-ode", **(settings | other))
        for other in ({"gradient": "solver"}, {"gradient": "adjoint", "tolerance": 1e-8}, {"steps": 0})
    )
    history = data.values[:5, :1]
    forecasts = [each.forecast(history, 5) for each in (by_solver, by_adjoint, untrained)]
    gap, learnt = (np.abs(forecasts[0] - each).max() for each in forecasts[1:])
    assert gap < 0.01 * learnt


def test_the_slope_of_a_step_is_that_of_finite_differences() -> None:
    model = fit(brusselator(30), "neural-ode", hidden=8, matching=50, steps=0).model
    points = model.samples[:4]
    slopes = model.slope(points)
    for column in range(2):
        shift = 1e-6 * np.eye(2)[column]
        numeric = (model.step(points + shift) - model.step(points - shift)) / 2e-6
        np.testing.assert_allclose(slopes[:, :, column], numeric, atol=1e-7)
