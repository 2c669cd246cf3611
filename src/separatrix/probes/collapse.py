"""Neural collapse of a snapshot's batch: what enters the last linear layer, by class, and how the layer meets it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from separatrix.probes._collapse import (
    centre_disagreement,
    class_means,
    mean_geometry,
    self_duality,
    variability_collapse,
)
from separatrix.probes._replaying import Heard, listen
from separatrix.record.losses import class_rows
from separatrix.record.replay import ReplayError
from separatrix.record.snapshot import Snapshot
from separatrix.runs.probe import Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec

_POSITIONS = (slice(None), -1, 0, slice(None, -1), slice(1, None))
"""Parts of a sequence that a loss function may be given."""


@dataclasses.dataclass(frozen=True)
class LastLayer:
    """The rows of a classification loss at the last linear layer.

    Attributes:
        features: (rows, d), what enters the layer.
        scores: (rows, classes), what the loss function is given.
        labels: (rows,), target classes; ignored rows are left out of all three.
        weight: (classes, d) of the layer.
    """

    features: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor
    weight: torch.Tensor


def last_layer(snapshot: Snapshot) -> LastLayer:
    """The last linear layer whose output is what the loss function is given, perhaps through a log-softmax.

    Raises:
        ReplayError: there is none, or the loss has no classes.
    """
    linear = {name: module for name, module in snapshot.model.named_modules() if isinstance(module, nn.Linear)}
    calls: list[tuple[nn.Linear, torch.Tensor, torch.Tensor]] = []

    def keep(name: str, heard: Heard) -> None:
        module, arguments, output = heard
        if isinstance(module, nn.Linear) and arguments:
            calls.append((module, arguments[0].clone(), output.clone()))

    given: list[torch.Tensor] = []

    def forward() -> None:
        outputs, _ = snapshot.evaluate()
        assert outputs is not None, "the probe needs outputs"
        given.append(outputs)

    with torch.no_grad():
        listen(linear, forward, keep)
    view = snapshot.batch.view
    outputs = given[0]
    if view is None or snapshot.classes is None or outputs.dim() < 2:
        raise ReplayError("neural collapse needs class targets, one or more rows of them")
    classes_last = outputs.movedim(1, -1)
    for module, entered, left in reversed(calls):
        for position in _POSITIONS if left.dim() > 2 else _POSITIONS[:1]:
            features, scores = (x if x.dim() < 3 else x[:, position] for x in (entered, left))
            if scores.numel() == outputs.numel() and _same_scores(scores, classes_last):
                spread = features.reshape(*classes_last.shape[:-1], -1).movedim(-1, 1)
                rows = class_rows(dataclasses.replace(view, outputs=spread))
                found = class_rows(dataclasses.replace(view, outputs=outputs))
                assert rows is not None and found is not None
                return LastLayer(rows[0], found[0], found[1], module.weight.detach())
    raise ReplayError("no linear layer gives what the loss function is given: neural collapse has no last features")


def _same_scores(scores: torch.Tensor, outputs: torch.Tensor) -> bool:
    if scores.shape[-1] != outputs.shape[-1]:
        return False
    a, b = (torch.log_softmax(x.reshape(-1, x.shape[-1]), -1) for x in (scores, outputs))
    near = torch.finfo(b.dtype).eps ** 0.75
    return torch.allclose(a.to(b.dtype), b, rtol=near, atol=near, equal_nan=True)


def measure_collapse(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """The four signs of neural collapse and the parts of the second, over the classes with two rows in the batch."""
    layer = last_layer(snapshot)
    snapshot.tick()
    classes = class_means(layer.features, layer.labels)
    geometry = mean_geometry(classes)
    yield Reading("nc1", variability_collapse(classes))
    yield Reading("nc2", geometry.simplex)
    yield Reading("nc2_equinorm", geometry.equinorm)
    yield Reading("nc2_equiangularity", geometry.equiangularity)
    yield Reading("nc2_orthogonal", geometry.orthogonal)
    yield Reading("nc3", self_duality(classes, layer.weight))
    yield Reading("nc4", centre_disagreement(classes, layer.features, layer.scores))


collapse = Probe(
    name="neural-collapse",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec("nc1", description="within-class covariance of the last features in units of that between classes"),
        SeriesSpec("nc2", description="distance of the class means from a simplex equiangular tight frame"),
        SeriesSpec("nc2_equinorm", description="standard deviation over mean of the norms of the centred class means"),
        SeriesSpec("nc2_equiangularity", description="standard deviation of the cosines between centred class means"),
        SeriesSpec("nc2_orthogonal", description="distance of the class means, not centred, from an orthogonal frame"),
        SeriesSpec("nc3", description="squared distance of classifier and centred class means, each of norm 1"),
        SeriesSpec("nc4", description="share of decisions that are not the class of the nearest mean"),
    ),
    measure=measure_collapse,
    description="neural collapse of the features that enter the last linear layer",
    priority=55,
    default=False,
    cost=2.0,
    needs=("outputs", "classes"),
    source="Papyan, Han, Donoho 2020, arXiv:2008.08186; Dang et al. 2023, arXiv:2301.00437",
)
