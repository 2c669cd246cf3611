"""Trajectories beside closed forms, conservation laws and scipy; samples, copies and bad input."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from separatrix.runs import UnknownMemberError, UsageError
from separatrix.systems import DescriptionError, EscapeError, IntegrationError, System, find_system, simulate
from separatrix.systems._steps import Stepper

OSCILLATOR = System("Oscillator", "flow", ("x", "v"), ("v", "-w**2*x"), {"w": 2.0}, (1.0, 0.0))
GROWTH = System("Growth", "flow", ("x",), ("x**2",), {}, (1.0,))


@pytest.mark.parametrize("tolerance", [1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("stiff", [False, True])
def test_oscillator(tolerance: float, stiff: bool) -> None:
    if stiff and tolerance < 1e-9:
        pytest.skip("an implicit method of order 5 takes seconds there")
    found = simulate(OSCILLATOR, 400, dt=0.05, tolerance=tolerance, stiff=stiff)
    x, v = found.values[0].T
    # the local error of each of some hundred steps adds up, at most as fast as the number of steps
    np.testing.assert_allclose(x, np.cos(2 * found.times), rtol=0, atol=1e3 * tolerance)
    np.testing.assert_allclose(4 * x**2 + v**2, 4.0, rtol=0, atol=4e3 * tolerance)


def test_steps_have_order_eight_and_the_dense_output_seven() -> None:
    """Halving the step divides the error at the end by 2^8, and by 2^8 within a step of an output of order 7."""
    matrix = np.random.default_rng(1).normal(size=(3, 3))
    start = np.ones((3, 1))
    errors, inner = [], []
    for size in (0.4, 0.2, 0.1):
        field = linear(matrix)
        stepper = Stepper(field, start, name="linear", relative=1e3, absolute=1e3, largest=size)
        stepper._size = size
        worst = 0.0
        while stepper.time < 2.0 - 1e-9:
            stepper.step(2.0)
            middle = stepper.previous + 0.4 * (stepper.time - stepper.previous)
            found = stepper.dense(np.array([middle]), 3)[0, :, 0]
            worst = max(worst, np.abs(found - expm(matrix * middle) @ start[:, 0]).max())
        errors.append(np.abs(stepper.state[:, 0] - expm(matrix * 2.0) @ start[:, 0]).max())
        inner.append(worst)
    slopes = -np.diff(np.log2(errors))
    assert (slopes > 7.5).all() and (slopes < 9.5).all()
    assert (-np.diff(np.log2(inner)) > 6.5).all()


def linear(matrix: np.ndarray):
    def field(t, rows, out):
        for row, result in zip(matrix @ np.stack(rows), out, strict=True):
            result[...] = row

    return field


def test_lorenz_agrees_with_scipy_before_it_diverges() -> None:
    lorenz = find_system("lorenz-63")
    found = simulate(lorenz, 500, dt=0.01, tolerance=1e-12)
    function = lorenz.program.floats(lorenz.values())
    expected = solve_ivp(function, (0, 5), lorenz.initial, "DOP853", found.times, rtol=1e-13, atol=1e-13).y.T
    # errors of 1e-12 grow by exp(0.9 * 5) on average, a hundredfold at most along this stretch
    np.testing.assert_allclose(found.values[0], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "energy"),
    [
        (
            "HenonHeiles",
            lambda x, y, px, py: (px**2 + py**2 + x**2 + y**2) / 2 + x**2 * y - y**3 / 3,
        ),
        ("NoseHoover", None),
        ("NuclearQuadrupole", None),
        (
            "SwingingAtwood",
            lambda r, th, pr, pth: (
                pr**2 / (2 * 5.5) + pth**2 / (2 * 1.0 * r**2) + 4.5 * 9.82 * r - 1.0 * 9.82 * r * np.cos(th)
            ),
        ),
    ],
)
def test_energy_is_conserved(name: str, energy) -> None:
    system = find_system(name)
    found = simulate(system, 200, points_per_period=20, tolerance=1e-11).values[0]
    if energy is not None:
        values = energy(*found.T)
        np.testing.assert_allclose(values, values[0], rtol=1e-8)
    else:
        assert np.isfinite(found).all()


def test_copies_have_their_own_parameters_and_agree_with_single_runs() -> None:
    lorenz = find_system("Lorenz")
    rho = np.array([20.0, 28.0, 35.0])
    together = simulate(lorenz, 100, dt=0.02, parameters={"rho": rho}, tolerance=1e-12)
    assert together.values.shape == (3, 100, 3)
    for copy, value in enumerate(rho):
        alone = simulate(lorenz, 100, dt=0.02, parameters={"rho": float(value)}, tolerance=1e-12)
        np.testing.assert_allclose(together.values[copy], alone.values[0], rtol=0, atol=1e-9)


def test_copies_settle_on_the_attractor_and_follow_the_seed() -> None:
    lorenz = find_system("Lorenz")
    first, again = (simulate(lorenz, 50, copies=5, seed=3) for _ in range(2))
    other = simulate(lorenz, 50, copies=5, seed=4)
    np.testing.assert_array_equal(first.values, again.values)
    assert not np.allclose(first.values, other.values)
    assert np.ptp(first.values[:, 0], axis=0).min() > 1.0
    assert np.abs(first.values).max() < 60.0


def test_global_generator_and_dt_are_left_alone() -> None:
    state = np.random.get_state()[1].copy()
    fine = simulate(find_system("Rossler"), 11, dt=0.1, copies=2)
    coarse = simulate(find_system("Rossler"), 6, dt=0.2, copies=2)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    np.testing.assert_allclose(fine.values[:, ::2], coarse.values, rtol=0, atol=1e-7)


def test_points_per_period_transient_and_noise() -> None:
    rossler = find_system("Rossler")
    found = simulate(rossler, 10, points_per_period=50)
    assert found.dt == pytest.approx(rossler.period / 50)
    later = simulate(rossler, 5, points_per_period=50, transient=5 * found.dt)
    np.testing.assert_allclose(later.values, found.values[:, 5:], rtol=0, atol=1e-7)
    clean = simulate(rossler, 4000)
    noisy = simulate(rossler, 4000, noise=0.1, seed=1)
    share = (noisy.values - clean.values).std(axis=1) / clean.values.std(axis=1)
    # the standard deviation of 4,000 draws is known to 1.1 % (one sigma)
    np.testing.assert_allclose(share, 0.1, rtol=0.05)


def test_a_delay_by_the_method_of_steps() -> None:
    """x' = -x(t - 1) from a constant past of 1: polynomials piece by piece."""
    system = System("Late", "delay", ("x",), ("-x_delayed",), {"tau": 1.0}, (1.0,), delay="tau")
    found = simulate(system, 201, dt=0.01, tolerance=1e-8)
    t, x = found.times, found.values[0, :, 0]
    expected = np.where(t <= 1, 1 - t, 1 - t + (t - 1) ** 2 / 2)
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-9)


def test_a_delayed_exponential() -> None:
    """x' = a x(t - 1): past the transient the dominant root of s = a exp(-s) rules."""
    system = System("Lambert", "delay", ("x",), ("a*x_delayed",), {"tau": 1.0, "a": 0.5}, (1.0,), delay="tau")
    x = simulate(system, 2001, dt=0.01, tolerance=1e-8).values[0, :, 0]
    from scipy.special import lambertw

    assert np.log(x[2000] / x[1900]) == pytest.approx(lambertw(0.5).real, abs=1e-6)


def test_maps_are_iterated() -> None:
    henon = find_system("henon")
    found = simulate(henon, 4, initial=[0.1, 0.2])
    x, y = 0.1, 0.2
    for i in range(4):
        np.testing.assert_allclose(found.values[0, i], [x, y], rtol=1e-12)
        x, y = 1 - 1.4 * x * x + y, 0.3 * x
    assert found.dt == 1.0


def test_escape_names_system_and_time() -> None:
    with pytest.raises(EscapeError, match=r"system Growth escapes to infinity at t = (0\.99|1)") as caught:
        simulate(GROWTH, 10, dt=1.0)
    assert caught.value.time == pytest.approx(1.0, abs=1e-3)  # 1/(1 - t)
    with pytest.raises(EscapeError, match=r"\(copy 1\)"):
        simulate(GROWTH, 10, dt=0.3, initial=[[-1.0], [1.0]])
    with pytest.raises(EscapeError, match="Henon escapes to infinity within"):
        simulate(find_system("Henon"), 200, initial=[5.0, 0.0])
    with pytest.raises(EscapeError, match=r"escapes to infinity at t = (0\.99|1)"):
        simulate(GROWTH, 10, dt=1.0, stiff=True)


def test_a_singularity_is_named() -> None:
    root = System("Root", "flow", ("x",), ("-1/x",), {}, (1.0,))
    with pytest.raises((IntegrationError, EscapeError), match=r"system Root .* t = 0\.5"):
        simulate(root, 10, dt=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": 0}, "at least one point"),
        ({"dt": -1.0}, "interval between points must be positive"),
        ({"dt": np.nan}, "interval between points must be positive"),
        ({"points_per_period": 0.0}, "points per period must be positive"),
        ({"initial": [1.0, 2.0]}, r"have shape \(3,\) or \(copies, 3\), not \(2,\)"),
        ({"initial": [np.nan, 0.0, 0.0]}, "must be finite"),
        ({"transient": -1.0}, "transient"),
        ({"noise": -0.1}, "noise"),
        ({"tolerance": 0.0}, "tolerance must lie"),
        ({"copies": 0}, "number of copies"),
        ({"copies": 2, "initial": np.ones((3, 3))}, "number of copies"),
        ({"parameters": {"rho": np.ones(2)}, "copies": 3}, "number of copies"),
    ],
)
def test_what_does_not_fit(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        simulate(find_system("Lorenz"), **{"points": 10, **arguments})


def test_parameters_that_do_not_fit() -> None:
    with pytest.raises(DescriptionError, match="no parameter 'rhoo': choose from"):
        simulate(find_system("Lorenz"), 2, parameters={"rhoo": 1.0})
    with pytest.raises(DescriptionError, match="parameter rho of system Lorenz must be finite"):
        simulate(find_system("Lorenz"), 2, parameters={"rho": np.inf})


def test_a_name_that_is_close_is_suggested() -> None:
    with pytest.raises(UnknownMemberError, match=r"did you mean .*Rossler"):
        find_system("Roessler")
    assert find_system("rossler").name == "Rossler"
    assert find_system("standard map").name == "Chirikov"
