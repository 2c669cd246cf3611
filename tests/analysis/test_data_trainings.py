"""Real trainings with a fault of data, loss, mode or attention: each is found, its healthy twin is not accused.

The oracle is how each training was made, which neither the recorder nor the rules know.
"""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import torch
from tests.analysis.data_trainings import CASES

import separatrix
from separatrix.analysis import Diagnosis, rules
from separatrix.analysis import assess as judge

PROBES = {
    "attention-entropy-collapse": ["default", "attention"],
    "attention-logit-growth": ["default", "attention"],
    "lazy-training": ["default", "lazy-rich"],
}


def diagnosed(code: str, healthy: bool, path: Path) -> Diagnosis:
    torch.manual_seed(0)
    training = CASES[code][healthy]
    # Snapshots are dear beside the steps of a small training: here time must not decide whether they are taken.
    with mock.patch("separatrix.record.budget._CREDIT_SECONDS", 1e6):
        training(
            lambda model, optimizers: separatrix.record(
                model, tuple(optimizers.values()), run=path, budget=1.0, probes=PROBES.get(code, "default")
            )
        )
    with separatrix.open(path) as run:
        return judge(run, [rules()[name] for name in CASES])


@pytest.mark.parametrize("code", CASES)
def test_the_fault_is_found_with_evidence_that_exists(code: str, tmp_path: Path) -> None:
    diagnosis = diagnosed(code, False, tmp_path / "run")
    assert code in diagnosis.codes
    with separatrix.open(tmp_path / "run") as run:
        for finding in (f for root in diagnosis.findings for f in (root, *root.symptoms)):
            assert finding.evidence["series"] and set(finding.evidence["series"]) <= set(run.names())
            assert "\n" not in finding.summary + finding.remedy


@pytest.mark.parametrize("code", CASES)
def test_the_healthy_twin_is_not_accused(code: str, tmp_path: Path) -> None:
    diagnosis = diagnosed(code, True, tmp_path / "run")
    assert [f.code for f in diagnosis.findings if f.severity != "info"] == []
    assert not [m for entry in diagnosis.not_assessed for m in entry.missing if "error" in m]
