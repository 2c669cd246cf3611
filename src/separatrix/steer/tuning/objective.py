"""What a sweep judges a trial by: a series of its run, or a number in a study's result, also while it goes on."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from separatrix.runs import Finding, Run, RunUnreadableError, SeriesData, open_run
from separatrix.steer.tuning.errors import SweepError

Direction = Literal["minimize", "maximize"]
_REDUCTIONS: Mapping[str, Callable[[np.ndarray], float]] = {
    "last": lambda values: float(values[-1]),
    "min": lambda values: float(values.min()),
    "max": lambda values: float(values.max()),
}
_GRID_START = 10
_FIRST_DIAGNOSIS = 20
_GROWTH = 1.25


@dataclasses.dataclass(frozen=True)
class Metric:
    """A series of a run made one number, from a text such as `eval_loss` or `loss:min`.

    Single values of a batch's loss are mostly noise: what is reduced are means over a twentieth of the values (of one
    value where there are fewer than 40). `last`, the default, is the last of these means, `min` and `max` are the
    least and the largest.

    Raises:
        SweepError: the text names no series or an unknown reduction.
    """

    name: str
    reduction: str = "last"

    def __post_init__(self) -> None:
        if not self.name or self.reduction not in _REDUCTIONS:
            known = ", ".join(_REDUCTIONS)
            raise SweepError(f"{self} is no metric: give a series, alone or with :{known.replace(', ', ', :')}")

    @classmethod
    def parse(cls, text: str) -> Metric:
        """The metric that a text spells."""
        name, colon, reduction = text.partition(":")
        return cls(name, reduction if colon else "last")

    def __str__(self) -> str:
        return f"{self.name}:{self.reduction}"

    @property
    def direction(self) -> Direction:
        """What is good: large accuracies and maxima, else small values."""
        return "maximize" if self.reduction == "max" or "accuracy" in self.name else "minimize"

    def value(self, run: Run) -> float:
        """The number for a run that has ended; NaN or infinite where the last values, or all, are.

        Raises:
            SweepError: the run has no such series, or one value a label.
        """
        if self.name not in run:
            held = ", ".join(run.names()) or "nothing"
            hint = "; --metric loss is there" if "loss" in run and self.name != "loss" else ""
            raise SweepError(
                f"the run {run.name} holds no {self.name}, by which trials are judged{hint}: it holds {held}"
            )
        smooth = _smoothed(self._values(run))
        finite = smooth[np.isfinite(smooth)]
        if self.reduction == "last" or not finite.size:
            return float(smooth[-1])
        return _REDUCTIONS[self.reduction](finite)

    def points(self, run: Run) -> tuple[tuple[int, float], ...]:
        """(position, value) so far, at positions that trials share, so that a pruner can compare them.

        A series of evaluations counts them: 1, 2, ... Others give means at the steps 10, 14, 20, 28, ..., each over
        what came since the one before.
        """
        if self.name not in run:
            return ()
        data = run.series(self.name)
        values = self._values(run)
        if self.name.startswith("eval_"):
            return tuple(enumerate(values.tolist(), start=1))
        return _at_grid(data, values)

    def _values(self, run: Run) -> np.ndarray:
        data = run.series(self.name)
        if data.coords:
            raise SweepError(
                f"{self.name} of the run {run.name} has a value for each {', '.join(data.coords)}: log a single one"
            )
        return np.asarray(data.values, dtype=np.float64)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Means (count - width + 1,) over windows of a twentieth of the values; NaN where one of them is not finite.

    A window is the end of one block of its width and the beginning of the next, summed from values of its own alone:
    differences of running sums would lose all digits to a large value that came before.
    """
    width = max(1, len(values) // 20)
    shares = np.where(np.isfinite(values), values, np.nan) / width
    blocks = np.append(shares, np.zeros(-len(shares) % width)).reshape(-1, width)
    beginnings = np.cumsum(blocks, axis=1)
    ends = np.cumsum(blocks[:, ::-1], axis=1)[:, ::-1]
    means = ends.copy()
    means[:-1, 1:] += beginnings[1:, :-1]
    return means.reshape(-1)[: len(values) - width + 1]


def _at_grid(data: SeriesData, values: np.ndarray) -> tuple[tuple[int, float], ...]:
    found, previous, power = [], 0, 0
    last = int(data.steps[-1]) if len(data.steps) else 0
    while (edge := round(_GRID_START * 2 ** (power / 2))) <= last:
        within = values[(data.steps > previous) & (data.steps <= edge)]
        if within.size:
            found.append((edge, float(within.mean())))
        previous, power = edge, power + 1
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class Sight:
    """What was seen of a trial that goes on: the last step, points for a pruner, a finding that is a reason to stop."""

    step: int = 0
    points: tuple[tuple[int, float], ...] = ()
    stop: str = ""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a trial that ended is worth; `problem` says why it has no value, `findings` what was found in it.

    `failed` tells a script that ended with an error from one whose metric is not finite.
    """

    value: float | None = None
    step: int = 0
    findings: tuple[str, ...] = ()
    problem: str = ""
    failed: bool = False


class Reading(Protocol):
    """How one trial is read; travels to the worker that attends to it."""

    def live(self) -> Sight:
        """What can be seen of it now."""

    def final(self, code: int, log: str) -> Verdict:
        """What it is worth, now that it ended with an exit code; `log` is the last line that it wrote."""


@dataclasses.dataclass
class RunReading:
    """Reads a trial that is recorded: its metric, and the findings that stop it.

    A finding stops a trial when it is an error (the run is broken) at two looks, the second after a quarter more steps,
    so that what passes by itself stops nothing.

    Raises:
        SweepError: there is no such finding.
    """

    path: str
    metric: Metric
    stop_on: Sequence[str] = ()
    _seen: set[str] = dataclasses.field(default_factory=set)
    _next: int = _FIRST_DIAGNOSIS

    def __post_init__(self) -> None:
        known_rules(self.stop_on)

    def live(self) -> Sight:
        """See Reading.live; nothing while there is no run yet."""
        try:
            with open_run(self.path) as run:
                step = _last_step(run)
                return Sight(step, self.metric.points(run), self._reason(run, step))
        except RunUnreadableError:
            return Sight()

    def final(self, code: int, log: str) -> Verdict:
        """See Reading.final.

        Raises:
            SweepError: the script ended well, but its run has no such metric.
        """
        if code != 0:
            return Verdict(problem=_ended(code, log), failed=True)
        with open_run(self.path) as run:
            if not run.names():
                said = next((event.message for event in run.events if event.kind == "unseen"), "it trained nothing")
                raise SweepError(f"the run {run.name} is empty ({said}): give a script that trains with torch")
            value, step = self.metric.value(run), _last_step(run)
            found = tuple(each.code for each in run.diagnose().findings if each.severity != "info")
        if not math.isfinite(value):
            return Verdict(None, step, found, f"{self.metric} is {value}")
        return Verdict(value, step, found)

    def _reason(self, run: Run, step: int) -> str:
        if step < self._next or not self.stop_on:
            return ""
        from separatrix.analysis import assess

        self._next = math.ceil(step * _GROWTH)
        broken = {
            each.code: each
            for finding in assess(run, known_rules(self.stop_on).values()).findings
            for each in (finding, *finding.symptoms)
            if each.severity == "error"
        }
        lasting: list[Finding] = [finding for code, finding in broken.items() if code in self._seen]
        self._seen = set(broken)
        return f"{lasting[0].code} at step {step}: {lasting[0].summary}" if lasting else ""


@dataclasses.dataclass(frozen=True)
class StudyReading:
    """Reads a trial that runs a study: `passed`, the share of claims that pass and controls that fail, or a claim.

    `passed` is small where the paper's claims do not hold. A claim gives the mean of what it measured.
    """

    folder: str
    metric: str

    def live(self) -> Sight:
        """See Reading.live; a study shows nothing before it ends."""
        return Sight()

    def final(self, code: int, log: str) -> Verdict:
        """See Reading.final; a study ends with 1 when a claim fails.

        Raises:
            SweepError: the study has no such claim.
        """
        results = sorted(Path(self.folder).glob("*.json"))
        if code not in (0, 1) or not results:
            return Verdict(problem=_ended(code, log), failed=True)
        result: dict[str, Any] = json.loads(results[0].read_text(encoding="utf-8"))
        claims, controls = result["claims"], result["controls"]
        failed = [each["name"] for each in claims if not each["passed"]]
        failed += [each["name"] for each in controls if each["passed"]]
        if self.metric == "passed":
            value = 1.0 - len(failed) / (len(claims) + len(controls))
        else:
            measured = {each["name"]: each["measured"] for each in claims}
            if self.metric not in measured:
                raise SweepError(f"the study has no claim {self.metric}: choose passed, {', '.join(measured)}")
            numbers = [math.nan if x is None else float(x) for x in np.ravel(np.array(measured[self.metric], object))]
            value = float(np.mean(numbers))
        if not math.isfinite(value):
            return Verdict(None, 0, tuple(failed), f"{self.metric} is {value}")
        return Verdict(value, 0, tuple(failed))


def known_rules(codes: Sequence[str]) -> dict[str, Any]:
    """The rules of those findings.

    Raises:
        SweepError: there is no such finding.
    """
    from separatrix.analysis import rules

    known = rules()
    if unknown := [code for code in codes if code not in known]:
        raise SweepError(f"there is no finding {unknown[0]!r}: `separatrix finding list` names them")
    return {code: known[code] for code in codes}


def _last_step(run: Run) -> int:
    return max((segment.last_step or 0 for segment in run.segments), default=0)


def _ended(code: int, log: str) -> str:
    return f"ended with {code}{f': {log}' if log else ''}"
