"""The solver against closed forms and torchdiffeq, the adjoint against backpropagation through the solver."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from separatrix.reconstruct.ode import (
    SolverError,
    Step,
    dormand_prince_step,
    local_error,
    runge_kutta,
    solve,
    solve_adjoint,
)
from separatrix.runs.errors import UsageError


def _oscillator(time: float, state: Tensor) -> Tensor:
    return torch.stack([state[..., 1], -state[..., 0]], -1)


def _slope(errors: list[float], steps: list[float]) -> float:
    x, y = (torch.tensor(each).double().log() for each in (steps, errors))
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def test_one_step_has_order_five_and_its_embedded_error_order_five_of_the_step() -> None:
    # The local error of the method of order 5 falls like h^6; that of order 4, which the pair measures, like h^5.
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    steps = [0.4, 0.2, 0.1, 0.05]
    local, embedded = [], []
    for step in steps:
        after, _, error = dormand_prince_step(_oscillator, 0.0, start, _oscillator(0.0, start), step)
        exact = torch.tensor([math.cos(step), -math.sin(step)], dtype=torch.float64)
        local.append(float((after - exact).norm()))
        embedded.append(float(error.norm()))
    assert abs(_slope(local, steps) - 6) < 0.2
    assert abs(_slope(embedded, steps) - 5) < 0.2


def test_errors_follow_the_tolerance_and_work_rises() -> None:
    start = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    exact = torch.tensor([[math.cos(7.0), -math.sin(7.0)], [2 * math.sin(7.0), 2 * math.cos(7.0)]], dtype=torch.float64)
    evaluations = []
    for rtol in (1e-3, 1e-5, 1e-7, 1e-9):
        states, work = solve(_oscillator, start, [0.0, 3.0, 7.0], rtol=rtol, atol=rtol)
        assert float((states[-1] - exact).abs().max()) < 50 * rtol
        assert work.evaluations == 2 + 6 * (work.steps + work.rejected)
        evaluations.append(work.evaluations)
    assert evaluations == sorted(set(evaluations))


def test_backwards_in_time_undoes_forwards_and_times_are_hit_exactly() -> None:
    start = torch.tensor([1.0, 0.5], dtype=torch.float64)
    there, _ = solve(_oscillator, start, [0.0, 1.3, 2.0], rtol=1e-10, atol=1e-10)
    back, _ = solve(_oscillator, there[-1], [2.0, 1.3, 0.0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(back[1], there[1], rtol=0, atol=1e-8)
    torch.testing.assert_close(back[2], start, rtol=0, atol=1e-8)


def test_a_time_dependent_equation_is_solved() -> None:
    states, _ = solve(lambda time, state: math.cos(time) * state, torch.ones(1, dtype=torch.float64), [0.5, 2.0])
    assert float(states[-1]) == pytest.approx(math.exp(math.sin(2.0) - math.sin(0.5)), rel=1e-5)


def test_the_solution_is_that_of_torchdiffeq() -> None:
    torchdiffeq = pytest.importorskip("torchdiffeq")
    weights = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    field = lambda _, state: torch.tanh(state @ weights.T) - 0.1 * state  # noqa: E731
    start = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    states, _ = solve(field, start, [0.0, 1.0, 4.0], rtol=1e-9, atol=1e-9)
    times = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64)
    expected = torchdiffeq.odeint(field, start, times, rtol=1e-9, atol=1e-9, method="dopri5")
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-7)


def _case(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*s, dtype=torch.float64, generator=generator) for s in ((3, 3), (3,), (4, 3)))  # type: ignore[return-value]


@pytest.mark.parametrize("times", [(0.0, 2.0), (0.0, 0.5, 1.1, 2.0), (2.0, 0.5)])
def test_adjoint_gradients_are_those_through_the_solver_and_errors_fall_with_the_tolerance(
    times: tuple[float, ...],
) -> None:
    leaves = [each.requires_grad_() for each in _case(3)]
    weight, bias, start = leaves

    def field(time: float, state: Tensor) -> Tensor:
        return torch.tanh(state @ weight.T + bias) * (1 + 0.1 * time)

    target = _case(4)[2]
    exact, _ = solve(field, start, times, rtol=1e-11, atol=1e-11)
    expected = torch.autograd.grad((exact - target).square().mean(), leaves)
    errors = []
    for rtol in (1e-3, 1e-5, 1e-9):
        states = solve_adjoint(field, (weight, bias), start, times, rtol=rtol, atol=rtol)
        found = torch.autograd.grad((states - target).square().mean(), leaves)
        errors.append(max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)))
    assert errors[2] < 1e-7 and errors[2] < errors[1] < errors[0]


def test_the_adjoint_of_a_weight_that_is_not_used_is_zero() -> None:
    start, unused = torch.ones(2, dtype=torch.float64, requires_grad=True), torch.ones(3, requires_grad=True).double()
    unused.retain_grad()
    solve_adjoint(_oscillator, (unused,), start, (0.0, 1.0)).sum().backward()
    assert unused.grad is not None and not unused.grad.any()


def test_runge_kutta_has_order_four() -> None:
    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    exact = torch.tensor([math.cos(2.0), -math.sin(2.0)], dtype=torch.float64)
    errors = [float((runge_kutta(_oscillator, start, 0.5, 4, within=n)[-1] - exact).norm()) for n in (1, 2, 4, 8)]
    assert abs(_slope(errors, [1.0, 0.5, 0.25, 0.125]) - 4) < 0.2


def test_the_local_error_is_that_of_a_step_and_can_be_learnt_from() -> None:
    rate = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    start = torch.ones(2, dtype=torch.float64)
    field = lambda _, state: -rate * state  # noqa: E731
    error = local_error(field, 0.0, start, 0.1)
    (slope,) = torch.autograd.grad(error, rate)
    nearby = [float(local_error(lambda _, state, r=r: -r * state, 0.0, start, 0.1)) for r in (3.001, 2.999)]
    assert float(slope) == pytest.approx((nearby[0] - nearby[1]) / 0.002, rel=1e-4)
    assert float(slope) > 0  # a slower decay is easier to follow


def test_the_steps_of_a_solution_are_seen_with_errors_that_can_be_learnt_from() -> None:
    rate = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    field = lambda _, state: -rate * state  # noqa: E731
    seen: list[Step] = []
    states, work = solve(field, torch.ones(2, dtype=torch.float64), (0.0, 0.5, 2.0), seen=seen.append)
    assert len(seen) == work.steps
    assert [step.time for step in seen[1:]] == pytest.approx(list(itertools.accumulate(s.length for s in seen[:-1])))
    assert seen[-1].time + seen[-1].length == pytest.approx(2.0)
    assert float((seen[-1].state.detach() - torch.exp(-3.0 * torch.tensor(seen[-1].time))).abs().max()) < 1e-5
    middle = seen[len(seen) // 2]
    alone = local_error(field, middle.time, middle.state.detach(), middle.length) * middle.length
    assert float(middle.error) == pytest.approx(float(alone), rel=1e-12)
    (slope,) = torch.autograd.grad(middle.error, rate)
    assert math.isfinite(float(slope)) and float(slope) != 0.0
    assert states.requires_grad


@pytest.mark.parametrize("times", [(0.0,), (0.0, 1.0, 0.5), (1.0, 1.0)])
def test_times_that_turn_back_are_refused(times: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="do not go one way: give two or more"):
        solve(_oscillator, torch.ones(2), times)


def test_an_equation_that_blows_up_is_refused() -> None:
    with pytest.raises(SolverError, match="cannot be followed at time 1"):
        solve(lambda _, state: state.square(), torch.ones(1, dtype=torch.float64), (0.0, 2.0))
    with pytest.raises(UsageError, match="positive tolerances"):
        solve(_oscillator, torch.ones(2), (0.0, 1.0), rtol=0.0)
