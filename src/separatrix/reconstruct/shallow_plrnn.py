"""Shallow piecewise-linear recurrent network, trained with generalized teacher forcing."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.reconstruct._piecewise_linear_model import PiecewiseLinearModel
from separatrix.reconstruct._recurrent_training import Windows, descend
from separatrix.reconstruct.model import Reconstructor
from separatrix.reconstruct.piecewise_linear import PiecewiseLinearMap
from separatrix.reconstruct.scaling import Scaling
from separatrix.reconstruct.teacher_forcing import annealed, derivatives, growth, sparse, strength, unrolled
from separatrix.reconstruct.trajectories import Trajectories
from separatrix.runs.paper import Paper
from separatrix.runs.settings import Setting, Settings

_RIDGE = 1e-6
_FITTED = 20_000  # pairs of samples for the least-squares start
_UPDATED = 10  # steps between updates of the forcing


@dataclasses.dataclass(frozen=True)
class _Weights:
    """A (diagonal), V, W, h and b of z' = A z + V max(W z + h, 0) + b."""

    linear: Tensor
    outward: Tensor
    inward: Tensor
    threshold: Tensor
    bias: Tensor

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return self.linear, self.outward, self.inward, self.threshold, self.bias

    @property
    def full(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return torch.diag(self.linear), self.outward, self.inward, self.threshold, self.bias

    @property
    def map(self) -> PiecewiseLinearMap:
        return PiecewiseLinearMap(*(each.detach().numpy().copy() for each in self.full))


def least_squares_start(
    points: Float[np.ndarray, "pair variable"], following: Float[np.ndarray, "pair variable"], hidden: int, seed: int
) -> PiecewiseLinearMap:
    """The map with random units, directions even and borders through samples, that best predicts one step.

    A is diagonal; A, V and b solve a ridge regression.
    """
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(points))[:_FITTED]
    inputs, targets = points[chosen], following[chosen]
    size = inputs.shape[1]
    inward = generator.standard_normal((hidden, size))
    inward /= np.linalg.norm(inward, axis=1, keepdims=True)
    threshold = -(inward * inputs[generator.integers(len(inputs), size=hidden)]).sum(axis=1)
    units = np.maximum(inputs @ inward.T + threshold, 0.0)
    linear, outward, bias = np.zeros(size), np.zeros((size, hidden)), np.zeros(size)
    for row in range(size):
        features = np.column_stack([inputs[:, row], units, np.ones(len(inputs))])
        gram = features.T @ features
        gram[np.diag_indices(len(gram))] += _RIDGE * len(inputs)
        solution = np.linalg.solve(gram, features.T @ targets[:, row])
        linear[row], outward[row], bias[row] = solution[0], solution[1:-1], solution[-1]
    return PiecewiseLinearMap(np.diag(linear), outward, inward, threshold, bias)


def _learn(trajectories: Trajectories, settings: Settings, seed: int) -> PiecewiseLinearModel:
    scaling = Scaling.of(trajectories)
    windows = Windows.of(trajectories, scaling, settings["sequence"], settings["noise"])
    pairs = scaling.scaled(trajectories.windows(2))
    start = least_squares_start(pairs[:, 0], pairs[:, 1], settings["hidden"], seed)
    leaves = (np.diag(start.linear), start.outward, start.inward, start.threshold, start.bias)
    weights = _Weights(*(torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in leaves))
    generator = torch.Generator().manual_seed(seed)
    length, estimator = settings["sequence"], settings["estimator"]
    history: list[float] = [float(settings["forcing"])]

    def strengths(step: int, window: Tensor) -> tuple[float, ...]:
        if settings["interval"]:
            return sparse(length, settings["interval"])
        if estimator != "constant" and step % _UPDATED == 0:
            with torch.no_grad():
                found = (
                    weights.map.norm_bound()
                    if estimator == "bound"
                    else growth(derivatives(*weights.full[:4], window[:-1]), estimator)
                )
            history[0] = annealed(history[0], strength(found), settings["memory"]) if step else strength(found)
        return tuple([history[0]] * length)

    def loss(step: int) -> Tensor:
        window = windows.drawn(settings["batch"], generator)
        states = unrolled(*weights.full, window[0], window[1:], strengths(step, window))
        return (states - window[1:]).square().mean()

    descend(weights.leaves, loss, steps=settings["steps"], rate=settings["rate"], last_rate=settings["rate"] / 50)
    return PiecewiseLinearModel.of(weights.map, scaling, trajectories, forcing=history[0])


reconstructor = Reconstructor(
    name="shallow-plrnn",
    summary="Piecewise-linear network in the space of what is observed, trained with generalized teacher forcing.",
    papers=(
        Paper(
            title="Generalized Teacher Forcing for Learning Chaotic Dynamics",
            authors=("Florian Hess", "Zahra Monfared", "Manuel Brenner", "Daniel Durstewitz"),
            year=2023,
            url="https://arxiv.org/abs/2306.04406",
        ),
    ),
    settings=(
        Setting("hidden", "int", 64, "rectified units", 4, 1000),
        Setting("sequence", "int", 30, "steps of a training sequence", 2, 1000),
        Setting("batch", "int", 64, "sequences in a step of the training", 1, 1024),
        Setting("steps", "int", 1500, "steps of the training", 0, 1_000_000),
        Setting("rate", "float", 1e-3, "learning rate of Adam, which falls by a factor 50", 1e-6, 1.0),
        Setting("noise", "float", 0.0, "noise added to training sequences, in spreads of the data", 0.0, 1.0),
        Setting(
            "estimator",
            "str",
            "product",
            "what sets the forcing: the mean or largest growth along the data, its bound, or a constant",
            choices=("product", "maximum", "mean", "bound", "constant"),
        ),
        Setting("forcing", "float", 0.1, "strength of the forcing where it is constant", 0.0, 1.0),
        Setting("memory", "float", 0.9, "share of the forcing that an update keeps when it falls", 0.0, 1.0),
        Setting("interval", "int", 0, "steps between full forcing, sparse; 0 for generalized forcing", 0, 1000),
    ),
    learn=_learn,
    quick={"hidden": 20, "sequence": 10, "batch": 16, "steps": 100},
)
