"""Nonlinear vector autoregression, also called next-generation reservoir computing.

The next increment is a polynomial of a few delayed samples, fitted by ridge regression: the features are exactly those
that a reservoir with a linear readout of its products would provide, without a reservoir (Gauthier et al. 2021, with
degree 2 and two lags for Lorenz-63).
"""

from __future__ import annotations

from separatrix.reconstruct._autoregression import Autoregression, learn_autoregression
from separatrix.reconstruct.model import Reconstructor
from separatrix.reconstruct.trajectories import Trajectories
from separatrix.runs.paper import Paper
from separatrix.runs.settings import Setting, Settings


def _learn(trajectories: Trajectories, settings: Settings, seed: int) -> Autoregression:
    return learn_autoregression(
        trajectories,
        degree=settings["degree"],
        lags=settings["lags"],
        skip=settings["skip"],
        penalty=settings["ridge"],
    )


reconstructor = Reconstructor(
    name="ndvar",
    summary="Nonlinear vector autoregression (next-generation reservoir): a polynomial of delayed samples.",
    papers=(
        Paper(
            "Next generation reservoir computing",
            ("Daniel J. Gauthier", "Erik Bollt", "Aaron Griffith", "Wendson A. S. Barbosa"),
            2021,
            "https://arxiv.org/abs/2106.07688",
        ),
    ),
    settings=(
        Setting("degree", "int", 2, "degree of the polynomial", 2, 8),
        Setting("lags", "int", 2, "delayed samples that the next one depends on", 1, 32),
        Setting("skip", "int", 1, "samples between the delayed ones", 1, 64),
        Setting("ridge", "float", 1e-9, "penalty on squared weights, in units of a normalised sample", 0.0, 1e3),
    ),
    learn=_learn,
)
