"""Every study keeps to the contract, and the contract sees studies that do not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from tests.studies._page import PAGE, page

from separatrix.studies import (
    Control,
    DeclarationError,
    Outcome,
    Paper,
    Plan,
    Progress,
    Setting,
    SettingError,
    Settings,
    Statement,
    Study,
    StudyError,
    find_study,
    run_study,
    studies,
)
from separatrix.testing import check_study, drawn_settings

STUDIES = studies()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.slug)
def test_every_study_keeps_to_the_contract(study: Study) -> None:
    check_study(study)


def test_the_page_shows_what_the_studies_declare() -> None:
    assert page(STUDIES) == PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.slug)
def test_drawn_settings_are_allowed_and_differ(study: Study) -> None:
    drawn = [drawn_settings(study.settings, seed) for seed in range(20)]
    assert all(study.complete(settings) == settings for settings in drawn)
    for setting in study.settings:
        assert len({settings[setting.name] for settings in drawn}) > 1
    assert drawn_settings(study.settings, 3) == drawn[3]


def test_a_study_is_found_by_id_and_slug() -> None:
    assert find_study("477") is find_study("quadratic-models") is STUDIES["477"]


def test_another_seed_gives_other_numbers() -> None:
    study = STUDIES["44"]
    first, second = (run_study(study, study.smoke, seed=seed, quick=True) for seed in (0, 1))
    assert [claim.measured for claim in first.claims] != [claim.measured for claim in second.claims]


def _outcome(**changes: Any) -> Outcome:
    return dataclasses.replace(Outcome({"half": 0.5}, {"wrong": 2.0}), **changes)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    progress()
    return _outcome()


SOUND = Study(
    id="7",
    slug="halves",
    paper=Paper("On halves", ("A. Uthor",), 1999),
    summary="Half of one.",
    settings=(Setting("value", "float", 1.0, "what is halved", 1.0, 4.0),),
    statements=(Statement("half", "equal", 0.5, "The half."),),
    controls=(Control("wrong", "half", "Twice instead."),),
    plan=lambda settings, quick: Plan(1, 0.1),
    run=_run,
)


def test_a_sound_study_passes() -> None:
    assert check_study(SOUND).passed


def _drawing(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    torch.rand(1)
    return _run(settings, seed, quick, progress)


def _silent(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    return _outcome()


def _restless() -> Any:
    values = iter((0.5, 0.5 + 1e-12))

    def run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
        progress()
        return _outcome(measured={"half": next(values)})

    return run


def _measuring(measured: Mapping[str, Any], controls: Mapping[str, Any]) -> Any:
    def run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
        progress()
        return Outcome(measured, controls)

    return run


NARROW = Setting("value", "float", 1.0, "what is halved", 1.0, 3.9)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"paper": Paper("", ("A",), 1999)}, "names no paper"),
        ({"controls": (), "run": _measuring({"half": 0.5}, {})}, "no negative control"),
        ({"settings": (NARROW,)}, "widen it"),
        ({"summary": ""}, "without words"),
        ({"run": _drawing}, "global generators"),
        ({"run": _silent}, "plans 1 runs and reports 0"),
        ({"run": _restless(), "statements": (Statement("half", "interval", (0, 1), "It."),)}, "repeat itself"),
        ({"run": _measuring({"half": 0.6}, {"wrong": 2.0})}, "fails its claims half"),
        ({"run": _measuring({"half": math.nan}, {"wrong": 2.0})}, "fails its claims half"),
        ({"run": _measuring({"half": 0.5}, {"wrong": 0.5})}, "passes its controls wrong"),
    ],
)
def test_the_contract_sees_what_is_broken(change: dict[str, Any], part: str) -> None:
    with pytest.raises(AssertionError, match=part):
        check_study(dataclasses.replace(SOUND, **change))


def test_a_narrow_range_with_a_reason_is_allowed() -> None:
    check_study(dataclasses.replace(SOUND, settings=(dataclasses.replace(NARROW, reason="the phase ends there"),)))


@pytest.mark.parametrize(
    ("measured", "controls"), [({}, {"wrong": 2.0}), ({"half": 1.0, "other": 1.0}, {"wrong": 2.0}), ({"half": 1.0}, {})]
)
def test_measuring_something_else_is_an_error(measured: Mapping[str, Any], controls: Mapping[str, Any]) -> None:
    with pytest.raises(StudyError, match="differ"):
        run_study(dataclasses.replace(SOUND, run=_measuring(measured, controls)))


@pytest.mark.parametrize(
    "change",
    [
        {"slug": "Two Halves"},
        {"id": ""},
        {"settings": (NARROW, NARROW)},
        {"statements": (*SOUND.statements, Statement("wrong", "equal", 1.0, "A control has this name."))},
        {"controls": (Control("wrong", "no-such", "It."),)},
        {"smoke": {"value": 9.0}},
    ],
)
def test_a_malformed_study_fails_when_it_is_defined(change: dict[str, Any]) -> None:
    with pytest.raises((StudyError, SettingError)):
        dataclasses.replace(SOUND, **change)


@pytest.mark.parametrize(
    ("kind", "bounds"), [("float", {}), ("int", {"low": 2.0, "high": 1.0}), ("str", {}), ("int", {"low": 5, "high": 9})]
)
def test_a_setting_without_a_range_for_its_default_fails_when_it_is_defined(
    kind: Any, bounds: Mapping[str, Any]
) -> None:
    with pytest.raises((DeclarationError, SettingError)):
        Setting("value", kind, 1, "it", **bounds)


@pytest.mark.parametrize(
    ("text", "setting", "value"),
    [
        ("2", Setting("x", "float", 1.0, "it", 0.0, 4.0), 2.0),
        ("1e-3", Setting("x", "float", 1.0, "it", 0.0, 4.0), 0.001),
        ("3", Setting("x", "int", 1, "it", 0, 4), 3),
        ("true", Setting("x", "bool", False, "it"), True),
        ("b", Setting("x", "str", "a", "it", choices=("a", "b")), "b"),
    ],
)
def test_settings_are_read_from_text(text: str, setting: Setting, value: object) -> None:
    assert setting.parsed(text) == value
    assert type(setting.parsed(text)) is type(value)


@pytest.mark.parametrize(
    ("kind", "texts"), [("int", ["1.5", "1e2", "", "nan"]), ("float", ["inf", "x", "1,5", "-0.1"])]
)
def test_other_texts_are_refused(kind: Any, texts: Sequence[str]) -> None:
    setting = Setting("x", kind, 1, "it", 0, 4)
    for text in texts:
        with pytest.raises(SettingError, match="choose from 0 to 4"):
            setting.parsed(text)
