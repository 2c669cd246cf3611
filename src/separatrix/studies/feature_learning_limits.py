"""Limits of wide nets: a parametrization's exponents decide whether features are learnt; limits can be computed.

Layers that act as n^-a w, start with deviation n^-b and have rates n^-c move features as n^-r, r a formula in the
exponents (`separatrix.steer.classify`): r = 0 learns features, r > 0 follows a kernel, r < 0 breaks. A tanh net with
two hidden layers is trained by SGD at several widths, and its features' change fitted. A net of two linear layers that
embeds characters and predicts their successors (skip-gram with the whole softmax) has an infinite-width limit that is
computed exactly; trainings of finite width, through the library's own parametrization, approach it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from separatrix.steer import coordinate_check, judge_transfer, parametrize, parametrized_setup, regime_of
from separatrix.steer.coordinates import BOUND, Quantity
from separatrix.studies._embedding_limit import Pairs, character_pairs, kernel_losses, limit_losses
from separatrix.studies._scaling import digit_batches
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

_RULES = ("maximal-update", "mean-field", "neural-tangent")
_RATES = tuple(2.0**power for power in range(-3, 6))
_HIDDEN = "2"


def _tanh_net(width: int) -> nn.Module:
    layers = (nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 10))
    return nn.Sequential(*layers)


def _hidden_slope(
    rule: str, widths: Sequence[int], lr: float, seed: int, *, steps: int = 3, quantity: Quantity = "feature_change"
) -> float:
    """Exponent of the width in the change of the second hidden layer after a few steps of SGD."""
    small, large = (functools.partial(_tanh_net, size) for size in (widths[0], 2 * widths[0]))

    def make(model: nn.Module, width: int) -> Any:
        del width
        return parametrize(model, base=small, delta=large, rule=rule)

    setup = parametrized_setup(_tanh_net, make, torch.optim.SGD, lr=lr)
    seeds = tuple(range(4 * seed, 4 * seed + 4))
    draw = digit_batches(seed, 64)
    check = coordinate_check(setup, widths, draw, functional.cross_entropy, steps=steps, seeds=seeds, modules=[_HIDDEN])
    return check.slope(quantity, _HIDDEN).value


class _Embedding(nn.Module):
    """Characters to logits of their successors: entries of N(0, 1), the readout over the width."""

    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        self.embedding, self.readout = nn.Embedding(words, width), nn.Linear(width, words, bias=False)
        nn.init.normal_(self.readout.weight, std=1 / width)

    def forward(self) -> Tensor:
        """Logits (words, words), columns for the given character."""
        logits: Tensor = self.readout(self.embedding.weight).T
        return logits


@dataclasses.dataclass(frozen=True)
class _Embeddings:
    """Trainings of one kind: how their rule scales them from the width `base`."""

    pairs: Pairs
    rule: str
    base: int
    steps: int

    def losses(self, width: int, rate: float, seed: int) -> np.ndarray:
        """Losses before each step of SGD, at the rate that the base has under the maximal update."""
        words = len(self.pairs.shares)
        build = functools.partial(_Embedding, words=words)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            model = build(width).double()
        small, large = (functools.partial(build, size) for size in (self.base, 2 * self.base))
        found = parametrize(model, base=small, delta=large, rule=self.rule)
        rates = {"input": rate * self.base, "output": rate / self.base}
        optimizer = torch.optim.SGD(found.param_groups(torch.optim.SGD, lr=rates))
        losses = []
        for _ in range(self.steps):
            loss = self.pairs.loss(model())
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            losses.append(float(loss.detach()))
        return np.array(losses)


def _distances(
    embeddings: _Embeddings, widths: Sequence[int], rate: float, limit: np.ndarray, seeds: Any
) -> list[float]:
    """Largest distance from the limit over steps, over the limit's fall, mean over seeds, by width."""
    fall = limit[0] - limit[-1]
    return [
        float(np.mean([np.abs(embeddings.losses(width, rate, seed) - limit).max() / fall for seed in seeds]))
        for width in widths
    ]


def _plan(settings: Settings, quick: bool) -> Plan:
    return Plan(runs=6, seconds=(3.0 if quick else 60.0) * (0.5 + settings["words"] / 40))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    widths = [64 * 2 ** (2 * k if not quick else k) for k in range(4 if not quick else 3)]
    slopes = {}
    for rule in _RULES:
        slopes[rule] = _hidden_slope(rule, widths, settings["rate"], seed)
        progress()
    blown = {
        rule: _hidden_slope(rule, widths, settings["rate"], seed, steps=1, quantity="own_effect")
        for rule in ("standard", "maximal-update")
    }
    progress()
    expected = {rule: -regime_of(rule, descent="sgd").r for rule in _RULES}

    pairs, steps, base = character_pairs(settings["words"]), settings["steps"], 16
    sizes = [base * 4**k for k in range(4 if quick else 5)]
    seeds = tuple(range(5 * seed, 5 * seed + (3 if quick else 10)))
    rate = settings["embedding_rate"]
    limit = limit_losses(pairs, torch.tensor([rate], dtype=torch.float64), steps)[:, 0].numpy()
    kernel = kernel_losses(pairs, torch.tensor([rate], dtype=torch.float64), steps)[:, 0].numpy()
    nets = _Embeddings(pairs, "maximal-update", base, steps)
    distances = _distances(nets, sizes, rate, limit, seeds)
    from_kernel = _distances(nets, sizes[-1:], rate, kernel, seeds)
    approach = float(np.polyfit(np.log(sizes), np.log(distances), 1)[0])
    progress()

    standard = _distances(dataclasses.replace(nets, rule="standard"), sizes[-1:], rate, limit, seeds)
    found = np.array([[[nets.losses(n, r, 5 * seed)[-1]] for r in _RATES] for n in sizes[:-1]])
    sweep = judge_transfer(sizes[:-1], _RATES, found)
    progress()
    return Outcome(
        measured={
            "features_move_as_classified": [abs(slopes[rule] - expected[rule]) for rule in _RULES],
            "standard_blows_up": blown["standard"],
            "limit_is_reached": distances[-1],
            "distance_falls_with_width": approach,
            "best_rate_stays": abs(sweep.drift),
        },
        controls={
            "kernel_for_features": [abs(slopes["neural-tangent"] - expected["maximal-update"])],
            "features_for_blow_up": blown["maximal-update"],
            "kernel_limit": from_kernel[-1],
            "standard_nets": standard[-1],
        },
        series={
            "width": sizes,
            "distance": distances,
            "limit_loss": limit.tolist(),
            "kernel_loss": kernel.tolist(),
            "feature_slope": list(slopes.values()),
            "classified_slope": list(expected.values()),
            "optimum": sweep.optima,
        },
    )


study = Study(
    id="47",
    slug="feature-learning-limits",
    paper=Paper(
        title="Feature Learning in Infinite-Width Neural Networks",
        authors=("Greg Yang", "Edward J. Hu"),
        year=2020,
        url="https://arxiv.org/abs/2011.14522",
    ),
    summary="Exponents decide if a wide net learns features or follows a kernel; linear nets reach their limit.",
    settings=(
        Setting("rate", "float", 0.1, "learning rate of SGD for the tanh nets of width 64", 0.05, 0.2),
        Setting("words", "int", 30, "characters that are embedded", 15, 60),
        Setting("steps", "int", 60, "steps of the embeddings", 30, 120),
        Setting("embedding_rate", "float", 1.0, "learning rate of the embeddings, over the width", 0.5, 2.0),
    ),
    statements=(
        Statement(
            "features_move_as_classified",
            "at_most",
            0.15,
            "Distance of the fitted exponent of features' change from the classifier's, for muP, mean field and the "
            "neural-tangent parametrization; exponents of regimes are 0.5 apart.",
        ),
        Statement(
            "standard_blows_up",
            "at_least",
            BOUND,
            "Exponent of the width in what the hidden layer's own first update does, under the standard one "
            "with one rate: 1/2, of n that add up and gradients of n^-1/2.",
        ),
        Statement(
            "limit_is_reached",
            "at_most",
            0.05,
            "Largest distance of the widest embeddings' loss from the limit's over steps, over the limit's fall.",
        ),
        Statement(
            "distance_falls_with_width",
            "interval",
            (-1.15, -0.35),
            "Exponent of the width in that distance: overlaps of random columns are n^-1/2, their mean effect n^-1.",
        ),
        Statement(
            "best_rate_stays",
            "at_most",
            1.0,
            "Steps of the grid (factors of 2) between the best rates of narrow and wider embeddings.",
        ),
    ),
    controls=(
        Control("kernel_for_features", "features_move_as_classified", "Neural-tangent nets, with muP's exponent."),
        Control("features_for_blow_up", "standard_blows_up", "The maximal-update parametrization."),
        Control("kernel_limit", "limit_is_reached", "The limit of the neural-tangent parametrization."),
        Control("standard_nets", "limit_is_reached", "Nets under the standard parametrization."),
    ),
    plan=_plan,
    run=_run,
    smoke={"words": 15, "steps": 30},
)
