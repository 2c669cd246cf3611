"""Drives a plan of brackets over Optuna's ask and tell, rung by rung: a whole rung is trained before it is cut.

Optuna's own Hyperband pruner cuts asynchronously, whoever is there first, and so keeps to neither published table.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from separatrix.steer.tuning.brackets import Bracket
from separatrix.steer.tuning.errors import SweepError, needed
from separatrix.steer.tuning.space import Space


@dataclasses.dataclass(frozen=True)
class Job:
    """A configuration to train until it has had `resource` in all; `trained` says how much it had before."""

    number: int
    parameters: Mapping[str, Any]
    trained: Fraction
    resource: Fraction


Train = Callable[[Sequence[Job]], Sequence[float]]
"""Trains the jobs of one rung and gives the loss of each; one that is not finite ranks last."""


@dataclasses.dataclass(frozen=True)
class LedgerRow:
    """What one rung cost: `spent` is the resource of its trainings, `best` its least loss."""

    bracket: int
    rung: int
    configurations: int
    resource: Fraction
    spent: Fraction
    best: float


@dataclasses.dataclass(frozen=True)
class Incumbent:
    """The best loss seen once `spent` was spent in all, by trial `number` after `resource`."""

    spent: Fraction
    loss: float
    number: int
    resource: Fraction


@dataclasses.dataclass(frozen=True)
class Search:
    """What a search found: the ledger of its rungs, and the incumbents in the order in which they took over."""

    ledger: tuple[LedgerRow, ...]
    incumbents: tuple[Incumbent, ...]

    @property
    def spent(self) -> Fraction:
        """Resource spent in all."""
        return sum((row.spent for row in self.ledger), Fraction(0))

    @property
    def best(self) -> Incumbent | None:
        """The last incumbent; None when no loss was finite."""
        return self.incumbents[-1] if self.incumbents else None

    def regret(self, spent: float, reference: float) -> float:
        """Loss of the incumbent after `spent`, over the `reference` loss; infinite before there was one."""
        seen = [each.loss for each in self.incumbents if each.spent <= spent]
        return seen[-1] - reference if seen else math.inf

    def cost_of(self, loss: float) -> float:
        """Resource spent when the incumbent was first as good as `loss`; infinite if it never was."""
        return float(next((each.spent for each in self.incumbents if each.loss <= loss), math.inf))


def hyperband(study: Any, space: Space, train: Train, plan: Sequence[Bracket], *, resumed: bool = True) -> Search:
    """Train as the plan says and tell Optuna: losses by resource, survivors as complete, the others as pruned.

    Args:
        study: an Optuna study that minimises, whose sampler gives the configurations.
        space: what it may choose from.
        train: trains one rung; see `Train`.
        plan: brackets, such as `brackets(81)`.
        resumed: whether trainings go on where they stood; otherwise each rung is paid for from its start.

    The incumbent is the least loss at any resource, as in the paper. Within a rung the ledger counts the jobs in
    their order. Ties are cut by trial number, the earlier one staying.

    Raises:
        SweepError: the study maximises, or `train` gives another number of losses than it was given jobs.
    """
    optuna = needed("optuna", "tuning")
    if study.direction != optuna.study.StudyDirection.MINIMIZE:
        raise SweepError("the study maximises: give losses to a study that minimises")
    ledger: list[LedgerRow] = []
    incumbents: list[Incumbent] = []
    spent = Fraction(0)
    distributions = space.distributions()
    for bracket in plan:
        trials = [study.ask(dict(distributions)) for _ in range(bracket.configurations)]
        before = Fraction(0)
        for position, rung in enumerate(bracket.rungs):
            losses = _trained(train, [Job(t.number, t.params, before, rung.resource) for t in trials])
            price = rung.resource - (before if resumed else 0)
            for trial, loss in zip(trials, losses, strict=True):
                spent += price
                trial.report(loss, math.ceil(rung.resource))
                if loss < (incumbents[-1].loss if incumbents else math.inf):
                    incumbents.append(Incumbent(spent, loss, trial.number, rung.resource))
            ledger.append(
                LedgerRow(bracket.index, position, len(trials), rung.resource, price * len(trials), min(losses))
            )
            order = sorted(range(len(trials)), key=lambda i: (losses[i], trials[i].number))
            last = position == len(bracket.rungs) - 1
            keep = len(trials) if last else bracket.rungs[position + 1].configurations
            for rank, index in enumerate(order):
                if rank >= keep or (last and not math.isfinite(losses[index])):
                    study.tell(trials[index], state=optuna.trial.TrialState.PRUNED)
                elif last:
                    study.tell(trials[index], losses[index])
            trials = [trials[index] for index in sorted(order[:keep])]
            before = rung.resource
    return Search(tuple(ledger), tuple(incumbents))


def _trained(train: Train, jobs: Sequence[Job]) -> list[float]:
    losses = [float(loss) for loss in train(jobs)]
    if len(losses) != len(jobs):
        raise SweepError(f"{len(losses)} losses were given for {len(jobs)} jobs: give one a job, in their order")
    return [loss if math.isfinite(loss) else math.inf for loss in losses]
