"""Hyperband against random search: learning rate, weight decay and width of an MLP on handwritten digits.

Both draw configurations from one distribution, wide on purpose: rates over five decades, weight decay over five,
widths from 4 to 32, which is where early stopping pays. Half of the images train, the other half judges. Hyperband
follows the journal's table (bracket sizes 81, 34, 15, 8, 5 for R = 81, eta = 3; the first edition's are 81, 27, 9, 6,
5) and is driven rung by rung over Optuna's ask and tell. Random search trains each configuration to the end, as many
as the epochs that Hyperband spends allow.

How a configuration trains does not depend on when it is paused: each is trained to the end once, all of them as one
ensemble, and the searches are charged for the epochs that they would have run. Narrower nets are wide ones whose
further units have no weights in or out: these get no gradient and stay so.

"Several-fold" is read as a factor 3 in epochs, in the median over seeds; the paper's largest factors are over ten.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from separatrix.steer.tuning import Bracket, Job, Parameter, Space, brackets, hyperband
from separatrix.steer.tuning.brackets import Edition
from separatrix.steer.tuning.errors import needed
from separatrix.steer.tuning.searching import quiet_optuna
from separatrix.studies.study import Control, Outcome, Paper, Plan, Progress, Setting, Settings, Statement, Study
from separatrix.tasks import Digits, ensemble

_SPACE = Space(
    (
        Parameter("learning_rate", 1e-4, 10.0, log=True),
        Parameter("weight_decay", 1e-7, 1e-2, log=True),
        Parameter("width", 4, 32, log=True),
    )
)
_WIDEST = 32
_JOURNAL = (81, 34, 15, 8, 5)
_FIRST_EDITION = (81, 27, 9, 6, 5)
_SEVERAL = 3.0


class _Net(nn.Module):
    """One hidden layer of rectifiers, of which the first `width` have weights."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(64, _WIDEST))
        self.bias = nn.Parameter(torch.zeros(_WIDEST))
        self.second = nn.Parameter(torch.zeros(_WIDEST, 10))
        self.offset = nn.Parameter(torch.zeros(10))
        with torch.no_grad():
            self.first[:, :width] = torch.randn(64, width, generator=generator) * math.sqrt(2 / 64)
            self.second[:width] = torch.randn(width, 10, generator=generator) * math.sqrt(2 / width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits for images as rows."""
        return torch.relu(inputs @ self.first + self.bias) @ self.second + self.offset


@dataclasses.dataclass(frozen=True)
class _Images:
    train: Tensor
    labels: Tensor
    held: Tensor
    held_labels: Tensor


def _images(seed: int) -> _Images:
    train, held = Digits(seed=seed, test_share=0.5).load()
    return _Images(train.inputs.flatten(1).float(), train.targets, held.inputs.flatten(1).float(), held.targets)


def _errors(configurations: Sequence[dict[str, float]], images: _Images, epochs: int, batch: int, seed: int) -> Tensor:
    """Share of held-out images that each configuration gets wrong after each epoch, (epochs, configurations).

    A net whose logits are not finite gets all of them wrong. All see the same batches.
    """
    generator = torch.Generator().manual_seed(seed)
    nets = ensemble.from_modules([_Net(int(each["width"]), generator) for each in configurations])
    rates, decays = ([each[name] for each in configurations] for name in ("learning_rate", "weight_decay"))
    count = len(images.labels) // batch
    order = torch.cat([torch.randperm(len(images.labels), generator=generator)[: count * batch] for _ in range(epochs)])

    def data(step: int) -> tuple[Tensor, Tensor]:
        rows = order[(step - 1) * batch : step * batch]
        copies = len(configurations)
        return images.train[rows].expand(copies, -1, -1), images.labels[rows].expand(copies, -1)

    def wrong(nets: ensemble.Ensemble) -> Tensor:
        logits: Tensor = nets.outputs(images.held, shared=True)
        right = (logits.argmax(2) == images.held_labels) & logits.isfinite().all(2)
        return 1.0 - right.double().mean(1)

    optimizer = ensemble.SGD(rates, weight_decay=decays, momentum=0.9)
    loss = nn.functional.cross_entropy
    training = ensemble.train(nets, loss, optimizer, data, count * epochs, measure={"error": wrong}, every=count)
    return training.measured["error"].values[1:]


@dataclasses.dataclass(frozen=True)
class _Race:
    """What one seed showed, in epochs: spent in all, and until random search's best was reached, with blind cuts too.

    `quarter` holds the errors of random search's and of Hyperband's incumbents at a quarter of the epochs.
    """

    spent: float
    reached: float
    reached_blindly: float
    quarter: tuple[float, float]


def _sampling(seed: int) -> Any:
    optuna = needed("optuna", "tuning")
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))


def _drawn(seed: int, count: int) -> list[dict[str, float]]:
    """The configurations that a study of that seed will ask for."""
    study, distributions = _sampling(seed), _SPACE.distributions()
    return [study.ask(dict(distributions)).params for _ in range(count)]


@dataclasses.dataclass(frozen=True)
class _Curve:
    """Errors in the order in which they were seen, and what had been spent by then."""

    spent: list[float]
    errors: list[float]

    def reached(self, error: float) -> float:
        """What was spent until an error was as small; infinite if none was."""
        return next((at for at, seen in zip(self.spent, self.errors, strict=True) if seen <= error), math.inf)

    def best(self, spent: float) -> float:
        """The least error seen by then; 1, all wrong, before any."""
        return min((e for at, e in zip(self.spent, self.errors, strict=True) if at <= spent), default=1.0)


def _hyperband(pool: Tensor, plan: Sequence[Bracket], seed: int, blind: torch.Generator | None) -> _Curve:
    """Hyperband over configurations whose errors (epochs, configurations) are known; blind, it cuts by noise.

    A resource that is no whole number of epochs is paid for in full and trained for the epochs that fit, at least one.
    """
    curve = _Curve([], [])
    spent = Fraction(0)

    def train(jobs: Sequence[Job]) -> list[float]:
        nonlocal spent
        for job in jobs:
            spent += job.resource - job.trained
            curve.spent.append(float(spent))
            curve.errors.append(float(pool[max(1, math.floor(job.resource)) - 1, job.number]))
        if blind is not None:
            return torch.rand(len(jobs), generator=blind).tolist()
        return curve.errors[-len(jobs) :]

    with quiet_optuna():
        hyperband(_sampling(seed), _SPACE, train, plan)
    return curve


def _race(settings: Settings, seed: int) -> _Race:
    epochs = settings["epochs"]
    plan = brackets(epochs, settings["eta"])
    total = sum(bracket.cost(resumed=True) for bracket in plan)
    count, others = sum(bracket.configurations for bracket in plan), math.floor(total / epochs)
    # Seeds of the second half of the range: those of the first are other races' Hyperband.
    with quiet_optuna():
        drawn = [*_drawn(seed, count), *_drawn(seed + (1 << 31), others)]
    errors = _errors(drawn, _images(seed), epochs, settings["batch"], seed)
    chance = _Curve([float((i + 1) * epochs) for i in range(others)], errors[-1, count:].tolist())
    target, quarter = chance.best(math.inf), float(total) / 4
    seeing = _hyperband(errors[:, :count], plan, seed, None)
    blind = _hyperband(errors[:, :count], plan, seed, torch.Generator().manual_seed(seed))
    return _Race(
        float(total), seeing.reached(target), blind.reached(target), (chance.best(quarter), seeing.best(quarter))
    )


def _sizes(edition: Edition) -> list[float]:
    return [float(bracket.configurations) for bracket in brackets(81, 3, edition=edition)]


def _minus(sizes: Sequence[float], table: Sequence[int]) -> list[float]:
    return [size - expected for size, expected in zip(sizes, table, strict=True)]


def _seeds(quick: bool) -> int:
    return 4 if quick else 20


def _plan(settings: Settings, quick: bool) -> Plan:
    return Plan(runs=_seeds(quick), seconds=0.5 + 9.0 * (settings["epochs"] / 81) ** 2)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    races = []
    for copy in range(_seeds(quick)):
        races.append(_race(settings, 1000 * seed + copy))
        progress()
    faster = [race.spent / race.reached for race in races]
    blindly = [race.spent / race.reached_blindly for race in races]
    chance, seeing = (statistics.fmean(race.quarter[i] for race in races) for i in range(2))
    return Outcome(
        measured={
            "journals_table": _minus(_sizes("ceiling"), _JOURNAL),
            "first_editions_table": _minus(_sizes("floor"), _FIRST_EDITION),
            "fewer_epochs": statistics.median(faster),
            "ahead_at_a_quarter": chance / seeing,
        },
        controls={
            "the_other_table": _minus(_sizes("floor"), _JOURNAL),
            "the_other_first_table": _minus(_sizes("ceiling"), _FIRST_EDITION),
            "blind_cuts": statistics.median(blindly),
        },
        series={"faster": faster, "faster_blindly": blindly},
    )


study = Study(
    id="316",
    slug="hyperband",
    paper=Paper(
        title="Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization",
        authors=("Lisha Li", "Kevin Jamieson", "Giulia DeSalvo", "Afshin Rostamizadeh", "Ameet Talwalkar"),
        year=2016,
        url="https://arxiv.org/abs/1603.06560",
    ),
    summary="Brackets of successive halving reach random search's best error with several times fewer epochs.",
    settings=(
        Setting("epochs", "int", 81, "R, the most that one configuration is trained", 27, 108),
        Setting(
            "eta",
            "int",
            3,
            "factor of each cut",
            3,
            4,
            reason="the paper recommends 3 or 4 and tries no other with nets",
        ),
        Setting("batch", "int", 64, "images a step", 32, 128),
    ),
    statements=(
        Statement("journals_table", "equal", 0.0, "Bracket sizes for R = 81, eta = 3 minus 81, 34, 15, 8, 5."),
        Statement("first_editions_table", "equal", 0.0, "Those of the first edition minus 81, 27, 9, 6, 5."),
        Statement(
            "fewer_epochs",
            "at_least",
            _SEVERAL,
            "Epochs of random search over those in which Hyperband reaches its best error, median over seeds.",
        ),
        Statement(
            "ahead_at_a_quarter",
            "at_least",
            1.0,
            "Error of random search over that of Hyperband at a quarter of the epochs, means over seeds.",
        ),
    ),
    controls=(
        Control("the_other_table", "journals_table", "The first edition's sizes."),
        Control("the_other_first_table", "first_editions_table", "The journal's sizes."),
        Control("blind_cuts", "fewer_epochs", "Survivors are drawn by lot."),
    ),
    plan=_plan,
    run=_run,
    smoke={"epochs": 27, "batch": 128},
)
