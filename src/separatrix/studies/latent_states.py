"""Latent states of training: a hidden Markov model of weight statistics sees the phases of many runs, and who is late.

Networks with one hidden layer learn sparse parity from few examples by AdamW on batches. Runs differ in seed, and every
other one starts from weights a few times as large. They fit their examples first and generalise later, some twice as
late as others. Norms, means and ratios of the L1 to the L2 norm of the weights, without losses or accuracies, are all
that the model is given.

Three models are fitted. Over whole runs its states tell fitting, memorising and generalising apart. Over runs cut at
their convergence, a state that only some visit is a detour: those runs converge later, and runs that start from small
weights avoid it. Since a longer path may see more states, the third model sees all runs only up to the step at which
the first of them has converged; which states a run has visited by then tells how long it will take.

Runs of equal initial scale show the phases and the early signs too; but detours, in one of three seeds only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from separatrix.analysis.phases import LatentStates, detours, latent_states
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
from separatrix.tasks import Parity, ensemble

_BATCH = 32
_STEPS = 1500
_CHECKPOINTS = 50
_STATES = (1, 3, 6)
_FITTED, _GENERALISED = 0.95, 0.9
_SHUFFLES = 40

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class _Runs:
    """Statistics (checkpoints, series) of each run, and the checkpoint at which it fitted and at which it generalised.

    A run that never did has the last checkpoint. `large` marks the runs from large weights.
    """

    statistics: tuple[Floats, ...]
    names: tuple[str, ...]
    steps: Integers
    fitted: Integers
    generalised: Integers
    large: NDArray[np.bool_]

    @property
    def times(self) -> Floats:
        """When each run generalised, in steps."""
        return self.steps[self.generalised].astype(np.float64)


def _statistics() -> dict[str, Callable[[ensemble.Ensemble], Tensor]]:
    def of(name: str, reduce: Callable[[Tensor], Tensor]) -> Callable[[ensemble.Ensemble], Tensor]:
        return lambda now: reduce(now.named()[name].flatten(1))

    found: dict[str, Callable[[ensemble.Ensemble], Tensor]] = {}
    for name, short in (("0.weight", "first"), ("2.weight", "last"), ("0.bias", "bias")):
        found[f"{short}_norm"] = of(name, lambda w: w.norm(dim=1))
        found[f"{short}_sparsity"] = of(name, lambda w: w.abs().sum(1) / w.norm(dim=1).clamp_min(1e-12))
        found[f"{short}_mean"] = of(name, lambda w: w.mean(1))
    found["first_top"] = lambda now: torch.linalg.matrix_norm(now.named()["0.weight"], 2)
    return found


def _trained(settings: Settings, runs: int, seed: int) -> _Runs:
    task = Parity(dimension=settings["dimension"], order=3, seed=seed)
    train, test = task.sample(settings["examples"], 1), task.sample(500, 2)
    generator = torch.Generator().manual_seed(seed)
    width = settings["width"]

    def data(step: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(train.targets), (runs, _BATCH), generator=generator)
        return train.inputs[chosen], train.targets[chosen]

    def accuracy(inputs: Tensor, targets: Tensor) -> Callable[[ensemble.Ensemble], Tensor]:
        return lambda now: (now.outputs(inputs, shared=True).argmax(-1) == targets).float().mean(1)

    statistics = _statistics()
    small = ensemble.stack(
        lambda: nn.Sequential(nn.Linear(task.dimension, width), nn.ReLU(), nn.Linear(width, 2)),
        [1009 * seed + run for run in range(runs)],
    )
    large = torch.arange(runs) % 2 == 1
    scale = torch.where(large, settings["scale"], 1.0)[:, None]
    training = ensemble.train(
        ensemble.Ensemble(small.template, small.parameters * scale, small.fixed),
        functional.cross_entropy,
        ensemble.adamw(0.003, settings["weight_decay"]),
        data,
        _STEPS,
        measure={**statistics, "train": accuracy(*train), "test": accuracy(*test)},
        every=_STEPS // _CHECKPOINTS,
    )
    values = {name: found.values.double().numpy() for name, found in training.measured.items()}
    return _Runs(
        tuple(np.stack([values[name][:, run] for name in statistics], axis=1) for run in range(runs)),
        tuple(statistics),
        np.array(training.measured["test"].steps),
        _reached(values["train"], _FITTED),
        _reached(values["test"], _GENERALISED),
        large.numpy(),
    )


def _reached(accuracy: Floats, level: float) -> Integers:
    """First checkpoint at or above a level, by run; the last where there is none."""
    above = accuracy >= level
    return np.where(above.any(axis=0), above.argmax(axis=0), len(accuracy) - 1)


def _agreement(paths: Sequence[Integers], runs: _Runs) -> float:
    """Share of checkpoints in the phase (fitting, memorising, generalising) that is most common in their state."""
    at = np.arange(len(runs.steps))
    pairs = zip(runs.fitted, runs.generalised, strict=True)
    phase = np.concatenate([(at >= fitted).astype(int) + (at >= max(fitted, general)) for fitted, general in pairs])
    state = np.concatenate(paths)
    table = np.zeros((int(state.max()) + 1, 3))
    np.add.at(table, (state, phase), 1)
    return float(table.max(axis=1).sum() / len(state))


def _detour(states: LatentStates, times: Floats) -> tuple[float, NDArray[np.bool_]]:
    """Longest delay of the runs that visit a detour, in standard deviations of the times, and which runs visit it.

    Without a detour it is 0, and all runs visit it.
    """
    found = max(detours(states, times, shuffles=0).states, key=lambda each: each.mean_delay, default=None)
    if found is None:
        return 0.0, np.ones(len(times), dtype=bool)
    return found.mean_delay / float(times.std()), np.array([bool((path == found.state).any()) for path in states.paths])


def _from_small(visits: NDArray[np.bool_], large: NDArray[np.bool_]) -> float:
    return float((visits & ~large).sum() / visits.sum())


def _delay(states: LatentStates, times: Floats) -> float:
    return _detour(states, times)[0]


def _explained(states: LatentStates, times: Floats) -> float:
    return detours(states, times, shuffles=0).r2


def _of_other_runs(
    measure: Callable[[LatentStates, Floats], float], states: LatentStates, times: Floats, draw: np.random.Generator
) -> float:
    return float(np.mean([measure(states, draw.permutation(times)) for _ in range(_SHUFFLES)]))


def _plan(settings: Settings, quick: bool) -> Plan:
    return Plan(runs=4, seconds=(8.0 if quick else 30.0) * settings["width"] / 64)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    runs = _trained(settings, 24 if quick else 72, seed)
    progress()
    draw = np.random.default_rng(seed)
    times, first = runs.times, int(runs.generalised.min())

    def fitted(sequences: Sequence[Floats]) -> LatentStates:
        found = latent_states(sequences, runs.names, states=_STATES, starts=2, seed=seed)
        progress()
        return found

    whole = fitted(runs.statistics)
    cut = fitted([rows[: max(3, end + 1)] for rows, end in zip(runs.statistics, runs.generalised, strict=True)])
    early = fitted([rows[: max(3, first + 1)] for rows in runs.statistics])
    delay, visits = _detour(cut, times)
    noise = [draw.standard_normal((first + 1, 3)) for _ in runs.statistics]
    shuffled = [draw.permutation(path) for path in whole.paths]
    return Outcome(
        measured={
            "states_found": float(whole.count),
            "states_follow_phases": _agreement(whole.paths, runs),
            "detours_delay": delay,
            "detour_is_of_large_weights": _from_small(visits, runs.large),
            "early_visits_explain_times": _explained(early, times),
        },
        controls={
            "noise": float(latent_states(noise, states=_STATES, starts=2, seed=seed).count),
            "shuffled_time": _agreement(shuffled, runs),
            "visits_of_other_runs": float(
                np.mean([_from_small(draw.permutation(visits), runs.large) for _ in range(_SHUFFLES)])
            ),
            "delay_of_other_runs": _of_other_runs(_delay, cut, times, draw),
            "times_of_other_runs": _of_other_runs(_explained, early, times, draw),
        },
        series=_curves(runs, whole),
    )


def _curves(runs: _Runs, states: LatentStates) -> Mapping[str, Sequence[float]]:
    return {"times": runs.times.tolist(), "bic": [states.bic[number] for number in _STATES]}


study = Study(
    id="369",
    slug="latent-states",
    paper=Paper(
        title="Latent State Models of Training Dynamics",
        authors=("Michael Y. Hu", "Angelica Chen", "Naomi Saphra", "Kyunghyun Cho"),
        year=2023,
        url="https://arxiv.org/abs/2308.09543",
    ),
    summary="A hidden Markov model of weight statistics sees the phases of training, and late runs early.",
    settings=(
        Setting("width", "int", 64, "hidden units", 32, 128),
        Setting(
            "dimension",
            "int",
            20,
            "inputs, of which three matter",
            17,
            20,
            reason="with fewer, runs generalise as they fit; with more, most never do in 1500 steps",
        ),
        Setting(
            "examples",
            "int",
            600,
            "training examples",
            580,
            800,
            reason="with fewer, most runs never generalise; with more, they do as they fit",
        ),
        Setting(
            "scale",
            "float",
            2.0,
            "large initial weights over those of torch's default",
            1.8,
            2.6,
            reason="nearer to 1 all runs take one way; far above, those from large weights do not generalise in time",
        ),
        Setting("weight_decay", "float", 0.1, "decoupled weight decay", 0.05, 0.2),
    ),
    statements=(
        Statement("states_found", "at_least", 3.0, "States with the lowest BIC, of 1, 3 and 6, over whole runs."),
        Statement(
            "states_follow_phases",
            "at_least",
            0.75,
            "Share of checkpoints whose state is that of their phase: fitting, memorising, or generalising.",
        ),
        Statement(
            "detours_delay",
            "at_least",
            0.7,
            "Runs cut at convergence: how much later those converge that visit a detour, in deviations of the times.",
        ),
        Statement(
            "detour_is_of_large_weights",
            "at_most",
            0.2,
            "Share of runs from small weights among those that visit the longest detour.",
        ),
        Statement(
            "early_visits_explain_times",
            "at_least",
            0.25,
            "R^2 of convergence times on the states visited up to the step at which the first run has converged.",
        ),
    ),
    controls=(
        Control("noise", "states_found", "White noise of that length."),
        Control("shuffled_time", "states_follow_phases", "The states of each run in random order."),
        Control("visits_of_other_runs", "detour_is_of_large_weights", "Visits shuffled among the runs, mean of 40."),
        Control("delay_of_other_runs", "detours_delay", "Times shuffled among the runs, mean of 40 shuffles."),
        Control("times_of_other_runs", "early_visits_explain_times", "Times shuffled among the runs, mean of 40."),
    ),
    plan=_plan,
    run=_run,
    smoke={"width": 32},
)
