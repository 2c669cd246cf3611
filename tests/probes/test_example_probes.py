"""What probes read of single examples is what brute force finds, row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from separatrix.record import available_probes
from separatrix.runs.probe import LossView
from separatrix.testing import check_probe

PROBE = available_probes()["examples"]


def row(view: LossView, scores: list[float], target: int) -> dict[str, float]:
    """By hand, of one example of a classification."""
    if target == view.options.get("ignore_index", -100):
        return dict.fromkeys(CLASSES, math.nan)
    highest = max(scores)
    chances = [math.exp(s - highest) for s in scores]
    if view.kind == "cross_entropy":
        chances = [c / math.fsum(chances) for c in chances]
    else:
        chances = [math.exp(s) for s in scores]
    weight = view.options.get("weight")
    return {
        "example_loss": -math.log(chances[target]) * (1.0 if weight is None else float(weight[target])),
        "example_margin": scores[target] - max(s for c, s in enumerate(scores) if c != target),
        "example_correct": float(scores[target] == highest),
        "example_prediction": float(scores.index(highest)),
        "example_error_norm": math.sqrt(math.fsum((p - (c == target)) ** 2 for c, p in enumerate(chances))),
        "example_target": float(target),
    }


CLASSES = tuple(spec.name for spec in PROBE.series)


def of_two(view: LossView, score: float, target: float) -> dict[str, float]:
    chance = 1.0 / (1.0 + math.exp(-score)) if "logits" in view.kind else score
    logit = math.log(chance / (1.0 - chance))
    return {
        "example_loss": -(target * math.log(chance) + (1.0 - target) * math.log(1.0 - chance)),
        "example_margin": logit if target > 0.5 else -logit,
        "example_correct": float((logit > 0) == (target > 0.5)),
        "example_prediction": float(logit > 0),
        "example_error_norm": math.hypot(chance - target, (1.0 - chance) - (1.0 - target)),
        "example_target": target,
    }


def by_hand(view: LossView) -> Mapping[str, Sequence[float]]:
    outputs, targets = view.outputs.double().tolist(), view.targets.tolist()
    if view.kind in ("cross_entropy", "nll_loss"):
        found = [row(view, scores, target) for scores, target in zip(outputs, targets, strict=True)]
    else:
        pairs = zip(view.outputs.reshape(-1).tolist(), view.targets.reshape(-1).tolist(), strict=True)
        if view.kind == "mse_loss":
            found = [{"example_loss": (o - t) ** 2, "example_target": t} for o, t in pairs]
        else:
            found = [of_two(view, o, t) for o, t in pairs]
    return {name: [each[name] for each in found] for name in (found[0] if found else ())}


def test_every_reading_is_that_of_its_row() -> None:
    assert check_probe(PROBE, oracle=by_hand) > 20


def values(view: LossView) -> dict[str, list[float]]:
    return {r.series: torch.as_tensor(r.values).tolist() for r in PROBE.measure(view, {})}


def test_losses_add_up_to_what_training_saw() -> None:
    torch.manual_seed(0)
    outputs, targets = torch.randn(5, 4, 6, dtype=torch.float64), torch.randint(0, 4, (5, 6))
    targets[1, 2:] = -100
    for options in ({}, {"label_smoothing": 0.1}, {"weight": torch.rand(4, dtype=torch.float64)}):
        found = values(LossView("cross_entropy", outputs, targets, {"reduction": "mean", **options}))
        assert list(found) == ["example_loss"]
        for i in range(5):
            kept = targets[i] != -100
            each = [
                float(F.cross_entropy(outputs[i, :, j], targets[i, j], reduction="sum", **options))
                for j in kept.nonzero().flatten().tolist()
            ]
            assert found["example_loss"][i] == pytest.approx(np.mean(each), rel=1e-12)


@pytest.mark.parametrize("kind", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div"])
def test_losses_of_numbers_are_means_over_an_example(kind: str) -> None:
    torch.manual_seed(0)
    outputs, targets = torch.randn(4, 3, dtype=torch.float64), torch.rand(4, 3, dtype=torch.float64)
    found = values(LossView(kind, outputs, targets, {"reduction": "sum"}))
    expected = [float(getattr(F, kind)(o, t, reduction="sum")) / 3 for o, t in zip(outputs, targets, strict=True)]
    assert found["example_loss"] == pytest.approx(expected, rel=1e-12)
    assert list(found) == ["example_loss"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    outputs, targets = torch.randn(6, 3).to(dtype), torch.arange(6) % 3
    half = values(LossView("cross_entropy", outputs, targets, {"weight": torch.rand(3).to(dtype)}))
    assert len(set(half["example_loss"])) == 6
    whole: dict[str, Any] = values(LossView("cross_entropy", outputs.double(), targets, {}))
    assert half["example_error_norm"] == pytest.approx(whole["example_error_norm"], rel=1e-5)


def test_many_classes_have_no_class_readings() -> None:
    wide = LossView("cross_entropy", torch.zeros(2, (1 << 16) + 1), torch.tensor([0, 1]), {})
    assert list(values(wide)) == ["example_loss"]
