"""How gradients scatter over a snapshot's batch: noise scale, signal to noise, tails, and the gradients of classes.

The batch is cut at random into 8 to 16 equal micro-batches (fewer of fewer examples; a remainder is left out). Their
gradients come from one forward of the whole batch, so batch normalisation has the statistics of the whole batch
and dropout the masks that the step drew. An example is a row of the model's output; its losses, as those of a
sequence's tokens, count together. Gradients are scaled so that their mean over examples is that of the loss, but those
of classes, which are of the examples' own losses.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from separatrix.probes._eigenspace import hessian, refusing
from separatrix.probes._noise import noise_scale, tail_index
from separatrix.probes.examples import losses as own_losses
from separatrix.record.replay import ReplayError, slot_of
from separatrix.record.snapshot import Snapshot, dense
from separatrix.runs.probe import Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec

FEWEST_BATCHES, MOST_BATCHES = 8, 16
"""Numbers of micro-batches to choose from: the one that leaves out fewest examples, of equal ones the largest."""

MOST_CLASSES = 20
"""Class gradients are those of the most frequent classes, at most this many."""

_ROUNDING = 10.0
"""Gradients of a parameter below so many units of rounding of the whole gradient are taken for rounding."""

TAIL_SAMPLES = 100_000
"""Entries of the noise that the tail index is estimated from."""


def example_losses(snapshot: Snapshot) -> torch.Tensor:
    """Losses (n,) of the examples, with their graph, scaled so that their mean has the gradient of the loss.

    Raises:
        ReplayError: the loss function's rows do not divide into the rows of the model's output.
    """
    result = snapshot.forward()
    link = snapshot.batch.link
    assert link is not None, "the probe needs outputs"
    outputs = link(result)
    whole = slot_of(result, link.slot)
    losses, loss = snapshot.per_example_losses(outputs), snapshot.loss_of(outputs).detach()
    examples = len(whole) if whole.dim() else 0
    if not examples or len(losses) % examples:
        raise ReplayError(f"{len(losses)} losses do not divide into the {examples} rows of the model's output")
    losses = losses.reshape(examples, -1).mean(1)
    mean = losses.detach().mean()
    return losses * (loss / mean if float(mean) != 0.0 else 1.0)


def micro_losses(snapshot: Snapshot) -> tuple[torch.Tensor, int]:
    """Mean losses (k,) of k micro-batches drawn without replacement, and the number of examples of each."""
    losses = example_losses(snapshot)
    examples = len(losses)
    count = micro_batches(examples)
    size = examples // count
    order = torch.randperm(examples, generator=snapshot.generator).to(losses.device)[: count * size]
    return losses[order].reshape(count, size).mean(1), size


def micro_batches(examples: int) -> int:
    """How many micro-batches some examples are cut into."""
    choices = range(min(FEWEST_BATCHES, examples), min(MOST_BATCHES, examples) + 1)
    return min(choices, key=lambda count: (examples % count, -count))


def gradients_of(losses: Sequence[torch.Tensor], snapshot: Snapshot) -> Iterator[list[torch.Tensor]]:
    """Gradients of scalars of one graph by the snapshot's parameters, one after another; zeros where unreached."""
    parameters = list(snapshot.parameters.values())
    for loss in losses:
        snapshot.tick()
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        yield dense(parameters, found)


def _inner(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> torch.Tensor:
    """Inner products (parameters,), summed in float64."""
    return torch.stack([(a * b).sum(dtype=torch.float64) for a, b in zip(first, second, strict=True)])


def measure_noise(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Size of the gradient noise against the gradient, a parameter and in all; its tails. Not of one example."""
    losses, size = micro_losses(snapshot)
    count = len(losses)
    if count < 2:
        return
    (total,) = gradients_of([losses.sum()], snapshot)
    directions = [torch.zeros_like(part) for part in total]
    entries = sum(part.numel() for part in total)
    wanted = min(entries, -(-TAIL_SAMPLES // count))
    squares, products, noise = [], [], []
    for gradient in gradients_of(list(losses), snapshot):
        squares.append(_inner(gradient, gradient))
        products.append(_inner(gradient, total))
        length = float(squares[-1].sum().sqrt())
        torch._foreach_add_(directions, gradient, alpha=1.0 / length if length else math.nan)
        scatter = torch.cat([(g - t / count).flatten() for g, t in zip(gradient, total, strict=True)])
        noise.append(scatter[_drawn(entries, wanted, snapshot.generator).to(scatter.device)])
    s, p = torch.stack(squares), torch.stack(products)
    variance = size * (s.sum(0) - p.sum(0) / count) / (count - 1)
    signal = (p.sum(0) - s.sum(0)) / (count * (count - 1))
    epsilons = torch.tensor([torch.finfo(part.dtype).eps for part in total], dtype=s.dtype, device=s.device)
    seen = (s.sum(0) > (_ROUNDING * epsilons).square() * s.sum()) & (variance > 0)
    yield Reading("gradient_snr", torch.where(seen, signal / variance, torch.nan), labels=list(snapshot.parameters))
    whole = noise_scale(s.sum(1), p.sum(1), size)
    yield Reading("gradient_noise_variance", float(variance.sum()))
    yield Reading("gradient_signal", float(signal.sum()))
    yield Reading("gradient_noise_scale", whole.scale)
    yield Reading("gradient_noise_scale_low", whole.low)
    yield Reading("gradient_noise_scale_high", whole.high)
    yield Reading("microbatch_cosine", _mean_cosine(directions, count))
    yield Reading("gradient_tail_index", tail_index(torch.cat(noise)))


def _drawn(entries: int, wanted: int, generator: torch.Generator) -> torch.Tensor:
    """Positions among entries in random order; the few that come twice where they are a small part do not matter."""
    if wanted * 16 < entries:
        return torch.randint(entries, (wanted,), generator=generator)
    return torch.randperm(entries, generator=generator)[:wanted]


def _mean_cosine(directions: Sequence[torch.Tensor], count: int) -> float:
    """Mean cosine of the pairs among `count` gradients, from the sum of their unit vectors."""
    return (float(_inner(directions, directions).sum()) - count) / (count * (count - 1))


def measure_critical(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Noise scale with every direction weighted by its curvature. Not of fewer than three examples."""
    losses, size = micro_losses(snapshot)
    if len(losses) < 3:
        return
    with refusing():
        operator = hessian(snapshot)
        (total,) = gradients_of([losses.sum()], snapshot)
        curved = operator.unflat(operator @ operator.flat(total))
        squares, products = [], []
        for gradient in gradients_of(list(losses), snapshot):
            flat = operator.flat(gradient)
            squares.append((flat * (operator @ flat)).sum(dtype=torch.float64))
            products.append(_inner(gradient, curved).sum())
    found = noise_scale(torch.stack(squares), torch.stack(products), size)
    yield Reading("critical_batch_size", found.scale if found.scale > 0 else math.nan)
    yield Reading("critical_batch_size_low", found.low)
    yield Reading("critical_batch_size_high", found.high)


def measure_classes(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Size of the mean gradient of each class, and how they agree with each other and with the batch's.

    Raises:
        ReplayError: an example has several targets.
    """
    classes, losses = class_losses(snapshot)
    counts = classes.bincount()
    frequent = counts.argsort(descending=True, stable=True)[:MOST_CLASSES]
    chosen = frequent[counts[frequent] > 0].sort().values
    batch = snapshot.gradient
    directions = [torch.zeros_like(part) for part in batch]
    squares, products = [], []
    for gradient in gradients_of([losses[classes == c].mean() for c in chosen], snapshot):
        squares.append(_inner(gradient, gradient).sum())
        products.append(_inner(gradient, batch).sum())
        length = float(squares[-1].sqrt())
        torch._foreach_add_(directions, gradient, alpha=1.0 / length if length else math.nan)
    labels = [str(int(c)) for c in chosen]
    norms = torch.stack(squares).sqrt()
    size = _inner(batch, batch).sum().sqrt()
    yield Reading("class_gradient_norm", norms, labels=labels)
    yield Reading("class_gradient_alignment", torch.stack(products) / (norms * size), labels=labels)
    if len(chosen) > 1:
        yield Reading("class_gradient_cosine", _mean_cosine(directions, len(chosen)))


def class_losses(snapshot: Snapshot) -> tuple[torch.Tensor, torch.Tensor]:
    """Class (n,) and own loss (n,), with its graph, of the rows that count.

    Raises:
        ReplayError: an example has several targets.
    """
    outputs, _ = snapshot.evaluate()
    view, classes = snapshot.batch.view, snapshot.classes
    assert outputs is not None and view is not None and classes is not None, "the probe needs outputs and classes"
    losses = own_losses(dataclasses.replace(view, outputs=outputs))
    if view.targets.dim() == 1 and not view.targets.is_floating_point():
        losses = losses[view.targets != view.options.get("ignore_index", -100)]
    if losses.shape != classes.shape:
        raise ReplayError(f"{len(classes)} targets for {len(losses)} losses: class gradients need one target a row")
    return classes, losses


_SQUARE = "(loss/parameter)^2"

gradient_noise = Probe(
    name="gradient-noise",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec(
            "gradient_snr",
            ("parameter",),
            description="squared mean over variance of one example's gradient, both estimated without bias: negative"
            " where the mean cannot be told from 0, NaN where the gradient is nothing but rounding",
        ),
        SeriesSpec(
            "gradient_noise_variance",
            units=_SQUARE,
            description="trace of the covariance of one example's gradient; their mean is the batch's",
        ),
        SeriesSpec(
            "gradient_signal",
            units=_SQUARE,
            description="squared norm of the mean gradient without the part that noise adds; may come out negative",
        ),
        SeriesSpec(
            "gradient_noise_scale",
            units="examples",
            description="that variance over that signal (simple noise scale); NaN where the signal is not positive",
        ),
        SeriesSpec("gradient_noise_scale_low", units="examples", description="lower end of its 90 % interval"),
        SeriesSpec(
            "gradient_noise_scale_high",
            units="examples",
            description="upper end of its 90 % interval; infinite where the signal cannot be told from 0",
        ),
        SeriesSpec("microbatch_cosine", description="mean cosine between the gradients of two micro-batches"),
        SeriesSpec(
            "gradient_tail_index",
            description="index of the stable law of the noise's entries, taken as independent and alike: 2 is normal",
        ),
    ),
    measure=measure_noise,
    description="gradient noise against the gradient, from micro-batches",
    priority=45,
    cost=20.0,
    needs=("outputs",),
    source="McCandlish et al. 2018, arXiv:1812.06162, equation 2.9 and appendix A.1; Liu et al. 2020, arXiv:2001.07384;"
    " Simsekli et al. 2019, arXiv:1901.06053",
)

critical_batch = Probe(
    name="critical-batch-size",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec(
            "critical_batch_size",
            units="examples",
            description="tr(H Sigma) / G'HG, H the Hessian: the batch at which the best step of SGD gains half of what"
            " the whole gradient would; NaN where either is not positive",
        ),
        SeriesSpec("critical_batch_size_low", units="examples", description="lower end of its 90 % interval"),
        SeriesSpec(
            "critical_batch_size_high",
            units="examples",
            description="upper end of its 90 % interval; infinite where G'HG cannot be told from 0",
        ),
    ),
    measure=measure_critical,
    description="noise scale weighted by curvature",
    priority=75,
    default=False,
    cost=70.0,
    needs=("outputs",),
    source="McCandlish et al. 2018, arXiv:1812.06162, equation 2.8",
)

class_gradients = Probe(
    name="class-gradients",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec(
            "class_gradient_norm",
            ("class",),
            units="loss/parameter",
            description="norm of the mean gradient of its examples' own losses",
        ),
        SeriesSpec(
            "class_gradient_alignment", ("class",), description="cosine of the class's mean gradient and the batch's"
        ),
        SeriesSpec("class_gradient_cosine", description="mean cosine between the mean gradients of two classes"),
    ),
    measure=measure_classes,
    description="mean gradients of the classes in the batch",
    priority=60,
    default=False,
    cost=10.0,
    needs=("outputs", "classes"),
    source="Sankararaman et al. 2020, arXiv:1904.06963",
)
