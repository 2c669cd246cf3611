"""Almost-linear recurrent network: few rectified units, so that its regions are a readable alphabet."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.reconstruct._piecewise_linear_model import PiecewiseLinearModel
from separatrix.reconstruct._recurrent_training import Windows, descend
from separatrix.reconstruct.model import Reconstructor
from separatrix.reconstruct.piecewise_linear import PiecewiseLinearMap
from separatrix.reconstruct.scaling import Scaling
from separatrix.reconstruct.teacher_forcing import sparse, unrolled
from separatrix.reconstruct.trajectories import Trajectories
from separatrix.runs.paper import Paper
from separatrix.runs.settings import Setting, Settings

_FITTED = 3000  # pairs of samples that borders are chosen on
_TRIED = 40  # borders tried at a time
_REACHES = (0.3, 0.1, 0.03, 0.01)  # how far from the best one, in spreads
_RIDGE = 1e-6
_SMALL = 0.01  # spread of the couplings of units without a part at the start


@dataclasses.dataclass(frozen=True)
class _Network:
    """Z' = a z + W phi(z) + h with phi the identity but for the last `units` coordinates, which are rectified.

    A state starts at x, then E x + e.
    """

    diagonal: Tensor
    coupling: Tensor
    bias: Tensor
    embedding: Tensor
    offset: Tensor
    units: int

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return self.diagonal, self.coupling, self.bias, self.embedding, self.offset

    @property
    def full(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        size = len(self.bias)
        straight = size - self.units
        passed = torch.zeros(size, self.units, dtype=self.bias.dtype)
        linear = torch.diag(self.diagonal) + torch.cat([self.coupling[:, :straight], passed], 1)
        selected = torch.eye(size, dtype=self.bias.dtype)[straight:]
        return linear, self.coupling[:, straight:], selected, torch.zeros(self.units, dtype=self.bias.dtype), self.bias

    def start(self, observed: Tensor) -> Tensor:
        return torch.cat([observed, observed @ self.embedding.T + self.offset], 1)

    @property
    def map(self) -> PiecewiseLinearMap:
        return PiecewiseLinearMap(*(each.detach().numpy().copy() for each in self.full))


def greedy_borders(
    points: Float[np.ndarray, "pair variable"],
    following: Float[np.ndarray, "pair variable"],
    units: int,
    generator: np.random.Generator,
) -> tuple[Float[np.ndarray, "unit variable"], Float[np.ndarray, " unit"], Float[np.ndarray, "feature variable"]]:
    """Borders w x + c = 0, chosen one after the other, across which a linear map bends best.

    Random ones are tried first, then some near the best of them, ever nearer.

    Returns w, c and the coefficients of the variables, the rectified units and 1 that best predict one step.
    """
    inward, threshold = np.zeros((0, points.shape[1])), np.zeros(0)
    for _ in range(units):
        directions = generator.standard_normal((_TRIED, points.shape[1]))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        places = -(directions * points[generator.integers(len(points), size=_TRIED)]).sum(axis=1)
        least, direction, place = math.inf, directions[0], float(places[0])
        for reach in (0.0, *_REACHES):
            if reach:
                directions = direction + reach * generator.standard_normal(directions.shape)
                places = place + reach * generator.standard_normal(_TRIED)
            for candidate, at in zip(directions, places, strict=True):
                error = _predicted(points, following, np.vstack([inward, candidate]), np.append(threshold, at))[1]
                if error < least:
                    least, direction, place = error, candidate, at
        inward, threshold = np.vstack([inward, direction]), np.append(threshold, place)
    return inward, threshold, _predicted(points, following, inward, threshold)[0]


def _predicted(
    points: np.ndarray, following: np.ndarray, inward: np.ndarray, threshold: np.ndarray
) -> tuple[np.ndarray, float]:
    """Ridge coefficients of one step and its squared error."""
    units = np.maximum(points @ inward.T + threshold, 0.0)
    features = np.column_stack([points, units, np.ones(len(points))])
    gram = features.T @ features
    gram[np.diag_indices(len(gram))] += _RIDGE * len(points)
    solution = np.linalg.solve(gram, features.T @ following)
    return solution, float(np.square(following - features @ solution).sum())


def _initial(trajectories: Trajectories, scaling: Scaling, size: int, units: int, seed: int) -> _Network:
    """The network that predicts one step best with greedy borders; what is left of its units has small couplings."""
    generator = np.random.default_rng(seed)
    pairs = scaling.scaled(trajectories.windows(2))
    chosen = pairs[generator.permutation(len(pairs))[:_FITTED]]
    seen = chosen.shape[2]
    inward, threshold, solution = greedy_borders(chosen[:, 0], chosen[:, 1], units, generator)
    diagonal = np.append(np.zeros(seen), generator.uniform(0.0, 1.0, size - seen))
    coupling, bias = _SMALL * generator.standard_normal((size, size)), np.zeros(size)
    embedding, offset = np.zeros((size - seen, seen)), np.zeros(size - seen)
    rows = slice(size - units, size)
    diagonal[rows] = 0.0
    coupling[:seen, :seen], coupling[:seen, rows], bias[:seen] = solution[:seen].T, solution[seen:-1].T, solution[-1]
    # A unit w x + c of the next sample is linear in the units and variables of this one.
    coupling[rows] = inward @ coupling[:seen]
    bias[rows] = inward @ bias[:seen] + threshold
    if units:
        embedding[-units:], offset[-units:] = inward, threshold
    numbers = (diagonal, coupling, bias, embedding, offset)
    a, w, h, e, o = (torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in numbers)
    return _Network(a, w, h, e, o, units)


def _learn(trajectories: Trajectories, settings: Settings, seed: int) -> PiecewiseLinearModel:
    scaling = Scaling.of(trajectories)
    length, units = settings["sequence"], settings["units"]
    windows = Windows.of(trajectories, scaling, length, settings["noise"])
    size = max(settings["states"], len(trajectories.names) + units)
    network = _initial(trajectories, scaling, size, units, seed)
    generator = torch.Generator().manual_seed(seed)
    strengths = sparse(length, settings["interval"])

    def loss(step: int) -> Tensor:
        window = windows.drawn(settings["batch"], generator)
        states = unrolled(*network.full, network.start(window[0]), window[1:], strengths)
        return (states[..., : window.shape[2]] - window[1:]).square().mean()

    descend(network.leaves, loss, steps=settings["steps"], rate=settings["rate"], last_rate=settings["rate"] / 50)
    seen = len(trajectories.names)
    embedding = np.vstack([np.eye(seen), network.embedding.detach().numpy()])
    offset = np.append(np.zeros(seen), network.offset.detach().numpy())
    return PiecewiseLinearModel.of(network.map, scaling, trajectories, embedding, offset)


reconstructor = Reconstructor(
    name="almost-linear-rnn",
    summary="Linear network with a few rectified units, trained with sparse teacher forcing: a symbol for each region.",
    papers=(
        Paper(
            title="Almost-Linear RNNs Yield Highly Interpretable Symbolic Codes in Dynamical Systems Reconstruction",
            authors=("Manuel Brenner", "Christoph Jürgen Hemmer", "Zahra Monfared", "Daniel Durstewitz"),
            year=2024,
            url="https://arxiv.org/abs/2410.14240",
        ),
    ),
    settings=(
        Setting("states", "int", 20, "coordinates of the state, at least the variables and rectified units", 1, 500),
        Setting("units", "int", 2, "rectified coordinates: 2 to that power regions", 0, 100),
        Setting("interval", "int", 16, "steps between forcing", 1, 1000),
        Setting("sequence", "int", 48, "steps of a training sequence", 2, 1000),
        Setting("batch", "int", 64, "sequences in a step of the training", 1, 1024),
        Setting("steps", "int", 3000, "steps of the training", 0, 1_000_000),
        Setting("rate", "float", 3e-3, "learning rate of Adam, which falls by a factor 50", 1e-6, 1.0),
        Setting("noise", "float", 0.0, "noise added to training sequences, in spreads of the data", 0.0, 1.0),
    ),
    learn=_learn,
    quick={"states": 6, "sequence": 10, "batch": 16, "steps": 100, "interval": 5},
)
