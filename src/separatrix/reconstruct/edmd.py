"""Extended dynamic mode decomposition with a spectrum that is verified by residuals on unseen data."""

from __future__ import annotations

import numpy as np

from separatrix.reconstruct._operators import OPERATOR_SETTINGS, Features, OperatorModel, learn_operator, split_pairs
from separatrix.reconstruct._polynomials import Monomials
from separatrix.reconstruct.errors import TrajectoryError
from separatrix.reconstruct.model import Reconstructor
from separatrix.reconstruct.scaling import Scaling
from separatrix.reconstruct.trajectories import Trajectories
from separatrix.runs.paper import Paper
from separatrix.runs.settings import Setting, Settings

KOOPMAN_PAPERS = (
    Paper(
        "Limits and Powers of Koopman Learning",
        ("Matthew J. Colbrook", "Igor Mezić", "Alexei Stepanenko"),
        2024,
        "https://arxiv.org/abs/2407.06312",
    ),
    Paper(
        "Rigorous data-driven computation of spectral properties of Koopman operators for dynamical systems",
        ("Matthew J. Colbrook", "Alex Townsend"),
        2021,
        "https://arxiv.org/abs/2111.14889",
    ),
)


def _polynomial(points: np.ndarray, settings: Settings, seed: int) -> Features:
    return Monomials(points.shape[1], settings["degree"]).values


def _centres(points: np.ndarray, settings: Settings, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    count = min(settings["size"], len(points))
    return np.asarray(points[np.sort(generator.choice(len(points), count, replace=False))])


def _gaussian(points: np.ndarray, settings: Settings, seed: int) -> Features:
    centres, width = _centres(points, settings, seed), settings["width"]

    def features(states: np.ndarray) -> np.ndarray:
        squares = np.sum((states[:, None] - centres) ** 2, axis=2)
        return np.hstack([np.ones((len(states), 1)), states, np.exp(-squares / (2 * width**2))])

    return features


def _fourier(points: np.ndarray, settings: Settings, seed: int) -> Features:
    generator = np.random.default_rng(seed)
    rates = generator.standard_normal((points.shape[1], settings["size"])) / settings["width"]
    phases = generator.uniform(0.0, 2 * np.pi, settings["size"])

    def features(states: np.ndarray) -> np.ndarray:
        return np.hstack([np.ones((len(states), 1)), states, np.cos(states @ rates + phases)])

    return features


_DICTIONARIES = {"polynomial": _polynomial, "gaussian": _gaussian, "fourier": _fourier}


def _learn(trajectories: Trajectories, settings: Settings, seed: int) -> OperatorModel:
    scaling, lags = Scaling.of(trajectories), settings["lags"]
    learning, _ = split_pairs(trajectories, scaling, lags, settings["held_out"])
    points = learning[:, :-1].reshape(len(learning), -1)
    features = _DICTIONARIES[settings["dictionary"]](points, settings, seed)
    size = features(points[:1]).shape[1]
    if size >= len(points):
        raise TrajectoryError(
            f"there are {len(points)} pairs of samples for a dictionary of {size}: give more, or a smaller dictionary"
        )
    return learn_operator(trajectories, features, scaling, settings)


reconstructor = Reconstructor(
    name="edmd",
    summary="Extended dynamic mode decomposition with eigenvalues verified by residuals on unseen data.",
    papers=(
        *KOOPMAN_PAPERS,
        Paper(
            "A data-driven approximation of the Koopman operator: extending dynamic mode decomposition",
            ("Matthew O. Williams", "Ioannis G. Kevrekidis", "Clarence W. Rowley"),
            2014,
            "https://arxiv.org/abs/1408.4408",
        ),
    ),
    settings=(
        Setting(
            "dictionary",
            "str",
            "polynomial",
            "monomials, Gaussians around samples, or cosines of random frequencies",
            choices=("polynomial", "gaussian", "fourier"),
        ),
        Setting("degree", "int", 3, "degree of the monomials", 1, 12),
        Setting("size", "int", 100, "number of Gaussians or cosines", 1, 2000),
        Setting("width", "float", 1.0, "width of the Gaussians, inverse of the frequencies, in spreads", 0.05, 20.0),
        *OPERATOR_SETTINGS,
    ),
    learn=_learn,
)
