"""Linear mode connectivity: children of one training are connected the better, the later they part.

Two networks with two hidden layers of tanh units learn handwritten digits; the two share their batches up to the step
at which they are spawned, and then see batches of their own. The rate falls to zero along a cosine, so that both end in
minima. Halfway between them stands a barrier: minus an integral of the curvature along the line, which the curvature in
the middle and the distance predict, for the whole networks and for one layer at a time.

Networks from different initial weights are apart by a high barrier, most of which is a matter of names: once the hidden
units of one are renamed to resemble the other's, little is left.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from separatrix.analysis.trajectory import barrier, layer_barriers, match, permuted, predicted_barrier
from separatrix.analysis.trajectory.connectivity import Loss, Weights
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
from separatrix.tasks import Digits, ensemble

_SPAWNED = (0.0, 0.03, 0.12, 0.6)
"""When pairs part, as shares of the training."""
_BATCH = 16


@dataclasses.dataclass(frozen=True)
class _Pair:
    """Two children, the share of the training after which they parted, and the family (initial weights) they are of."""

    spawned: float
    family: int
    first: nn.Sequential
    second: nn.Sequential


def _network(width: int) -> nn.Sequential:
    hidden = (nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
    return nn.Sequential(*hidden, nn.Linear(width, 10))


def _trained(settings: Settings, families: int, seed: int) -> tuple[list[_Pair], Loss]:
    """Pairs for every family and spawning time, and the loss on all training digits, in float64."""
    inputs, targets = Digits().train
    inputs = inputs.flatten(1)
    steps = settings["steps"]
    kinds = [(family, spawned) for family in range(families) for spawned in _SPAWNED]
    shared = [torch.Generator().manual_seed(2_000_003 * seed + family) for family in range(families)]
    own = [torch.Generator().manual_seed(2_000_003 * seed + 1000 + copy) for copy in range(2 * len(kinds))]

    def data(step: int) -> tuple[Tensor, Tensor]:
        common = [torch.randint(len(targets), (_BATCH,), generator=source) for source in shared]
        rows = [torch.randint(len(targets), (_BATCH,), generator=source) for source in own]
        for copy in range(len(rows)):
            family, spawned = kinds[copy // 2]
            if step <= round(spawned * steps):
                rows[copy] = common[family]
        chosen = torch.stack(rows)
        return inputs[chosen], targets[chosen]

    networks = ensemble.stack(
        lambda: _network(settings["width"]), [1009 * seed + family for family, _ in kinds for _ in range(2)]
    )
    training = ensemble.train(
        networks,
        functional.cross_entropy,
        ensemble.SGD(settings["rate_times_root_width"] / math.sqrt(settings["width"])),
        data,
        steps,
        schedule=lambda step: 0.5 * (1.0 + math.cos(math.pi * (step - 1) / steps)),
    )
    members = [training.ensemble.module(copy).double() for copy in range(2 * len(kinds))]
    pairs = [
        _Pair(spawned, family, *members[2 * index : 2 * index + 2])  # type: ignore[arg-type]
        for index, (family, spawned) in enumerate(kinds)
    ]
    exact = inputs.double()

    def loss(weights: Weights) -> Tensor:
        return functional.cross_entropy(functional_call(members[0], dict(weights), (exact,)), targets)

    return pairs, loss


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: values.detach() for name, values in network.named_parameters()}


def _halfway(losses: np.ndarray) -> float:
    """Loss in the middle of a line over the mean of its ends."""
    return float(losses[len(losses) // 2] - (losses[0] + losses[-1]) / 2)


def _layers(loss: Loss, pair: _Pair) -> list[tuple[float, float]]:
    """Measured and predicted height for each layer moved alone."""
    first, second = _weights(pair.first), _weights(pair.second)
    found = []
    for layer, measured in layer_barriers(loss, first, second, points=3).items():
        moved = {name: (second if name.startswith(f"{layer}.") else first)[name] for name in first}
        found.append((_halfway(measured.losses), predicted_barrier(loss, first, moved)))
    return found


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


def _renamed(network: nn.Sequential, seed: int) -> nn.Sequential:
    draw = np.random.default_rng(seed)
    return permuted(
        network, [draw.permutation(part.out_features) for part in list(network)[:-1] if isinstance(part, nn.Linear)]
    )


def _strangers(pairs: list[_Pair], loss: Loss) -> Mapping[str, float]:
    """Mean barriers between networks of different families, as they are and matched, and after a random renaming."""
    early = [pair for pair in pairs if pair.spawned == 0.0]
    plain, matched, shuffled = [], [], []
    for one, other in zip(early, [*early[1:], early[0]], strict=True):
        first = _weights(one.first)
        plain.append(barrier(loss, first, _weights(other.first)).height)
        matched.append(barrier(loss, first, _weights(match(one.first, other.first).network)).height)
        renamed = _renamed(other.first, one.family)
        shuffled.append(barrier(loss, first, _weights(renamed)).height)
    return {"plain": float(np.mean(plain)), "matched": float(np.mean(matched)), "shuffled": float(np.mean(shuffled))}


def _toy() -> tuple[float, float]:
    """The product u v fits 1, from (1, 1) to (-1, -1): the barrier is 1/2, measured and integrated from curvatures."""

    def loss(weights: Weights) -> Tensor:
        return (weights["u"] * weights["v"] - 1.0) ** 2 / 2.0

    one = torch.ones((), dtype=torch.float64)
    ends = {"u": one, "v": one}, {"u": -one, "v": -one}
    return barrier(loss, *ends).height, predicted_barrier(loss, *ends, nodes=2)


def _plan(settings: Settings, quick: bool) -> Plan:
    families = 3 if quick else 8
    return Plan(runs=2, seconds=0.012 * families * settings["steps"] / 10 * (settings["width"] / 32) ** 0.5)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    pairs, loss = _trained(settings, 3 if quick else 8, seed)
    progress()
    measured = [barrier(loss, _weights(pair.first), _weights(pair.second)) for pair in pairs]
    heights = np.array([each.height for each in measured])
    middle = np.array([_halfway(each.losses) for each in measured])
    predicted = np.array([predicted_barrier(loss, _weights(pair.first), _weights(pair.second)) for pair in pairs])
    layers = np.array([layer for pair in pairs for layer in _layers(loss, pair)])
    by_time = [float(np.mean([h for h, p in zip(heights, pairs, strict=True) if p.spawned == at])) for at in _SPAWNED]
    latest = [pair for pair in pairs if pair.spawned == _SPAWNED[-1]]
    broken = [barrier(loss, _weights(p.first), _weights(_renamed(p.second, p.family))).height for p in latest]
    mended = [
        barrier(loss, _weights(p.first), _weights(match(p.first, _renamed(p.second, p.family)).network)).height
        for p in latest
    ]
    strangers = _strangers(pairs, loss)
    progress()
    return Outcome(
        measured={
            "toy_barrier": _toy(),
            "barrier_falls_with_spawning": by_time,
            "late_children_are_connected": by_time[-1],
            "curvature_ranks_barriers": _rank_correlation(middle, predicted),
            "curvature_ranks_layers": _rank_correlation(layers[:, 0], layers[:, 1]),
            "matching_undoes_a_renaming": float(np.mean(mended)),
            "matching_lowers_the_barrier": strangers["matched"] / strangers["plain"],
        },
        controls={
            "renamed_child": float(np.mean(broken)),
            "curvature_of_another_pair": _rank_correlation(middle, np.roll(predicted, len(_SPAWNED) // 2)),
            "curvature_of_other_layers": _rank_correlation(layers[:, 0], np.roll(layers[:, 1], 7)),
            "random_renaming": strangers["shuffled"] / strangers["plain"],
        },
        series={
            "spawned": list(_SPAWNED),
            "barrier": by_time,
            "halfway": middle.tolist(),
            "predicted": predicted.tolist(),
        },
    )


study = Study(
    id="74",
    slug="mode-connectivity",
    paper=Paper(
        title="Landscaping Linear Mode Connectivity",
        authors=(
            "Sidak Pal Singh",
            "Linara Adilova",
            "Michael Kamp",
            "Asja Fischer",
            "Bernhard Schölkopf",
            "Thomas Hofmann",
        ),
        year=2024,
        url="https://arxiv.org/abs/2406.16300",
    ),
    summary="Children of one training are connected the better the later they part; curvature predicts the barrier.",
    settings=(
        Setting("width", "int", 32, "units of each hidden layer", 16, 64),
        Setting(
            "rate_times_root_width",
            "float",
            5.5,
            "learning rate at the start, times the root of the width",
            4.0,
            5.8,
            reason="below, children of one initial state are connected from the start; above, tanh units saturate",
        ),
        Setting("steps", "int", 600, "steps of each training", 400, 1600),
    ),
    statements=(
        Statement(
            "toy_barrier", "equal", 0.5, "Barrier of u v = 1 between (1, 1) and (-1, -1), and from curvatures.", 1e-9
        ),
        Statement(
            "barrier_falls_with_spawning",
            "monotone",
            "decreasing",
            "Mean barrier of pairs spawned after 0, 3, 12 and 60 % of the training, in nats.",
            0.002,
        ),
        Statement("late_children_are_connected", "at_most", 0.03, "That of the last, in nats."),
        Statement(
            "curvature_ranks_barriers",
            "at_least",
            0.8,
            "Rank correlation, over all pairs, of the height halfway and -1/8 of the curvature there along the line.",
        ),
        Statement(
            "curvature_ranks_layers", "at_least", 0.6, "The same over all layers of all pairs, each layer moved alone."
        ),
        Statement(
            "matching_undoes_a_renaming",
            "at_most",
            0.03,
            "Mean barrier of late children, one's hidden units renamed at random and matched again.",
        ),
        Statement(
            "matching_lowers_the_barrier",
            "at_most",
            0.5,
            "Barrier of networks from different initial weights after matching their hidden units, over that before.",
        ),
    ),
    controls=(
        Control("renamed_child", "late_children_are_connected", "One child's hidden units are renamed at random."),
        Control(
            "curvature_of_another_pair", "curvature_ranks_barriers", "The curvature of a pair spawned at another time."
        ),
        Control(
            "curvature_of_other_layers", "curvature_ranks_layers", "The curvature of another layer of another pair."
        ),
        Control("random_renaming", "matching_lowers_the_barrier", "Units renamed at random instead of matched."),
    ),
    plan=_plan,
    run=_run,
    smoke={"width": 16, "steps": 400},
)
