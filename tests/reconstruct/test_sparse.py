"""Sparse identification against systems whose equations are known."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import scipy.integrate
from tests.reconstruct.test_autoregression import henon

from separatrix.reconstruct import fit, trajectories
from separatrix.runs import MissingExtraError


def lorenz(samples: int, dt: float = 0.01, start: tuple[float, ...] = (1.0, 2.0, 20.0)) -> np.ndarray:
    def field(time: float, state: np.ndarray) -> tuple[float, ...]:
        x, y, z = state
        return 10.0 * (y - x), x * (28.0 - z) - y, x * y - 8.0 / 3.0 * z

    times = 2.0 + dt * np.arange(samples)
    done = scipy.integrate.solve_ivp(field, (0.0, times[-1]), start, t_eval=times, method="DOP853", rtol=1e-10)
    return done.y.T


@pytest.fixture(scope="module")
def chaotic() -> np.ndarray:
    return lorenz(2000)


def test_the_lorenz_equations_are_recovered(chaotic: np.ndarray) -> None:
    model = fit(chaotic, "sindy", dt=0.01, names=("x", "y", "z"), members=5)
    analysis = model.analyse()
    terms = dict(zip(model.model.monomials.named(model.names), analysis.codes["coefficients"], strict=True))
    expected = {"x": (-10, 28, 0), "y": (10, -1, 0), "z": (0, 0, -8 / 3), "x y": (0, 0, 1), "x z": (0, -1, 0)}
    for term, coefficients in terms.items():
        np.testing.assert_allclose(coefficients, expected.get(term, (0, 0, 0)), atol=0.02, err_msg=term)
    assert analysis.equations[0].startswith("dx/dt = -")
    side = math.sqrt(8 / 3 * 27)
    fixed = sorted(tuple(np.round(each.points[0], 1)) for each in analysis.fixed_points)
    assert fixed == [(-round(side, 1), -round(side, 1), 27.0), (0.0, 0.0, 0.0), (round(side, 1), round(side, 1), 27.0)]
    assert not any(each.stable for each in analysis.fixed_points)
    (origin,) = (each for each in analysis.fixed_points if abs(each.points[0, 2]) < 1.0)
    rates = np.sort(np.log(origin.multipliers.real) / 0.01)
    np.testing.assert_allclose(rates, [-(11 + math.sqrt(1201)) / 2, -8 / 3, (-11 + math.sqrt(1201)) / 2], rtol=2e-3)
    np.testing.assert_allclose(analysis.exponents.sum(), -10 - 1 - 8 / 3, atol=0.05)  # the divergence of the flow
    assert 0.6 < analysis.exponents[0] < 1.2  # 0.906 over 30 units of time


def test_the_henon_map_is_recovered() -> None:
    model = fit(henon(400), "sindy", dt=1.0, names=("x", "y"), kind="map", members=5)
    terms = dict(zip(model.model.monomials.named(model.names), model.model.coefficients, strict=True))
    for term, coefficients in terms.items():
        expected = {"1": (1, 0), "x": (0, 0.3), "y": (1, 0), "x x": (-1.4, 0)}.get(term, (0, 0))
        np.testing.assert_allclose(coefficients, expected, atol=1e-6, err_msg=term)
    assert model.analyse().equations[1] == "y[t+1] = +0.3 x"


def test_the_derivative_of_a_step_is_that_of_the_flow(chaotic: np.ndarray) -> None:
    model = fit(chaotic, "sindy", dt=0.01, members=1).model
    point, step = chaotic[500:501], 1e-5
    slope = model.advance(point)[1][0]
    np.testing.assert_array_equal(model.advance(point)[0], model.step(point))
    for column in range(3):
        shift = np.eye(3)[column] * step
        numeric = (model.step(point + shift) - model.step(point - shift))[0] / (2 * step)
        np.testing.assert_allclose(slope[:, column], numeric, atol=1e-7)


def test_ensembles_show_how_sure_a_term_is() -> None:
    generator = np.random.default_rng(0)
    values = henon(150) + 0.02 * generator.standard_normal((150, 2))[: len(henon(150))]
    model = fit(values, "sindy", dt=1.0, names=("x", "y"), kind="map", members=30).model
    sure = dict(zip(model.monomials.named(("x", "y")), model.inclusion, strict=True))
    assert sure["x x"][0] == sure["x"][1] == 1.0
    assert model.ensemble.shape == (30, 6, 2)
    assert model.ensemble[:, 3, 0].std() > 0


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysindy", None)
    with pytest.raises(MissingExtraError, match=r"pip install separatrix\[reconstruct\]"):
        fit(trajectories(henon(300), 1.0), "sindy")
    with pytest.raises(MissingExtraError, match="pysindy"):
        fit(trajectories(henon(300), 1.0), "sindy", kind="map")
