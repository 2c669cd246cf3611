"""Initial rank: of weights with equal norm, those of low rank make a net learn richly, unless they suit the task.

Two-layer linear nets f(x) = a' W x with white inputs, a(0) = 0, and a W(0) of rank r with equal singular values, follow
the gradient flow of half the squared distance of W' a from a target b. Flow keeps W W' - a a' as it was, and a stays on
one line; with s = |W(0)|^2 / r and p the part of |b|^2 in the row space of W(0) that fixes the end: |a|^2 = q with
q (s + q) = |b|^2, and the kernel there is s (P - u u') + b b' / q + q I, where P projects on the row space and u is the
direction of b in it. At the start it is s P. Hence the alignment of the two, in closed form.

Recurrent tanh nets with a linear readout of the last state learn by gradient descent to tell the sign of the evidence
in a sequence; their recurrent weights are truncated to a rank and scaled to one Frobenius norm.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch

from separatrix.studies.study import (
    Control,
    Outcome,
    Paper,
    Plan,
    Progress,
    Setting,
    Settings,
    Statement,
    Study,
)

_RESIDUAL = 1e-3  # share of the target's norm at which a flow has ended
_FLOW_STEP = 0.7  # of the Runge-Kutta method, times a bound of all kernels' eigenvalues
_FLOW_LIMIT = 40000
_SEEN = 0.05  # smallest part of a target along the row of rank 1; with less the flow takes ever longer
_LEARNT = 0.01  # mean squared error at which a recurrent net has learnt signs
_RATE = 0.3  # of gradient descent, times the largest eigenvalue of the first kernel
_LIMIT = 4000
_EVIDENCE = 2  # inputs at a time

Layers = tuple[torch.Tensor, torch.Tensor]
"""First layer W (copies, d, d) and second layer a (copies, d) of linear nets."""


def alignment_at_the_end(
    squared_norm: float, rank: int, dimension: int, target: torch.Tensor, share: torch.Tensor
) -> torch.Tensor:
    """Alignment of the kernels at both ends of the flow, (copies,).

    `squared_norm` is |W(0)|^2; `target` (copies,) is |b|^2, `share` (copies,) the part of it in the row space of W(0),
    above zero.
    """
    s = squared_norm / rank
    q = ((s * s + 4 * target).sqrt() - s) / 2
    inner = s * (s * (rank - 1) + share / q + rank * q)
    square = s * s * (rank - 1) + (target / q).square() + dimension * q.square()
    square = square + 2 * s * (rank - 1) * q + 2 * target
    return inner / (s * math.sqrt(rank) * square.sqrt())


def _ends(layers: Layers) -> torch.Tensor:
    """W' a, (copies, d)."""
    return (layers[0].mT @ layers[1][..., None])[..., 0]


def _slopes(layers: Layers, targets: torch.Tensor) -> Layers:
    residual = targets - _ends(layers)
    return layers[1][..., None] * residual[:, None], (layers[0] @ residual[..., None])[..., 0]


def _flow(first: torch.Tensor, targets: torch.Tensor) -> Layers:
    """Where the gradient flow ends that starts with W = `first` and a = 0."""
    layers = first, torch.zeros_like(targets)
    step = _FLOW_STEP / (torch.linalg.matrix_norm(first, 2).square() + 2 * targets.norm(dim=1))

    def ahead(slopes: Layers, share: float) -> Layers:
        time = share * step[:, None]
        return layers[0] + time[..., None] * slopes[0], layers[1] + time * slopes[1]

    for index in range(_FLOW_LIMIT):
        if index % 50 == 0 and bool(((_ends(layers) - targets).norm(dim=1) <= _RESIDUAL * targets.norm(dim=1)).all()):
            break
        one = _slopes(layers, targets)
        two = _slopes(ahead(one, 0.5), targets)
        three = _slopes(ahead(two, 0.5), targets)
        four = _slopes(ahead(three, 1.0), targets)
        mean = tuple((a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(one, two, three, four, strict=True))
        layers = ahead((mean[0], mean[1]), 1.0)
    return layers


def _linear_kernel(layers: Layers) -> torch.Tensor:
    """W' W + |a|^2 I, (copies, d, d): the tangent kernel of white inputs."""
    identity = torch.eye(layers[0].shape[2], dtype=layers[0].dtype)
    return layers[0].mT @ layers[0] + layers[1].square().sum(1)[:, None, None] * identity


def _alignment(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Cosine of matrices (copies, n, n), (copies,)."""
    return torch.nn.functional.cosine_similarity(one.flatten(1), other.flatten(1), dim=1)


@dataclasses.dataclass(frozen=True)
class _Linear:
    """Measured and predicted alignment of linear nets of one rank, each (copies,)."""

    measured: torch.Tensor
    predicted: torch.Tensor

    @property
    def distance(self) -> float:
        """Mean of one minus the measured alignment."""
        return float((1 - self.measured).mean())


def _linear(squared_norm: float, rank: int, basis: torch.Tensor, targets: torch.Tensor) -> _Linear:
    """Train nets whose W(0) has the first `rank` columns of the orthogonal `basis`, (copies, d, d), as its first rows.

    Rows are as good as any rotation of them, and those of zeros stay exactly so: rounding does not wake them.
    """
    first = math.sqrt(squared_norm / rank) * basis.mT
    first[:, rank:] = 0.0
    layers = _flow(first, targets)
    share = (basis.mT @ targets[..., None])[:, :rank].square().sum((1, 2))
    predicted = alignment_at_the_end(squared_norm, rank, targets.shape[1], targets.square().sum(1), share)
    return _Linear(_alignment(first.mT @ first, _linear_kernel(layers)), predicted)


def _tasks(count: int, dimension: int, generator: torch.Generator) -> Layers:
    """Targets (count, d) of norm 1, and for each a basis (count, d, d) whose first direction sees enough of it."""
    found: list[Layers] = []
    while sum(len(targets) for targets, _ in found) < count:
        targets = torch.randn(count, dimension, dtype=torch.float64, generator=generator)
        targets = torch.nn.functional.normalize(targets, dim=1)
        bases = torch.linalg.qr(torch.randn(count, dimension, dimension, dtype=torch.float64, generator=generator))[0]
        seen = (targets * bases[:, :, 0]).sum(1).abs() >= _SEEN
        found.append((targets[seen], bases[seen]))
    return torch.cat([targets for targets, _ in found])[:count], torch.cat([bases for _, bases in found])[:count]


@dataclasses.dataclass(frozen=True)
class _Recurrent:
    """Weights of copies: recurrent (copies, h, h), input (copies, h, inputs), readout (copies, h)."""

    recurrent: torch.Tensor
    entry: torch.Tensor
    readout: torch.Tensor

    def moved(self, push: torch.Tensor, way: _Way) -> _Recurrent:
        """After a step that moves the weights by -`push`, (copies, n), times the derivative of each output."""
        pushed = push[..., None]
        recurrent, entry = self.recurrent, self.entry
        for before, seen, delta in zip(way.states, way.inputs, way.deltas, strict=False):
            back = (pushed * delta).mT
            recurrent, entry = recurrent - back @ before, entry - back @ seen
        return _Recurrent(recurrent, entry, self.readout - (pushed * way.states[-1]).sum(1))


@dataclasses.dataclass(frozen=True)
class _Way:
    """Of sequences through nets: outputs (copies, n), states before and after each time, and derivatives by their z."""

    outputs: torch.Tensor
    states: Sequence[torch.Tensor]
    inputs: torch.Tensor
    deltas: Sequence[torch.Tensor]

    def kernel(self) -> torch.Tensor:
        """Tangent kernel of the outputs, (copies, n, n)."""
        total = self.states[-1] @ self.states[-1].mT
        for state, seen, delta in zip(self.states, self.inputs, self.deltas, strict=False):
            for earlier, shown, change in zip(self.states, self.inputs, self.deltas, strict=False):
                total = total + (delta @ change.mT) * (state @ earlier.mT + seen @ shown.mT)
        return total


def _through(net: _Recurrent, sequences: torch.Tensor) -> _Way:
    """`sequences` are (times, n, inputs)."""
    states = [torch.zeros(len(net.readout), sequences.shape[1], net.readout.shape[1], dtype=torch.float64)]
    for seen in sequences:
        states.append(torch.tanh(states[-1] @ net.recurrent.mT + seen @ net.entry.mT))
    deltas = [net.readout[:, None] * (1 - states[-1].square())]
    for state in states[-2:0:-1]:
        deltas.insert(0, (deltas[0] @ net.recurrent) * (1 - state.square()))
    return _Way((states[-1] @ net.readout[..., None])[..., 0], states, sequences, deltas)


def _truncated(weights: torch.Tensor, rank: int) -> torch.Tensor:
    """`weights` (copies, h, h) without all but their `rank` largest singular values, scaled back to their norm."""
    left, values, right = torch.linalg.svd(weights)
    kept = values[:, :rank]
    kept = kept * values.norm(dim=1, keepdim=True) / kept.norm(dim=1, keepdim=True)
    truncated: torch.Tensor = left[:, :, :rank] * kept[:, None] @ right[:, :rank]
    return truncated


def _changes(net: _Recurrent, sequences: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """One minus the alignment of the kernels before and after learning, (copies,); NaN for a copy that does not learn.

    A copy that has learnt rests.
    """
    way = _through(net, sequences)
    before = way.kernel()
    rate = _RATE / torch.linalg.eigvalsh(before)[:, -1:]
    for _ in range(_LIMIT):
        residual = way.outputs - targets
        learning = residual.square().mean(1, keepdim=True) > _LEARNT
        if not bool(learning.any()):
            break
        net = net.moved(learning * rate * residual, way)
        way = _through(net, sequences)
    return torch.where(learning[:, 0], math.nan, 1 - _alignment(before, way.kernel()))


def _typical(changes: Sequence[torch.Tensor]) -> list[float]:
    """Geometric means over the copies that learn at every rank; NaN where half of them do not."""
    every = torch.stack(list(changes))
    learnt = every.isfinite().all(0)
    if 2 * int(learnt.sum()) < len(learnt):
        return [math.nan] * len(every)
    return [float(value) for value in every[:, learnt].log().mean(1).exp()]


def _ranks(largest: int) -> list[int]:
    return [2**power for power in range(largest.bit_length()) if 2**power < largest] + [largest]


def _plan(settings: Settings, quick: bool) -> Plan:
    work = (settings["hidden"] / 32) ** 2 * (1 if quick else 8)
    return Plan(runs=2 * len(_ranks(settings["dimension"])) + 3, seconds=0.3 + 0.8 * work)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    dimension, squared_norm, hidden = settings["dimension"], settings["squared_norm"], settings["hidden"]
    tasks, copies = (24, 16) if quick else (256, 64)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    targets, basis = _tasks(tasks, dimension, generator)
    suited = torch.linalg.qr(torch.cat((targets[..., None], basis[:, :, 1:]), 2))[0]
    ranks = _ranks(dimension)
    anyhow: list[_Linear] = []
    aligned: list[_Linear] = []
    for rank in ranks:
        for rows, results in ((basis, anyhow), (suited, aligned)):
            results.append(_linear(squared_norm, rank, rows, targets))
            progress()

    def gap(predictions: Sequence[torch.Tensor]) -> float:
        return max(
            float((result.measured - predicted).abs().max())
            for result, predicted in zip(anyhow + aligned, predictions, strict=True)
        )

    sequences = normal(settings["times"], 16, _EVIDENCE)
    signs = sequences.sum((0, 2)).sign()
    weights = settings["gain"] * normal(copies, hidden, hidden) / math.sqrt(hidden)
    entry = normal(copies, hidden, _EVIDENCE) / math.sqrt(_EVIDENCE)
    readout = normal(copies, hidden) / math.sqrt(hidden)
    changes = []
    for rank in (1, 4, hidden):
        changes.append(_changes(_Recurrent(_truncated(weights, rank), entry, readout), sequences, signs))
        progress()
    distances = [result.distance for result in anyhow]
    suited_distances = [result.distance for result in aligned]
    return Outcome(
        measured={
            "end_of_the_flow": gap([result.predicted for result in anyhow + aligned]),
            "rank_makes_lazy": distances,
            "suited_low_rank_is_lazy": suited_distances[0] / distances[0],
            "suited_low_rank_beats_full_rank": suited_distances[0] / distances[-1],
            "rank_makes_recurrent_nets_lazy": _typical(changes),
        },
        controls={
            "features_at_rest": gap([torch.ones_like(result.predicted) for result in anyhow + aligned]),
            "suited_to_the_task": suited_distances,
            "unsuited": distances[0] / distances[-1],
        },
        series={
            "rank": [float(rank) for rank in ranks],
            "kernel_distance": distances,
            "suited_kernel_distance": suited_distances,
        },
    )


study = Study(
    id="136",
    slug="initial-rank",
    paper=Paper(
        title="How connectivity structure shapes rich and lazy learning in neural circuits",
        authors=(
            "Yuhan Helena Liu",
            "Aristide Baratin",
            "Jonathan Cornford",
            "Stefan Mihalas",
            "Eric Shea-Brown",
            "Guillaume Lajoie",
        ),
        year=2023,
        url="https://arxiv.org/abs/2310.08513",
    ),
    summary="At equal norm first weights of high rank learn lazily, of low rank richly, unless they suit the task.",
    settings=(
        Setting("dimension", "int", 8, "inputs, and hidden units, of the linear nets", 4, 16),
        Setting("squared_norm", "float", 12.0, "|W(0)|^2 over the target's norm, linear nets", 6.0, 24.0),
        Setting("hidden", "int", 32, "units of the recurrent nets", 16, 64),
        Setting(
            "gain",
            "float",
            1.0,
            "spectral radius of the recurrent weights at full rank",
            0.75,
            1.5,
            reason="with less the recurrent weights hardly matter, with more the nets are chaotic and learn slowly",
        ),
        Setting("times", "int", 6, "length of a sequence", 3, 12),
    ),
    statements=(
        Statement(
            "end_of_the_flow",
            "at_most",
            0.01,
            "Largest error of the predicted alignment of first and last kernel, over tasks, ranks, suited or not.",
        ),
        Statement(
            "rank_makes_lazy",
            "monotone",
            "decreasing",
            "One minus that alignment, mean over random tasks, by the rank of linear nets: 1, 2, 4, ... to full.",
        ),
        Statement(
            "suited_low_rank_is_lazy",
            "at_most",
            0.1,
            "The same at rank 1 where the row space holds the target, over that where it is any.",
        ),
        Statement(
            "suited_low_rank_beats_full_rank",
            "at_most",
            1.0,
            "The same at rank 1 where the row space holds the target, over that at full rank.",
        ),
        Statement(
            "rank_makes_recurrent_nets_lazy",
            "monotone",
            "decreasing",
            "One minus the alignment of recurrent nets' kernels before and after learning, for ranks 1, 4 and full.",
        ),
    ),
    controls=(
        Control("features_at_rest", "end_of_the_flow", "The kernel is predicted to stay."),
        Control("suited_to_the_task", "rank_makes_lazy", "The row space holds the target at every rank."),
        Control("unsuited", "suited_low_rank_beats_full_rank", "A row space that is not made for the target."),
    ),
    plan=_plan,
    run=_run,
    smoke={"dimension": 4, "squared_norm": 8.0, "hidden": 16, "times": 4},
)
