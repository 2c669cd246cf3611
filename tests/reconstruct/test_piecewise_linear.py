"""Piecewise-linear maps against tent maps, whose cycles, exponents and words are known, and against brute force."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from separatrix.reconstruct.piecewise_linear import (
    PiecewiseLinearMap,
    cycles,
    fixed_points,
    lyapunov_exponents,
    recurrences,
)
from separatrix.reconstruct.symbolic import SymbolicCode, symbolic_code

# Orbits of primitive binary words of length 1, 2, ...: Lind and Marcus; OEIS A001037.
NECKLACES = (2, 1, 2, 3, 6, 9, 18)
GOLDEN = (1 + math.sqrt(5)) / 2


def tent(slope: float) -> PiecewiseLinearMap:
    """X' = slope x below 1/2, slope (1 - x) above."""
    return PiecewiseLinearMap(
        np.array([[slope]]), np.array([[-2 * slope]]), np.array([[1.0]]), np.array([-0.5]), np.zeros(1)
    )


def drawn(state: int, units: int, seed: int = 0, gain: float = 1.0) -> PiecewiseLinearMap:
    generator = np.random.default_rng(seed)
    return PiecewiseLinearMap(
        np.diag(generator.uniform(-0.9, 0.9, state)),
        gain * generator.standard_normal((state, units)),
        generator.standard_normal((units, state)),
        generator.standard_normal(units),
        generator.standard_normal(state),
    )


def test_derivatives_are_those_of_finite_differences() -> None:
    system = drawn(3, 7)
    points = np.random.default_rng(1).standard_normal((20, 3))
    jacobians = system.jacobian(system.pattern(points))
    for column in range(3):
        shift = 1e-6 * np.eye(3)[column]
        numeric = (system.step(points + shift) - system.step(points - shift)) / 2e-6
        np.testing.assert_allclose(jacobians[:, :, column], numeric, atol=1e-8)
    affine = (jacobians @ points[..., None])[..., 0] + system.offset(system.pattern(points))
    np.testing.assert_allclose(affine, system.step(points), atol=1e-12)
    assert np.linalg.norm(jacobians, 2, axis=(1, 2)).max() <= system.norm_bound()


def test_the_full_tent_map_has_every_cycle() -> None:
    starts = np.random.default_rng(0).uniform(0, 1, (400, 1))
    for period, count in enumerate(NECKLACES, start=1):
        found = cycles(tent(2.0), period, starts)
        assert len(found) == count
        for cycle in found:
            np.testing.assert_allclose(np.abs(cycle.multipliers), 2.0**period, rtol=1e-12)
            np.testing.assert_allclose(tent(2.0).step(cycle.points[-1]), cycle.points[0], atol=1e-9)


def test_all_fixed_points_of_few_units_are_those_of_brute_force() -> None:
    for seed in range(20):
        system = drawn(2, 5, seed)
        expected = []
        for pattern in itertools.product((0.0, 1.0), repeat=5):
            jacobian = system.linear + system.outward @ np.diag(pattern) @ system.inward
            offset = system.bias + system.outward @ (np.array(pattern) * system.threshold)
            point = np.linalg.inv(np.eye(2) - jacobian) @ offset
            if np.abs(system.step(point) - point).max() < 1e-9 * max(1.0, np.abs(point).max()):
                expected.append(point)
        found = [cycle.points[0] for cycle in fixed_points(system, np.zeros((1, 2)))]
        assert len(found) == len(expected)
        for point in expected:
            assert min(np.abs(point - each).max() for each in found) < 1e-8 * max(1.0, np.abs(point).max())


@pytest.mark.parametrize("slope", [2.0, 1.7, 1.2])
def test_the_exponent_of_a_tent_map_is_the_logarithm_of_its_slope(slope: float) -> None:
    starts = np.random.default_rng(0).uniform(0.2, 0.6, (5, 1))
    np.testing.assert_allclose(lyapunov_exponents(tent(slope), starts, 40, transient=3), math.log(slope), rtol=1e-9)


def test_the_exponents_of_a_linear_map_are_those_of_its_eigenvalues() -> None:
    matrix = np.array([[0.8, 0.5, 0.2], [0.0, 1.1, 0.3], [0.0, 0.0, 0.5]])
    system = PiecewiseLinearMap(matrix, np.zeros((3, 0)), np.zeros((0, 3)), np.zeros(0), np.zeros(3))
    exponents = lyapunov_exponents(system, np.ones((1, 3)), 400, transient=200, every=3)
    np.testing.assert_allclose(exponents, np.log([1.1, 0.8, 0.5]), atol=1e-9)
    growing = dataclasses.replace(system, linear=10 * matrix)
    assert np.isnan(lyapunov_exponents(growing, np.ones((1, 3)), 400)).all()


def _tent_code(slope: float, steps: int = 8000) -> SymbolicCode:
    orbit = tent(slope).orbit(np.array([[0.3], [0.4123]]), steps)[100:]
    return symbolic_code(list(tent(slope).pattern(orbit).swapaxes(0, 1)))


def test_the_golden_tent_map_forbids_one_word_and_has_the_entropy_of_the_golden_mean() -> None:
    code = _tent_code(GOLDEN)
    left = int(np.flatnonzero(~code.patterns[:, 0])[0])
    # The top of the tent falls to 1 - 1 / golden at once, and its image lies right of 1/2: never left twice.
    assert code.forbidden(6) == ((left, left),)
    for length in (2, 3, 5, 8):
        assert abs(code.entropy(length) - math.log(GOLDEN)) < 1e-9


def test_the_full_tent_map_forbids_nothing() -> None:
    # At a slope of 2 itself every orbit in binary arithmetic ends at 0.
    code = _tent_code(2 - 1e-9)
    assert code.forbidden(7) == ()
    assert abs(code.entropy(6) - math.log(2)) < 1e-12
    assert code.transitions.sum() == sum(len(each) - 1 for each in code.sequences)
    np.testing.assert_allclose(code.frequencies, 0.5, atol=0.02)


def test_entropy_falls_with_the_length_of_words_towards_that_of_the_map() -> None:
    code = _tent_code(1.7)
    entropies = [code.entropy(length) for length in range(2, 11)]
    assert (np.diff(entropies) <= 1e-12).all()
    assert 0 <= entropies[-1] - math.log(1.7) < 0.02
    shorter = code.condensed()
    assert all((np.diff(each) != 0).all() for each in shorter.sequences)


def test_a_periodic_sequence_has_no_entropy() -> None:
    pattern = np.tile(np.array([[True, False], [False, False], [True, True]]), (10, 1))
    code = symbolic_code([pattern, pattern])
    assert code.symbols == 3 and code.entropy(4) == pytest.approx(0.0, abs=1e-9)
    assert len(code.words(5)) == 3
    assert code.forbidden(2) and all(len(word) == 2 for word in code.forbidden(2))


def test_recurrences_start_at_the_cycles_of_a_map() -> None:
    orbit = tent(2 - 1e-9).orbit(np.array([[0.31]]), 5000)[:, 0]
    for period, starts in recurrences(orbit, (2, 3), 10).items():
        assert cycles(tent(2 - 1e-9), period, starts)
