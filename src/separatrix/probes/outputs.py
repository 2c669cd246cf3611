"""What the model answers and what it was asked for, where a loss function shows both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from separatrix.record.losses import class_rows
from separatrix.runs.probe import LossView, Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec

MOST_CLASSES = 1024
"""Shares by class are recorded up to this many classes."""

MOST_ROWS = 8192
"""Of a batch with more rows (examples, pixels, tokens) than this the first are read."""

_BINARY_LOSSES = ("binary_cross_entropy", "binary_cross_entropy_with_logits")


def _shares(classes: torch.Tensor, count: int) -> torch.Tensor:
    return torch.bincount(classes, minlength=count)[:count] / max(1, len(classes))


def _measure_classes(scores: torch.Tensor, classes: torch.Tensor, kind: str) -> Iterator[Reading]:
    rows, count = scores.shape
    predicted = scores.argmax(dim=1)
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    logarithms = scores if kind == "nll_loss" else torch.log_softmax(scores, dim=1)
    entropy = -(logarithms.exp() * logarithms.clamp_min(torch.finfo(logarithms.dtype).min)).sum(dim=1).mean()
    yield Reading("accuracy", (predicted == classes).float().mean(), weight=rows)
    yield Reading("output_entropy", entropy, weight=rows)
    if count <= MOST_CLASSES:
        yield Reading("label_share", _shares(classes, count), range(count), weight=rows)
        yield Reading("prediction_share", _shares(predicted, count), range(count), weight=rows)


def _measure_binary(view: LossView) -> Iterator[Reading]:
    outputs, targets = view.outputs.detach().float(), view.targets.detach().float()
    if outputs.shape != targets.shape or not outputs.numel():
        return
    probabilities = outputs if view.kind == "binary_cross_entropy" else outputs.sigmoid()
    predicted, wanted = probabilities > 0.5, targets > 0.5
    rows = outputs.shape[0] if outputs.dim() else 1
    entropies = torch.special.entr(probabilities) + torch.special.entr(1.0 - probabilities)
    yield Reading("accuracy", (predicted == wanted).float().mean(), weight=rows)
    yield Reading("output_entropy", entropies.mean(), weight=rows)
    if outputs.numel() == rows:
        # One output: its two answers are the classes.
        ones = torch.stack((wanted.float().mean(), predicted.float().mean()))
        labels, predictions = torch.stack((1.0 - ones, ones), dim=1)
        yield Reading("label_share", labels, (0, 1), weight=rows)
        yield Reading("prediction_share", predictions, (0, 1), weight=rows)
    elif outputs.dim() == 2 and outputs.shape[1] <= MOST_CLASSES:
        count = outputs.shape[1]
        yield Reading("label_share", wanted.float().mean(dim=0), range(count), weight=rows)
        yield Reading("prediction_share", predicted.float().mean(dim=0), range(count), weight=rows)


def measure_outputs(view: LossView, state: dict[str, Any]) -> Iterator[Reading]:
    """Accuracy, entropy of the outputs in nats, and the share of each class among labels and predictions."""
    found = class_rows(view, MOST_ROWS)
    if found is not None:
        yield from _measure_classes(*found, view.kind)
    elif view.kind in _BINARY_LOSSES:
        yield from _measure_binary(view)


outputs = Probe(
    name="outputs",
    moment=Moment.LOSS,
    series=(
        SeriesSpec("accuracy", description="share of right answers in the training batch"),
        SeriesSpec("output_entropy", units="nats", description="mean entropy of the output distribution"),
        SeriesSpec("label_share", ("class",), description="share of each class among the batch's labels"),
        SeriesSpec("prediction_share", ("class",), description="share of each class among the batch's predictions"),
    ),
    measure=measure_outputs,
    description="accuracy, entropy and class shares where the loss shows outputs and targets",
    priority=6,
)
