"""Training of recurrent models on random windows of trajectories."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from separatrix.reconstruct.errors import TrajectoryError
from separatrix.reconstruct.scaling import Scaling
from separatrix.reconstruct.trajectories import Trajectories


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of `length` + 1 samples, drawn anywhere from scaled trajectories; `noise` is added, in spreads.

    Raises:
        TrajectoryError: no trajectory is as long as a window.
    """

    points: Tensor
    starts: Tensor
    length: int
    noise: float

    @classmethod
    def of(cls, trajectories: Trajectories, scaling: Scaling, length: int, noise: float = 0.0) -> Windows:
        """All windows of the trajectories."""
        ends = np.cumsum(trajectories.lengths)
        starts = [np.arange(end - size, end - length) for end, size in zip(ends, trajectories.lengths, strict=True)]
        usable = np.concatenate(starts)
        if not len(usable):
            raise TrajectoryError(
                f"the longest trajectory has {max(trajectories.lengths)} samples and windows need {length + 1}: give"
                " longer ones, or set sequence lower"
            )
        return cls(torch.from_numpy(scaling.scaled(trajectories.points)), torch.from_numpy(usable), length, noise)

    def drawn(self, batch: int, generator: torch.Generator) -> Tensor:
        """Windows (time, batch, variable)."""
        chosen = self.starts[torch.randint(len(self.starts), (batch,), generator=generator)]
        values: Tensor = self.points[chosen[None] + torch.arange(self.length + 1)[:, None]]
        if self.noise:
            values = values + self.noise * torch.randn(values.shape, dtype=values.dtype, generator=generator)
        return values


def descend(
    parameters: Iterable[Tensor],
    loss: Callable[[int], Tensor],
    *,
    steps: int,
    rate: float,
    last_rate: float,
    clip: float = 10.0,
) -> None:
    """Adam with a rate that falls exponentially; `loss(step)` draws its own batch.

    Gradients are cut to a norm of `clip`, and steps left out whose gradient is not finite.
    """
    leaves = [each for each in parameters if each.requires_grad]
    optimizer = torch.optim.Adam(leaves, lr=rate, fused=True)
    for step, current in enumerate(_rates(steps, rate, last_rate)):
        optimizer.param_groups[0]["lr"] = current
        optimizer.zero_grad(set_to_none=True)
        loss(step).backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(leaves, clip)
        if torch.isfinite(norm):
            optimizer.step()


def _rates(steps: int, rate: float, last_rate: float) -> Iterator[float]:
    for step in range(steps):
        yield rate * (last_rate / rate) ** (step / max(1, steps - 1))


def uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Leaves that need a gradient, even between -1 / sqrt(n) and 1 / sqrt(n), n the last of the shape."""
    drawn: Tensor = (2 * torch.rand(shape, dtype=torch.float64, generator=generator) - 1) / shape[-1] ** 0.5
    return drawn.requires_grad_()
