"""Real trainings, recorded and diagnosed: planted faults are found, healthy twins stay silent.

The oracle is how each training was made, which neither the recorder nor the rules know.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from tests.analysis.trainings import FAULTY, HEALTHY

import separatrix
from separatrix.analysis import Diagnosis

Diagnosed = Callable[[str], tuple[Diagnosis, Path]]


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory: pytest.TempPathFactory) -> Diagnosed:
    """Trains, records and diagnoses a training of the list, once for all tests."""

    @functools.cache
    def once(name: str) -> tuple[Diagnosis, Path]:
        training = HEALTHY[name] if name in HEALTHY else FAULTY[name][1]
        path = tmp_path_factory.mktemp("runs") / name
        torch.manual_seed(0)
        # How many samples a loaded machine can pay for must not decide what is found.
        with mock.patch("separatrix.record.budget._CREDIT_SECONDS", 20.0):
            training(
                lambda model, optimizers: separatrix.record(model, tuple(optimizers.values()), run=path, budget=1.0)
            )
        return separatrix.diagnose(path), path

    return once


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_training_gives_no_finding(name: str, diagnosed: Diagnosed) -> None:
    diagnosis, _ = diagnosed(name)
    assert diagnosis.findings == ()
    assert not [m for entry in diagnosis.not_assessed for m in entry.missing if "error" in m]


@pytest.mark.parametrize("name", FAULTY)
def test_a_planted_fault_is_found_with_evidence_that_exists(name: str, diagnosed: Diagnosed) -> None:
    diagnosis, path = diagnosed(name)
    assert FAULTY[name][0] in diagnosis.codes
    assert not [m for entry in diagnosis.not_assessed for m in entry.missing if "error" in m]
    with separatrix.open(path) as run:
        for finding in (f for root in diagnosis.findings for f in (root, *root.symptoms)):
            assert finding.evidence["series"], finding
            assert set(finding.evidence["series"]) <= set(run.names())
            for line in (finding.summary, finding.remedy, finding.source):
                assert line
                assert "\n" not in line
    json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))


@pytest.mark.parametrize(
    ("name", "root", "symptoms"),
    [
        ("deep_relu_large_weights", "bad-init", {"exploding-gradient", "nonfinite", "diverging"}),
        ("linear_too_fast", "lr-too-high", {"diverging", "nonfinite"}),
        ("clipped_to_a_hundredth", "clipping-always-active", {"lr-too-low"}),
        ("loss_scaled_to_nothing", "epsilon-underflow", {"lr-too-low"}),
        ("biases_far_below_zero", "dead-units", {"frozen-parameters"}),
    ],
)
def test_symptoms_stand_under_their_cause(name: str, root: str, symptoms: set[str], diagnosed: Diagnosed) -> None:
    first = diagnosed(name)[0].findings[0]
    assert first.code == root
    assert symptoms <= {symptom.code for symptom in first.symptoms}


def test_the_place_where_a_nan_arose_is_named(diagnosed: Diagnosed) -> None:
    found = diagnosed("root_of_zero")[0].findings[0]
    assert (found.code, found.step, found.evidence["where"]) == ("nonfinite", 1, "gradient")
    assert found.severity == "error"


def test_frozen_parameters_are_named_with_the_way_they_are_frozen(diagnosed: Diagnosed) -> None:
    ways = {
        name: diagnosed(name)[0].findings[0].evidence["ways"]
        for name in ("backbone_left_out", "backbone_detached", "layer_never_called", "group_with_learning_rate_zero")
    }
    backbone = {f"backbone.{index}.{kind}" for index in (0, 2) for kind in ("weight", "bias")}
    assert ways == {
        "backbone_left_out": dict.fromkeys(backbone, "no optimizer"),
        "backbone_detached": dict.fromkeys(backbone, "no gradient"),
        "layer_never_called": {"spare.weight": "unused", "spare.bias": "unused"},
        "group_with_learning_rate_zero": dict.fromkeys(backbone, "no movement"),
    }
