"""Finds studies and runs them: settings checked first, claims and controls judged from the numbers afterwards."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from separatrix.runs.discovery import members
from separatrix.runs.errors import UnknownMemberError, UsageError
from separatrix.runs.types import Claim
from separatrix.studies.study import Numbers, Outcome, Progress, Settings, Study, StudyError


@dataclasses.dataclass(frozen=True)
class Result:
    """A study that was run.

    `claims` follow its statements and `controls` its controls; a control is refuted when its claim failed, as it must.
    """

    study: Study
    settings: Settings
    seed: int
    quick: bool
    seconds: float
    claims: tuple[Claim, ...]
    controls: tuple[Claim, ...]
    series: Mapping[str, list[float]] = dataclasses.field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every claim passed and every control was refuted."""
        return all(claim.passed for claim in self.claims) and not any(control.passed for control in self.controls)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for strict JSON; the series are left out."""
        refuted = {control.name: control.refutes for control in self.study.controls}
        return {
            "id": self.study.id,
            "slug": self.study.slug,
            "paper": str(self.study.paper),
            "settings": dict(self.settings),
            "seed": self.seed,
            "quick": self.quick,
            "seconds": round(self.seconds, 3),
            "claims": [claim.to_dict() for claim in self.claims],
            "controls": [{**control.to_dict(), "refutes": refuted[control.name]} for control in self.controls],
            "passed": self.passed,
        }


def studies() -> dict[str, Study]:
    """Every study by id, in the order of the numbers, those of other installed packages included.

    Raises:
        StudyError: two studies share a slug, or one's slug is another's id.
    """
    found = members("separatrix.studies", Study, "separatrix.studies")
    ordered = dict(sorted(found.items(), key=lambda item: (not item[0].isdecimal(), len(item[0]), item[0])))
    slugs = [study.slug for study in ordered.values()]
    if twice := [slug for slug in slugs if slugs.count(slug) > 1 or slug in ordered]:
        raise StudyError(f"several studies are called {twice[0]!r}: rename one, or remove the package that offers it")
    return ordered


def find_study(name: str) -> Study:
    """The study with that id or slug.

    Raises:
        UnknownMemberError: there is none.
    """
    known = studies()
    for study in known.values():
        if name in (study.id, study.slug):
            return study
    offered = ", ".join(f"{study.id} ({study.slug})" for study in known.values())
    raise UnknownMemberError(f"there is no study {name!r}: choose from {offered}")


def run_study(
    study: Study,
    settings: Settings | None = None,
    *,
    seed: int = 0,
    quick: bool = False,
    progress: Progress = lambda: None,
) -> Result:
    """Run a study and judge it; equal arguments give equal numbers on one machine.

    Raises:
        SettingError: a setting is unknown or outside its range.
        UsageError: the seed is negative.
        StudyError: the study measures something else than it states.
    """
    if seed < 0:
        raise UsageError(f"seed {seed} is negative: give 0 or more")
    complete = study.complete(settings or {})
    start = time.perf_counter()
    outcome = study.run(complete, seed, quick, progress)
    seconds = time.perf_counter() - start
    _check_names(study, outcome)
    claims = [s.beside(_plain(outcome.measured[s.name])) for s in study.statements]
    controls = [study.statement(c.refutes).beside(_plain(outcome.controls[c.name]), c.name) for c in study.controls]
    series = {name: np.asarray(values, dtype=np.float64).tolist() for name, values in outcome.series.items()}
    return Result(study, complete, seed, quick, seconds, tuple(claims), tuple(controls), series)


def _check_names(study: Study, outcome: Outcome) -> None:
    for what, stated, measured in (
        ("statements", {statement.name for statement in study.statements}, outcome.measured),
        ("controls", {control.name for control in study.controls}, outcome.controls),
    ):
        if differing := sorted(stated ^ set(measured)):
            raise StudyError(f"{what} of study {study.id} and what it measured differ in {', '.join(differing)}")


def _plain(numbers: Numbers) -> Any:
    return np.asarray(numbers, dtype=np.float64).tolist()
