"""Neural ordinary differential equation: a network is the right-hand side."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.linalg
import scipy.optimize
import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.reconstruct._orbits import exponents
from separatrix.reconstruct._recurrent_training import Windows, descend, uniform
from separatrix.reconstruct.model import Analysis, Cycle, Reconstructor
from separatrix.reconstruct.ode import local_error, runge_kutta, solve_adjoint
from separatrix.reconstruct.scaling import Scaling
from separatrix.reconstruct.trajectories import Trajectories
from separatrix.runs.paper import Paper
from separatrix.runs.settings import Setting, Settings

_STARTS = 40
_SAME = 1e-4


@dataclasses.dataclass(frozen=True)
class Network:
    """A perceptron with two hidden layers of tanh: (inward, first bias, middle, second bias, outward, last bias)."""

    weights: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

    @classmethod
    def drawn(cls, size: int, hidden: int, generator: torch.Generator, out: int | None = None) -> Network:
        """Random weights, even in +-1 / sqrt(inputs); biases 0."""
        shapes = ((hidden, size), (hidden, hidden), (size if out is None else out, hidden))
        pairs = [(uniform(shape, generator), torch.zeros(shape[0], dtype=torch.float64)) for shape in shapes]
        (a, b), (c, d), (e, f) = pairs
        return cls((a, b.requires_grad_(), c, d.requires_grad_(), e, f.requires_grad_()))

    def __call__(self, states: Tensor) -> Tensor:
        """Values at states (..., size)."""
        a, b, c, d, e, f = self.weights
        hidden = torch.tanh(torch.nn.functional.linear(states, a, b))
        return torch.nn.functional.linear(torch.tanh(torch.nn.functional.linear(hidden, c, d)), e, f)

    def jacobian(self, states: Tensor) -> Tensor:
        """Derivatives (..., size, size) at states."""
        a, b, c, d, e, _ = self.weights
        first = torch.tanh(torch.nn.functional.linear(states, a, b))
        second = torch.tanh(torch.nn.functional.linear(first, c, d))
        inner = (1 - first.square())[..., None] * a
        return e @ ((1 - second.square())[..., None] * (c @ inner))

    def frozen(self) -> Network:
        """The same network with weights that need no gradient."""
        a, b, c, d, e, f = (each.detach().clone() for each in self.weights)
        return Network((a, b, c, d, e, f))


@dataclasses.dataclass(frozen=True)
class NeuralODE:
    """A learnt right-hand side, in scaled variables and in time counted in sampling intervals."""

    network: Network
    scaling: Scaling
    within: int
    samples: Float[np.ndarray, "sample variable"]
    dt: float
    history: int = 1

    def field(self, points: Float[np.ndarray, "*rows variable"]) -> Float[np.ndarray, "*rows variable"]:
        """The learnt derivative in the data's units, a unit of time."""
        with torch.no_grad():
            rates = self.network(torch.from_numpy(self.scaling.scaled(np.asarray(points, dtype=np.float64)))).numpy()
        field: np.ndarray = rates * self.scaling.spread / self.dt
        return field

    def forecast(
        self, history: Float[np.ndarray, "batch past variable"], steps: int
    ) -> Float[np.ndarray, "batch steps variable"]:
        """The samples that follow the last one, by the method of order 4 that it was trained with."""
        start = torch.from_numpy(self.scaling.scaled(history[:, -1]))
        with torch.no_grad():
            states = runge_kutta(lambda _, state: self.network(state), start, 1.0, steps, within=self.within)[1:]
        return self.scaling.restored(states.transpose(0, 1).numpy())

    def step(self, states: Float[np.ndarray, "batch variable"]) -> Float[np.ndarray, "batch variable"]:
        """Scaled states one sampling interval later."""
        with torch.no_grad():
            field = lambda _, state: self.network(state)  # noqa: E731
            after: np.ndarray = runge_kutta(field, torch.from_numpy(states), 1.0, 1, within=self.within)[1].numpy()
        return after

    def slope(self, states: Float[np.ndarray, "batch variable"]) -> Float[np.ndarray, "batch variable variable"]:
        """The derivative of `step`."""
        size = states.shape[1]

        def joint(_: float, both: Tensor) -> Tensor:
            point, frame = both[:, :size], both[:, size:].reshape(-1, size, size)
            return torch.cat([self.network(point), (self.network.jacobian(point) @ frame).flatten(1)], 1)

        frame = torch.eye(size, dtype=torch.float64).flatten().expand(len(states), -1)
        with torch.no_grad():
            ends = runge_kutta(joint, torch.cat([torch.from_numpy(states), frame], 1), 1.0, 1, within=self.within)[1]
        slopes: np.ndarray = ends[:, size:].reshape(-1, size, size).numpy()
        return slopes

    def analyse(self) -> Analysis:
        """Fixed points, with multipliers of one sampling interval, and the Lyapunov exponents of a free run."""
        found: list[Cycle] = []
        points: list[np.ndarray] = []
        for start in self.samples[:: max(1, len(self.samples) // _STARTS)]:
            solution = scipy.optimize.root(self._rates, start, jac=self._slopes)
            known = any(np.abs(solution.x - point).max() < _SAME for point in points)
            if solution.success and not known:
                points.append(solution.x)
                multipliers = np.linalg.eigvals(scipy.linalg.expm(self._slopes(solution.x))).astype(np.complex128)
                order = np.argsort(-np.abs(multipliers), kind="stable")
                found.append(Cycle(self.scaling.restored(solution.x)[None], multipliers[order]))
        size = self.samples.shape[1]
        spectrum = exponents(self.step, self.slope, self.samples[-1], size, self.dt, steps=2000, transient=500)
        return Analysis(tuple(found), exponents=spectrum)

    def _rates(self, point: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            rates: np.ndarray = self.network(torch.from_numpy(point)).numpy()
        return rates

    def _slopes(self, point: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            slopes: np.ndarray = self.network.jacobian(torch.from_numpy(point)).numpy()
        return slopes


def _slopes_at_samples(trajectories: Trajectories, scaling: Scaling) -> tuple[Tensor, Tensor]:
    """Scaled samples and central differences there, a sampling interval."""
    scaled = [scaling.scaled(part) for part in trajectories.parts if len(part) > 2]
    middle = np.concatenate([part[1:-1] for part in scaled])
    return torch.from_numpy(middle), torch.from_numpy(np.concatenate([(part[2:] - part[:-2]) / 2 for part in scaled]))


def _learn(trajectories: Trajectories, settings: Settings, seed: int) -> NeuralODE:
    scaling = Scaling.of(trajectories)
    length, within = settings["sequence"], settings["within"]
    windows = Windows.of(trajectories, scaling, length, settings["noise"])
    generator = torch.Generator().manual_seed(seed)
    network = Network.drawn(len(trajectories.names), settings["hidden"], generator)
    samples, slopes = _slopes_at_samples(trajectories, scaling)

    def matched(step: int) -> Tensor:
        chosen = torch.randint(len(samples), (8 * settings["batch"],), generator=generator)
        return (network(samples[chosen]) - slopes[chosen]).square().mean() / slopes.square().mean()

    def loss(step: int) -> Tensor:
        window = windows.drawn(settings["batch"], generator)
        states = _followed(network, window[0], length, settings)
        error = (states[1:] - window[1:]).square().mean()
        if settings["local_error"]:
            now = int(torch.randint(length, (), generator=generator))
            error = error + settings["local_error"] * local_error(_field(network), 0.0, states[now], 1.0)
        return error

    rate = settings["rate"]
    descend(network.weights, matched, steps=settings["matching"], rate=rate, last_rate=rate / 10)
    descend(network.weights, loss, steps=settings["steps"], rate=rate / 10, last_rate=rate / 100)
    points = scaling.scaled(trajectories.points)
    kept = points[np.linspace(0, len(points) - 1, 200).astype(int)]
    return NeuralODE(network.frozen(), scaling, within, kept, trajectories.dt)


def _field(network: Network):  # type: ignore[no-untyped-def]
    return lambda _, state: network(state)


def _followed(network: Network, start: Tensor, length: int, settings: Settings) -> Tensor:
    if settings["gradient"] == "adjoint":
        times = [float(each) for each in range(length + 1)]
        return solve_adjoint(_field(network), network.weights, start, times, rtol=settings["tolerance"], atol=1e-9)
    return runge_kutta(_field(network), start, 1.0, length, within=settings["within"])


reconstructor = Reconstructor(
    name="neural-ode",
    summary="A network as the right-hand side of a differential equation, trained through a solver or by its adjoint.",
    papers=(
        Paper(
            title="Neural Ordinary Differential Equations",
            authors=("Ricky T. Q. Chen", "Yulia Rubanova", "Jesse Bettencourt", "David Duvenaud"),
            year=2018,
            url="https://arxiv.org/abs/1806.07366",
        ),
        Paper(
            title="Locally Regularized Neural Differential Equations: Some Black Boxes Were Meant to Remain Closed!",
            authors=("Avik Pal", "Alan Edelman", "Chris Rackauckas"),
            year=2023,
            url="https://arxiv.org/abs/2303.02262",
        ),
    ),
    settings=(
        Setting("hidden", "int", 64, "units of each of two hidden layers", 2, 1000),
        Setting(
            "matching", "int", 1500, "steps on differences of samples, before any equation is solved", 0, 1_000_000
        ),
        Setting("steps", "int", 300, "steps on solutions", 0, 1_000_000),
        Setting("sequence", "int", 8, "sampling intervals that a solution is followed", 2, 1000),
        Setting("batch", "int", 64, "solutions in a step of the training", 1, 1024),
        Setting(
            "rate",
            "float",
            3e-3,
            "learning rate of Adam, which falls by a factor 10 in each part of the training",
            1e-6,
            1.0,
        ),
        Setting("within", "int", 1, "steps of the method of order 4 within a sampling interval", 1, 100),
        Setting(
            "gradient", "str", "solver", "through the solver's steps, or by the adjoint", choices=("solver", "adjoint")
        ),
        Setting("tolerance", "float", 1e-5, "relative tolerance where the adjoint is used", 1e-12, 1e-1),
        Setting("local_error", "float", 0.0, "weight of the solver's own error at a random time", 0.0, 1e6),
        Setting("noise", "float", 0.0, "noise added to training sequences, in spreads of the data", 0.0, 1.0),
    ),
    learn=_learn,
    quick={"hidden": 16, "matching": 200, "steps": 20, "sequence": 3, "batch": 16},
)
