"""Deep linear nets learn mode after mode on curves known beforehand, and need not learn slower for being deep.

Curves: nets on the semantic hierarchy, every item equally often, from layers that are aligned with its modes and
balanced; strengths of all modes and the steps at which they pass half of their targets are those of the theory
`deep-linear`. Small random layers of two-layer nets follow its coupled solution. The paper's own statement, that
decoupled curves also describe small random starts, holds in wide nets only: with as many hidden units as items the
modes share units, and strengths differ from those curves by 0.07 to 0.2 of their span (the control).

Depth: regression on two outputs from whitened inputs, hidden layers as wide as those; for pretraining twice as many
inputs of unequal variance, of which the leading ones matter. Times are those until the loss is a fiftieth of what zero
outputs have, at the best of a grid of learning rates over depth. "Flat" is said of exponents: learning times go like a
power of depth that is below 1/2 from orthogonal or pretrained layers, above 3/4 from Gaussian ones of the same mean
square. Few outputs matter: with as many outputs as hidden units, 16, an orthogonal start is on the wrong side of
determinant zero half of the time, and times from 2 to 16 layers grew from 8 to 140 steps. Pretraining needs that what
matters is in the leading directions; where it is in the others, times grow (a control).

Aligned layers with first strength u_0 of a target 1 are delayed, in learning rate times steps times depth, by no more
than a finite limit at any depth; layers that each start at u_0^(1/2) are not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from separatrix.studies.study import (
    Control,
    Numbers,
    Outcome,
    Paper,
    Plan,
    Progress,
    Setting,
    Settings,
    Statement,
    Study,
)
from separatrix.tasks import Batch, SemanticHierarchy
from separatrix.theory.deep_linear import (
    Descent,
    Layers,
    aligned_layers,
    coupled_map,
    descend,
    gaussian_layers,
    gradients,
    mode_strengths,
    orthogonal_layers,
    pretrained_layers,
    random_orthogonal,
    time_to_share,
)

_STEP = 0.02  # learning rate over 1 / the largest curvature at the end
_KEPT = 500
_OUTPUTS = 2
_DEPTHS = (1, 2, 4)  # over the depth that is set
_RATES = (0.5, 0.25, 0.125)  # over 1 / depth; above, the fastest learn in a few steps that cannot be told apart
_LEARNED = 0.02  # of the loss of zero outputs
_PATIENCE = 1500
_DELAYED = (2, 8, 32)
_TOO_LONG = 3.0  # limits after which a delay is no longer waited for

Maker = Callable[[], Layers]
_Named = dict[str, Numbers]


def _grid(last: float) -> list[int]:
    return sorted({round(last * index / _KEPT) for index in range(_KEPT + 1)})


def _rate(tree: SemanticHierarchy, depth: float) -> float:
    """Steps that are `_STEP` of 1 / the largest curvature, depth (s/d)^(2 - 2/depth) d, once all is learned."""
    target = float(tree.modes.values[0]) * tree.items
    return float(_STEP * tree.items / (depth * target ** (2.0 - 2.0 / depth)))


def _strengths(tree: SemanticHierarchy, way: Descent) -> np.ndarray:
    """Numbers u' W v of the first copy by mode of the tree, (kept steps, modes)."""
    seen = torch.einsum("om,toi,im->tm", tree.modes.left, way.maps[:, 0], tree.modes.right)
    return np.asarray(seen.numpy(), dtype=np.float64)


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """Largest difference over the largest strength."""
    return float(np.abs(one - other).max() / np.abs(other).max())


def _crossings(steps: Sequence[int], shares: np.ndarray) -> np.ndarray:
    """Steps at which shares (kept, modes) pass 1/2, between kept ones in proportion; NaN for those that do not."""
    past = shares >= 0.5
    after = past.argmax(0).clip(1)
    column = np.arange(shares.shape[1])
    low, high = shares[after - 1, column], shares[after, column]
    at = np.asarray(steps, dtype=np.float64)
    found = at[after - 1] + (0.5 - low) / np.where(high > low, high - low, 1.0) * (at[after] - at[after - 1])
    return np.where(past.any(0), found, math.nan)


def _late(tree: SemanticHierarchy, steps: Sequence[int], strengths: np.ndarray) -> np.ndarray:
    return _crossings(steps, strengths / (tree.modes.values * tree.items).numpy())


def _by_level(tree: SemanticHierarchy, values: np.ndarray) -> list[float]:
    """Means over the modes of each level, the mean of all items first."""
    level = tree.modes.level.numpy()
    return [float(values[level == index].mean()) for index in range(-1, tree.levels)]


def _curves(settings: Settings, tree: SemanticHierarchy, draw: torch.Generator) -> tuple[_Named, _Named]:
    """Measured numbers and controls of one aligned net on the hierarchy, and of its twin on shuffled properties."""
    depth, count = settings["layers"], tree.items
    modes, variance = tree.modes, np.full(count, 1.0 / count)
    correlation = modes.values.numpy()
    start = np.full(count, settings["start"])  # the smallest target is 1
    rate = _rate(tree, depth)
    times = [time_to_share(0.5, start, correlation, variance, layers) for layers in (depth, depth + 1)]
    steps = _grid(float(time_to_share(0.95, start, correlation, variance, depth).max()) / rate)
    layers = aligned_layers(modes.left, torch.from_numpy(start), modes.right, [count] * (depth - 1), draw)
    inputs, targets = tree.dataset
    shuffled = torch.stack([column[torch.randperm(count, generator=draw)] for column in targets.T], 1)
    seen, strange = (
        _strengths(tree, descend([layer[None] for layer in layers], inputs, given, rate, steps))
        for given in (targets, shuffled)
    )
    clock = rate * np.asarray(steps, dtype=np.float64)
    expected, deeper = (mode_strengths(start, correlation, variance, n, clock) for n in (depth, depth + 1))
    when = _late(tree, steps, seen) * rate
    measured: _Named = {
        "strengths_follow_their_curves": _apart(seen, expected),
        "transitions_are_on_time": float(np.abs(when / times[0] - 1).max()),
        "broad_distinctions_first": _by_level(tree, when / rate),
    }
    controls: _Named = {
        "one_layer_more": _apart(seen, deeper),
        "one_layer_more_in_time": float(np.abs(when / times[1] - 1).max()),
        "shuffled_properties": _by_level(tree, _late(tree, steps, strange)),
    }
    return measured, controls


def _random_start(
    settings: Settings, tree: SemanticHierarchy, draw: torch.Generator, width: int
) -> tuple[float, float]:
    """How far two layers of small random weights go from the coupled and from the decoupled curves."""
    modes, count = tree.modes, tree.items
    layers = gaussian_layers([count, width, tree.properties], draw)
    gains = (math.sqrt(count / width), 1.0)  # all weights of one variance
    layers = [settings["weights"] * gain * layer for gain, layer in zip(gains, layers, strict=True)]
    shared = (layers[0] @ modes.right + layers[1].T @ modes.left) / 2.0
    start = shared.T @ shared
    alone, correlation, variance = start.diagonal().numpy(), modes.values.numpy(), np.full(count, 1.0 / count)
    rate = _rate(tree, 2)
    steps = _grid(float(time_to_share(0.95, alone, correlation, variance, 2).max()) / rate)
    clock = [rate * step for step in steps]
    seen = _strengths(tree, descend([layer[None] for layer in layers], *tree.dataset, rate, steps))
    coupled = coupled_map(start, modes.values, 1.0 / count, clock).diagonal(dim1=1, dim2=2).numpy()
    decoupled = mode_strengths(alone, correlation, variance, 2, np.asarray(clock))
    return _apart(seen, coupled), _apart(seen, decoupled)


def _delays(settings: Settings, tree: SemanticHierarchy, draw: torch.Generator, power: float | None) -> list[float]:
    """Delays of the first mode, learning rate times steps times depth, over the limit at infinite depth.

    Properties are scaled so that the first mode's target is 1. Layers start at start^(1/depth), or all at start^power.
    """
    modes, count = tree.modes, tree.items
    inputs, targets = tree.dataset
    target = float(modes.values[0]) * count
    start = settings["start"] * (modes.values / modes.values[0])
    variance = np.full(1, 1.0 / count)
    limit = float(time_to_share(0.5, start[:1].numpy(), variance, variance, math.inf)[0])
    delays = []
    for depth in _DELAYED:
        rate = _STEP * count / depth
        begin = start if power is None else start ** (power * depth)
        layers = aligned_layers(modes.left, begin, modes.right, [count] * (depth - 1), draw)
        longest = limit / depth / rate * (1.1 if power is None else _TOO_LONG)
        steps = _grid(longest)
        way = descend([layer[None] for layer in layers], inputs, targets / target, rate, steps)
        when = float(_crossings(steps, _strengths(tree, way)[:, :1])[0])
        delays.append((longest if math.isnan(when) else when) * rate * depth / limit)
    return delays


def _whitened(units: int, draw: torch.Generator) -> Batch:
    """Targets of strengths 1 and 1/2 from as many whitened inputs as there are hidden units."""
    inputs = random_orthogonal(2 * units, units, draw) * math.sqrt(2 * units)
    left, right = random_orthogonal(_OUTPUTS, _OUTPUTS, draw), random_orthogonal(units, _OUTPUTS, draw)
    return Batch(inputs, inputs @ right * torch.linspace(1.0, 0.5, _OUTPUTS, dtype=torch.float64) @ left.T)


def _coloured(units: int, leading: bool, draw: torch.Generator) -> Batch:
    """Targets from two of the `units` leading of twice as many directions of the inputs, or from two of the others.

    Variances fall from 1 to 1/4; targets are 1 and 1/2 times the standardised inputs.
    """
    inputs = 2 * units
    variance = torch.logspace(0.0, -math.log10(4.0), inputs, dtype=torch.float64)
    frame = random_orthogonal(2 * inputs, inputs, draw) * math.sqrt(2 * inputs)
    turned = random_orthogonal(inputs, inputs, draw)
    columns = slice(0, _OUTPUTS) if leading else slice(inputs - _OUTPUTS, inputs)
    strength = torch.linspace(1.0, 0.5, _OUTPUTS, dtype=torch.float64)
    targets = frame[:, columns] * strength @ random_orthogonal(_OUTPUTS, _OUTPUTS, draw).T
    return Batch(frame * variance.sqrt() @ turned.T, targets)


def _learning_time(data: Batch, make: Maker, depth: int, copies: int) -> float:
    """Steps by which most copies, an odd number, have learned at the best rate; at most `_PATIENCE`.

    Between steps in proportion to the logarithm of the loss.
    """
    inputs, targets = data
    moment, cross = inputs.T @ inputs / len(inputs), targets.T @ inputs / len(inputs)
    power = float(targets.square().sum()) / len(targets)
    rate = torch.tensor(_RATES, dtype=torch.float64).repeat_interleave(copies)[:, None, None] / depth
    drawn = [make() for _ in range(copies)]
    layers = [torch.stack(same).repeat(len(_RATES), 1, 1) for same in zip(*drawn, strict=True)]
    time = torch.full((len(rate),), float(_PATIENCE), dtype=torch.float64)
    before = torch.full_like(time, math.nan)
    open_ = torch.ones_like(time, dtype=torch.bool)
    for step in range(_PATIENCE):
        whole, slopes = gradients(layers, moment, cross)
        share = 1.0 + ((whole @ moment - 2.0 * cross) * whole).sum((1, 2)) / power
        arrived = open_ & (share <= _LEARNED)
        part = (before / _LEARNED).log() / (before / share).log()
        time = torch.where(arrived, step - 1 + part.nan_to_num(1.0), time)
        open_ = open_ & ~arrived & (share < 1e3)
        lowest = torch.where(open_, step, time).view(len(_RATES), copies).median(1).values
        if lowest.min() < step:
            break
        before = share
        pace = rate * open_[:, None, None]
        layers = [layer - pace * slope for layer, slope in zip(layers, slopes, strict=True)]
    return float(time.view(len(_RATES), copies).median(1).values.min())


def _exponent(depths: Sequence[int], times: Sequence[float]) -> float:
    """Least-squares slope of log time over log depth."""
    return float(np.polyfit(np.log(depths), np.log(times), 1)[0])


def _plan(settings: Settings, quick: bool) -> Plan:
    copies = 7 if quick else 21
    depth, units = settings["depth"], settings["units"]
    return Plan(runs=3 + 4 * len(_DEPTHS), seconds=0.5 + 1e-6 * copies * depth * (100.0 + units**2))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    draw = torch.Generator().manual_seed(seed)
    tree = SemanticHierarchy(levels=settings["levels"], seed=seed, dtype=torch.float64)
    copies, units = (7 if quick else 21), settings["units"]
    measured, controls = _curves(settings, tree, draw)
    progress()
    coupled, _ = _random_start(settings, tree, draw, settings["width"] * tree.items)
    narrow, alone = _random_start(settings, tree, draw, tree.items)
    progress()
    delays = _delays(settings, tree, draw, None)
    progress()
    growing = _delays(settings, tree, draw, 0.5)
    progress()

    def times(data: Batch, make: Callable[[Sequence[int]], Layers], depths: Sequence[int]) -> list[float]:
        found = []
        for depth in depths:
            sizes = [data.inputs.shape[1], *[units] * (depth - 1), _OUTPUTS]
            found.append(_learning_time(data, functools.partial(make, sizes), depth, copies))
            progress()
        return found

    depths = [settings["depth"] * factor for factor in _DEPTHS]
    white = _whitened(units, draw)
    leading, others = (_coloured(units, which, draw) for which in (True, False))

    by_start = {
        "orthogonal": times(white, lambda sizes: orthogonal_layers(sizes, draw), depths),
        "pretrained": times(leading, lambda sizes: pretrained_layers(leading.inputs, sizes, draw), depths),
        "gaussian": times(white, lambda sizes: gaussian_layers(sizes, draw), depths),
        "pretrained_elsewhere": times(others, lambda sizes: pretrained_layers(others.inputs, sizes, draw), depths[:2]),
    }
    grown = {name: _exponent(depths[: len(found)], found) for name, found in by_start.items()}
    return Outcome(
        measured={
            **measured,
            "small_random_start": [coupled, narrow],
            "delay_is_finite": delays,
            "orthogonal_is_flat": grown["orthogonal"],
            "pretrained_is_flat": grown["pretrained"],
            "gaussian_grows": grown["gaussian"],
        },
        controls={
            **controls,
            "modes_alone": alone,
            "same_layers_at_any_depth": growing,
            "gaussian_start": grown["gaussian"],
            "other_directions_matter": grown["pretrained_elsewhere"],
            "orthogonal_start": grown["orthogonal"],
        },
        series={"depth": [float(depth) for depth in depths], **by_start},
    )


study = Study(
    id="5",
    slug="deep-linear-networks",
    paper=Paper(
        title="Exact solutions to the nonlinear dynamics of learning in deep linear neural networks",
        authors=("Andrew M. Saxe", "James L. McClelland", "Surya Ganguli"),
        year=2013,
        url="https://arxiv.org/abs/1312.6120",
    ),
    summary="Modes of the data are learned one after the other on known curves; orthogonal starts keep deep nets fast.",
    settings=(
        Setting("layers", "int", 3, "layers of the nets whose modes are followed", 2, 8),
        Setting("levels", "int", 3, "of the hierarchy below its root", 2, 4, reason="items double with each level"),
        Setting(
            "start",
            "float",
            0.1,
            "first strengths of aligned nets, over the smallest target, or over that of the first mode",
            0.05,
            0.2,
        ),
        Setting("weights", "float", 0.02, "small random weights, over the deviation that keeps variances", 0.01, 0.04),
        Setting("width", "int", 4, "hidden units of the small random nets, over the items", 2, 8),
        Setting("depth", "int", 6, "layers of the least deep nets of the comparison", 3, 12),
        Setting("units", "int", 16, "hidden units in the comparison of depths", 8, 32),
    ),
    statements=(
        Statement(
            "strengths_follow_their_curves",
            "at_most",
            0.02,
            "Largest distance of mode strengths from their curves over the largest strength; descent lags by the step.",
        ),
        Statement(
            "transitions_are_on_time",
            "at_most",
            0.02,
            "Largest relative error of the steps at which modes pass half of their targets.",
        ),
        Statement(
            "broad_distinctions_first",
            "monotone",
            "increasing",
            "Mean steps at which the modes of each level of the hierarchy pass half of their targets, root first.",
        ),
        Statement(
            "small_random_start",
            "at_most",
            0.03,
            "Distance from the coupled solution with small random layers, wide ones and ones as narrow as the items.",
        ),
        Statement(
            "delay_is_finite",
            "at_most",
            1.0,
            "Delay of the first mode with 2, 8 and 32 layers, times the layers, over the limit for infinitely many.",
        ),
        Statement(
            "orthogonal_is_flat", "at_most", 0.5, "Exponent of learning time in depth, from random orthogonal layers."
        ),
        Statement("pretrained_is_flat", "at_most", 0.5, "Exponent of learning time in depth, from pretrained layers."),
        Statement(
            "gaussian_grows",
            "at_least",
            0.75,
            "Exponent of learning time in depth, from Gaussian layers of equal size.",
        ),
    ),
    controls=(
        Control("one_layer_more", "strengths_follow_their_curves", "The curves of one layer more."),
        Control("one_layer_more_in_time", "transitions_are_on_time", "The transitions of one layer more."),
        Control("shuffled_properties", "broad_distinctions_first", "Each property dealt to other items at random."),
        Control("modes_alone", "small_random_start", "Decoupled curves, with as many hidden units as items."),
        Control("same_layers_at_any_depth", "delay_is_finite", "Each layer starts at the square root of the strength."),
        Control("gaussian_start", "orthogonal_is_flat", "Gaussian layers."),
        Control("other_directions_matter", "pretrained_is_flat", "Targets from directions that pretraining drops."),
        Control("orthogonal_start", "gaussian_grows", "Orthogonal layers."),
    ),
    plan=_plan,
    run=_run,
    smoke={"layers": 2, "levels": 2, "depth": 3, "units": 8, "width": 2},
)
