"""Correlated dynamics: the paths of a network's weights are a few shapes, each weight an affine image of one of them.

A network with two hidden layers of ReLU units learns handwritten digits by SGD at a constant rate, its weights kept
after every epoch. Correlation mode decomposition groups the weights into modes and stores one path a mode and two
numbers a weight. With as many numbers, the mean path and one principal component, or two modes of dynamic mode
decomposition, leave a larger error; and the weights that the modes give for the last epoch classify test digits about
as well as the trained ones, because most of what they leave out is noise of the batches. What mode each weight is of
takes a few bits more, which are not counted.

Not claimed: a test accuracy above that of the trained weights (there is a gain where the last epochs are noisy, which
on digits they are not), or above that of the principal component, which smooths the path as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from separatrix.analysis.trajectory import CorrelationModes, correlation_modes, principal_components
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
from separatrix.tasks import Digits, ensemble

_BATCH = 16
_COUNTS = (2, 6, 18)
_WIDTH = 64

Paths = NDArray[np.float64]
"""Weights (epochs, size) of one network."""


@dataclasses.dataclass(frozen=True)
class _Trained:
    """Paths of each network, and the share of test digits that weights (networks, size) get right, by network."""

    paths: tuple[Paths, ...]
    accuracy: Callable[[NDArray[np.float64]], NDArray[np.float64]]


def _trained(settings: Settings, copies: int, epochs: int, seed: int, progress: Progress) -> _Trained:
    digits = Digits()
    inputs, targets = digits.train
    generator = torch.Generator().manual_seed(seed)
    kept: list[Tensor] = []

    def data(step: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(targets), (copies, _BATCH), generator=generator)
        return inputs.flatten(1)[chosen], targets[chosen]

    def keep(now: ensemble.Ensemble) -> Tensor:
        kept.append(now.parameters.double())
        return torch.zeros(now.copies)

    training = ensemble.train(
        ensemble.stack(_network, [1009 * seed + copy for copy in range(copies)]),
        functional.cross_entropy,
        ensemble.SGD(settings["rate"]),
        data,
        epochs * (len(targets) // _BATCH),
        measure={"kept": keep},
        every=len(targets) // _BATCH,
    )
    progress()

    def accuracy(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        last = training.ensemble
        held = ensemble.Ensemble(last.template, torch.from_numpy(weights).to(last.parameters.dtype), last.fixed)
        answers = held.outputs(digits.test.inputs.flatten(1), shared=True).argmax(-1)
        return np.asarray((answers == digits.test.targets).double().mean(1))

    return _Trained(tuple(np.asarray(path) for path in torch.stack(kept, 1).numpy()), accuracy)


def _network() -> nn.Sequential:
    hidden = (nn.Linear(64, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH), nn.ReLU())
    return nn.Sequential(*hidden, nn.Linear(_WIDTH, 10))


def _error(path: Paths, approximation: Paths) -> float:
    """Squared error over the path's squared deviation from its mean."""
    return float(((path - approximation) ** 2).sum() / ((path - path.mean(axis=0)) ** 2).sum())


def _errors(paths: Sequence[Paths], count: int, seed: int) -> NDArray[np.float64]:
    return np.array([_error(path, correlation_modes(path, count, seed=seed).reconstructed()) for path in paths])


def _strange(modes: CorrelationModes, draw: np.random.Generator) -> NDArray[np.float64]:
    """Last weights where every mode follows the reference of another one."""
    last = np.roll(modes.references[:, -1], 1 + int(draw.integers(len(modes.references) - 1)))
    return np.asarray(modes.scale * last[np.maximum(modes.mode, 0)] + modes.offset)


def _dynamic_modes(path: Paths, rank: int) -> Paths:
    """Exact dynamic mode decomposition of that rank, its amplitudes fitted to the whole path."""
    left, singular, right = np.linalg.svd(path[:-1].T, full_matrices=False)
    left, singular, right = left[:, :rank], singular[:rank], right[:rank]
    values, vectors = np.linalg.eig(left.T @ path[1:].T @ right.T / singular)
    modes = left @ vectors
    powers = values ** np.arange(len(path))[:, None]
    gram = (modes.conj().T @ modes) * (powers.conj().T @ powers)
    right_hand = np.einsum("tj,tn,nj->j", powers.conj(), path, modes.conj())
    amplitudes, *_ = np.linalg.lstsq(gram, right_hand, rcond=None)
    return np.asarray(((powers * amplitudes) @ modes.T).real)


def _plan(settings: Settings, quick: bool) -> Plan:
    return Plan(runs=2, seconds=6.0 * settings["epochs"] / 40 * (1 if quick else 4))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    copies, count = (3 if quick else 12), settings["modes"]
    trained = _trained(settings, copies, settings["epochs"], seed, progress)
    draw = np.random.default_rng(seed)
    modes = [correlation_modes(path, count, seed=seed) for path in trained.paths]
    rebuilt = [found.reconstructed() for found in modes]
    errors = np.array([_error(path, other) for path, other in zip(trained.paths, rebuilt, strict=True)])
    component = np.array([_error(path, principal_components(path, 1).reconstructed()) for path in trained.paths])
    dynamic = np.array([_error(path, _dynamic_modes(path, 2)) for path in trained.paths])
    shuffled = [draw.permuted(path, axis=0) for path in trained.paths]
    by_count = [_errors(trained.paths, number, seed) for number in (1, *_COUNTS)]
    trained_accuracy = trained.accuracy(np.stack([path[-1] for path in trained.paths]))
    modes_accuracy = trained.accuracy(np.stack([path[-1] for path in rebuilt]))
    strangers = trained.accuracy(np.stack([_strange(found, draw) for found in modes]))
    progress()
    return Outcome(
        measured={
            "numbers_stored": modes[0].numbers / (2 * modes[0].mode.size + settings["epochs"] + 1),
            "modes_hold_the_paths": float(errors.mean()),
            "more_modes_hold_more": [float(each.mean()) for each in by_count[1:]],
            "error_over_that_of_a_component": float((errors / component).max()),
            "error_over_that_of_dynamic_modes": float((errors / dynamic).max()),
            "accuracy_kept": float((modes_accuracy - trained_accuracy).mean()),
        },
        controls={
            "shuffled_time": float(_errors(shuffled, count, seed).mean()),
            "one_mode": float((by_count[0] / component).min()),
            "strange_references": float((strangers - trained_accuracy).mean()),
        },
        series={
            "error": errors.tolist(),
            "component": component.tolist(),
            "dynamic": dynamic.tolist(),
            "accuracy": trained_accuracy.tolist(),
            "accuracy_of_modes": modes_accuracy.tolist(),
        },
    )


study = Study(
    id="371",
    slug="correlated-dynamics",
    paper=Paper(
        title="Enhancing Neural Training via a Correlated Dynamics Model",
        authors=("Jonathan Brokman", "Roy Betser", "Rotem Turjeman", "Tom Berkov", "Ido Cohen", "Guy Gilboa"),
        year=2023,
        url="https://arxiv.org/abs/2312.13247",
    ),
    summary="All weights' paths are affine images of a few; that beats a component or dynamic modes of that size.",
    settings=(
        Setting("modes", "int", 10, "correlation modes", 6, 24),
        Setting("epochs", "int", 40, "epochs of training, after each of which the weights are kept", 20, 80),
        Setting("rate", "float", 0.15, "learning rate", 0.06, 0.4),
    ),
    statements=(
        Statement(
            "numbers_stored", "at_most", 1.12, "Numbers that the modes store over those of mean path and one component."
        ),
        Statement(
            "modes_hold_the_paths",
            "at_most",
            0.25,
            "Mean squared error of the modes over the squared deviation of the paths from their means.",
        ),
        Statement("more_modes_hold_more", "monotone", "decreasing", "That error with 2, 6 and 18 modes."),
        Statement(
            "error_over_that_of_a_component",
            "at_most",
            0.9,
            "Error of the modes over that of mean path and one principal component, largest of all networks.",
        ),
        Statement(
            "error_over_that_of_dynamic_modes",
            "at_most",
            0.7,
            "Error of the modes over that of two dynamic modes, largest of all networks.",
        ),
        Statement(
            "accuracy_kept",
            "at_least",
            -0.01,
            "Test accuracy of the last weights that the modes give, less that of the trained ones; mean.",
        ),
    ),
    controls=(
        Control("shuffled_time", "modes_hold_the_paths", "The epochs of every weight are shuffled on their own."),
        Control(
            "one_mode",
            "error_over_that_of_a_component",
            "A single mode, which no component of rank one can be worse than.",
        ),
        Control("strange_references", "accuracy_kept", "Every mode follows the reference of another one."),
    ),
    plan=_plan,
    run=_run,
    smoke={"epochs": 20, "modes": 6},
)
