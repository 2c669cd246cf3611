"""Almost-linear recurrent network: few rectified units, so that its regions are a readable alphabet.

The paper trains by 100,000 steps of RAdam on sequences forced at every 16th step. Here Gauss-Newton steps minimise the
same error, in seconds, from borders chosen greedily. What predicts best over an interval need not run freely as the
data do: its orbits may leave or settle. So a search then goes on among networks that predict about as well for the one
whose free run visits the states of the data, as the paper's authors choose among runs.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.reconstruct._almost_linear_network import AlmostLinearNetwork
from separatrix.reconstruct._damped_least_squares import damped_least_squares
from separatrix.reconstruct._evolution import evolved
from separatrix.reconstruct._piecewise_linear_model import PiecewiseLinearModel
from separatrix.reconstruct._recurrent_training import Windows
from separatrix.reconstruct.model import Reconstructor
from separatrix.reconstruct.piecewise_linear import PiecewiseLinearMap
from separatrix.reconstruct.scaling import Scaling
from separatrix.reconstruct.scores import Histogram
from separatrix.reconstruct.trajectories import Trajectories
from separatrix.runs.paper import Paper
from separatrix.runs.settings import Setting, Settings

_FITTED = 3000  # pairs of samples that borders are chosen on
_TRIED = 40  # borders tried at a time
_REACHES = (0.3, 0.1, 0.03, 0.01)  # how far from the best one, in spreads
_RIDGE = 1e-6
_SMALL = 0.01  # spread of what states without a part at the start have on those observed
_COUPLED = 0.3
_MEMORY = (0.3, 0.95)  # shares of themselves that filters keep a step
_ORBITS = 12
_SAMPLES = 12_000  # of the data, and about as many of a free run
_SHORTEST = 50
_LOST = 20.0  # spreads beyond which a free run has left the data
_LEAVING = 3.0  # nats that a network is charged all of whose free runs leave
_ACCURACY = 1.0  # nats for an error e times as large
_BEST, _WORST = 1e-12, 1e6


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


@dataclasses.dataclass(frozen=True)
class _LongRun:
    """What is wrong with free runs of networks: how far they are from scaled data, and how many leave."""

    network: AlmostLinearNetwork
    data: Histogram
    starts: Float[Tensor, "orbit variable"]
    steps: int

    @classmethod
    def of(cls, network: AlmostLinearNetwork, points: Float[np.ndarray, "sample variable"]) -> _LongRun:
        """Runs from states of the data, as long as the data or 12,000 samples together."""
        chosen = points[np.linspace(0, len(points) - 1, _ORBITS).astype(int)]
        data = points[:: math.ceil(len(points) / _SAMPLES)]
        return cls(network, Histogram.of(data), torch.from_numpy(chosen), max(_SHORTEST, len(data) // _ORBITS))

    def faults(self, copies: Float[Tensor, "copy number"]) -> Float[np.ndarray, " copy"]:
        """State space divergence of each network, and up to 3 nats for runs that leave."""
        shown = self.network.free_runs(copies, self.starts, self.steps, self.steps)
        lost = (shown.abs().amax((0, 3)) > _LOST).numpy().mean(axis=1)
        visited = shown.swapaxes(0, 1).flatten(1, 2).numpy()
        divergences = [self.data.divergence(each) for each in visited]
        return np.asarray(divergences + _LEAVING * lost)


def _initial(
    network: AlmostLinearNetwork, pairs: Float[np.ndarray, "pair 2 variable"], seed: int
) -> Float[Tensor, " number"]:
    """The network that predicts one step best with greedy borders; what is left of its states filters what is seen."""
    generator = np.random.default_rng(seed)
    chosen = pairs[generator.permutation(len(pairs))[:_FITTED]]
    states, seen, units = network.states, network.seen, network.units
    inward, threshold, solution = greedy_borders(chosen[:, 0], chosen[:, 1], units, generator)
    rows, embedding = np.zeros((states, states + 1)), np.zeros((states - seen, seen + 1))
    filters, rectified = np.arange(seen, states - units), slice(states - units, states)
    rows[filters, filters] = generator.uniform(*_MEMORY, len(filters))
    rows[filters, :seen] = _COUPLED * generator.standard_normal((len(filters), seen))
    embedding[filters - seen, :seen] = generator.standard_normal((len(filters), seen))
    rows[:seen, filters] = _SMALL * generator.standard_normal((seen, len(filters)))
    rows[:seen, :seen], rows[:seen, rectified], rows[:seen, -1] = solution[:seen].T, solution[seen:-1].T, solution[-1]
    # A unit w x + c of the next sample is linear in the states of this one.
    rows[rectified] = inward @ rows[:seen]
    rows[rectified, -1] += threshold
    embedding[filters.size :] = np.column_stack([inward, threshold])
    return torch.from_numpy(np.concatenate([rows.ravel(), np.zeros(units), embedding.ravel()]))


def _learn(trajectories: Trajectories, settings: Settings, seed: int) -> PiecewiseLinearModel:
    scaling = Scaling.of(trajectories)
    seen, units, interval = len(trajectories.names), settings["units"], settings["interval"]
    windows = Windows.of(trajectories, scaling, settings["sequence"], settings["noise"])
    network = AlmostLinearNetwork(max(settings["states"], seen + units), seen, units)
    pairs = scaling.scaled(trajectories.windows(2))
    generator = torch.Generator().manual_seed(seed)

    def fitted(numbers: Tensor, steps: int) -> Tensor:
        drawn = [windows.drawn(settings["batch"], generator) for _ in range(steps)]
        return damped_least_squares(
            numbers,
            lambda each, step: network.equations(each, drawn[step], interval),
            lambda each, step: network.error(each, drawn[step], interval),
            steps,
        )

    common = windows.drawn(settings["batch"], generator)
    run = _LongRun.of(network, scaling.scaled(trajectories.points)) if settings["generations"] else None

    def score(copies: Tensor) -> np.ndarray:
        errors = np.log(np.clip([network.error(each, common, interval) for each in copies], _BEST, _WORST))
        scores: np.ndarray = errors if run is None else run.faults(copies) + _ACCURACY * errors
        return scores

    seeds = range(settings["starts"] * seed, settings["starts"] * (seed + 1))
    starts = torch.stack([fitted(_initial(network, pairs, each), settings["steps"]) for each in seeds])
    numbers = starts[int(np.argmin(score(starts)))]
    if run is not None:
        numbers = evolved(
            numbers,
            network.equations(numbers, common, interval),
            score,
            generations=settings["generations"],
            copies=settings["copies"],
            generator=generator,
        )
    _, _, embedding = (each.numpy() for each in network.parts(numbers))
    return PiecewiseLinearModel.of(
        PiecewiseLinearMap(*(each.numpy().copy() for each in network.full(numbers))),
        scaling,
        trajectories,
        np.vstack([np.eye(seen), embedding[:, :-1]]),
        np.append(np.zeros(seen), embedding[:, -1]),
    )


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
        Setting("states", "int", 1, "coordinates of the state; at least the variables and rectified units", 1, 100),
        Setting("units", "int", 2, "rectified coordinates: 2 to that power regions", 0, 20),
        Setting("interval", "int", 8, "steps between forcing", 1, 1000),
        Setting("sequence", "int", 8, "steps of a training sequence", 2, 1000),
        Setting("batch", "int", 300, "sequences in a step of the training", 1, 10_000),
        Setting("starts", "int", 3, "fits from borders of their own, of which the best goes on", 1, 100),
        Setting("steps", "int", 20, "Gauss-Newton steps of the training of each start", 0, 10_000),
        Setting("generations", "int", 20, "generations of the search for a faithful free run", 0, 10_000),
        Setting("copies", "int", 32, "networks that a generation tries", 4, 1000),
        Setting("noise", "float", 0.0, "noise added to training sequences, in spreads of the data", 0.0, 1.0),
    ),
    learn=_learn,
    quick={"states": 6, "sequence": 8, "batch": 16, "steps": 6, "starts": 1, "generations": 2, "copies": 8},
)
