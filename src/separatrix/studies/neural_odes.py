"""Networks as right-hand sides: gradients at constant memory, fields recovered, precision paid in work, flows.

The systems are the paper's spiral dy/dt = A y^3, Lotka and Volterra's equations, and Lorenz-63. Gradients by the
adjoint equation are compared with those through every step of the solver. A flow from a normal distribution to two arcs
is held against the change-of-variables formula, its Jacobian taken through the solver.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from separatrix.reconstruct import Trajectories, trajectories
from separatrix.reconstruct.continuous_flow import ContinuousFlow
from separatrix.reconstruct.neural_ode import Network, NeuralODE, reconstructor
from separatrix.reconstruct.ode import solve, solve_adjoint
from separatrix.studies.study import (
    Control,
    Outcome,
    Paper,
    Plan,
    Progress,
    Setting,
    Settings,
    Statement,
    Study,
)

_TIGHT, _LOOSE = 1e-9, 1e-2
_TOLERANCES = (1e-3, 1e-5, 1e-7, 1e-9)
_HORIZON = 10  # sampling intervals
_SPIRAL = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch.float64)


@dataclasses.dataclass(frozen=True)
class _System:
    """A field of states (batch, variable), where trajectories start, their sampling interval and number of samples."""

    field: Callable[[Tensor], Tensor]
    low: tuple[float, ...]
    high: tuple[float, ...]
    dt: float
    samples: int
    settled: float = 0.0


def _lotka_volterra(state: Tensor) -> Tensor:
    x, y = state.unbind(-1)
    return torch.stack([1.5 * x - x * y, x * y - 3 * y], -1)


def _lorenz(state: Tensor) -> Tensor:
    x, y, z = state.unbind(-1)
    return torch.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], -1)


_SYSTEMS = (
    _System(lambda state: state**3 @ _SPIRAL, (-2.0, -2.0), (2.0, 2.0), 0.025, 60),
    _System(_lotka_volterra, (1.0, 0.7), (5.0, 3.0), 0.04, 75),
    _System(_lorenz, (-10.0, -10.0, 15.0), (10.0, 10.0, 35.0), 0.01, 120, settled=2.0),
)


def _data(system: _System, copies: int, seed: int, *, backwards: bool = False) -> Trajectories:
    generator = np.random.default_rng(seed)
    start = torch.from_numpy(generator.uniform(system.low, system.high, (copies, len(system.low))))
    times = [0.0, *(system.settled + system.dt * (n + 1) for n in range(system.samples))]
    states, _ = solve(lambda _, state: system.field(state), start, times, rtol=1e-8, atol=1e-8)
    found = states[1:].transpose(0, 1).numpy()
    return trajectories(found[:, ::-1].copy() if backwards else found, system.dt)


def _gradient_error(system: _System, seed: int, tolerance: float) -> float:
    """Relative error of the adjoint's gradients at a tolerance, the worst of weights and start, against the tight ones.

    Those are taken through the solver; the field is the system's plus a random network, and the loss the mean square of
    states at five times.
    """
    generator = torch.Generator().manual_seed(seed)
    size = len(system.low)
    network = Network.drawn(size, 16, generator)
    start = torch.from_numpy(np.random.default_rng(seed).uniform(system.low, system.high, (8, size))).requires_grad_()
    times = [8 * system.dt * n for n in range(6)]
    leaves = [*network.weights, start]

    def field(_: float, state: Tensor) -> Tensor:
        return system.field(state) + network(state)

    exact, _ = solve(field, start, times, rtol=_TIGHT, atol=_TIGHT)
    expected = torch.autograd.grad(exact.square().mean(), leaves)
    found = solve_adjoint(field, network.weights, start, times, rtol=tolerance, atol=tolerance)
    gradients = torch.autograd.grad(found.square().mean(), leaves)
    return max(float((a - b).norm() / b.norm()) for a, b in zip(gradients, expected, strict=True))


def _saved(adjoint: bool, tolerance: float, seed: int) -> int:
    """Bytes kept for the way back."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    generator = torch.Generator().manual_seed(seed)
    network = Network.drawn(2, 16, generator)
    start = torch.randn(8, 2, dtype=torch.float64, generator=generator)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        if adjoint:
            states = solve_adjoint(lambda _, s: network(s), network.weights, start, (0.0, 5.0), rtol=tolerance)
        else:
            states, _ = solve(lambda _, s: network(s), start, (0.0, 5.0), rtol=tolerance)
    assert states.requires_grad
    return sum(kept.values())


def _learnt(data: Trajectories, settings: Settings, quick: bool, seed: int) -> NeuralODE:
    chosen = {
        "hidden": settings["hidden"],
        "matching": settings["matching"] * (1 if quick else 10),
        "steps": settings["matching"] // (40 if quick else 4),
        "sequence": 4,
        "rate": 1e-2,
    }
    return reconstructor.fit(data, chosen, seed).model  # type: ignore[return-value]


def _field_error(model: NeuralODE, system: _System, test: Trajectories) -> float:
    """Root mean square error of the learnt field along fresh trajectories, over that of the field itself."""
    truth = system.field(torch.from_numpy(test.points)).numpy()
    return float(np.sqrt(np.square(model.field(test.points) - truth).mean() / np.square(truth).mean()))


def _forecast_error(model: NeuralODE, test: Trajectories) -> float:
    """Root mean square error after ten sampling intervals, in spreads."""
    windows = test.windows(_HORIZON + 1)[::7]
    error = (model.forecast(windows[:, :1], _HORIZON)[:, -1] - windows[:, -1]) / test.points.std(axis=0)
    return float(np.sqrt(np.square(error).mean()))


def _work(model: NeuralODE, test: Trajectories) -> tuple[list[float], list[float]]:
    """Evaluations of a learnt field, and errors of its solution, by tolerance."""
    start = torch.from_numpy(model.scaling.scaled(test.values[:, 0]))
    times = [0.0, 50.0]
    with torch.no_grad():
        exact, _ = solve(lambda _, state: model.network(state), start, times, rtol=1e-12, atol=1e-12)
        evaluations, errors = [], []
        for tolerance in _TOLERANCES:
            states, work = solve(lambda _, s: model.network(s), start, times, rtol=tolerance, atol=tolerance)
            evaluations.append(float(work.evaluations))
            errors.append(float((states - exact)[-1].abs().max()))
    return evaluations, errors


def _arcs(count: int, generator: torch.Generator) -> Tensor:
    """Points on two half circles that face each other, with noise."""
    angle = math.pi * torch.rand(count, dtype=torch.float64, generator=generator)
    upper = torch.rand(count, generator=generator) < 0.5
    sign = torch.where(upper, 1.0, -1.0).double()
    arcs = torch.stack([1.5 * angle.cos() + 0.75 * sign, sign * (1.5 * angle.sin() - 0.4)], 1)
    return arcs + 0.15 * torch.randn(count, 2, dtype=torch.float64, generator=generator)


@dataclasses.dataclass(frozen=True)
class _Flow:
    integral: float
    mismatch: float
    without_trace: float
    gain: float


def _flow(settings: Settings, quick: bool, seed: int) -> _Flow:
    """What a trained flow's density integrates to, its change of variables, and its gain over a normal distribution."""
    generator = torch.Generator().manual_seed(seed)
    flow = ContinuousFlow.drawn(2, 32, generator)
    steps = settings["flow_steps"] * (1 if quick else 20)
    flow.fit(_arcs(4000, generator), steps=steps, batch=128, rate=1e-2, generator=generator, within=4)
    flow = ContinuousFlow(flow.network.frozen(), 2)
    # What is trained for longer is sharper: a spacing of 0.2 sums it to 1.011, of 0.1 to 1.0008, of 0.05 to 1.00000.
    edges = torch.linspace(-7, 7, 71 if quick else 141, dtype=torch.float64)
    grid = torch.cartesian_prod(edges, edges)
    with torch.no_grad():
        integral = float(flow.log_density(grid, 16).exp().sum() * (edges[1] - edges[0]) ** 2)
    fresh = _arcs(1000, generator)
    points = fresh[:6]
    leaf = points.clone().requires_grad_()
    mapped = flow.base(leaf)
    # Points do not depend on one another: the gradient of a sum holds a row of each one's Jacobian.
    jacobian = torch.stack([torch.autograd.grad(mapped[:, row].sum(), leaf, retain_graph=True)[0] for row in (0, 1)], 1)
    with torch.no_grad():
        base = -0.5 * flow.base(points).square().sum(1) - math.log(2 * math.pi)
        density = flow.solved_log_density(points)
        gain = float(flow.log_density(fresh, 16).mean())
    return _Flow(
        integral,
        float((density - base - jacobian.det().abs().log()).abs().max()),
        float((density - base).abs().max()),
        # The normal distribution with the points' own mean and covariance has minus its entropy.
        gain + 0.5 * float(torch.logdet(2 * math.pi * math.e * fresh.T.cov(correction=0))),
    )


def _plan(settings: Settings, quick: bool) -> Plan:
    seconds = 0.5 + 0.0012 * settings["matching"] + 0.01 * settings["flow_steps"]
    return Plan(runs=2 + len(_SYSTEMS), seconds=seconds * (1 if quick else 12))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    gradients = [_gradient_error(system, seed, _TIGHT) for system in _SYSTEMS]
    loose = [_gradient_error(system, seed, _LOOSE) for system in _SYSTEMS]
    memory = {each: _saved(each, 1e-10, seed) / _saved(each, 1e-3, seed) for each in (True, False)}
    progress()
    fields, forecasts = [], []
    evaluations: list[float] = []
    errors: list[float] = []
    for system in _SYSTEMS:
        test = _data(system, 10, seed + 1)
        model = _learnt(_data(system, 30, seed), settings, quick, seed)
        fields.append(_field_error(model, system, test))
        forecasts.append(_forecast_error(model, test))
        if system is _SYSTEMS[1]:
            evaluations, errors = _work(model, test)
            reversed_model = _learnt(_data(system, 30, seed, backwards=True), settings, True, seed)
            wrong = (_field_error(reversed_model, system, test), _forecast_error(reversed_model, test))
        progress()
    flow = _flow(settings, quick, seed)
    progress()
    return Outcome(
        measured={
            "adjoint_gradients": gradients,
            "constant_memory": memory[True],
            "field_recovered": fields,
            "short_forecasts": forecasts,
            "evaluations_by_tolerance": evaluations,
            "errors_by_tolerance": errors,
            "flow_integrates_to_one": flow.integral,
            "change_of_variables": flow.mismatch,
            "flow_beats_a_normal": flow.gain,
        },
        controls={
            "loose_adjoint": loose,
            "memory_through_the_solver": memory[False],
            "field_of_reversed_time": wrong[0],
            "forecasts_of_reversed_time": wrong[1],
            "density_without_the_trace": flow.without_trace,
        },
        series={"tolerance": _TOLERANCES, "evaluations": evaluations, "errors": errors},
    )


study = Study(
    id="249",
    slug="neural-odes",
    paper=Paper(
        title="Neural Ordinary Differential Equations",
        authors=("Ricky T. Q. Chen", "Yulia Rubanova", "Jesse Bettencourt", "David Duvenaud"),
        year=2018,
        url="https://arxiv.org/abs/1806.07366",
    ),
    summary="Adjoint gradients are exact at constant memory; fields are recovered; precision costs work.",
    settings=(
        Setting("hidden", "int", 48, "units of each hidden layer of the fields", 24, 96),
        Setting("matching", "int", 2000, "steps on differences of samples; 10 times as many in full", 1000, 4000),
        Setting("flow_steps", "int", 150, "steps of the flow's training; 20 times as many in full", 100, 400),
    ),
    statements=(
        Statement(
            "adjoint_gradients",
            "at_most",
            1e-5,
            "Relative error of gradients by the adjoint at a tolerance of 1e-9; each system's field plus a network.",
        ),
        Statement(
            "constant_memory",
            "equal",
            1.0,
            "Bytes kept for the way back at a tolerance of 1e-10 over those at 1e-3, by the adjoint.",
        ),
        Statement(
            "field_recovered",
            "at_most",
            0.1,
            "Error of the learnt field along fresh trajectories over the field: spiral, Lotka-Volterra, Lorenz-63. A"
            " tenth is a direction that is right to within 6 degrees.",
        ),
        Statement("short_forecasts", "at_most", 0.1, "Error after ten sampling intervals, in spreads."),
        Statement(
            "evaluations_by_tolerance",
            "monotone",
            "increasing",
            "Evaluations of the learnt field at tolerances of 1e-3, 1e-5, 1e-7 and 1e-9.",
        ),
        Statement("errors_by_tolerance", "monotone", "decreasing", "Errors of those solutions."),
        Statement("flow_integrates_to_one", "equal", 1.0, "The flow's density, summed over a square of side 14.", 0.01),
        Statement(
            "change_of_variables",
            "at_most",
            1e-4,
            "Largest difference, in nats, of the flow's density from that of the change of variables, whose Jacobian is"
            " taken through the solver.",
        ),
        Statement(
            "flow_beats_a_normal",
            "at_least",
            0.1,
            "Mean log density of fresh points, in nats above a normal distribution with their own mean and covariance.",
        ),
    ),
    controls=(
        Control("loose_adjoint", "adjoint_gradients", "The adjoint at a tolerance of 0.01."),
        Control("memory_through_the_solver", "constant_memory", "Bytes kept by the solver's own steps."),
        Control("field_of_reversed_time", "field_recovered", "Trained on trajectories in reversed order."),
        Control("forecasts_of_reversed_time", "short_forecasts", "Trained on trajectories in reversed order."),
        Control("density_without_the_trace", "change_of_variables", "The Jacobian's determinant left out."),
    ),
    plan=_plan,
    run=_run,
    smoke={"matching": 1200, "flow_steps": 100},
)
