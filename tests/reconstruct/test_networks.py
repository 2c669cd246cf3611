"""Almost-linear networks, flows, controlled equations and memories on problems whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.reconstruct.test_shallow_plrnn import LOZI, lozi

from separatrix.reconstruct import fit
from separatrix.reconstruct.almost_linear_rnn import greedy_borders
from separatrix.reconstruct.continuous_flow import ContinuousFlow
from separatrix.reconstruct.neural_cde import ControlledNetwork, interpolated
from separatrix.reconstruct.piecewise_linear import lyapunov_exponents
from separatrix.runs.errors import UsageError


def test_the_greedy_borders_of_a_map_with_one_are_near_it() -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (2000, 2))
    inward, threshold, _ = greedy_borders(points, LOZI.step(points), 1, np.random.default_rng(1))
    # Lozi's map bends where x = 0.
    direction, place = inward[0] / np.linalg.norm(inward[0]), threshold[0] / np.linalg.norm(inward[0])
    assert abs(direction[0]) > 0.9 and abs(place) < 0.2


def test_one_rectified_unit_is_enough_for_the_lozi_map_and_none_is_not() -> None:
    points = lozi(2000)
    settings = {"interval": 4, "sequence": 4, "starts": 2, "generations": 0}
    one, none = (fit(points, "almost-linear-rnn", dt=1.0, units=n, **settings) for n in (1, 0))
    fresh = lozi(3000)[2000:]
    errors = [np.abs(each.forecast(fresh[:-1, None], 1)[:, 0] - fresh[1:]).mean() for each in (one, none)]
    assert errors[0] < 1e-6 < 0.2 < errors[1]
    analysis = one.analyse()
    truth = lyapunov_exponents(LOZI, lozi(50), 4000, transient=100)
    assert abs(analysis.exponents[0] - truth[0]) < 0.05
    assert analysis.codes["symbols"] == 2
    # The two branches of Lozi's map have one fixed point each.
    for point in (np.array([1.0, 0.5]) / 2.2, np.array([1.0, 0.5]) / -1.2):
        assert min(np.abs(each.points[0] - point).max() for each in analysis.fixed_points) < 0.1


def test_units_beyond_the_states_make_room() -> None:
    model = fit(lozi(200), "almost-linear-rnn", dt=1.0, states=1, units=4, steps=1, sequence=5, generations=1).model
    assert model.map.units == 4 and len(model.map.bias) == 6
    np.testing.assert_array_equal(model.map.inward, np.eye(6)[2:])


def _gauss(points: torch.Tensor) -> torch.Tensor:
    return -0.5 * points.square().sum(1) - math.log(2 * math.pi)


def test_a_flow_that_stands_still_is_a_normal_distribution_and_any_flow_integrates_to_one() -> None:
    flow = ContinuousFlow.drawn(2, 8, torch.Generator().manual_seed(0))
    still = ContinuousFlow(type(flow.network)(tuple(torch.zeros_like(each) for each in flow.network.weights)), 2)  # type: ignore[arg-type]
    edges = torch.linspace(-8, 8, 81, dtype=torch.float64)
    grid = torch.cartesian_prod(edges, edges)
    with torch.no_grad():
        torch.testing.assert_close(still.log_density(grid, 4), _gauss(grid))
        strong = ContinuousFlow(type(flow.network)(tuple(2 * each for each in flow.network.weights)), 2)  # type: ignore[arg-type]
        assert float(strong.log_density(grid, 16).exp().sum() * 0.2**2) == pytest.approx(1, abs=1e-4)
        torch.testing.assert_close(strong.log_density(grid, 32), strong.solved_log_density(grid), rtol=0, atol=1e-4)


def test_samples_of_a_flow_have_its_density() -> None:
    generator = torch.Generator().manual_seed(0)
    flow = ContinuousFlow.drawn(1, 8, generator)
    flow = ContinuousFlow(type(flow.network)(tuple(3 * each for each in flow.network.weights)), 1)  # type: ignore[arg-type]
    with torch.no_grad():
        points = flow.sampled(20000, generator)
        edges = torch.linspace(-6, 6, 4001, dtype=torch.float64)
        density = flow.log_density(edges[:, None], 32).exp()
    cumulative = density.cumsum(0) * (edges[1] - edges[0])
    found = torch.searchsorted(points[:, 0].sort().values, edges) / 20000
    # Kolmogorov and Smirnov's distance of 20,000 points is above 0.0115 with a chance of 1 %.
    assert float((cumulative - found).abs().max()) < 0.0115


def test_interpolation_fills_what_was_not_seen() -> None:
    times = np.array([0.0, 1.0, 3.0, 4.0])
    values = np.array([[[0.0], [9.0], [6.0], [9.0]]])
    seen = np.array([[[True], [False], [True], [False]]])
    path = interpolated(values, seen, times)[:, 0]
    np.testing.assert_allclose(path[:, 0], times / 4)
    np.testing.assert_allclose(path[:, 1], [0.0, 2.0, 6.0, 6.0])
    np.testing.assert_allclose(path[:, 2], [0.25, 0.25, 0.5, 0.5])
    with pytest.raises(UsageError, match="variable 0 of series 0 was never seen: leave"):
        interpolated(values, np.zeros_like(seen), times)
    with pytest.raises(UsageError, match="do not fit one another"):
        interpolated(values, seen, times[:3])


def test_a_controlled_network_depends_on_the_path_and_not_on_how_it_is_differentiated() -> None:
    generator = torch.Generator().manual_seed(0)
    network = ControlledNetwork.drawn(3, 4, 8, 2, generator)
    with torch.no_grad():
        network.readout.copy_(torch.randn(2, 4, dtype=torch.float64, generator=generator))
    angles = torch.linspace(0, 6, 120, dtype=torch.float64)[:, None] + torch.arange(5)
    path = torch.stack([angles, angles.sin(), angles.cos()], 2)
    gradients = []
    for stored in (False, True):
        gradients.append(torch.autograd.grad(network(path, stored=stored).square().sum(), network.weights))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)
    # A path that stands still in between leads to the same end: dz = f(z) dX knows no time of its own.
    twice, shorter = (network(each).detach() for each in (path.repeat_interleave(2, dim=0), path[:80]))
    end = network(path).detach()
    assert float((twice - end).abs().max()) < 0.02 * float((shorter - end).abs().max())


@pytest.mark.parametrize("name", ["lstm", "neural-cde"])
def test_networks_with_memory_forecast_a_wave_they_have_not_seen(name: str) -> None:
    times = np.arange(400) * 0.15
    waves = [np.sin(times + phase)[:, None] for phase in (0.0, 2.0)]
    model = fit(waves, name, dt=0.15, hidden=16, batch=32, steps=250, rate=1e-2, seed=1)
    fresh = np.sin(times + 1.0)[:, None]
    forecast = model.forecast(fresh[:40], 20)
    assert np.abs(forecast - fresh[40:60]).max() < 0.15
    assert np.abs(fresh[39] - fresh[40:60]).max() > 0.9
