"""A claim passes or fails by its numbers alone."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from separatrix.runs import Claim

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("kind", "expected", "tolerance", "fits", "fails"),
    [
        ("equal", 1.0, 0.0, [1, 1.0, [1.0, 1.0]], [1.1, [1.0, 1.1], NAN, INF, [], None]),
        ("equal", 1.0, 0.5, [0.5, 1.5, [0.6, 1.4]], [0.49, 1.51]),
        ("at_least", 2.0, 0.0, [2.0, 3, INF, [2, 9]], [1.99, -INF, NAN, [3, 1], None]),
        ("at_least", 2.0, 0.5, [1.5], [1.4]),
        ("at_most", 2.0, 0.0, [2.0, -INF], [2.01, INF, NAN]),
        ("at_most", 2.0, 0.5, [2.5], [2.6]),
        ("interval", (1, 2), 0.0, [1, 2, [1.0, 1.5]], [0.9, 2.1, INF, NAN, [1.5, 2.5]]),
        ("interval", (1, 2), 0.5, [0.5, 2.5], [0.4, 2.6]),
        ("monotone", "increasing", 0.0, [[1, 2], [1, 2, 5]], [[1, 1], [2, 1], [1], [], 3, [1, NAN], [1, INF]]),
        ("monotone", "increasing", 0.5, [[1, 0.6]], [[1, 0.5], [1, 0.4]]),
        ("monotone", "decreasing", 0.0, [[2, 1]], [[1, 2], [2, 2]]),
    ],
)
def test_claims_are_judged_by_their_numbers(
    kind: Any, expected: Any, tolerance: float, fits: list[Any], fails: list[Any]
) -> None:
    assert [m for m in fits if not Claim("c", kind, expected, m, tolerance).passed] == []
    assert [m for m in fails if Claim("c", kind, expected, m, tolerance).passed] == []


@pytest.mark.parametrize(
    ("kind", "expected", "tolerance"),
    [
        ("about", 1.0, 0.0),
        ("equal", NAN, 0.0),
        ("equal", (1, 2), 0.0),
        ("interval", 1.0, 0.0),
        ("interval", (2, 1), 0.0),
        ("at_most", INF, 0.0),
        ("monotone", "upwards", 0.0),
        ("equal", 1.0, -1.0),
        ("equal", 1.0, NAN),
        ("equal", 1.0, INF),
    ],
)
def test_an_expectation_that_nothing_can_meet_or_miss_is_refused(kind: Any, expected: Any, tolerance: float) -> None:
    with pytest.raises(ValueError, match="'c'"):
        Claim("c", kind, expected, 1.0, tolerance)


def test_json_has_no_tokens_of_its_own() -> None:
    claim = Claim("c", "interval", (0, 1), [NAN, INF, -INF, 0.5])
    document = json.loads(json.dumps(claim.to_dict(), allow_nan=False))
    assert document == {
        "name": "c",
        "kind": "interval",
        "expected": [0, 1],
        "measured": [None, "inf", "-inf", 0.5],
        "tolerance": 0.0,
        "passed": False,
    }
