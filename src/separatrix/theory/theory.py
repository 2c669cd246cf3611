"""What a theory is: the course of a training as a function of its problem, beside the training itself."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from separatrix.runs.paper import Paper
from separatrix.runs.settings import DeclarationError, Setting, Settings, complete
from separatrix.runs.types import SeriesData, SeriesSpec

__all__ = [
    "Band",
    "Curves",
    "Law",
    "Paper",
    "Prediction",
    "Setting",
    "Settings",
    "Simulation",
    "Theory",
    "TheoryError",
]

Floats = NDArray[np.float64]
Curves = Mapping[str, Floats]
"""Values of shape (steps, ...) by name of the series: one number a step, or one for each label of its dimension."""


class TheoryError(DeclarationError):
    """A theory that is not what it declares, or yields something else."""


@dataclasses.dataclass(frozen=True)
class Simulation:
    """Curves of trainings at a problem: means where several were averaged, with the standard errors of those."""

    curves: Curves
    standard_errors: Curves = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Band:
    """How far from a predicted series a training may lie where the theory holds, and why so far.

    At each step the distance is at most `share` times the span of the predicted series (its largest value less its
    smallest, over all steps and labels), plus four standard errors of a simulated mean.
    """

    series: str
    share: float
    reason: str

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0 or not self.reason:
            raise TheoryError(f"the band of {self.series} has share {self.share}: give one between 0 and 1, and why")


@dataclasses.dataclass(frozen=True)
class Law:
    """What must hold of every prediction whatever the problem: an initial value, a limit, a conserved quantity.

    `residual(problem, prediction)` is how far it fails to hold, as a dimensionless number of at most `tolerance`.
    """

    name: str
    says: str
    residual: Callable[[Any, Prediction], float]
    tolerance: float = 1e-9


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a theory yields: its series by name, at common steps."""

    steps: NDArray[np.int64]
    series: Mapping[str, SeriesData]

    def __getitem__(self, name: str) -> Floats:
        """Values of one series, (steps, ...)."""
        return np.asarray(self.series[name].values, dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class Theory:
    """A solvable model of training; one a file, found by walking `separatrix.theory`.

    `problem(settings, seed)` draws what the theory is about: spectra, targets, initial values, learning rate, as data
    of the theory's own kind; `predict(problem, steps)` gives the curves after so many steps of the training, and
    `simulate(problem, steps, seed)` the same curves from trainings that know nothing of the theory. All draw from
    generators of their own. `steps(problem)` are the steps worth looking at, 0 first. Series carry the names that a
    recording of such a training would use.

    `question` is what a person asks of a run that this theory answers; `assumptions` where it holds, in plain words.
    `wrong(settings)` are settings of another course: what they predict must leave the bands of a training at
    `settings`, or the bands tell nothing. `smoke` are settings at which a simulation takes at most a second or two.

    Raises:
        TheoryError: names are missing or point nowhere.
    """

    name: str
    question: str
    assumptions: tuple[str, ...]
    papers: tuple[Paper, ...]
    settings: tuple[Setting, ...]
    series: tuple[SeriesSpec, ...]
    problem: Callable[[Settings, int], Any]
    steps: Callable[[Any], Sequence[int]]
    predict: Callable[[Any, Sequence[int]], Curves]
    simulate: Callable[[Any, Sequence[int], int], Simulation]
    bands: tuple[Band, ...]
    laws: tuple[Law, ...]
    wrong: Callable[[Settings], Settings]
    smoke: Settings = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise TheoryError(f"a theory is called {self.name!r}: give words joined by hyphens")
        for what, given in (
            ("question", self.question),
            ("assumptions", self.assumptions),
            ("papers", self.papers),
            ("series", self.series),
            ("bands", self.bands),
            ("laws", self.laws),
        ):
            if not given:
                raise TheoryError(f"theory {self.name} has no {what}")
        known = {spec.name for spec in self.series}
        if lost := [band.series for band in self.bands if band.series not in known]:
            raise TheoryError(f"theory {self.name} has a band for {lost[0]!r}, which it does not predict")
        if wide := [spec.name for spec in self.series if len(spec.dims) > 1]:
            raise TheoryError(f"series {wide[0]!r} of theory {self.name} has two dimensions after the step: split it")
        self.complete(self.smoke)

    def complete(self, given: Settings) -> dict[str, Any]:
        """`given` with the defaults of what it leaves out.

        Raises:
            SettingError: a name is unknown, or a value outside its range.
        """
        return complete(self.settings, given, f"theory {self.name}")

    def predicted(self, problem: Any, steps: Sequence[int] | None = None) -> Prediction:
        """What the theory says of the problem, after each of `steps` (those worth looking at by default).

        Raises:
            TheoryError: the theory yields other series than it declares.
        """
        at = np.asarray(self.steps(problem) if steps is None else steps, dtype=np.int64)
        return self._checked(at, self.predict(problem, at.tolist()))

    def simulated(
        self, problem: Any, steps: Sequence[int] | None = None, *, seed: int = 0
    ) -> tuple[Prediction, Prediction]:
        """Series of trainings at the problem, and their standard errors (0 where nothing was averaged).

        Raises:
            TheoryError: the simulation yields other series than the theory declares.
        """
        at = np.asarray(self.steps(problem) if steps is None else steps, dtype=np.int64)
        simulation = self.simulate(problem, at.tolist(), seed)
        means = self._checked(at, simulation.curves)
        errors = {name: np.zeros_like(means[name]) for name in means.series} | dict(simulation.standard_errors)
        return means, self._checked(at, errors)

    def _checked(self, steps: NDArray[np.int64], curves: Curves) -> Prediction:
        stated = {spec.name: spec for spec in self.series}
        if differing := sorted(set(stated) ^ set(curves)):
            raise TheoryError(f"series of theory {self.name} and what it yields differ in {', '.join(differing)}")
        return Prediction(steps, {name: self._labelled(stated[name], steps, curves[name]) for name in stated})

    def _labelled(self, spec: SeriesSpec, steps: NDArray[np.int64], values: Floats) -> SeriesData:
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 1 + len(spec.dims) or len(values) != len(steps):
            raise TheoryError(
                f"theory {self.name} gives {spec.name} the shape {values.shape} at {len(steps)} steps: one axis for the"
                f" steps and {len(spec.dims)} further ones were declared"
            )
        coords = {dim: tuple(map(str, range(size))) for dim, size in zip(spec.dims, values.shape[1:], strict=True)}
        return SeriesData(
            spec.name, steps, values, np.ones(values.shape, dtype=bool), coords, spec.units, spec.description
        )
