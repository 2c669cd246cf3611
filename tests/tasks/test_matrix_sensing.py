"""Matrix sensing: the spectrum asked for, targets that are measurements, and the exact risk."""

from __future__ import annotations

import pytest
import torch

from separatrix.tasks import MatrixSensing, TaskError


def test_the_matrix_has_the_spectrum_asked_for() -> None:
    task = MatrixSensing(rows=9, columns=7, rank=3, condition=4.0, symmetric=False, dtype=torch.float64)
    values = torch.linalg.svdvals(task.matrix)
    torch.testing.assert_close(values[:3], torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64))
    assert values[3:].max() < 1e-14
    even = MatrixSensing(rows=8, columns=8, dtype=torch.float64)
    assert torch.linalg.eigvalsh(even.matrix)[0] > -1e-14
    torch.testing.assert_close(even.matrix, even.matrix.T)


def test_targets_are_inner_products() -> None:
    task = MatrixSensing(rows=6, columns=5, rank=2, symmetric=False, dtype=torch.float64)
    inputs, targets = task.sample(20, 1)
    torch.testing.assert_close(targets, torch.stack([(one * task.matrix).sum() for one in inputs]))


def test_the_risk_is_the_error_on_fresh_measurements() -> None:
    task = MatrixSensing(rows=4, columns=4, rank=1, noise=0.5, dtype=torch.float64)
    estimate = torch.eye(4, dtype=torch.float64)
    inputs, targets = task.sample(40_000, 2)
    errors = (inputs.flatten(1) @ estimate.flatten() - targets).square()
    assert abs(errors.mean() - task.risk(estimate)) < 4 * errors.std() / 200


@pytest.mark.parametrize("knobs", [{"rows": 4}, {"rank": 51}, {"condition": 0.5}, {"noise": -1.0}])
def test_bad_knobs_are_refused(knobs: dict[str, float]) -> None:
    with pytest.raises(TaskError, match="matrix_sensing"):
        MatrixSensing(**knobs)  # type: ignore[arg-type]
