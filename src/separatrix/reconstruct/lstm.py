"""Long short-term memory: the baseline that a network made for dynamical systems has to beat."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from separatrix.reconstruct._recurrent_training import Windows, descend
from separatrix.reconstruct.model import Analysis, Reconstructor
from separatrix.reconstruct.scaling import Scaling
from separatrix.reconstruct.trajectories import Trajectories
from separatrix.runs.paper import Paper
from separatrix.runs.settings import Setting, Settings


class _Network(nn.Module):
    """Predicts how each sample changes from those before it."""

    def __init__(self, size: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        # On the device meta nothing is drawn from the global generator.
        self.memory = nn.LSTM(size, hidden, dtype=torch.float64, device="meta").to_empty(device="cpu")
        self.readout = nn.Linear(hidden, size, dtype=torch.float64, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            for weight in self.parameters():
                drawn = torch.rand(weight.shape, dtype=weight.dtype, generator=generator)
                weight.copy_((2 * drawn - 1) / hidden**0.5)

    def forward(self, samples: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Changes (time, batch, variable) after each sample, and the state of the memory."""
        outputs, after = self.memory(samples, state)
        return self.readout(outputs), after


@dataclasses.dataclass(frozen=True)
class LSTM:
    """A network that reads the history and goes on from its own forecasts; `scale` is the usual change of a sample."""

    network: _Network
    scaling: Scaling
    scale: Tensor
    history: int

    def forecast(
        self, history: Float[np.ndarray, "batch past variable"], steps: int
    ) -> Float[np.ndarray, "batch steps variable"]:
        """The samples that follow; all of the history is read."""
        samples = torch.from_numpy(np.ascontiguousarray(self.scaling.scaled(history).swapaxes(0, 1)))
        forecast = []
        with torch.no_grad():
            changes, state = self.network(samples, None)
            last = samples[-1] + self.scale * changes[-1]
            for _ in range(steps):
                forecast.append(last)
                changes, state = self.network(last[None], state)
                last = last + self.scale * changes[-1]
        return self.scaling.restored(torch.stack(forecast, 1).numpy())

    def analyse(self) -> Analysis:
        """Nothing: its state is a memory without a closed form."""
        return Analysis(notes=("a baseline: its memory has no closed form to analyse",))


def _learn(trajectories: Trajectories, settings: Settings, seed: int) -> LSTM:
    scaling = Scaling.of(trajectories)
    history, length = settings["history"], settings["history"] + settings["sequence"]
    windows = Windows.of(trajectories, scaling, length, settings["noise"])
    generator = torch.Generator().manual_seed(seed)
    network = _Network(len(trajectories.names), settings["hidden"], generator)
    changes = np.diff(scaling.scaled(trajectories.windows(2)), axis=1)[:, 0].std(axis=0)
    scale = torch.from_numpy(np.where(changes > 0, changes, 1.0))

    def loss(step: int) -> Tensor:
        window = windows.drawn(settings["batch"], generator)
        found, _ = network(window[:-1], None)
        errors: Tensor = (found - window.diff(dim=0) / scale)[history - 1 :]
        return errors.square().mean()

    descend(network.parameters(), loss, steps=settings["steps"], rate=settings["rate"], last_rate=settings["rate"] / 50)
    return LSTM(network.requires_grad_(False), scaling, scale, history)


reconstructor = Reconstructor(
    name="lstm",
    summary="Long short-term memory that predicts the next sample, the usual baseline.",
    papers=(Paper("Long Short-Term Memory", ("Sepp Hochreiter", "Jürgen Schmidhuber"), 1997),),
    settings=(
        Setting("hidden", "int", 64, "units of the memory", 2, 1000),
        Setting("history", "int", 8, "samples that are read before a forecast counts", 1, 1000),
        Setting("sequence", "int", 24, "further steps of a training sequence", 1, 1000),
        Setting("batch", "int", 64, "sequences in a step of the training", 1, 1024),
        Setting("steps", "int", 1500, "steps of the training", 0, 1_000_000),
        Setting("rate", "float", 3e-3, "learning rate of Adam, which falls by a factor 50", 1e-6, 1.0),
        Setting("noise", "float", 0.0, "noise added to training sequences, in spreads of the data", 0.0, 1.0),
    ),
    learn=_learn,
    quick={"hidden": 16, "history": 4, "sequence": 8, "batch": 32, "steps": 150},
)
