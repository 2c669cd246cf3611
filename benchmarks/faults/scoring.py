"""From trials to recall, precision, first places and false alarms; pure functions of what `diagnose --json` said.

An *alarm* is a finding, or a symptom folded under one, of severity error or warning; info is never one.

- A planted fault is *found* when its code is among the findings or their symptoms, whatever the severity; *recall* is
  the share of its trials in which it was found, and those found as info only are counted apart.
- An alarm of code c is *right* when c was planted, or when it stands as a symptom under a finding of the planted code:
  it was said to be a consequence of the true cause. Every other one is wrong, also a true remark on a consequence that
  was not folded under its cause. *Precision* of c is the share of trials with an alarm of c in which that was right.
- A trial is *placed first* when the first finding is the planted one.
- Some scripts do something wrong that has a code, and plant its consequence (`catalogue.CAUSES`). That cause is right
  too in precision; for recall and the first place it does not count, and the first places with it are given apart.

Intervals are Wilson's at 95 %, with trials as the unit: several seeds of one script are no independent scripts.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.faults.catalogue import HEALTHY, right_codes
from benchmarks.faults.trials import Trial

ALARMS = ("error", "warning")
NOTHING = "nothing"
Z_95 = 1.959963984540054


@dataclasses.dataclass(frozen=True)
class Share:
    """`hits` of `trials`, with its share and Wilson's interval (NaN without trials)."""

    hits: int
    trials: int

    @property
    def value(self) -> float:
        """The share of hits, in [0, 1]."""
        return self.hits / self.trials if self.trials else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval."""
        return wilson(self.hits, self.trials)


@dataclasses.dataclass(frozen=True)
class Row:
    """One code: how often its planted fault is found, found as info only, placed first; how often its alarms hold."""

    code: str
    recall: Share
    info_only: int
    first: Share
    precision: Share


def wilson(hits: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a binomial share: all p with |hits/n - p| <= z sqrt(p (1 - p) / n).

    Source: Wilson 1927, J. Amer. Statist. Assoc. 22, 209.
    """
    if trials == 0:
        return math.nan, math.nan
    share, weight = hits / trials, z * z / trials
    middle = (share + weight / 2) / (1 + weight)
    reach = z / (1 + weight) * math.sqrt(share * (1 - share) / trials + weight / (4 * trials))
    return (0.0 if hits == 0 else middle - reach), (1.0 if hits == trials else middle + reach)


def everything(findings: Iterable[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Code, severity and root code of every finding and symptom."""
    return [
        (str(found["code"]), str(found["severity"]), str(root["code"]))
        for root in findings
        for found in (root, *root.get("symptoms", ()))
    ]


def found(trial: Trial) -> bool:
    """Whether the planted fault was found."""
    return any(code == trial.code for code, _, _ in everything(trial.findings))


def alarms(trial: Trial) -> dict[str, bool]:
    """By code of each alarm: whether it was right; one right mention is enough."""
    said: dict[str, bool] = {}
    for code, severity, root in everything(trial.findings):
        if severity in ALARMS:
            right = right_codes(trial.code, trial.name)
            said[code] = said.get(code, False) or code in right or root in right
    return said


def first(trial: Trial) -> str:
    """Code of the first finding; for a healthy training of its first alarm."""
    codes = [str(f["code"]) for f in trial.findings if trial.code != HEALTHY or f["severity"] in ALARMS]
    return codes[0] if codes else NOTHING


def rows(trials: Sequence[Trial]) -> list[Row]:
    """One row a code that was planted or raised an alarm, in alphabetical order."""
    planted = {trial.code for trial in trials} - {HEALTHY}
    said = [(trial, alarms(trial)) for trial in trials]
    return [
        Row(
            code=code,
            recall=share(found(trial) for trial in trials if trial.code == code),
            info_only=sum(trial.code == code and found(trial) and code not in own for trial, own in said),
            first=share(first(trial) == code for trial in trials if trial.code == code),
            precision=share(own[code] for _, own in said if code in own),
        )
        for code in sorted(planted.union(*(own for _, own in said)))
    ]


def share(hits: Iterable[bool]) -> Share:
    """How many of the outcomes are true."""
    outcomes = list(hits)
    return Share(sum(outcomes), len(outcomes))


def false_alarms(trials: Sequence[Trial]) -> Share:
    """Healthy trainings with any alarm."""
    return share(bool(alarms(trial)) for trial in trials if trial.code == HEALTHY)


def placed_first(trials: Sequence[Trial]) -> Share:
    """Planted faults that are the first finding."""
    return share(first(trial) == trial.code for trial in trials if trial.code != HEALTHY)


def cause_placed_first(trials: Sequence[Trial]) -> Share:
    """Planted faults that are the first finding, themselves or by the cause they have in the script."""
    return share(first(trial) in right_codes(trial.code, trial.name) for trial in trials if trial.code != HEALTHY)


def precision(trials: Sequence[Trial]) -> Share:
    """Alarms of all codes, one a code and trial, that were right."""
    return share(right for trial in trials for right in alarms(trial).values())


def confusion(trials: Sequence[Trial]) -> dict[str, Counter[str]]:
    """By planted code (or "healthy"): how often each code was the first finding."""
    table: dict[str, Counter[str]] = {}
    for trial in sorted(trials, key=lambda t: (t.code == HEALTHY, t.code)):
        table.setdefault(trial.code, Counter())[first(trial)] += 1
    return table
