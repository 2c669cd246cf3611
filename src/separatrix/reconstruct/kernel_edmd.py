"""Kernel extended dynamic mode decomposition with verified eigenvalues.

The dictionary is implicit: all functions k(., c) for centres c among the samples. Its principal components on the
centres, k(x, c) q / sqrt(sigma), are the features (Williams, Rowley & Kevrekidis 2015); only those with a share of the
variance above the rounding of the kernel are kept, at most `rank`. Residuals are those on samples that were not used,
since on the centres themselves they would be zero by construction.
"""

from __future__ import annotations

import numpy as np

from separatrix.reconstruct._operators import OPERATOR_SETTINGS, OperatorModel, learn_operator, split_pairs
from separatrix.reconstruct.edmd import KOOPMAN_PAPERS
from separatrix.reconstruct.model import Reconstructor
from separatrix.reconstruct.scaling import Scaling
from separatrix.reconstruct.trajectories import Trajectories
from separatrix.runs.paper import Paper
from separatrix.runs.settings import Setting, Settings

_VARIANCE = 1e-12


def _kernel(name: str, left: np.ndarray, right: np.ndarray, width: float) -> np.ndarray:
    if name == "polynomial":
        return np.asarray((1.0 + left @ right.T / (width**2 * left.shape[1])) ** 4)
    squares = np.maximum(np.sum(left**2, axis=1)[:, None] + np.sum(right**2, axis=1) - 2.0 * left @ right.T, 0.0)
    if name == "laplacian":
        return np.asarray(np.exp(-np.sqrt(squares) / width))
    return np.asarray(np.exp(-squares / (2 * width**2)))


def _learn(trajectories: Trajectories, settings: Settings, seed: int) -> OperatorModel:
    scaling, lags = Scaling.of(trajectories), settings["lags"]
    learning, _ = split_pairs(trajectories, scaling, lags, settings["held_out"])
    points = learning[:, :-1].reshape(len(learning), -1)
    generator = np.random.default_rng(seed)
    count = min(settings["centres"], max(2, len(points) // 2))
    centres = points[np.sort(generator.choice(len(points), count, replace=False))]
    gram = _kernel(settings["kernel"], centres, centres, settings["width"])
    sizes, vectors = np.linalg.eigh(gram)
    kept = np.flatnonzero(sizes > _VARIANCE * sizes[-1])[::-1][: settings["rank"]]
    projection = vectors[:, kept] / np.sqrt(sizes[kept])

    def features(states: np.ndarray) -> np.ndarray:
        return np.asarray(_kernel(settings["kernel"], states, centres, settings["width"]) @ projection)

    return learn_operator(trajectories, features, scaling, settings)


reconstructor = Reconstructor(
    name="kernel-edmd",
    summary="Extended dynamic mode decomposition in a kernel's space, verified by residuals on unseen data.",
    papers=(
        *KOOPMAN_PAPERS,
        Paper(
            "A kernel-based method for data-driven Koopman spectral analysis",
            ("Matthew O. Williams", "Clarence W. Rowley", "Ioannis G. Kevrekidis"),
            2014,
            "https://arxiv.org/abs/1411.2260",
        ),
    ),
    settings=(
        Setting(
            "kernel",
            "str",
            "gaussian",
            "kernel; the polynomial one has degree 4",
            choices=("gaussian", "laplacian", "polynomial"),
        ),
        Setting("width", "float", 2.0, "length scale of the kernel, in spreads", 0.05, 50.0),
        Setting("centres", "int", 500, "samples that span the space, at most half of those learnt from", 2, 4000),
        Setting("rank", "int", 150, "principal components that are kept", 1, 2000),
        *OPERATOR_SETTINGS,
    ),
    learn=_learn,
)
