"""Training as a dynamical system: exponents against closed forms, planted modes, equations known from theory."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from separatrix.analysis.training_dynamics import linear_modes, parting, recovered_equations, training_exponent
from separatrix.runs.errors import UsageError
from separatrix.theory import find_theory


class Quadratic(nn.Module):
    """A loss with curvatures given, whose descent is a linear map."""

    def __init__(self, curvatures: list[float]) -> None:
        super().__init__()
        self.curvatures = torch.tensor(curvatures, dtype=torch.float64)
        self.weight = nn.Parameter(torch.ones(len(curvatures), dtype=torch.float64))

    def forward(self) -> torch.Tensor:
        return 0.5 * (self.curvatures * self.weight**2).sum()


def descend(model: Any, optimizer: Any, t: int) -> None:
    optimizer.zero_grad()
    model().backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("rate", "expected", "steps"), [(0.5, math.log(0.95), 400), (1.95, math.log(0.95), 800), (2.2, math.log(1.2), 120)]
)
def test_gradient_descent_has_the_largest_factor_of_its_map(rate: float, expected: float, steps: int) -> None:
    model = Quadratic([1.0, 0.6, 0.1])
    found = training_exponent(model, torch.optim.SGD(model.parameters(), lr=rate), descend, steps)
    assert abs(found.exponent - max(math.log(abs(1 - rate * c)) for c in (1.0, 0.6, 0.1))) < 1e-3
    assert abs(found.exponent - expected) < 1e-3


def test_momentum_has_the_radius_of_its_companion_matrix() -> None:
    model = Quadratic([1.0, 0.3])
    rate, momentum = 0.1, 0.5
    radius = 0.0
    for c in (1.0, 0.3):
        matrix = np.array([[1 + momentum - rate * c, -momentum], [1.0, 0.0]])
        radius = max(radius, float(np.abs(np.linalg.eigvals(matrix)).max()))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
    found = training_exponent(model, optimizer, descend, 800)
    assert abs(found.exponent - math.log(radius)) < 1e-3


class Logistic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3], dtype=torch.float64))


def iterate(model: Any, optimizer: Any, t: int) -> None:
    with torch.no_grad():
        model.weight.copy_(4 * model.weight * (1 - model.weight))


def test_a_map_of_known_exponent() -> None:
    model = Logistic()
    found = training_exponent(model, torch.optim.SGD(model.parameters(), lr=1.0), iterate, 4000, size=1e-9, every=4)
    assert abs(found.exponent - math.log(2.0)) < 4 * found.error + 0.01
    assert found.error < 0.05


def test_the_training_goes_its_own_way() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    alone = copy.deepcopy(model)
    x = torch.randn(20, 3, dtype=torch.float64)

    def step(net: Any, optimizer: Any, t: int) -> None:
        draw = torch.Generator().manual_seed(t)
        rows = x[torch.randint(20, (8,), generator=draw)]
        optimizer.zero_grad()
        (net(rows) - rows.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()

    state = torch.get_rng_state()
    found = training_exponent(model, torch.optim.Adam(model.parameters(), lr=0.01), step, 60)
    assert torch.equal(state, torch.get_rng_state())
    optimizer = torch.optim.Adam(alone.parameters(), lr=0.01)
    for t in range(60):
        step(alone, optimizer, t)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))
    assert len(found.rates) == len(found.steps) == 6 and found.steps[-1] == 60


@pytest.mark.parametrize(
    ("change", "part"),
    [({"steps": 20}, "blocks"), ({"size": 1e-14}, "rounded"), ({"settle": 1.0}, "settle"), ({"every": 0}, "blocks")],
)
def test_bad_requests_are_refused(change: dict[str, Any], part: str) -> None:
    model = Quadratic([1.0])
    arguments = {"steps": 100} | change
    with pytest.raises(UsageError, match=part):
        training_exponent(model, torch.optim.SGD(model.parameters(), lr=0.1), descend, **arguments)


def test_a_training_that_blows_up_is_refused() -> None:
    model = Quadratic([1.0])
    with pytest.raises(UsageError, match="not finite"):
        training_exponent(model, torch.optim.SGD(model.parameters(), lr=1e30), descend, 400)


def test_two_recorded_trainings_part_at_their_rate_until_they_saturate() -> None:
    steps = np.arange(0, 600, 5)
    turn = np.stack([np.cos(steps / 40), np.sin(steps / 40)], 1)
    gap = np.minimum(1e-6 * np.exp(0.05 * steps), 1.0)[:, None]
    found = parting(turn, turn + gap * np.array([1.0, 0.0]), steps)
    assert abs(found.exponent - 0.05) < 1e-6
    with pytest.raises(UsageError, match="equal"):
        parting(turn, turn, steps)


def spiral(factors: list[float], rows: int, features: int, noise: float = 0.0) -> np.ndarray:
    draw = np.random.default_rng(0)
    modes = np.array(factors) ** np.arange(rows)[:, None]
    return modes @ draw.normal(size=(len(factors), features)) + 3.0 + noise * draw.normal(size=(rows, features))


def test_a_linear_path_gives_its_factors_and_is_forecast() -> None:
    found = linear_modes(spiral([0.97, 0.8], 80, 30), rank=2)
    assert np.allclose(sorted(np.abs(found.eigenvalues))[-2:], [0.8, 0.97], atol=1e-6)
    assert found.captured > 1 - 1e-9
    assert found.errors.linear_model < 1e-4
    assert found.errors.helps


def test_a_random_walk_is_not_forecast() -> None:
    walk = np.random.default_rng(1).normal(size=(200, 40)).cumsum(0)
    found = linear_modes(walk)
    assert found.errors.linear_model > 0.8


def test_errors_are_those_of_plain_guesses() -> None:
    path = spiral([0.97, 0.8], 60, 5, noise=1e-3)
    known, coming = path[:54], path[54:]
    changed = np.sqrt(np.mean((coming - known[-1]) ** 2))
    straight = known[-1] + np.arange(1, 7)[:, None] * (known[-1] - known[-2])
    expected = np.sqrt(np.mean((straight - coming) ** 2)) / changed
    assert math.isclose(linear_modes(path).errors.linear_extrapolation, expected, rel_tol=1e-12)


@pytest.mark.parametrize("path", [np.zeros((5, 2)), np.full((20, 2), np.nan), np.ones((20, 2)), np.zeros(20)])
def test_paths_without_motion_or_rows_are_refused(path: np.ndarray) -> None:
    with pytest.raises(UsageError):
        linear_modes(path)


def strengths_of(depth: int) -> tuple[list[np.ndarray], float]:
    """Mode strengths of trained deep linear networks from three starts, and the time between samples."""
    theory = find_theory("deep-linear")
    courses = []
    for start in (0.01, 0.03, 0.1):
        settings = theory.complete({"depth": depth, "modes": 2, "start": start, "noise": 0.0})
        simulated, _ = theory.simulated(theory.problem(settings, 0), list(range(0, 1200, 10)), seed=0)
        courses.append(simulated["mode_strength"])
    return courses, 10 * settings["step"]


def test_the_equations_of_a_deep_linear_network_are_recovered() -> None:
    # In time counted as the learning rate per layer: ds/dt = s (a - s), with targets a = 1 and 0.4.
    courses, dt = strengths_of(2)
    model = recovered_equations(courses, dt, degree=2, names=["one", "two"])
    found = dict(zip(model.model.monomials.factors, model.model.coefficients, strict=True))
    expected = {(0,): [1.0, 0.0], (0, 0): [-1.0, 0.0], (1,): [0.0, 0.4], (1, 1): [0.0, -1.0]}
    assert set(found) == {(), (0, 1), *expected}
    for factors, row in found.items():
        assert np.allclose(row, expected.get(factors, [0.0, 0.0]), atol=0.02), (factors, row)


def test_fractional_powers_are_not_polynomials() -> None:
    # Three layers give ds/dt = 3 s^(4/3) (a - s): what comes out must not be taken for the law.
    courses, dt = strengths_of(3)
    model = recovered_equations(courses, dt, degree=3)
    assert (model.model.coefficients != 0).sum() > 4
