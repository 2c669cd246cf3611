"""Depth-muP: residual branches and Adam's rates over the root of the depth, and what features do then.

Residual perceptrons classify digits at depths a factor 16 apart. Depth-muP divides branches and their rates by the root
of the depth; next to it stand nets that are not scaled by depth (standard), and the limit in which branches are divided
by the depth itself and rates are not (an ordinary differential equation). For what features do, the layer in is left as
it was drawn, so that what changes at the end is what branches learnt.

Diversity of what was learnt: over pairs of branches, one less the mean cosine of the changes of their outputs in
training. Where f' is nearly constant all branches learn to add the same; for f' of mean zero, that of |x|, they differ.
The measure is ours.

That branches of two layers transfer worse, as the paper finds, does not show at this size and is not claimed: at depths
2 to 32 their best rate spreads over 0.34 factors of 2, that of one layer over 0.56. Full runs have it in their series.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from separatrix.steer import parametrize
from separatrix.studies._residual_nets import Nonlinearity, ResidualNet, diversity_exponent, root_mean_square
from separatrix.studies._wide_nets import INPUTS, Data, best_rate, digits
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

_TIMES = (1, 4, 16)  # the shallowest depth
_POWERS = range(-11, -3)  # of two, rates
_BRANCH = 0.5  # multiplier at the shallowest depth
_RATE = 2.0**-7  # where features are looked at
_NETS = 2


class _Stack(nn.Module):
    """The shapes of a residual net, for the rule of parametrization to read."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.inside = nn.Linear(INPUTS, width, bias=False, device="meta")
        self.branches = nn.ModuleList(nn.Linear(width, width, bias=False, device="meta") for _ in range(depth))
        self.outside = nn.Linear(width, 10, bias=False, device="meta")

    def forward(self, inputs: Tensor) -> Tensor:
        stream = self.inside(inputs)
        for branch in self.branches:
            stream = stream + branch(stream)
        outputs: Tensor = self.outside(stream)
        return outputs


def _depth_mup(width: int, depth: int, base: int) -> tuple[float, float]:
    """Multiplier and rate of branches over those of the shallowest net, from `steer`'s rule."""
    if depth == base:
        return 1.0, 1.0
    scaled = parametrize(
        _Stack(width, depth),
        base=_Stack(width, base),
        delta=_Stack(2 * width, 2 * base),
        rule="depth-maximal-update",
        branches=["branches.*"],
        initialize=False,
        absorb=False,
    )
    found = scaled.factors(torch.optim.Adam)["branches.0.weight"]
    return found.multiplier, found.rate


def _net(kind: str, width: int, depth: int, base: int, **more: object) -> ResidualNet:
    ratio = depth / base
    scales = {"standard": (1.0, 1.0), "differential": (1 / ratio, 1.0), "lazy": (ratio**-0.5, 1 / ratio)}
    multiplier, rate = scales[kind] if kind in scales else _depth_mup(width, depth, base)
    return ResidualNet(width, depth, _BRANCH * multiplier, rate, **more)  # type: ignore[arg-type]


def _best(kind: str, settings: Settings, data: Data, copies: int, steps: int, seed: int, two: bool) -> list[float]:
    """log2 of the best rate by depth."""
    rates = torch.tensor([2.0**power for power in _POWERS])
    found = []
    for times in _TIMES:
        net = _net(kind, settings["width"], settings["shallowest"] * times, settings["shallowest"], two_layers=two)
        generator = torch.Generator().manual_seed(seed)
        weights = [weight.repeat(len(rates), 1, 1) for weight in net.drawn(copies, generator)]
        _, losses = net.train(weights, rates.repeat_interleave(copies), data, steps, generator)
        found.append(best_rate(rates, losses[-steps // 5 :].mean(0).view(len(rates), copies).mean(1)))
    return found


def _spread(best: Sequence[float]) -> float:
    return max(best) - min(best)


@dataclasses.dataclass(frozen=True)
class _Learnt:
    """Features before and after training, and the loss at its end."""

    before: list[Tensor]
    after: list[Tensor]
    loss: float

    @property
    def change(self) -> float:
        """Root mean square of the change of the last features."""
        return root_mean_square(self.after[-1] - self.before[-1])

    @property
    def diversity(self) -> float:
        """One less the mean cosine between what two branches learnt to add."""
        added = [torch.stack([b - a for a, b in itertools.pairwise(seen)]) for seen in (self.before, self.after)]
        learnt = functional.normalize((added[1] - added[0]).flatten(2), dim=2).transpose(0, 1)
        cosines = learnt @ learnt.mT
        count = cosines.shape[-1]
        return 1.0 - float((cosines.sum((1, 2)) - count).mean()) / (count * (count - 1))


def _learnt(net: ResidualNet, data: Data, steps: int, seed: int) -> _Learnt:
    generator = torch.Generator().manual_seed(seed)
    start = net.drawn(_NETS, generator)
    end, losses = net.train(start, torch.full((_NETS,), _RATE), data, steps, generator)
    before, after = (net.features(weights, data.inputs[:256]) for weights in (start, end))
    return _Learnt(before, after, float(losses[-steps // 5 :].mean()))


def _slope(depths: Sequence[int], values: Sequence[float]) -> float:
    x, y = torch.tensor(depths).double().log(), torch.tensor(values).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def _plan(settings: Settings, quick: bool) -> Plan:
    work = settings["shallowest"] / 4 * (settings["width"] / 32) ** 1.3
    return Plan(runs=4 if quick else 5, seconds=1.5 * work * (1 if quick else 30))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    copies, steps = (1, 50) if quick else (4, 200)
    width, base, data = settings["width"], settings["shallowest"], digits(seed)
    depths = [base * times for times in _TIMES]
    best = {}
    for name, kind, two in (("one", "depth-mup", False), ("standard", "standard", False), ("two", "depth-mup", True)):
        if two and quick:
            continue
        best[name] = _best(kind, settings, data, copies, steps, seed, two)
        progress()

    def learnt(kind: str, times: int, function: Nonlinearity = torch.relu) -> _Learnt:
        net = _net(kind, width, base * times, base, still=True, nonlinearity=function)
        return _learnt(net, data, steps, seed)

    scaled, lazy = ([learnt(kind, times) for times in _TIMES] for kind in ("depth-mup", "lazy"))
    changes, lazy_changes = ([each.change for each in found] for found in (scaled, lazy))
    progress()
    differential = learnt("differential", _TIMES[-1])
    ends = scaled[-1], differential
    exponents, drawn = (
        [diversity_exponent(each) for each in found]
        for found in ([end.after for end in ends], [end.before for end in ends])
    )
    relu, absolute, tanh = (
        scaled[1],
        learnt("depth-mup", _TIMES[1], torch.abs),
        learnt("depth-mup", _TIMES[1], torch.tanh),
    )
    progress()
    return Outcome(
        measured={
            "rate_transfers": _spread(best["one"]),
            "features_change_at_every_depth": _slope(depths, changes),
            "more_diverse_than_the_differential_equation": exponents[0] - exponents[1],
            "abs_learns_most_diverse": [absolute.diversity / other.diversity for other in (relu, tanh)],
            "abs_trains_best": [absolute.loss / other.loss for other in (relu, tanh)],
        },
        controls={
            "not_scaled_by_depth": _spread(best["standard"]),
            "rates_over_the_depth": _slope(depths, lazy_changes),
            "before_training": drawn[0] - drawn[1],
            "tanh_in_its_place": [tanh.diversity / other.diversity for other in (relu, absolute)],
            "tanh_trained": [tanh.loss / other.loss for other in (relu, absolute)],
        },
        series={
            "depth": depths,
            **{f"{name}_log2_best_rate": values for name, values in best.items()},
            "feature_change": changes,
            "lazy_feature_change": lazy_changes,
            "diversity_exponents": exponents,
        },
    )


study = Study(
    id="301",
    slug="depth-transfer",
    paper=Paper(
        title="Tensor Programs VI: Feature Learning in Infinite-Depth Neural Networks",
        authors=("Greg Yang", "Dingli Yu", "Chen Zhu", "Soufiane Hayou"),
        year=2023,
        url="https://arxiv.org/abs/2310.02244",
    ),
    summary="With branches and rates over the root of the depth the best rate and the change of features keep.",
    settings=(
        Setting("shallowest", "int", 4, "least number of branches; the others are 4 and 16 times it", 2, 8),
        Setting("width", "int", 32, "units", 32, 128),
    ),
    statements=(
        Statement(
            "rate_transfers", "at_most", 1.0, "Spread of the best rate over depths a factor 16 apart, in factors of 2."
        ),
        Statement(
            "features_change_at_every_depth",
            "equal",
            0.0,
            "Exponent in the depth with which the change of the last features grows; a lazy net has -1/2.",
            tolerance=0.25,
        ),
        Statement(
            "more_diverse_than_the_differential_equation",
            "at_least",
            0.1,
            "Exponent of feature diversity above that of branches over the depth: 1/2 and 0 in the limit.",
        ),
        Statement(
            "abs_learns_most_diverse",
            "at_least",
            1.0,
            "Diversity of what branches learnt with |x|, over that with ReLU, and with tanh.",
        ),
        Statement("abs_trains_best", "at_most", 1.0, "Loss at the end with |x|, over that with ReLU, and with tanh."),
    ),
    controls=(
        Control("not_scaled_by_depth", "rate_transfers", "Branches and rates as they are."),
        Control("rates_over_the_depth", "features_change_at_every_depth", "Rates over the depth instead of its root."),
        Control("before_training", "more_diverse_than_the_differential_equation", "Both nets as drawn."),
        Control("tanh_in_its_place", "abs_learns_most_diverse", "tanh over ReLU and |x|."),
        Control("tanh_trained", "abs_trains_best", "tanh over ReLU and |x|."),
    ),
    plan=_plan,
    run=_run,
    smoke={"shallowest": 2},
)
