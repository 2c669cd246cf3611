"""The one protocol of the room: a reconstructor learns trajectories, a reconstruction forecasts and is analysed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Complex, Float

from separatrix.reconstruct.errors import ForecastError
from separatrix.reconstruct.trajectories import Trajectories
from separatrix.runs.paper import Paper
from separatrix.runs.settings import DeclarationError, Setting, Settings, complete

_ESCAPE = 1e3  # spreads of the data: a forecast beyond is no statement about a bounded system


@dataclasses.dataclass(frozen=True)
class Cycle:
    """A cycle of a learnt map; one of a single point is a fixed point.

    `points` is (period, variable) in the data's units. `multipliers` are the eigenvalues of the map's derivative once
    around, over all of the model's own state: the cycle is stable if all are inside the unit circle.
    """

    points: Float[np.ndarray, "period variable"]
    multipliers: Complex[np.ndarray, " state"]

    @property
    def stable(self) -> bool:
        """Whether small disturbances die out."""
        return bool(np.abs(self.multipliers).max() < 1.0)


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What a model says about the system; None is what its kind cannot say, an empty tuple what was sought in vain.

    `eigenvalues` are those of the learnt (transfer) operator for one sampling interval, by falling size; `residuals`,
    for each, how far it is from satisfying the eigenvalue equation on the data, as a share of its eigenfunction.
    `exponents` are Lyapunov exponents of the learnt map, falling, in 1 / time. `equations` are readable right-hand
    sides. `codes` are by name any further numbers or arrays; `notes` are sentences for people.
    """

    fixed_points: tuple[Cycle, ...] | None = None
    cycles: tuple[Cycle, ...] | None = None
    eigenvalues: Complex[np.ndarray, " mode"] | None = None
    residuals: Float[np.ndarray, " mode"] | None = None
    exponents: Float[np.ndarray, " exponent"] | None = None
    equations: tuple[str, ...] | None = None
    codes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Model(Protocol):
    """What a reconstructor's `learn` returns: it may rely on the checks that `Reconstruction` makes."""

    @property
    def history(self) -> int:
        """Past samples that a forecast needs, at least 1; it is given more if the user has more."""
        ...

    def forecast(
        self, history: Float[np.ndarray, "batch past variable"], steps: int
    ) -> Float[np.ndarray, "batch steps variable"]:
        """The `steps` samples that follow; may overflow, in which case values are not finite."""
        ...

    def analyse(self) -> Analysis:
        """What the model says about the system."""
        ...


@dataclasses.dataclass(frozen=True)
class Reconstruction:
    """A model of a system, learnt from trajectories; equal data, settings and seed give an equal one.

    `model` is the member's own object, for what only its kind can do. `dt` and `names` are those of the data; `horizon`
    is the number of steps up to which forecasts can be made, None without limit.
    """

    reconstructor: Reconstructor
    settings: Settings
    seed: int
    model: Model
    dt: float
    names: tuple[str, ...]
    center: Float[np.ndarray, " variable"]
    spread: Float[np.ndarray, " variable"]

    @property
    def history(self) -> int:
        """Past samples that a forecast needs."""
        return self.model.history

    @property
    def horizon(self) -> int | None:
        """Steps up to which forecasts can be made; None without limit."""
        return getattr(self.model, "horizon", None)

    def forecast(self, history: np.ndarray, steps: int) -> np.ndarray:
        """The `steps` samples that follow `history`, (batch, steps, variable).

        `history` is (batch, time, variable), the present last; of more samples than the model needs it uses what its
        kind can. A history without the dimension batch gives a forecast without it. A forecast that goes astray, beyond
        a thousand spreads of the data from their mean, is NaN from there on.

        Raises:
            ForecastError: the history is too short, has other variables or is not finite; `steps` is no positive
                number, or beyond the model's horizon.
        """
        past = np.asarray(history, dtype=np.float64)
        single = past.ndim == 2
        past = past[None] if single else past
        self._check(past, steps)
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.array(self.model.forecast(past, int(steps)), dtype=np.float64)
            astray = ~(np.abs(values - self.center) <= _ESCAPE * self.spread).all(axis=2)
        values[np.logical_or.accumulate(astray, axis=1)] = np.nan
        return values[0] if single else values

    def _check(self, past: np.ndarray, steps: int) -> None:
        name = self.reconstructor.name
        if past.ndim != 3 or past.shape[2] != len(self.names):
            raise ForecastError(
                f"the history has shape {past.shape}: {name} needs (batch, time, {len(self.names)} variables)"
            )
        if past.shape[1] < self.history:
            raise ForecastError(
                f"the history has {past.shape[1]} samples: {name} needs the last {self.history} of each trajectory"
            )
        if not np.isfinite(past).all():
            raise ForecastError("the history holds values that are not finite: forecast from a stretch without gaps")
        if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
            raise ForecastError(f"steps={steps!r} is no positive whole number: ask for at least one step")
        if self.horizon is not None and steps > self.horizon:
            raise ForecastError(
                f"steps={steps} is beyond what {name} was asked to forecast: ask for at most {self.horizon}"
            )

    def analyse(self) -> Analysis:
        """What the model says about the system: fixed points, cycles, spectrum, exponents, where its kind can."""
        return self.model.analyse()


@dataclasses.dataclass(frozen=True)
class Reconstructor:
    """A way to learn a system from trajectories; one a file, found by walking `separatrix.reconstruct`.

    `learn(trajectories, settings, seed)` returns a `Model`; it draws from generators of its own that `seed` starts, and
    raises a `TrajectoryError` where the data are too few. `extra` names the optional packages it needs, "" for none:
    they are imported by `learn`, which raises a `MissingExtraError` without them. `quick` are settings with which a
    few hundred samples are learnt in a second or two.

    Raises:
        DeclarationError: the name is no word in lower case, the summary is missing, settings share names, or `quick`
            is outside their ranges.
    """

    name: str
    summary: str
    papers: tuple[Paper, ...]
    settings: tuple[Setting, ...]
    learn: Callable[[Trajectories, Settings, int], Model]
    extra: str = ""
    quick: Settings = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").isalnum() or self.name != self.name.lower() or not self.summary:
            raise DeclarationError(f"reconstructor {self.name!r} needs a name in lower case and a summary")
        names = [setting.name for setting in self.settings]
        if len(set(names)) < len(names):
            raise DeclarationError(f"settings of reconstructor {self.name} share names: give each its own")
        self.complete(self.quick)

    def complete(self, given: Settings) -> dict[str, Any]:
        """`given` with the defaults of what it leaves out, in the order of the settings.

        Raises:
            SettingError: a name is unknown, or a value outside its range.
        """
        return complete(self.settings, given, f"reconstructor {self.name}")

    def fit(self, trajectories: Trajectories, settings: Settings | None = None, seed: int = 0) -> Reconstruction:
        """Learn the trajectories.

        Raises:
            SettingError: a setting is unknown or outside its range.
            TrajectoryError: the data are too few.
            MissingExtraError: packages that it needs are not installed.
        """
        chosen = self.complete(settings or {})
        model = self.learn(trajectories, chosen, seed)
        points = trajectories.points
        spread = points.std(axis=0)
        mean = points.mean(axis=0)
        still = np.maximum(np.abs(mean), spread.max())  # of a variable that never changes the size must do
        return Reconstruction(
            self,
            chosen,
            seed,
            model,
            trajectories.dt,
            trajectories.names,
            mean,
            np.where(spread > 0, spread, np.where(still > 0, still, 1.0)),
        )
