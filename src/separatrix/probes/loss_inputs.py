"""What the loss function is given: whether outputs are distributions or log-probabilities, their range and spread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from separatrix.probes.variation import variance_share
from separatrix.record.losses import class_rows
from separatrix.runs.probe import LossView, Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec

MOST_ROWS = 8192
"""Of a batch with more rows (examples, pixels, tokens) than this the first are read."""

_SUMS_TO_ONE = 1e-3
"""Softmax in float16 is off by less; rows of logits without a negative entry come this near 1 hardly ever."""

_LOG_PROBABILITIES = ("nll_loss", "kl_div")
_BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits")


def measure_loss_inputs(view: LossView, state: dict[str, Any]) -> Iterator[Reading]:
    """Form, range and spread of the outputs given to the kind of loss function that was heard first.

    The spread is that of the predictions (softmax or sigmoid applied where the loss function applies it) between the
    rows of the batch, relative to that of the targets (classes as unit vectors): the root of the ratio of variances,
    about the root of R² for a fitted model and 0 where all rows get the same answer. NaN where all targets are equal.
    """
    if state.setdefault("kind", view.kind) != view.kind or not view.outputs.is_floating_point():
        return
    outputs = _widened(view.outputs.detach())
    if not outputs.numel():
        return
    found = class_rows(view, MOST_ROWS)
    rows = outputs.shape[0] if outputs.dim() else 1
    if found is not None:
        scores, classes = _widened(found[0]), found[1]
        rows = len(classes)
        yield from _range(scores, rows)
        if view.kind == "nll_loss":
            yield Reading("log_probability_error", scores.logsumexp(dim=1).abs().mean(), weight=rows)
            predictions = scores.exp()
        else:
            yield Reading("distribution_share", _distribution_share(scores), weight=rows)
            predictions = torch.softmax(scores, dim=1)
        yield Reading("prediction_spread", _relative_spread(predictions, _unit_vectors(classes, scores)), weight=rows)
        return
    if outputs.dim() == 0 or view.kind in ("cross_entropy", "nll_loss"):
        return
    outputs, targets = outputs[:MOST_ROWS], _widened(view.targets.detach())
    yield from _range(outputs, rows)
    if view.kind == "kl_div":
        yield Reading("log_probability_error", outputs.logsumexp(dim=-1).abs().mean(), weight=rows)
        return
    inside = ((outputs >= 0.0) & (outputs <= 1.0)).float().mean()
    yield Reading("unit_interval_share", inside, weight=rows)
    if not targets.is_floating_point() or targets.dim() == 0 or not targets.numel():
        return
    targets = targets[:MOST_ROWS]
    spread, mean = torch.std_mean(targets, correction=0)
    yield Reading("target_mean", mean, weight=rows)
    yield Reading("target_std", spread, weight=rows)
    if len(outputs) > 1:
        yield Reading("prediction_variance_share", variance_share(outputs), weight=rows)
    if targets.shape == outputs.shape:
        predictions = outputs.sigmoid() if view.kind == "binary_cross_entropy_with_logits" else outputs
        flat = predictions.reshape(len(predictions), -1), targets.reshape(len(targets), -1)
        yield Reading("prediction_spread", _relative_spread(*flat), weight=rows)


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return (
        tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) or not tensor.is_floating_point() else tensor
    )


def _range(outputs: torch.Tensor, rows: int) -> Iterator[Reading]:
    lowest, highest = torch.aminmax(outputs)
    yield Reading("output_min", lowest, weight=rows)
    yield Reading("output_max", highest, weight=rows)


def _distribution_share(scores: torch.Tensor) -> torch.Tensor:
    """Share of rows without negative entries that sum to 1."""
    sums = (scores.sum(dim=1) - 1.0).abs() <= _SUMS_TO_ONE
    return (sums & (scores >= 0.0).all(dim=1)).float().mean()


def _unit_vectors(classes: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like).scatter_(1, classes.clamp(0, like.shape[1] - 1)[:, None], 1.0)


def _relative_spread(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Root of the variance between rows, summed over columns, of predictions over that of targets; shapes (rows, n)."""
    variances = [x.var(dim=0, correction=0).sum() for x in (predictions, targets)]
    return torch.where(variances[1] > 0.0, (variances[0] / variances[1]).sqrt(), torch.nan)


loss_inputs = Probe(
    name="loss-inputs",
    moment=Moment.LOSS,
    series=(
        SeriesSpec(
            "distribution_share",
            description="share of rows given to cross_entropy that are distributions: no negative entry, sum 1",
        ),
        SeriesSpec(
            "log_probability_error",
            units="nats",
            description="mean size of log sum exp of the rows given to nll_loss or kl_div: 0 for log-probabilities",
        ),
        SeriesSpec(
            "unit_interval_share",
            description="share of entries between 0 and 1 among what a loss that is not of classes is given",
        ),
        SeriesSpec("output_min", units="output", description="least entry that the loss function is given"),
        SeriesSpec("output_max", units="output", description="largest entry that the loss function is given"),
        SeriesSpec("target_mean", units="target", description="mean of targets that are no classes"),
        SeriesSpec("target_std", units="target", description="standard deviation of targets that are no classes"),
        SeriesSpec(
            "prediction_spread",
            description="root of the variance of predictions between rows of the batch over that of targets",
        ),
        SeriesSpec(
            "prediction_variance_share",
            description="share of the second moment of outputs that varies between rows, in a loss not of classes",
        ),
    ),
    measure=measure_loss_inputs,
    description="form, range and spread of what the loss function is given",
    priority=7,
)
