"""What single examples show: their loss, margin and answer, pass by pass, where it is known which ones a loss is of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from separatrix.record.patches import original
from separatrix.runs.probe import LossView, Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec

_MOST_CLASSES = 1 << 16
_CLASS_LOSSES = ("cross_entropy", "nll_loss")
_BINARY_LOSSES = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
_REDUCTION = ("reduction", "reduce", "size_average")


def losses(view: LossView) -> torch.Tensor:
    """The loss of each row, shape (rows,): what the function gives without reduction, averaged over positions.

    Positions whose target is ignored do not count; where all are, the loss is NaN.
    """
    sums, counts = summed(view)
    return sums / counts


def summed(view: LossView) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums (rows,) of what the function gives without reduction, and how many positions of each row count."""
    options = {name: value for name, value in view.options.items() if name not in _REDUCTION}
    outputs = view.outputs
    if outputs.dtype in (torch.float16, torch.bfloat16):
        outputs = outputs.float()
        options = {k: v.float() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    targets = view.targets
    if targets.is_floating_point():
        targets = targets.to(outputs.dtype)
    values = original(view.kind)(outputs, targets, reduction="none", **options).reshape(len(outputs), -1)
    counted = torch.ones_like(values, dtype=torch.bool)
    if view.kind in _CLASS_LOSSES and not targets.is_floating_point():
        counted = (targets != view.options.get("ignore_index", -100)).reshape(len(outputs), -1)
    return values.sum(dim=1), counted.sum(dim=1)


def _class_readings(view: LossView) -> Iterator[Reading]:
    scores, targets = view.outputs, view.targets
    ignored: torch.Tensor | None = None
    if targets.is_floating_point():
        classes = targets.argmax(dim=1)
    else:
        ignored = targets == view.options.get("ignore_index", -100)
        ignored = ignored if bool(ignored.any()) else None
        classes = targets if ignored is None else targets.masked_fill(ignored, 0)
    # Where probabilities or their logarithms are asked for, single precision is as good as they get.
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    own = scores.gather(1, classes[:, None]).squeeze(1)
    others = scores.scatter(1, classes[:, None], -torch.inf)
    predicted = scores.argmax(dim=1)
    probabilities = scores.exp() if view.kind == "nll_loss" else scores.softmax(dim=1)
    wanted = targets if targets.is_floating_point() else torch.nn.functional.one_hot(classes, scores.shape[1])
    yield from _readings(
        ignored,
        example_margin=own - others.amax(dim=1),
        example_correct=(predicted == classes).to(scores.dtype),
        example_prediction=predicted.to(scores.dtype),
        example_error_norm=(probabilities - wanted).norm(dim=1),
        example_target=classes.to(scores.dtype),
    )


def _binary_readings(view: LossView) -> Iterator[Reading]:
    outputs = view.outputs.reshape(-1)
    targets = view.targets.reshape(-1).to(outputs.dtype, copy=True)
    logits = outputs.logit() if view.kind == "binary_cross_entropy" else outputs
    answers, wanted = logits > 0, targets > 0.5
    # Softmax over the two answers, whose probabilities are p and 1 - p, minus one-hot.
    errors = (logits.sigmoid() - targets).abs() * 2.0**0.5
    yield from _readings(
        None,
        example_margin=torch.where(wanted, logits, -logits),
        example_correct=(answers == wanted).to(outputs.dtype),
        example_prediction=answers.to(outputs.dtype),
        example_error_norm=errors,
        example_target=targets,
    )


def _readings(ignored: torch.Tensor | None, **values: torch.Tensor) -> Iterator[Reading]:
    for name, tensor in values.items():
        yield Reading(name, tensor if ignored is None else tensor.masked_fill(ignored, torch.nan))


def measure_examples(view: LossView, state: dict[str, Any]) -> Iterator[Reading]:
    """Loss of each row; of classifications into at most 65,536 classes, with one answer a row, the rest as well."""
    outputs, targets = view.outputs, view.targets
    if not len(outputs):
        return
    yield Reading("example_loss", losses(view))
    if view.kind in _CLASS_LOSSES:
        if outputs.dim() == 2 and 2 <= outputs.shape[1] <= _MOST_CLASSES:
            yield from _class_readings(view)
    elif outputs.numel() == len(outputs):
        if view.kind in _BINARY_LOSSES:
            yield from _binary_readings(view)
        else:
            yield Reading("example_target", targets.reshape(-1).to(outputs.dtype, copy=True))


examples = Probe(
    name="examples",
    moment=Moment.EXAMPLE,
    series=(
        SeriesSpec("example_loss", ("example",), units="loss", description="loss of the example in a pass"),
        SeriesSpec("example_margin", ("example",), description="score of the target minus the largest other score"),
        SeriesSpec("example_correct", ("example",), dtype="uint8", description="1 where the answer is the target"),
        SeriesSpec("example_prediction", ("example",), dtype="uint16", description="class answered"),
        SeriesSpec(
            "example_error_norm",
            ("example",),
            dtype="float16",
            description="norm of the predicted probabilities minus the target's (EL2N)",
            source="Paul, Ganguli, Dziugaite 2021, arXiv:2107.07075",
        ),
        SeriesSpec("example_target", ("example",), description="target given with the example, once"),
    ),
    measure=measure_examples,
    description="loss, margin, answer and error norm of every example, pass by pass",
    default=False,
    cost=0.0,
)
