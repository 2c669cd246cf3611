"""The tangent kernel of a snapshot: spectrum, alignment with the targets, movement; and how lazy the training is.

The kernel is that of the network as a function of single examples: evaluation mode, and where batch normalisation uses
the statistics of the batch, those as constants. Kernels that are compared are kernels of the same inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from separatrix.operators.errors import OperatorError
from separatrix.operators.tangent import tangent_kernel
from separatrix.probes._geometry import effective_rank
from separatrix.probes._replaying import at_values, single_examples
from separatrix.record.replay import ReplayError, slot_of
from separatrix.record.snapshot import Snapshot
from separatrix.runs.probe import Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec

MOST_EXAMPLES = 64
"""The kernel is that of the first examples of the batch, at most this many."""

MOST_OUTPUTS = 64
"""Where an example has more outputs, this many sums take their place: each output, with a random sign, is in one."""

_ROUNDING = 100.0
"""Outputs that have moved by fewer of their own units of rounding have not moved."""

_CLASS_LOSSES = ("cross_entropy", "nll_loss")
_HALF = (torch.float16, torch.bfloat16)


class ExampleNetwork(nn.Module):
    """A snapshot's model as a function of those of its inputs that have an example a row.

    These are the tensors of the call whose first axis is as long as that of the output; all else stays as it was.

    Attributes:
        inputs: the tensors with an example a row.
        rows: examples of the batch.
        outputs: numbers that the model gives an example, c.

    Raises:
        ReplayError: the output was not found, no input has as many rows as it, or one has them along another axis.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.model = snapshot.model
        self._call, link = snapshot.batch.call, snapshot.batch.link
        self._tick = snapshot.tick
        leaves, self._structure = tree_flatten((self._call.arguments, dict(self._call.keywords)))
        self._leaves = [leaf.float() if getattr(leaf, "dtype", None) in _HALF else leaf for leaf in leaves]
        if link is None:
            raise ReplayError("what the loss function is given was not found in the model's output")
        self._slot = link.slot
        with torch.no_grad():
            whole = slot_of(snapshot.forward(), self._slot)
        rows = len(whole) if whole.dim() else 0
        self._places = [
            i for i, leaf in enumerate(self._leaves) if isinstance(leaf, torch.Tensor) and leaf.shape[:1] == (rows,)
        ]
        if not rows or not self._places:
            raise ReplayError("no input of the model has the examples along its first axis, as the output has")
        others = [leaf for leaf in self._leaves if isinstance(leaf, torch.Tensor) and leaf.shape[:1] != (rows,)]
        if any(rows in leaf.shape[1:] for leaf in others):
            raise ReplayError("an input of the model seems to have the examples along another axis than its first")
        self.inputs = [self._leaves[place] for place in self._places]
        self.rows, self.outputs = rows, whole.numel() // rows
        # The same for every kernel of a run, or they could not be compared.
        generator = torch.Generator().manual_seed(0)
        self._signs = (2 * torch.randint(2, (self.outputs,), generator=generator) - 1).to(whole)
        self._sums = torch.randint(MOST_OUTPUTS, (self.outputs,), generator=generator).to(whole.device)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Outputs (n, c) of n examples; (n, MOST_OUTPUTS) signed sums where there are more."""
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor
        self._tick()
        arguments, keywords = tree_unflatten(leaves, self._structure)
        with torch.autocast(self._call.device, enabled=False):
            output = slot_of(self.model(*arguments, **keywords), self._slot)
        flat = output.reshape(len(output), -1)
        if self.outputs <= MOST_OUTPUTS:
            return flat
        return flat.new_zeros(len(flat), MOST_OUTPUTS).index_add(1, self._sums, flat * self._signs)


def example_kernel(snapshot: Snapshot, network: ExampleNetwork) -> torch.Tensor:
    """Tangent kernel (m, m) of the first m examples: mean over outputs a of <d f_a(x_i), d f_a(x_j)>.

    Over the parameters that are trained, on the CPU. Of more than MOST_OUTPUTS outputs it is an unbiased estimate from
    as many random signed sums of them, always the same sums. Cost: as many backward passes as outputs, or sums.

    Raises:
        ReplayError: the model is no function of single examples, or its outputs are not finite.
    """
    inputs = [tensor[:MOST_EXAMPLES] for tensor in network.inputs]
    with single_examples(snapshot.model, snapshot.forward):
        try:
            kernel = tangent_kernel(network, inputs, parameters=list(snapshot.parameters.values()))
        except OperatorError as error:
            raise ReplayError(str(error)) from error
    assert isinstance(kernel, torch.Tensor)
    return kernel.cpu() / network.outputs


def kernel_alignment(k: torch.Tensor, l: torch.Tensor, *, centred: bool = False) -> torch.Tensor:  # noqa: E741
    """Cosine <k, l> / (||k|| ||l||) of kernels (m, m), a scalar; with `centred`, of both minus row and column means.

    NaN with fewer than two examples, with entries that are not finite, and where a kernel is nothing but rounding, such
    as the centred kernel of targets that are all alike.

    Source: Cortes et al. 2012, arXiv:1203.0550, definition 4, for the centred one.
    """
    k, l = ((_centred(x) if centred else x).double() for x in (k, l))  # noqa: E741
    sizes: torch.Tensor = torch.linalg.vector_norm(k) * torch.linalg.vector_norm(l)
    return (k * l).sum() / sizes if len(k) > 1 else torch.full_like(sizes, torch.nan)


def _centred(k: torch.Tensor) -> torch.Tensor:
    c = k - k.mean(0) - k.mean(1, keepdim=True) + k.mean()
    rounding = len(k) * torch.finfo(k.dtype).eps * torch.linalg.vector_norm(k)
    return c.masked_fill(torch.linalg.vector_norm(c) <= rounding, 0.0)


def target_kernel(snapshot: Snapshot, rows: int) -> torch.Tensor | None:
    """Inner products (m, m), float64, of the targets of the first m of `rows` examples; None where they do not divide.

    Class targets are unit vectors a position: entry ij counts the positions at which i and j have the same class, those
    ignored left out.
    """
    view = snapshot.batch.view
    if view is None or not view.targets.numel() or view.targets.numel() % rows:
        return None
    targets = view.targets.detach().reshape(rows, -1)[:MOST_EXAMPLES].cpu()
    if targets.is_floating_point() or view.kind not in _CLASS_LOSSES:
        products: torch.Tensor = targets.double() @ targets.double().T
        return products
    counted = targets != view.options.get("ignore_index", -100)
    same: torch.Tensor = (targets[:, None] == targets) & counted[:, None] & counted
    return same.sum(2, dtype=torch.float64)


def measure_kernel(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Spectrum of the tangent kernel, alignment with the targets, movement since the first and the last measurement."""
    network = ExampleNetwork(snapshot)
    kernel = example_kernel(snapshot, network)
    eigenvalues = torch.linalg.eigvalsh(kernel.double()).flip(0) / len(kernel)
    yield Reading("ntk_eigenvalues", eigenvalues)
    yield Reading("ntk_effective_rank", effective_rank(eigenvalues.clamp(min=0.0)))
    targets = target_kernel(snapshot, network.rows)
    if targets is not None:
        yield Reading("label_alignment", kernel_alignment(kernel, targets, centred=True))
    current = {label: p.detach().clone() for label, p in snapshot.parameters.items()}
    last, state["last"] = state.get("last"), (snapshot.step, current)
    if snapshot.initial is not None:
        yield Reading("kernel_distance", _distance(snapshot, network, kernel, snapshot.initial))
    if last is not None and last[0] < snapshot.step and last[1].keys() == current.keys():
        yield Reading("kernel_velocity", _distance(snapshot, network, kernel, last[1]) / (snapshot.step - last[0]))


def _distance(
    snapshot: Snapshot, network: ExampleNetwork, kernel: torch.Tensor, values: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """1 - alignment of `kernel` with that of the same examples at other parameters, not below 0."""
    snapshot.tick()
    with at_values(snapshot.parameters, values):
        other = example_kernel(snapshot, network)
    return (1.0 - kernel_alignment(kernel, other)).clamp(min=0.0)


def lazy_rich_index(moved: torch.Tensor, predicted: torch.Tensor, rounding: float = 0.0) -> torch.Tensor:
    """||moved - predicted|| / (||moved|| + ||predicted||), in [0, 1]: 0 where the linearised network moves likewise.

    `moved` is the change f(theta) - f(theta_0) of the outputs, `predicted` the change J_0 (theta - theta_0) that the
    network linearised at its start makes on the same way. Both any shape; a scalar comes back, unchanged when both are
    scaled. 1 where one of them vanishes beside the other, or they are opposite. NaN where neither is larger than
    `rounding`.

    Source: lazy training as nearness to the linearisation, Chizat et al. 2019, arXiv:1812.07956, section 1; the norms
    in the denominator make it a number between 0 and 1.
    """
    moved, predicted = moved.cpu().double(), predicted.cpu().double()
    sizes: torch.Tensor = torch.linalg.vector_norm(moved) + torch.linalg.vector_norm(predicted)
    difference: torch.Tensor = torch.linalg.vector_norm(moved - predicted)
    return torch.where(sizes > rounding, difference / sizes, torch.nan)


def measure_laziness(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """How far the outputs have left the way that the network linearised at the first snapshot would have gone.

    Outputs are what the loss function is given. NaN where they have not moved by 100 times their rounding or more. One
    forward here; one forward, one backward and its derivative at the first snapshot's parameters.
    """
    if snapshot.initial is None:
        return
    labels = [label for label in snapshot.parameters if label in snapshot.initial]
    if not labels:
        return
    changes = [snapshot.parameters[label].detach() - snapshot.initial[label] for label in labels]
    with torch.no_grad():
        now = _given(snapshot)
    snapshot.tick()
    with at_values(snapshot.parameters, snapshot.initial):
        start = _given(snapshot)
        cotangent = torch.zeros_like(start, requires_grad=True)
        parameters = [snapshot.parameters[label] for label in labels]
        try:
            pulled = torch.autograd.grad(start, parameters, cotangent, create_graph=True, allow_unused=True)
        except NotImplementedError as error:
            raise ReplayError(f"the gradient of the outputs cannot be differentiated again: {error}") from error
        pairs = [(g.conj() * c).sum().real for g, c in zip(pulled, changes, strict=True) if g is not None]
        if not pairs:
            return
        snapshot.tick()
        predicted = torch.autograd.grad(torch.stack(pairs).sum(), cotangent)[0]
    rounding = _ROUNDING * torch.finfo(start.dtype).eps * float(torch.linalg.vector_norm(start.detach().cpu().double()))
    yield Reading("lazy_rich_index", lazy_rich_index(now - start.detach(), predicted, rounding))


def _given(snapshot: Snapshot) -> torch.Tensor:
    outputs, _ = snapshot.evaluate()
    assert outputs is not None, "the probe needs outputs"
    return outputs


tangent = Probe(
    name="tangent-kernel",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec(
            "ntk_eigenvalues",
            ("mode",),
            description="eigenvalues of the tangent kernel over the number of examples, falling; mean over outputs",
        ),
        SeriesSpec("ntk_effective_rank", description="exponential of the entropy of the tangent kernel's eigenvalues"),
        SeriesSpec("label_alignment", description="cosine of the centred tangent kernel and that of the targets"),
        SeriesSpec(
            "kernel_distance",
            description="1 - cosine of the tangent kernels here and at the first snapshot's parameters, same inputs",
        ),
        SeriesSpec(
            "kernel_velocity",
            units="1/step",
            description="that distance from the last measurement's parameters, over the steps since",
        ),
    ),
    measure=measure_kernel,
    description="spectrum, label alignment and movement of the empirical tangent kernel",
    priority=70,
    default=False,
    cost=100.0,
    needs=("outputs",),
    source="Fort et al. 2020, arXiv:2010.15110; Baratin et al. 2021, arXiv:2008.00938",
)

laziness = Probe(
    name="lazy-rich",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec(
            "lazy_rich_index",
            description="distance of the outputs from those of the network linearised at the first snapshot, over how"
            " far both moved: 0 lazy, 1 rich",
        ),
    ),
    measure=measure_laziness,
    description="whether the network moves as its linearisation at the start would",
    priority=60,
    cost=4.0,
    needs=("outputs",),
    source="Chizat et al. 2019, arXiv:1812.07956",
)
