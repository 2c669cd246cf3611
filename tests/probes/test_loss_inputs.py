"""What the loss function is given, of every kind of loss function, against brute force; and facts that a run keeps."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from separatrix.probes.loss_inputs import loss_inputs
from separatrix.record import record
from separatrix.record.loss_facts import _spreads_out
from separatrix.record.modes import mode_effect
from separatrix.runs import open_run
from separatrix.runs.probe import LossView


def read(view: LossView, state: dict[str, object] | None = None) -> dict[str, float]:
    found = loss_inputs.measure(view, {} if state is None else state)
    return {reading.series: float(reading.values) for reading in found}


def relative_spread(predictions: np.ndarray, targets: np.ndarray) -> float:
    parts = [sum(float(np.mean((c - c.mean()) ** 2)) for c in x.reshape(len(x), -1).T) for x in (predictions, targets)]
    return math.sqrt(parts[0] / parts[1])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_log_probabilities_logits_and_probabilities_under_nll_loss() -> None:
    scores, targets = torch.randn(40, 5, dtype=torch.float64), torch.arange(40) % 5
    right = read(LossView("nll_loss", scores.log_softmax(1), targets, {}))
    assert right["log_probability_error"] == pytest.approx(0.0, abs=1e-12)
    chances = np.exp(scores.numpy()) / np.exp(scores.numpy()).sum(1, keepdims=True)
    assert right["prediction_spread"] == pytest.approx(relative_spread(chances, np.eye(5)[targets]))
    wrong = read(LossView("nll_loss", scores, targets, {}))
    expected = np.mean([abs(math.log(math.fsum(map(math.exp, row)))) for row in scores.tolist()])
    assert wrong["log_probability_error"] == pytest.approx(expected)
    assert read(LossView("kl_div", scores.log_softmax(1), chances_like(scores), {}))["log_probability_error"] < 1e-12


def chances_like(scores: torch.Tensor) -> torch.Tensor:
    return torch.softmax(torch.randn_like(scores), dim=1)


def test_a_row_counts_as_a_distribution_only_if_it_is_one() -> None:
    rows = torch.tensor([[0.2, 0.8], [1.2, -0.2], [0.5, 0.6], [1.0, 0.0]])
    found = read(LossView("cross_entropy", rows, torch.tensor([0, 1, 0, 1]), {}))
    assert found["distribution_share"] == 0.5
    assert (found["output_min"], found["output_max"]) == (pytest.approx(-0.2), pytest.approx(1.2))


@pytest.mark.parametrize("kind", ["binary_cross_entropy_with_logits", "mse_loss"])
def test_losses_of_numbers(kind: str) -> None:
    outputs, targets = torch.randn(30, 2, dtype=torch.float64), torch.rand(30, 2, dtype=torch.float64)
    found = read(LossView(kind, outputs, targets, {}))
    array = outputs.numpy()
    assert found["unit_interval_share"] == pytest.approx(float(np.mean((array >= 0) & (array <= 1))))
    assert found["target_mean"] == pytest.approx(float(targets.numpy().mean()))
    assert found["target_std"] == pytest.approx(float(targets.numpy().std()))
    predictions = 1 / (1 + np.exp(-array)) if kind.startswith("binary") else array
    assert found["prediction_spread"] == pytest.approx(relative_spread(predictions, targets.numpy()))
    share = np.var(array, axis=0).sum() / np.mean(array**2, axis=0).sum()
    assert found["prediction_variance_share"] == pytest.approx(float(share))


def test_outputs_of_nothing_have_no_variance_share() -> None:
    found = read(LossView("mse_loss", torch.zeros(8, 3), torch.rand(8, 3), {}))
    assert math.isnan(found["prediction_variance_share"])
    assert read(LossView("mse_loss", torch.ones(8, 3), torch.rand(8, 3), {}))["prediction_variance_share"] == 0.0


def test_one_row_varies_with_nothing() -> None:
    assert "prediction_variance_share" not in read(LossView("mse_loss", torch.rand(1, 3), torch.rand(1, 3), {}))


def test_equal_answers_have_no_spread_and_equal_targets_give_no_number() -> None:
    same = torch.ones(8, 3)
    assert read(LossView("cross_entropy", same, torch.arange(8) % 3, {}))["prediction_spread"] == 0.0
    one = read(LossView("cross_entropy", torch.randn(8, 3), torch.ones(8, dtype=torch.long), {}))
    assert math.isnan(one["prediction_spread"])


def test_other_kinds_than_the_first_are_skipped() -> None:
    state: dict[str, object] = {}
    assert read(LossView("mse_loss", torch.randn(4, 1), torch.randn(4, 1), {}), state)
    assert read(LossView("cross_entropy", torch.randn(4, 3), torch.arange(4) % 3, {}), state) == {}


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        ((8, 1), (8,)),
        ((8,), (8, 1)),
        ((8, 1), (8, 1)),
        ((8,), (8,)),
        ((8, 3), (1, 3)),
        ((8, 3), (3,)),
        ((4, 2), (3, 2)),
    ],
)
def test_shapes_that_multiply_one_another(outputs: tuple[int, ...], targets: tuple[int, ...]) -> None:
    one, other = torch.zeros(outputs), torch.zeros(targets)
    try:
        expected = (one + other).numel() > max(one.numel(), other.numel())
    except RuntimeError:
        expected = False
    assert _spreads_out(one, other) == expected


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_run_keeps_facts_about_its_losses_and_modules(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.0), nn.Dropout(0.3), nn.Linear(8, 1)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x = torch.randn(16, 4)
    with record(model, optimizer, run=tmp_path / "run", budget=1.0):
        for step in range(3):
            optimizer.zero_grad()
            F.mse_loss(model(x), torch.full((16,), float(step))).backward()
            optimizer.step()
    with open_run(tmp_path / "run") as run:
        (facts,) = run.losses
        effects = {module["name"]: module["mode_effect"] for module in run.modules}
    assert (facts["name"], facts["outputs"], facts["targets"]) == ("mse_loss", [16, 1], [16])
    assert facts["broadcast"] is True
    assert (facts["target_range"], facts["target_values"]) == ([0.0, 2.0], [0, 1, 2])
    assert effects == {"0": "", "1": "batch statistics", "2": "", "3": "", "4": "dropout", "5": ""}


def test_what_the_mode_changes() -> None:
    assert mode_effect(nn.LSTM(3, 3, 2, dropout=0.5)) == "dropout"
    assert mode_effect(nn.LSTM(3, 3, 1)) == mode_effect(nn.LayerNorm(3)) == mode_effect(nn.GroupNorm(1, 3)) == ""
    assert mode_effect(nn.BatchNorm2d(3, track_running_stats=False)) == ""
    assert mode_effect(nn.MultiheadAttention(4, 2, dropout=0.1)) == "dropout"
