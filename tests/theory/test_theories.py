"""Every theory keeps to the contract, the contract sees theories that do not, and a run is set beside a theory."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.theory._page import PAGE, page
from tests.theory._parabola import SOUND, decay, descend

from separatrix.runs import RunWriter, SeriesSpec, UnknownMemberError, UsageError, open_run
from separatrix.testing import check_theory
from separatrix.theory import (
    Band,
    Curves,
    Law,
    Setting,
    Simulation,
    Theory,
    TheoryError,
    compare,
    find_theory,
    theories,
    write,
)
from separatrix.theory.comparing import shares

THEORIES = theories()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("theory", THEORIES.values(), ids=lambda theory: theory.name)
def test_every_theory_keeps_to_the_contract(theory: Theory) -> None:
    check_theory(theory)


def test_the_page_shows_what_the_theories_declare() -> None:
    assert page(THEORIES) == PAGE.read_text(encoding="utf-8")


def test_a_sound_theory_passes() -> None:
    check_theory(SOUND)


def _drawing(rate: float, steps: Sequence[int], seed: int) -> Simulation:
    torch.rand(1)
    return descend(rate, steps, seed)


BROKEN: dict[str, dict[str, Any]] = {
    "leaves the band": {"predict": lambda rate, steps: decay(0.9 * rate, steps)},
    "breaks the law": {"laws": (Law("end", "it starts at zero", lambda rate, seen: float(seen["loss"][0])),)},
    "stays within the bands": {"wrong": lambda settings: settings},
    "global generators": {"simulate": _drawing},
    "not finite": {"predict": lambda rate, steps: {k: v / 0.0 for k, v in decay(rate, steps).items()}},
    "other steps": {"predict": lambda rate, steps: decay(rate * len(steps) / 40, steps)},
    "no ascent": {"steps": lambda rate: [0, 2, 1]},
    "widen it": {"settings": (Setting("rate", "float", 0.1, "learning rate", 0.1, 0.2),)},
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("fault", BROKEN)
def test_the_contract_sees(fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        check_theory(dataclasses.replace(SOUND, **BROKEN[fault]))


def test_other_series_than_declared_are_refused() -> None:
    lacking = dataclasses.replace(SOUND, predict=lambda rate, steps: {"loss": np.zeros(len(steps))})
    with pytest.raises(TheoryError, match="differ in weight"):
        lacking.predicted(0.1)
    flat = dataclasses.replace(SOUND, predict=lambda rate, steps: dict.fromkeys(("loss", "weight"), np.zeros(1)))
    with pytest.raises(TheoryError, match="shape"):
        flat.predicted(0.1, [0, 1])


@pytest.mark.parametrize(
    "changes", [{"name": "No Name"}, {"question": ""}, {"bands": (Band("lost", 0.1, "no reason"),)}, {"laws": ()}]
)
def test_a_theory_that_declares_nonsense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(TheoryError):
        dataclasses.replace(SOUND, **changes)


def test_a_written_prediction_reads_back_as_predicted(tmp_path: Path) -> None:
    prediction = SOUND.predicted(0.2)
    run = open_run(write(prediction, tmp_path / "run", SOUND, {"rate": 0.2}))
    np.testing.assert_array_equal(run.series("loss").values, prediction["loss"])
    np.testing.assert_array_equal(run.series("weight").values, prediction["weight"])
    residuals = compare(run, SOUND)
    assert residuals["loss"].holds_until == 39
    assert residuals["weight"].holds_until is None  # the theory has no band for it
    assert not residuals["weight"].values.any()


def test_the_residual_says_until_when_a_theory_holds(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    series = writer.series(SeriesSpec("loss", dtype="float64"))
    exact = 0.5 * 0.8 ** (2.0 * np.arange(30))
    for step, value in enumerate(exact):
        writer.scalar(series, step, value + (0.01 if step >= 12 else 0.0))
    writer.close()
    run = open_run(tmp_path / "run")
    residual = compare(run, SOUND, {"rate": 0.2})["loss"]
    assert residual.holds_until == 11
    np.testing.assert_allclose(residual.values[12:], 0.01, atol=1e-12)
    np.testing.assert_allclose(residual.share[12:], 0.01 / (exact[0] - exact[-1]), rtol=1e-9)
    assert compare(run, SOUND, problem=0.2)["loss"].holds_until == 11


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_theory_does_not_hold_where_a_run_is_not_finite(tmp_path: Path, value: float) -> None:
    writer = RunWriter(tmp_path / "run")
    series = writer.series(SeriesSpec("loss", dtype="float64"))
    for step in range(10):
        writer.scalar(series, step, value if step >= 6 else 0.5 * 0.8 ** (2 * step))
    writer.close()
    residual = compare(open_run(tmp_path / "run"), SOUND, {"rate": 0.2})["loss"]
    assert residual.holds_until == 5
    assert np.isinf(residual.share[6:]).all()


def test_a_theory_that_diverges_does_not_hold_beside_a_run_that_does_not(tmp_path: Path) -> None:
    run = open_run(write(SOUND.predicted(0.2), tmp_path / "run", SOUND, {"rate": 0.2}))

    def until(rate: float, steps: Sequence[int]) -> Curves:
        curves = decay(rate, steps)
        for values in curves.values():
            values[20:] = np.inf
        return curves

    assert compare(run, dataclasses.replace(SOUND, predict=until))["loss"].holds_until == 19


def test_what_was_not_measured_says_nothing() -> None:
    measured = np.ones((3, 2), dtype=bool)
    measured[1], measured[2, 0] = False, False
    residual = np.where(measured, 0.5, np.nan)
    np.testing.assert_array_equal(shares(residual, np.array([0.0, 2.0]), measured), [0.25, np.nan, 0.25])


def test_comparing_needs_a_problem_and_a_common_series(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    writer.scalar(writer.series(SeriesSpec("accuracy")), 0, 1.0)
    writer.close()
    run = open_run(tmp_path / "run")
    with pytest.raises(UsageError, match="give settings or a problem"):
        compare(run, SOUND)
    with pytest.raises(UsageError, match="loss, weight"):
        compare(run, SOUND, {"rate": 0.2})


def test_an_unknown_theory_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownMemberError, match="choose from"):
        find_theory("no-such-theory")
