"""Spectral bias of a network on coordinates: which frequencies of its target it has learnt."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch

from separatrix.probes._geometry import spectral_bias
from separatrix.record.replay import ReplayError
from separatrix.record.snapshot import Snapshot
from separatrix.runs.errors import UsageError
from separatrix.runs.probe import Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec

MOST_COORDINATES = 3
MOST_FREQUENCIES = 32
_REGRESSIONS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")


def frequencies(dims: int, points: int) -> list[tuple[int, ...]]:
    """Whole frequency vectors k by rising length, one of k and -k, all or none of a length.

    At most MOST_FREQUENCIES, and so few that there are two `points` or more for each of the 2 f + 1 waves fitted.
    """
    most = min(MOST_FREQUENCIES, (points // 2 - 1) // 2)
    reach = range(-MOST_FREQUENCIES, MOST_FREQUENCIES + 1) if dims == 1 else range(-4, 5)
    zero = (0,) * dims
    half = [k for k in itertools.product(reach, repeat=dims) if k > zero]
    shells = itertools.groupby(sorted(half, key=lambda k: (_squared(k), k)), key=_squared)
    found: list[tuple[int, ...]] = []
    for squared, shell in shells:
        members = list(shell)
        if len(found) + len(members) > most or (dims > 1 and squared > 16):
            break
        found += members
    return found


def _columns(x: torch.Tensor) -> torch.Tensor:
    return x.cpu().double().reshape(len(x), -1)


def _squared(k: tuple[int, ...]) -> int:
    return sum(entry * entry for entry in k)


def measure_frequencies(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Error of the network at each frequency of the target, counted in periods over the box of the first batch.

    Raises:
        ReplayError: inputs are no 1 to 3 coordinates a point, targets no numbers a point, or points are too few.
    """
    inputs, targets = snapshot.inputs, snapshot.targets
    fits = len(inputs) == 1 and inputs[0].dim() == 2 and inputs[0].is_floating_point() and targets is not None
    if not fits or snapshot.kind not in _REGRESSIONS or not 1 <= inputs[0].shape[1] <= MOST_COORDINATES:
        raise ReplayError(f"spectral bias needs a regression on 1 to {MOST_COORDINATES} coordinates a point")
    with torch.no_grad():
        outputs, _ = snapshot.evaluate()
    assert outputs is not None and targets is not None
    points = inputs[0].cpu().double()
    if outputs.shape != targets.shape or len(outputs) != len(points):
        raise ReplayError("spectral bias needs one output row and one target row a point")
    if "waves" not in state:
        state["box"] = points.amax(0) - points.amin(0)
        state["waves"] = frequencies(points.shape[1], len(points))
    waves, box = state["waves"], state["box"]
    if len(points) < 2 * (2 * len(waves) + 1) or not waves or not bool((box > 0).all()):
        raise ReplayError(f"{len(points)} points are too few, or lie too flat, to tell frequencies apart")
    scaled = torch.tensor(waves, dtype=torch.float64) / box
    try:
        bias = spectral_bias(points, _columns(outputs), _columns(targets), scaled)
    except UsageError as error:
        raise ReplayError(str(error)) from error
    yield Reading("frequency_error", bias.errors, labels=[",".join(map(str, k)) for k in waves])
    yield Reading("learnt_bandwidth", bias.bandwidth)


spectral = Probe(
    name="spectral-bias",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec(
            "frequency_error",
            ("mode",),
            description="power of the error over that of the target, by periods along each side of the first batch",
        ),
        SeriesSpec(
            "learnt_bandwidth",
            units="cycles per unit of the coordinates",
            description="largest frequency up to which every error is below 1/2",
        ),
    ),
    measure=measure_frequencies,
    description="which frequencies of its target a network on coordinates has learnt",
    priority=60,
    default=False,
    cost=2.0,
    needs=("outputs",),
    source="Rahaman et al. 2019, arXiv:1806.08734, section 3",
)
