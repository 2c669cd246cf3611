"""The expression language: what it computes, its derivatives, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from separatrix.systems import DescriptionError, System, find_system
from separatrix.systems.expressions import FUNCTIONS, Tape


def system(equation: str, **parameters: float) -> System:
    return System("Test", "flow", ("x", "y"), (equation, "0"), parameters, (0.3, 0.7))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x + 2*y - 1", 0.3 + 1.4 - 1),
        ("-x**2", -0.09),
        ("x**-2", 0.3**-2),
        ("x**5*y**0.5", 0.3**5 * 0.7**0.5),
        ("x**y", 0.3**0.7),
        ("x - (y - 1)", 0.6),
        ("x/(y/2)", 0.6 / 0.7),
        ("(x - 2) % y", (0.3 - 2) % 0.7),
        ("2*pi*x", 0.6 * math.pi),
        ("-(-x)", 0.3),
        ("x*-1 + y", 0.4),
        ("x - -1*y", 1.0),
        ("minimum(x, y) + maximum(x, y)", 1.0),
        ("heaviside(x)*sign(-y)", -1.0),
        ("floor(10*x)", 3.0 if 10 * 0.3 >= 3 else 2.0),
        ("x*0 + y*1", 0.7),
        ("arctan(x) + arcsin(x) + arccos(x)", math.atan(0.3) + math.pi / 2),
        ("sinh(x)/cosh(x) - tanh(x)", 0.0),
    ],
)
def test_value(text: str, expected: float) -> None:
    found = system(text)
    state = np.array([0.3, 0.7])
    assert found.rhs(state)[0] == pytest.approx(expected, rel=1e-14, abs=1e-15)
    assert found.program.floats({})(0.0, state.tolist())[0] == pytest.approx(expected, rel=1e-14, abs=1e-15)
    assert found.tensor_rhs(torch.tensor(state))[0].item() == pytest.approx(expected, rel=1e-14, abs=1e-15)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - {"minimum", "maximum"}))
def test_derivatives_of_functions(name: str) -> None:
    found = system(f"{name}(x*y + 0.1)*y")
    state = np.array([0.3, 0.7])
    expected = []
    for i in range(2):
        steps = np.zeros(2)
        steps[i] = 1e-5
        expected.append((found.rhs(state + steps)[0] - found.rhs(state - steps)[0]) / 2e-5)
    np.testing.assert_allclose(found.jacobian(state)[0], expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("text", ["minimum(x*x, y)", "maximum(x*x, y)", "x**y", "x % y", "x**2.5/y**3", "exp(x**-1)"])
def test_derivatives_agree_with_torch(text: str) -> None:
    found = system(text)
    states = np.random.default_rng(0).uniform(0.2, 2.0, (20, 2))
    expected = torch.func.vmap(torch.func.jacfwd(found.tensor_rhs))(torch.tensor(states))
    np.testing.assert_allclose(found.jacobian(states), expected.numpy(), rtol=1e-10, atol=1e-12)


def test_torch_gradients_reach_parameters() -> None:
    lorenz = find_system("Lorenz")
    rho = torch.tensor(28.0, dtype=torch.float64, requires_grad=True)
    states = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lorenz.tensor_rhs(states, {"rho": rho})[:, 1].sum().backward()
    assert rho.grad is not None
    assert rho.grad.item() == pytest.approx(states[:, 0].sum().item())


def test_what_is_written_twice_is_computed_once() -> None:
    tape = Tape()
    known = {"x": tape.name("x"), "y": tape.name("y")}
    first = tape.parse("sin(x*y) + x*y", known)
    size = len(tape.operations)
    assert tape.parse("sin(x*y) + x*y", known) == first
    assert len(tape.operations) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x +", "is no expression"),
        ("x + q", "speaks of 'q'"),
        ("__import__('os')", "does not have"),
        ("x.real", "does not have"),
        ("[x for x in y]", "does not have"),
        ("x if y else 1", "does not have"),
        ("sin(x, y)", r"takes 1 argument\(s\), not 2"),
        ("sin(x=y)", "does not have"),
        ("x and y", "does not have"),
        ("True", "does not have"),
        ("'x'", "does not have"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    with pytest.raises(DescriptionError, match=message):
        system(text)


def test_systems_that_do_not_fit() -> None:
    with pytest.raises(DescriptionError, match="cannot call anything 'sin'"):
        System("Test", "flow", ("sin",), ("sin",), {}, (0.0,))
    with pytest.raises(DescriptionError, match="cannot call anything 'x'"):
        System("Test", "flow", ("x",), ("x",), {"x": 1.0}, (0.0,))
    with pytest.raises(DescriptionError, match="1 variables, 2 equations"):
        System("Test", "flow", ("x",), ("x", "1"), {}, (0.0,))
    with pytest.raises(DescriptionError, match="not finite"):
        System("Test", "flow", ("x",), ("x",), {}, (math.nan,))
    with pytest.raises(DescriptionError, match="`delay` must name"):
        System("Test", "delay", ("x",), ("x_delayed",), {}, (0.0,))
    with pytest.raises(DescriptionError, match="no variable 'z'"):
        System("Test", "flow", ("x",), ("x",), {}, (0.0,), phase="z")
    with pytest.raises(DescriptionError, match="speaks of 't'"):
        System("Test", "map", ("x",), ("t",), {}, (0.0,))
