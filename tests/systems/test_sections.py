"""Events beside closed forms and scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from separatrix.runs import UsageError
from separatrix.systems import DescriptionError, System, crossings, find_system

OSCILLATOR = System("Oscillator", "flow", ("x", "v"), ("v", "-w**2*x"), {"w": 2.0}, (1.0, 0.0))


@pytest.mark.parametrize(("direction", "first", "apart"), [(0, 1, 2), (1, 3, 4), (-1, 1, 4)])
def test_zeros_of_an_oscillation(direction: int, first: int, apart: int) -> None:
    (found,) = crossings(OSCILLATOR, "x", 20.0, direction=direction, tolerance=1e-12)
    expected = np.arange(first, 160, apart) * np.pi / 4  # zeros of cos(2 t)
    expected = expected[expected < 20.0]
    np.testing.assert_allclose(found.times, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.states[:, 0], 0.0, atol=1e-12)
    np.testing.assert_allclose(np.abs(found.states[:, 1]), 2.0, rtol=0, atol=1e-9)


def test_copies_cross_at_their_own_times() -> None:
    found = crossings(OSCILLATOR, "x - 0.5", 3.0, direction=-1, parameters={"w": np.array([1.0, 2.0])}, tolerance=1e-12)
    np.testing.assert_allclose(found[0].times, [np.pi / 3], atol=1e-10)
    np.testing.assert_allclose(found[1].times, [np.pi / 6], atol=1e-10)


def test_an_expression_of_time() -> None:
    (found,) = crossings(OSCILLATOR, "t - 1.25", 2.0)
    np.testing.assert_allclose(found.times, [1.25], atol=1e-13)


def test_nothing_crosses() -> None:
    (found,) = crossings(OSCILLATOR, "x - 2", 5.0)
    assert found.times.shape == (0,)
    assert found.states.shape == (0, 2)


def test_a_section_of_lorenz_as_scipy_finds_it() -> None:
    lorenz = find_system("Lorenz")

    def plane(t: float, y: np.ndarray) -> float:
        return float(y[2] - 27)

    plane.direction = 1.0
    function = lorenz.program.floats(lorenz.values())
    peer = solve_ivp(function, (0, 8), lorenz.initial, "DOP853", events=plane, rtol=1e-12, atol=1e-12)
    (found,) = crossings(lorenz, "z - 27", 8.0, direction=1, tolerance=1e-12)
    # errors of 1e-12 grow by exp(0.9 * 8) on average, tenfold that at most along this stretch
    np.testing.assert_allclose(found.times, peer.t_events[0], rtol=0, atol=1e-7)


def test_what_does_not_fit() -> None:
    with pytest.raises(UsageError, match="is a map"):
        crossings(find_system("Henon"), "x", 1.0)
    with pytest.raises(UsageError, match="direction of -1, 0 or 1"):
        crossings(OSCILLATOR, "x", 1.0, direction=2)
    with pytest.raises(DescriptionError, match="speaks of 'q'"):
        crossings(OSCILLATOR, "q", 1.0)
