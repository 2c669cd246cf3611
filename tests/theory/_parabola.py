"""A theory that is exact: gradient descent on half the square of one weight."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.runs import SeriesSpec
from separatrix.theory import Band, Curves, Law, Paper, Setting, Simulation, Theory


def decay(rate: float, steps: Sequence[int]) -> Curves:
    """Loss w^2 / 2 under gradient descent from w = 1."""
    shrunk = (1.0 - rate) ** np.asarray(steps, dtype=np.float64)
    return {"loss": 0.5 * shrunk**2, "weight": shrunk[:, None]}


def descend(rate: float, steps: Sequence[int], seed: int) -> Simulation:
    weights = [1.0]
    for _ in range(max(steps)):
        weights.append(weights[-1] - rate * weights[-1])
    held = np.array(weights)[list(steps)]
    return Simulation({"loss": 0.5 * held**2, "weight": held[:, None]})


SOUND = Theory(
    name="parabola",
    question="How fast does one weight decay?",
    assumptions=("The loss is half the square of one weight.",),
    papers=(Paper("On parabolas", ("A. Uthor",), 1999),),
    settings=(Setting("rate", "float", 0.1, "learning rate", 0.05, 0.4),),
    series=(SeriesSpec("loss", description="half the square"), SeriesSpec("weight", ("mode",), description="it")),
    problem=lambda settings, seed: float(settings["rate"]),
    steps=lambda rate: range(0, 40),
    predict=decay,
    simulate=descend,
    bands=(Band("loss", 1e-9, "it is exact"),),
    laws=(Law("start", "the loss starts at one half", lambda rate, seen: abs(float(seen["loss"][0]) - 0.5)),),
    wrong=lambda settings: {"rate": 0.5 * settings["rate"] if settings["rate"] > 0.1 else 2 * settings["rate"]},
)
