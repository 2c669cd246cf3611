"""How much each example of a batch pulls at the parameters: the norms of their losses' gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from separatrix.operators import OperatorError, per_example_gradient_norms_of
from separatrix.probes._replaying import single_examples
from separatrix.probes.examples import summed
from separatrix.record.replay import ReplayError, slot_of
from separatrix.record.snapshot import Snapshot
from separatrix.runs.probe import Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec


def measure(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Norm of the gradient of each example's own loss by all trained parameters.

    An example is a row of the model's output; its losses, as those of a sequence's tokens, count as their mean, ignored
    ones not at all. However the loss reduces a batch, an example's own is the same. Without dropout, and with the
    batch's statistics in batch normalisation as constants.

    Raises:
        ReplayError: examples mix, or it is not known which examples these are.
    """
    del state
    parameters = list(snapshot.parameters.values())
    with single_examples(snapshot.model, snapshot.forward):
        try:
            norms = per_example_gradient_norms_of(lambda: own_losses(snapshot), snapshot.model, parameters)
        except OperatorError as error:
            raise ReplayError(str(error)) from error
    assert not isinstance(norms, dict)
    if snapshot.examples is None or len(snapshot.examples) != len(norms):
        raise ReplayError("it is not known which examples the batch of this step holds")
    yield Reading("example_gradient_norm", norms, positions=snapshot.examples)


def own_losses(snapshot: Snapshot) -> torch.Tensor:
    """Losses (n,) of the rows of the model's output, with their graph.

    Raises:
        ReplayError: the loss function's rows do not divide into those rows.
    """
    result = snapshot.forward()
    link, view = snapshot.batch.link, snapshot.batch.view
    assert link is not None and view is not None, "the probe needs outputs"
    sums, counts = summed(dataclasses.replace(view, outputs=link(result)))
    rows = len(slot_of(result, link.slot))
    if not rows or len(sums) % rows:
        raise ReplayError(f"{len(sums)} losses do not divide into the {rows} rows of the model's output")
    return sums.reshape(rows, -1).sum(1) / counts.reshape(rows, -1).sum(1).clamp(min=1)


EXAMPLE_GRADIENTS = Probe(
    name="example-gradients",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec(
            "example_gradient_norm",
            ("example",),
            description="norm of the gradient of an example's own loss by all trained parameters",
        ),
    ),
    measure=measure,
    description="gradient norm of each example of the batches caught (GraNd)",
    default=False,
    source="Paul et al. 2021, arXiv:2107.07075; norms by layers' structure: Goodfellow 2015, arXiv:1510.01799",
    cost=4.0,
    needs=("outputs", "examples"),
)
