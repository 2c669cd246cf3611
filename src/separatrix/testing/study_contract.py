"""The contract of a study: a paper, ranges wide enough, claims that could fail, and equal numbers for equal seeds."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np

from separatrix.runs.types import Claim
from separatrix.studies import Plan, Result, Study, run_study
from separatrix.testing.fingerprints import surroundings
from separatrix.testing.settings_contract import check_settings


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


def _check_declaration(study: Study) -> None:
    paper = study.paper
    assert paper.title and paper.authors and 1900 < paper.year < 2100, f"study {study.id} names no paper: {paper}"
    assert study.statements, f"study {study.id} claims nothing"
    assert study.controls, f"study {study.id} has no negative control"
    words = [study.summary, *(part.says for part in study.statements), *(part.says for part in study.controls)]
    assert all(words), f"study {study.id} leaves its summary, a statement or a control without words"
    check_settings(study.settings, lambda given: run_study(study, given, quick=True), f"study {study.id}")


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
