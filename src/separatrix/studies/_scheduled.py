"""What the studies of learning-rate schedules share: a network trained under many schedules and rates at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import ttest_ind
from torch import Tensor, nn
from torch.nn import functional

from separatrix.studies._character_transformer import FusedCharacterTransformer
from separatrix.tasks import SourceText, ensemble

Draw = Callable[[int, int], tuple[Tensor, Tensor]]
"""Inputs and targets of a step of a seed; equal for all schedules and rates."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """A network, its data and the batch on which it is judged; the loss is the mean cross-entropy."""

    name: str
    build: Callable[[], nn.Module]
    draw: Draw
    judged: tuple[Tensor, Tensor]
    adaptive: bool = True


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Judged losses (points, schedules, rates, seeds) after the numbers of steps `points`; infinite where diverged."""

    names: tuple[str, ...]
    rates: Float[np.ndarray, " rates"]
    points: Int[np.ndarray, " points"]
    losses: Float[np.ndarray, "points schedules rates seeds"]

    @property
    def tuned(self) -> Float[np.ndarray, " schedules"]:
        """Last loss of each schedule, mean over seeds, at the rate where that is least."""
        return np.asarray(self.losses[-1].mean(2).min(1))

    @property
    def tuned_seeds(self) -> Float[np.ndarray, "schedules seeds"]:
        """Last losses of each schedule at that rate."""
        return np.asarray(self.losses[-1, np.arange(len(self.names)), self.best])

    @property
    def best(self) -> Int[np.ndarray, " schedules"]:
        """Index of that rate, for each schedule."""
        return np.asarray(self.losses[-1].mean(2).argmin(1))

    def best_rate(self, name: str) -> float:
        """Rate of least last loss, from a parabola in its logarithm through the best of the grid and those beside.

        At an end of the grid, or beside a rate that diverges, the point itself.
        """
        row = self.losses[-1, self.names.index(name)].mean(1)
        at = int(row.argmin())
        if not 0 < at < len(row) - 1 or not np.isfinite(row[at - 1 : at + 2]).all():
            return float(self.rates[at])
        left, middle, right = row[at - 1 : at + 2]
        shift = 0.5 * (left - right) / (left - 2 * middle + right)
        spacing = math.log(self.rates[at + 1] / self.rates[at - 1]) / 2
        return float(self.rates[at] * math.exp(shift * spacing))


def places(losses: Float[np.ndarray, "schedules seeds"], significance: float = 0.05) -> Float[np.ndarray, " schedules"]:
    """One more than the number of schedules whose losses are lower by more than seeds tell apart.

    Schedules are told apart two by two with Welch's t-test, so that one may be level with two that are not level. One
    that diverged is behind all that did not.
    """
    diverged = ~np.isfinite(losses).all(1)
    finite = np.where(diverged[:, None], np.arange(losses.shape[1]), losses)
    lower = ttest_ind(finite[:, None], finite[None], axis=2, equal_var=False, alternative="greater").pvalue
    behind = np.where(diverged[:, None] | diverged, diverged[:, None] & ~diverged, lower < significance / 2)
    return np.asarray(1.0 + behind.sum(1))


def sweep(
    problem: Problem,
    factors: Mapping[str, Float[np.ndarray, " steps"]],
    rates: Float[np.ndarray, " rates"],
    seeds: Sequence[int],
    *,
    every: int | None = None,
) -> Sweep:
    """Train every schedule at every rate and seed; equal seeds start alike and see equal batches."""
    table = torch.tensor(np.stack(list(factors.values())), dtype=torch.float32)
    shape = len(table), len(rates), len(seeds)
    steps = table.shape[1]
    whose = torch.arange(len(seeds)).expand(shape).reshape(-1)
    networks = ensemble.stack(problem.build, [seeds[int(which)] for which in whose])
    peaks = torch.tensor(rates, dtype=torch.float32)[None, :, None].expand(shape).reshape(-1)
    optimizer = ensemble.Adam(peaks, beta2=0.99) if problem.adaptive else ensemble.SGD(peaks)

    def data(step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = zip(*(problem.draw(step, seed) for seed in seeds), strict=True)
        return torch.stack(inputs)[whose], torch.stack(targets)[whose]

    def factor(step: int) -> Tensor:
        return table[:, step - 1, None, None].expand(shape).reshape(-1)

    training = ensemble.train(
        networks,
        mean_loss,
        optimizer,
        data,
        steps,
        schedule=factor,
        measure={"judged": lambda now: judged(now, problem.judged)},
        every=every or steps,
    )
    found = training.measured["judged"]
    losses = found.values.double().nan_to_num(math.inf, math.inf).view(len(found.steps), *shape).numpy()
    return Sweep(tuple(factors), np.asarray(rates), np.array(found.steps), losses)


def judged(networks: ensemble.Ensemble, batch: tuple[Tensor, Tensor]) -> Float[Tensor, " copies"]:
    """Mean loss of every copy on one batch."""
    outputs, targets = networks.outputs(batch[0], shared=True), batch[1].reshape(-1)
    each = [functional.cross_entropy(part.reshape(-1, part.shape[-1]), targets) for part in outputs]
    return torch.stack(each)


def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over examples, and over positions where outputs have them."""
    return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def gradient_norms(
    problem: Problem, factors: Float[np.ndarray, " steps"], rate: float, seed: int
) -> Float[np.ndarray, "2 steps"]:
    """The l2 and l1 norms of the gradients of one training, that of `sweep` with this schedule, rate and seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = problem.build()
    parameters = list(model.parameters())
    kind = torch.optim.Adam(parameters, betas=(0.9, 0.99)) if problem.adaptive else torch.optim.SGD(parameters)
    norms = []
    for step, factor in enumerate(factors, start=1):
        kind.param_groups[0]["lr"] = rate * float(factor)
        inputs, targets = problem.draw(step, seed)
        kind.zero_grad()
        torch.autograd.backward(mean_loss(model(inputs), targets))
        whole = torch.cat([parameter.grad.flatten() for parameter in parameters if parameter.grad is not None])
        norms.append([float(whole.norm()), float(whole.abs().sum())])
        kind.step()
    return np.array(norms).T


def characters(width: int, length: int, batch: int, seed: int, *, held_out: int = 64) -> Problem:
    """Next characters of Python's library, judged on windows of text that is not trained on."""
    text = SourceText(length=length)

    def draw(step: int, run: int) -> tuple[Tensor, Tensor]:
        windows = text.windows(batch, torch.Generator().manual_seed((seed * 1_000 + run) * 1_000_000 + step))
        return windows[:, :-1], windows[:, 1:]

    held = text.windows(held_out, torch.Generator().manual_seed(seed), "validation")
    return Problem("characters", lambda: FusedCharacterTransformer(width, length), draw, (held[:, :-1], held[:, 1:]))
