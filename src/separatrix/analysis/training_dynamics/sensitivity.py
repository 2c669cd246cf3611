"""How fast two trainings part that began almost alike: the largest Lyapunov exponent of training, per step.

A training step is a map of the weights together with the optimizer's state, driven by the data. `training_exponent`
follows a twin whose difference is drawn back to its first length every few steps (Benettin et al. 1980), so that it
stays a tangent; `parting` reads two recorded trainings, whose distance saturates.

Below 0 twins find back to each other and a perturbation, such as one other batch, is forgotten; above 0 it grows until
the trainings have nothing in common but their statistics. The exponent of a training whose weights settle measures the
slowest direction of its minimum, not chaos.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from separatrix.runs.errors import UsageError

if TYPE_CHECKING:
    import torch

_FEWEST_BLOCKS = 4
_ROUNDING = 1e3
"""A perturbation is at least so many units of rounding of the weights, or it measures rounding."""


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """Growth of the distance between twins.

    `rates` (blocks,) are mean growth rates of the distance per step, over the blocks that end after `steps`; `exponent`
    is their mean without those at the beginning in which the difference turns into its fastest direction, and `error`
    its standard error if blocks were independent.
    """

    exponent: float
    error: float
    steps: Int[np.ndarray, " blocks"]
    rates: Float[np.ndarray, " blocks"]


def training_exponent(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    step: Callable[[Any, Any, int], object],
    steps: int,
    *,
    size: float = 1e-6,
    every: int = 10,
    settle: float = 0.25,
    seed: int = 0,
) -> Sensitivity:
    """Largest Lyapunov exponent of a training, in 1 / step, from a twin that is kept close.

    `step(model, optimizer, t)` makes training step t = 0, 1, ... of whatever model and optimizer it is given, and must
    depend on nothing else: random numbers are drawn from generators seeded by t. The twin starts with weights moved in
    a random direction by `size` times their norm; every `every` steps the difference of weights and of the optimizer's
    state is scaled back to its first length. A share `settle` of the blocks at the beginning does not count. The model
    is trained as the calls say; all else is left as it was.

    Raises:
        UsageError: fewer than four blocks; a perturbation that weights of this precision would round away; a training
            that is not deterministic in t, or becomes infinite.

    Cost: two trainings. Source: Benettin, Galgani, Giorgilli & Strelcyn 1980, Meccanica 15, 9 and 21.
    """
    import torch

    blocks = steps // every if every > 0 else 0
    if blocks < _FEWEST_BLOCKS:
        raise UsageError(f"{steps} steps have {blocks} blocks of {every}: give at least {_FEWEST_BLOCKS * every} steps")
    if not 0.0 <= settle < 1.0:
        raise UsageError(f"settle={settle:g} leaves no block to count: choose from 0 to below 1")
    parameters = [p for p in model.parameters() if p.requires_grad]
    norm = _norm(parameters)
    unit = max(torch.finfo(p.dtype).eps for p in parameters)
    if not size > _ROUNDING * unit:
        raise UsageError(f"size={size:g} is rounded away in weights with steps of {unit:.1g}: use model.double()")
    twin_model, twin_optimizer = copy.deepcopy((model, optimizer))
    draw = torch.Generator().manual_seed(seed)
    twins = [p for p in twin_model.parameters() if p.requires_grad]
    directions = [torch.randn(p.shape, generator=draw, dtype=torch.float64) for p in twins]
    length = size * norm
    scale = length / _norm(directions)
    with torch.no_grad():
        for twin, direction in zip(twins, directions, strict=True):
            twin.add_((scale * direction).to(twin))
    rates = []
    for block in range(blocks):
        for t in range(block * every, (block + 1) * every):
            step(model, optimizer, t)
            step(twin_model, twin_optimizer, t)
        distance = _norm([twin - p for twin, p in zip(twins, parameters, strict=True)])
        if not math.isfinite(distance) or distance == 0.0:
            what = "twins cannot be told apart any more" if distance == 0.0 else "the training is not finite"
            raise UsageError(f"{what} after step {(block + 1) * every}: choose fewer steps, or another `every`")
        rates.append(math.log(distance / length) / every)
        _draw_back((model, optimizer), (twin_model, twin_optimizer), length / distance)
    counted = np.array(rates[min(int(settle * blocks), blocks - 2) :])
    return Sensitivity(
        float(counted.mean()),
        float(counted.std(ddof=1) / math.sqrt(len(counted))),
        every * np.arange(1, blocks + 1),
        np.array(rates),
    )


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    return math.sqrt(sum(float(t.detach().double().square().sum()) for t in tensors))


def _draw_back(own: tuple[Any, Any], twin: tuple[Any, Any], factor: float) -> None:
    """Scale the twin's difference of weights, buffers and optimizer state."""
    import torch

    with torch.no_grad():
        for base, other in zip(_state(*own), _state(*twin), strict=True):
            other.copy_(base + factor * (other - base))


def _state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """The numbers that the next step depends on, always in the same order."""
    held = [*model.parameters(), *model.buffers()]
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = sorted(optimizer.state.get(parameter, {}).items())
            held += [value for _, value in state if hasattr(value, "dtype")]
    return (tensor for tensor in held if tensor.is_floating_point() and tensor.dim())


def parting(
    one: Float[np.ndarray, "time feature"],
    other: Float[np.ndarray, "time feature"],
    steps: Int[np.ndarray, " time"],
    *,
    saturation: float = 0.1,
) -> Sensitivity:
    """Growth of the distance between two trainings recorded at the same steps, until it saturates.

    Rows are weights, sketches of them, or outputs on the same examples. Counted are the stretches between rows from the
    first at which they differ to the first at which their distance is `saturation` times that of one training from its
    own beginning, or to the end; `exponent` is the slope of log distance over them by least squares.

    Raises:
        UsageError: shapes differ, or the two differ at fewer than three rows before they part.
    """
    one, other, at = np.asarray(one, float), np.asarray(other, float), np.asarray(steps)
    if one.shape != other.shape or one.ndim != 2 or len(at) != len(one):
        raise UsageError(f"paths of shapes {one.shape} and {other.shape} at {len(at)} steps: give a row a step, alike")
    distance = np.linalg.norm(one - other, axis=1)
    own = np.linalg.norm(one - one[0], axis=1)
    apart = np.flatnonzero(distance >= saturation * np.maximum(own, distance[distance > 0].min(initial=np.inf) / 2))
    begin = int(np.argmax(distance > 0))
    late = apart[(apart > begin) & (own[apart] > 0)]
    end = int(late[0]) if late.size else len(at) - 1
    kept = np.arange(begin, end + 1)
    kept = kept[distance[kept] > 0]
    if len(kept) < 3:
        raise UsageError("the two trainings are equal, or part within two rows: record more steps, or perturb less")
    x, y = at[kept].astype(float), np.log(distance[kept])
    slope, level = np.polyfit(x, y, 1)
    spread = np.sqrt(((y - slope * x - level) ** 2).sum() / max(1, len(x) - 2) / ((x - x.mean()) ** 2).sum())
    return Sensitivity(float(slope), float(spread), at[kept][1:], np.diff(y) / np.diff(x))
