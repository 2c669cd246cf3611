"""The contract of a study: a paper, ranges wide enough, claims that could fail, and equal numbers for equal seeds."""

from __future__ import annotations

import itertools
import json
import math
import random
from typing import Any

import numpy as np

from separatrix.runs.types import Claim
from separatrix.studies import Plan, Result, Setting, SettingError, Settings, Study, run_study
from separatrix.testing.fingerprints import surroundings

_FACTOR = 4.0


def check_study(study: Study, *, seed: int = 0) -> Result:
    """Run a study's smoke twice and hold it to the contract; its result.

    It names a paper; every numeric setting has a range of at least a factor 4, or says why not; bad settings are
    refused; claims are numbers whose `passed` agrees with a literal reading of the kinds, and all pass; at least one
    control exists and each fails; equal seeds give equal numbers, from generators of the study's own; the runs it
    announces are the runs it reports; the result is strict JSON.

    Raises:
        AssertionError: the contract is broken.
    """
    _check_declaration(study)
    _check_refusals(study)
    done: list[None] = []
    first = run_study(study, study.smoke, seed=seed, quick=True, progress=lambda: done.append(None))
    plan = study.plan(first.settings, True)
    assert isinstance(plan, Plan) and plan.seconds > 0, f"study {study.id} plans no time"
    assert len(done) == plan.runs, f"study {study.id} plans {plan.runs} runs and reports {len(done)}"
    before = surroundings()  # the first run may import what leaves traces
    second = run_study(study, study.smoke, seed=seed, quick=True)
    assert surroundings() == before, f"study {study.id} draws from global generators or changes a mode of torch"
    assert _numbers(first) == _numbers(second), f"study {study.id} does not repeat itself for equal seeds"
    for claim in (*first.claims, *first.controls):
        assert claim.passed == _literally(claim), f"{claim.name} of study {study.id} passed={claim.passed}: {claim}"
    failed = [claim.name for claim in first.claims if not claim.passed]
    assert not failed, f"study {study.id} fails its claims {', '.join(failed)}: {first.to_dict()}"
    passed = [control.name for control in first.controls if control.passed]
    assert not passed, f"study {study.id} passes its controls {', '.join(passed)}: {first.to_dict()}"
    json.dumps(first.to_dict(), allow_nan=False)
    return first


def drawn_settings(study: Study, seed: int) -> Settings:
    """Settings drawn from the ranges in which the claims hold; positive numbers evenly in their logarithm."""
    generator = random.Random(seed)
    return {setting.name: _drawn(setting, generator) for setting in study.settings}


def _drawn(setting: Setting, generator: random.Random) -> Any:
    if not setting.numeric:
        return generator.choice(setting.choices or (False, True))
    assert setting.low is not None and setting.high is not None
    if setting.low > 0:
        value = math.exp(generator.uniform(math.log(setting.low), math.log(setting.high)))
    else:
        value = generator.uniform(setting.low, setting.high)
    value = min(max(value, setting.low), setting.high)
    return round(value) if setting.kind == "int" else value


def _check_declaration(study: Study) -> None:
    paper = study.paper
    assert paper.title and paper.authors and 1900 < paper.year < 2100, f"study {study.id} names no paper: {paper}"
    assert study.statements, f"study {study.id} claims nothing"
    assert study.controls, f"study {study.id} has no negative control"
    words = [study.summary, *(part.says for part in study.statements), *(part.says for part in study.controls)]
    assert all(words), f"study {study.id} leaves its summary, a statement or a control without words"
    for setting in study.settings:
        assert setting.description, f"setting {setting.name} of study {study.id} has no description"
        if not setting.numeric or setting.reason:
            continue
        assert setting.low is not None and setting.high is not None
        wide = setting.low <= 0 or setting.high >= _FACTOR * setting.low
        assert wide, f"setting {setting.name} of study {study.id} ranges over {setting.range}: widen it, or say why not"


def _check_refusals(study: Study) -> None:
    bad: list[tuple[str, object]] = [("no_such_setting", 1)]
    for setting in study.settings:
        bad += [(setting.name, None), (setting.name, "no such choice"), (setting.name, [setting.default])]
        if setting.numeric:
            assert setting.low is not None and setting.high is not None
            as_kind = int if setting.kind == "int" else float
            bad += [(setting.name, as_kind(setting.low - 1)), (setting.name, as_kind(setting.high + 1))]
            bad += [(setting.name, True), (setting.name, math.nan), (setting.name, math.inf)]
    for name, value in bad:
        try:
            run_study(study, {name: value}, quick=True)
        except SettingError as error:
            message = str(error)
            assert name in message and "choose from" in message and "\n" not in message, f"unclear refusal: {message}"
        else:
            raise AssertionError(f"study {study.id} accepts {name}={value!r}")


def _numbers(result: Result) -> list[Any]:
    return [repr(claim.measured) for claim in (*result.claims, *result.controls)] + [repr(dict(result.series))]


def _literally(claim: Claim) -> bool:
    """Whether a claim holds, one number at a time."""
    values = [float(value) for value in np.ravel(np.asarray(claim.measured, dtype=np.float64))]
    if not values or any(math.isnan(value) for value in values):
        return False
    if claim.kind == "monotone":
        pairs = list(itertools.pairwise(values))
        if claim.expected == "decreasing":
            pairs = [(b, a) for a, b in pairs]
        return bool(pairs) and all(math.isfinite(b - a) and b - a > -claim.tolerance for a, b in pairs)
    if claim.kind == "interval":
        low, high = claim.expected
    else:
        low = -math.inf if claim.kind == "at_most" else claim.expected
        high = math.inf if claim.kind == "at_least" else claim.expected
    return all(low - claim.tolerance <= value <= high + claim.tolerance for value in values)
