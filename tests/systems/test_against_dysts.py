"""Every right-hand side, Jacobian and trajectory of the catalogue beside those of dysts."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from separatrix.systems import System, systems

warnings.filterwarnings("ignore", message="Numba not installed")
dysts_flows = pytest.importorskip("dysts.flows")
dysts_maps = pytest.importorskip("dysts.maps")

FLOWS = [each for each in systems().values() if each.kind == "flow"]
DELAYS = [each for each in systems().values() if each.kind == "delay"]
OWN = {"Cat", "Lozi", "Zaslavskii"}
"""Maps that dysts does not have, or not as code."""
MAPS = [each for each in systems().values() if each.kind == "map" and each.name not in OWN]


def peer(system: System):
    module = dysts_maps if system.kind == "map" else dysts_flows
    found = getattr(module, "Duffing" if system.name == "DuffingMap" else system.name)()
    for name, value in system.parameters.items():
        if name in found.params:
            found.params[name] = value  # Lorenz has 8/3 for what the reference rounds
    found.param_list = [found.params[name] for name in sorted(found.params)]
    return found


def points(system: System, count: int = 20) -> np.ndarray:
    """States around the initial one, by up to half of each value: where logarithms and roots of the equations exist."""
    generator = np.random.default_rng(0)
    start = np.array(system.initial)
    return start * (1 + generator.uniform(-0.5, 0.5, (count, system.dimension)))


def test_the_catalogue_is_as_large_as_the_reference() -> None:
    assert len(FLOWS) + len(DELAYS) >= 135
    assert len([each for each in systems().values() if each.kind == "map"]) >= 20


@pytest.mark.parametrize("system", FLOWS, ids=lambda each: each.name)
def test_flow(system: System) -> None:
    theirs = peer(system)
    compared = 0
    for state in points(system):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            expected = np.array([float(each) for each in theirs.rhs(state, 0.3)])
            found = system.rhs(state, time=0.3)
        if not np.isfinite(expected).all():
            continue  # outside where the equations are defined
        compared += 1
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * max(np.abs(expected).max(), 1.0))
    assert compared >= 10


@pytest.mark.parametrize("system", MAPS, ids=lambda each: each.name)
def test_map(system: System) -> None:
    theirs = peer(system)
    for state in points(system):
        expected = np.ravel(np.array(theirs._rhs(*state, *theirs.param_list)))
        np.testing.assert_allclose(system.rhs(state), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("system", DELAYS, ids=lambda each: each.name)
def test_delay(system: System) -> None:
    theirs = peer(system)
    for state, before in zip(points(system), points(system)[::-1], strict=True):
        expected = theirs._rhs(*state, *before, 0.0, *theirs.param_list)
        np.testing.assert_allclose(system.rhs(state, delayed=before), [expected], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("system", [*FLOWS, *MAPS], ids=lambda each: each.name)
def test_jacobian_is_the_derivative(system: System) -> None:
    for state in points(system, 3):
        size = 1e-5 * np.clip(np.abs(state), 1e-2, 1.0)
        columns = []
        for i, step in enumerate(size):
            moved = np.zeros_like(state)
            moved[i] = step
            columns.append((system.rhs(state + moved) - system.rhs(state - moved)) / (2 * step))
        expected = np.stack(columns, axis=-1)
        if not np.isfinite(expected).all():
            continue
        found = system.jacobian(state)
        scale = max(1.0, np.abs(expected).max())
        # central differences of this width are right to about 1e-8 where third derivatives are of the size of the first
        assert np.abs(found - expected).max() <= 1e-6 * scale, system.name
