"""Deep projection networks: features learnt to span the leading part of the transfer operator, then regression on them.

The samples themselves are features too, beside the learnt ones, so that forecasts can be read off.
"""

from __future__ import annotations

import numpy as np

from separatrix.reconstruct._operators import OPERATOR_SETTINGS, OperatorModel, learn_operator, split_pairs
from separatrix.reconstruct.model import Reconstructor
from separatrix.reconstruct.projection_networks import train_pairs
from separatrix.reconstruct.scaling import Scaling
from separatrix.reconstruct.trajectories import Trajectories
from separatrix.runs.paper import Paper
from separatrix.runs.settings import Setting, Settings


def _learn(trajectories: Trajectories, settings: Settings, seed: int) -> OperatorModel:
    scaling, lags = Scaling.of(trajectories), settings["lags"]
    learning, _ = split_pairs(trajectories, scaling, lags, settings["held_out"])
    count = len(learning)
    network = train_pairs(
        learning[:, :-1].reshape(count, -1),
        learning[:, 1:].reshape(count, -1),
        features=settings["features"],
        width=settings["width"],
        depth=settings["depth"],
        score=settings["score"],
        weight=settings["distortion"],
        steps=settings["steps"],
        batch=settings["batch"],
        rate=settings["rate"],
        seed=seed,
    )

    def features(states: np.ndarray) -> np.ndarray:
        return np.hstack([np.ones((len(states), 1)), states, network.values(states)])

    return learn_operator(trajectories, features, scaling, settings)


reconstructor = Reconstructor(
    name="dpnet",
    summary="Transfer operator on features learnt by projection scores (DPNet), verified by residuals on unseen data.",
    papers=(
        Paper(
            "Learning invariant representations of time-homogeneous stochastic dynamical systems",
            ("Vladimir R. Kostic", "Pietro Novelli", "Riccardo Grazzi", "Karim Lounici", "Massimiliano Pontil"),
            2023,
            "https://arxiv.org/abs/2307.09912",
        ),
    ),
    settings=(
        Setting(
            "score",
            "str",
            "relaxed",
            "what is maximised: DPNet's relaxed or full score, or VAMPNet's",
            choices=("relaxed", "projection", "vamp"),
        ),
        Setting("features", "int", 8, "learnt features", 1, 256),
        Setting("width", "int", 64, "units of a hidden layer", 4, 1024),
        Setting("depth", "int", 2, "hidden layers", 1, 8),
        Setting("distortion", "float", 1.0, "weight of the metric distortion", 0.0, 100.0),
        Setting("steps", "int", 2000, "steps of training", 1, 1_000_000),
        Setting("batch", "int", 1024, "pairs in a step", 2, 1_000_000),
        Setting("rate", "float", 3e-3, "largest learning rate", 1e-6, 1.0),
        *OPERATOR_SETTINGS,
    ),
    learn=_learn,
    quick={"steps": 100, "width": 16, "features": 4, "batch": 256},
)
