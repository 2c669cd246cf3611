"""Metadata archaeology: loss trajectories near those of known kinds of examples tell of which kind an example is.

Digits with probe suites: typical and atypical ones by the mean loss of earlier clean trainings, and random ones given
noise on the pixels, noise for pixels, or other labels. Of all further digits a share has flipped labels; each is held
against random digits with their own and with other labels. The mean loss finds flips as well as the neighbours do;
what neighbours add is the kind.
"""

from __future__ import annotations

import numpy as np
import torch

from separatrix.analysis.examples import confusion, kinds, typical_and_atypical
from separatrix.studies import _examples
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

_CLASSES = 10
_BATCH = 16
_OTHER = "random-labelled"


def _shuffled(suites: dict[str, np.ndarray], draws: np.random.Generator) -> dict[str, np.ndarray]:
    """The same probes dealt anew to suites of the same sizes."""
    dealt = np.split(draws.permutation(np.concatenate(list(suites.values()))), len(suites))
    return dict(zip(suites, dealt, strict=True))


def _plan(settings: Settings, quick: bool) -> Plan:
    copies = 8 if quick else 24
    return Plan(runs=2, seconds=1.0 + 0.006 * copies * settings["epochs"] * (1 + settings["width"] / 128))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    copies = 8 if quick else 24
    inputs, targets = _examples.digits(seed).train
    generator, draws = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    perceptron = _examples.perceptron(64, settings["width"], _CLASSES)
    training = {"batch": _BATCH, "rate": settings["rate"], "epochs": settings["epochs"]}
    size, neighbours = settings["suite"], settings["neighbours"]

    earlier = _examples.watch(perceptron, inputs, targets.expand(copies, -1), seed=seed + 1, **training)
    progress()
    ends = typical_and_atypical(np.mean([earlier.losses(copy) for copy in range(copies)], axis=0), 2 * size)
    typical, atypical = (draws.permutation(end)[:size] for end in ends)  # the others of these ends stay to be found
    left = draws.permutation(np.setdiff1d(np.arange(len(targets)), np.concatenate([typical, atypical])))
    corrupted, strange, relabelled, own = np.split(left[: 4 * size], 4)
    others = left[4 * size :]

    inputs, labels = inputs.clone(), targets.clone()
    inputs[corrupted] += torch.randn(inputs[corrupted].shape, generator=generator)
    inputs[strange] = torch.randn(inputs[strange].shape, generator=generator)
    labels[relabelled] = _examples.flipped(targets[relabelled], 1.0, _CLASSES, generator)[0]
    labels[others], planted = _examples.flipped(targets[others], settings["noise"], _CLASSES, generator)
    watched = _examples.watch(perceptron, inputs, labels.expand(copies, -1), seed=seed, **training)
    progress()

    suites = {
        "typical": typical,
        "atypical": atypical,
        "corrupted": corrupted,
        "out-of-distribution": strange,
        _OTHER: relabelled,
    }
    pair = {"own-labelled": own, _OTHER: relabelled}
    wrong_suites = _shuffled(suites, draws)
    found, by_loss, wrongly, told, mistold = [], [], [], [], []
    for copy in range(copies):
        losses = watched.losses(copy)
        by_loss.append(_examples.detection(losses[-1][others], planted))
        near = kinds(losses, pair, neighbours).probability(_OTHER)
        found.append(_examples.detection(near[others], planted))
        wrongly.append(_examples.detection(near[draws.permutation(others)], planted))
        told.append(confusion(kinds(losses, suites, neighbours), suites).diagonal())
        mistold.append(confusion(kinds(losses, wrong_suites, neighbours), wrong_suites).diagonal())
    return Outcome(
        measured={
            "neighbours_find_flips": min(found),
            "neighbours_do_as_well_as_the_last_loss": float(np.mean(found) - np.mean(by_loss)),
            "suites_are_told_apart": float(np.mean(told)),
        },
        controls={
            "shuffled_examples": min(wrongly),
            "shuffled_examples_and_the_last_loss": float(np.mean(wrongly) - np.mean(by_loss)),
            "shuffled_suites": float(np.mean(mistold)),
        },
        series={f"share_of_{suite}": [float(row[i]) for row in told] for i, suite in enumerate(suites)},
    )


study = Study(
    id="373",
    slug="metadata-archaeology",
    paper=Paper(
        title="Metadata Archaeology: Unearthing Data Subsets by Leveraging Training Dynamics",
        authors=(
            "Shoaib Ahmed Siddiqui",
            "Nitarshan Rajkumar",
            "Tegan Maharaj",
            "David Krueger",
            "Sara Hooker",
        ),
        year=2022,
        url="https://arxiv.org/abs/2209.10015",
    ),
    summary="Neighbours among probes of known kinds, by loss trajectory, tell flipped labels and other kinds.",
    settings=(
        Setting("noise", "float", 0.2, "share of flipped labels among digits that are no probes", 0.1, 0.4),
        Setting("width", "int", 64, "hidden units", 32, 128),
        Setting("epochs", "int", 20, "epochs of every training", 10, 40),
        Setting("rate", "float", 0.02, "learning rate, with momentum 0.9", 0.01, 0.04),
        Setting("suite", "int", 40, "examples in a probe suite", 20, 80),
        Setting("neighbours", "int", 10, "nearest probes that are asked", 4, 16),
    ),
    statements=(
        Statement(
            "neighbours_find_flips",
            "at_least",
            0.9,
            "Area under the ROC curve for flips of the share of neighbours with other labels, smallest of all nets.",
        ),
        Statement(
            "neighbours_do_as_well_as_the_last_loss",
            "at_least",
            0.0,
            "That area less the area of the loss after the last epoch, means over nets.",
            tolerance=0.01,
        ),
        Statement(
            "suites_are_told_apart",
            "at_least",
            0.5,
            "Share of probes, left out in turn, that are taken for their own of five kinds; 0.2 by chance.",
        ),
    ),
    controls=(
        Control("shuffled_examples", "neighbours_find_flips", "The neighbours of shuffled examples."),
        Control(
            "shuffled_examples_and_the_last_loss",
            "neighbours_do_as_well_as_the_last_loss",
            "The neighbours of shuffled examples.",
        ),
        Control("shuffled_suites", "suites_are_told_apart", "Probes dealt anew to the five suites."),
    ),
    plan=_plan,
    run=_run,
    smoke={"width": 32, "epochs": 12},
)
