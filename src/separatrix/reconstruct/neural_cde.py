"""Neural controlled differential equation: a state driven by a path of data, however irregularly it was observed.

dz = f(z) dX (Kidger, Morrill, Foster and Lyons 2020, arXiv:2005.08926), solved by the reversible Heun method along the
data interpolated linearly, so that training needs no stored states.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from separatrix.reconstruct._recurrent_training import Windows, descend, uniform
from separatrix.reconstruct.model import Analysis, Reconstructor
from separatrix.reconstruct.neural_ode import Network
from separatrix.reconstruct.reversible_heun import reversible_heun
from separatrix.reconstruct.scaling import Scaling
from separatrix.reconstruct.trajectories import Trajectories
from separatrix.runs.errors import UsageError
from separatrix.runs.paper import Paper
from separatrix.runs.settings import Setting, Settings


def interpolated(
    values: Float[np.ndarray, "batch time variable"],
    seen: Bool[np.ndarray, "batch steps variable"],
    times: Float[np.ndarray, " instants"],
) -> Float[np.ndarray, "time batch control"]:
    """The path of controls: time, each variable interpolated linearly where it was not seen, and how often it was seen.

    Before the first and after the last observation of a variable it keeps that value. The counts, over the number of
    times, say what was missing.

    Raises:
        UsageError: a variable of a series was never seen, or shapes do not fit.
    """
    if values.shape != seen.shape or times.shape != values.shape[1:2]:
        raise UsageError(f"values {values.shape}, seen {seen.shape} and times {times.shape} do not fit one another")
    if not seen.any(axis=1).all():
        series, variable = np.argwhere(~seen.any(axis=1))[0]
        raise UsageError(f"variable {variable} of series {series} was never seen: leave that series out")
    filled = np.empty(values.shape)
    for row in range(len(values)):
        for variable in range(values.shape[2]):
            known = seen[row, :, variable]
            filled[row, :, variable] = np.interp(times, times[known], values[row, known, variable])
    counts = np.cumsum(seen, axis=1) / len(times)
    clock = np.broadcast_to((times - times[0])[:, None] / (times[-1] - times[0]), (*values.shape[:2], 1))
    return np.concatenate([clock, filled, counts], axis=2).swapaxes(0, 1)


@dataclasses.dataclass(frozen=True)
class ControlledNetwork:
    """A linear map of the first controls to the state, the field, and a linear readout of the last state."""

    entry: Tensor
    field: Network
    readout: Tensor
    offset: Tensor

    @classmethod
    def drawn(
        cls, controls: int, states: int, hidden: int, outputs: int, generator: torch.Generator
    ) -> ControlledNetwork:
        """Random weights; readout from 0."""
        return cls(
            uniform((states, controls), generator),
            Network.drawn(states, hidden, generator, out=states * controls),
            torch.zeros(outputs, states, dtype=torch.float64, requires_grad=True),
            torch.zeros(outputs, dtype=torch.float64, requires_grad=True),
        )

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """All that is learnt."""
        return self.entry, *self.field.weights, self.readout, self.offset

    def __call__(
        self, path: Float[Tensor, "time batch control"], *, stored: bool = False
    ) -> Float[Tensor, "batch output"]:
        """The readout at the end of the path."""
        states, controls = self.entry.shape
        start = torch.nn.functional.linear(path[0], self.entry)
        field = lambda state: torch.tanh(self.field(state)).reshape(-1, states, controls)  # noqa: E731
        last = reversible_heun(field, self.field.weights, start, path.diff(dim=0), stored=stored)[0]
        return torch.nn.functional.linear(last, self.readout, self.offset)


@dataclasses.dataclass(frozen=True)
class NeuralCDE:
    """Forecasts each change from the path of the last `history` samples; `scale` is the usual change of a sample."""

    network: ControlledNetwork
    scaling: Scaling
    scale: Tensor
    history: int

    def forecast(
        self, history: Float[np.ndarray, "batch past variable"], steps: int
    ) -> Float[np.ndarray, "batch steps variable"]:
        """The samples that follow, each read from the path that ends in the one before."""
        past = self.scaling.scaled(history[:, -self.history :]).swapaxes(0, 1)
        samples = list(torch.from_numpy(np.ascontiguousarray(past)).unbind())
        with torch.no_grad():
            for _ in range(steps):
                changes = self.network(_timed(torch.stack(samples[-self.history :])))
                samples.append(samples[-1] + self.scale * changes)
        return self.scaling.restored(torch.stack(samples[self.history :], 1).numpy())

    def analyse(self) -> Analysis:
        """Nothing: it maps paths to changes, and has no fixed points of its own."""
        return Analysis(notes=("a map from paths to changes: no state of its own to analyse",))


def _timed(samples: Tensor) -> Tensor:
    """Samples (time, batch, variable) with time as a first control."""
    clock = torch.linspace(0, 1, len(samples), dtype=samples.dtype)[:, None, None].expand(-1, samples.shape[1], 1)
    return torch.cat([clock, samples], 2)


def _learn(trajectories: Trajectories, settings: Settings, seed: int) -> NeuralCDE:
    scaling = Scaling.of(trajectories)
    windows = Windows.of(trajectories, scaling, settings["history"], settings["noise"])
    generator = torch.Generator().manual_seed(seed)
    size = len(trajectories.names)
    network = ControlledNetwork.drawn(size + 1, settings["states"], settings["hidden"], size, generator)
    changes = np.diff(scaling.scaled(trajectories.windows(2)), axis=1)[:, 0].std(axis=0)
    scale = torch.from_numpy(np.where(changes > 0, changes, 1.0))

    def loss(step: int) -> Tensor:
        window = windows.drawn(settings["batch"], generator)
        error = network(_timed(window[:-1])) - (window[-1] - window[-2]) / scale
        return error.square().mean()

    descend(network.weights, loss, steps=settings["steps"], rate=settings["rate"], last_rate=settings["rate"] / 50)
    for weight in network.weights:
        weight.requires_grad_(False)
    return NeuralCDE(network, scaling, scale, settings["history"])


reconstructor = Reconstructor(
    name="neural-cde",
    summary="A differential equation driven by the last samples, trained without stored states.",
    papers=(
        Paper("On Neural Differential Equations", ("Patrick Kidger",), 2022, "https://arxiv.org/abs/2202.02435"),
        Paper(
            title="Neural Controlled Differential Equations for Irregular Time Series",
            authors=("Patrick Kidger", "James Morrill", "James Foster", "Terry Lyons"),
            year=2020,
            url="https://arxiv.org/abs/2005.08926",
        ),
    ),
    settings=(
        Setting("states", "int", 16, "coordinates of the state", 1, 500),
        Setting("hidden", "int", 32, "units of each of two hidden layers of the field", 2, 1000),
        Setting("history", "int", 5, "samples that a forecast reads", 2, 1000),
        Setting("batch", "int", 128, "paths in a step of the training", 1, 1024),
        Setting("steps", "int", 800, "steps of the training", 0, 1_000_000),
        Setting("rate", "float", 3e-3, "learning rate of Adam, which falls by a factor 50", 1e-6, 1.0),
        Setting("noise", "float", 0.0, "noise added to training paths, in spreads of the data", 0.0, 1.0),
    ),
    learn=_learn,
    quick={"states": 8, "hidden": 16, "history": 3, "batch": 32, "steps": 150},
)
