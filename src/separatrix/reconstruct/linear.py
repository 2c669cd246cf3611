"""Linear vector autoregression: the baseline that any claim of nonlinearity has to beat."""

from __future__ import annotations

from separatrix.reconstruct._autoregression import Autoregression, learn_autoregression
from separatrix.reconstruct.model import Reconstructor
from separatrix.reconstruct.trajectories import Trajectories
from separatrix.runs.paper import Paper
from separatrix.runs.settings import Setting, Settings


def _learn(trajectories: Trajectories, settings: Settings, seed: int) -> Autoregression:
    return learn_autoregression(
        trajectories, degree=1, lags=settings["lags"], skip=settings["skip"], penalty=settings["ridge"]
    )


reconstructor = Reconstructor(
    name="var",
    summary="Linear vector autoregression on delayed samples, by ridge regression.",
    papers=(Paper("Macroeconomics and Reality", ("Christopher A. Sims",), 1980),),
    settings=(
        Setting("lags", "int", 2, "delayed samples that the next one depends on", 1, 64),
        Setting("skip", "int", 1, "samples between the delayed ones", 1, 64),
        Setting("ridge", "float", 1e-9, "penalty on squared weights, in units of a normalised sample", 0.0, 1e3),
    ),
    learn=_learn,
)
