"""Dataset cartography: where flipped labels lie on a data map, and what training on its ambiguous part is worth.

A data map of digits with flipped labels: flips are hard to learn. A data map of clean digits, mean over nets: trainings
on its most ambiguous part are tested on digits turned to both sides, beside trainings on as many random ones.

The paper trains on a third. Here that does not hold: a third of the digits, chosen as ambiguous after short trainings,
gave 0.80 to 0.93 where a random third gave 0.95, and of 2,500 images of Fashion-MNIST 0.60 beside 0.79. The claims
hold from about half of the digits on; the hard-to-learn ones, which here are no wrong labels, did as well. Flips
that a long training memorises are ambiguous, too.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from separatrix.analysis.examples import DataMap, Region, data_map
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
from separatrix.tasks import Batch

_CLASSES = 10
_BATCH = 16
_TRAINED: tuple[Region, ...] = ("ambiguous", "easy-to-learn")


def _maps(watched: _examples.Watched) -> list[DataMap]:
    """A data map for every copy."""
    copies = range(watched.labels.shape[0])
    return [data_map(np.exp(-watched.losses(copy)), watched.correct(copy)) for copy in copies]


def _mean(maps: list[DataMap]) -> DataMap:
    """The map of the mean coordinates."""
    parts = zip(*((each.confidence, each.variability, each.correctness) for each in maps), strict=True)
    return DataMap(*(np.mean(part, axis=0) for part in parts))


def _turned(images: torch.Tensor, degrees: float) -> torch.Tensor:
    """Images (n, 1, height, width) turned about their centre, borders repeated."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]]).expand(len(images), 2, 3)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _turned_both_ways(test: Batch, degrees: float) -> Batch:
    return Batch(torch.cat([_turned(test.inputs, side * degrees) for side in (-1, 1)]), test.targets.repeat(2))


def _plan(settings: Settings, quick: bool) -> Plan:
    copies = 8 if quick else 24
    return Plan(runs=3, seconds=1.0 + 0.02 * copies * settings["epochs"] * (1 + settings["width"] / 128))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    copies = 8 if quick else 24
    data = _examples.digits(seed)
    inputs, targets = data.train
    draws = np.random.default_rng(seed)
    perceptron = _examples.perceptron(64, settings["width"], _CLASSES)
    training = {"batch": _BATCH, "rate": settings["rate"]}

    generator = torch.Generator().manual_seed(seed)
    flips = [_examples.flipped(targets, settings["noise"], _CLASSES, generator) for _ in range(copies)]
    noisy = torch.stack([labels for labels, _ in flips])
    mapped = _maps(_examples.watch(perceptron, inputs, noisy, epochs=settings["epochs"], seed=seed, **training))
    progress()

    def inside(region: Region) -> float:
        """Share of flips in a region of as many examples as there are flips, mean over copies."""
        parts = [
            planted[each.region(region, settings["noise"])] for each, (_, planted) in zip(mapped, flips, strict=True)
        ]
        return float(np.mean([part.mean() for part in parts]))

    clean = _examples.watch(
        perceptron, inputs, targets.expand(copies, -1), epochs=settings["epochs"], seed=seed + 1, **training
    )
    atlas = _mean(_maps(clean))
    progress()
    ambiguous, easy = (atlas.region(region, settings["kept"]) for region in _TRAINED)
    random = [draws.permutation(len(targets))[: len(ambiguous)] for _ in range(copies)]
    rows = np.concatenate([np.tile(ambiguous, (copies, 1)), random, np.tile(easy, (copies, 1))])
    chosen = _examples.watch(
        perceptron,
        inputs,
        targets.expand(3 * copies, -1),
        rows=torch.from_numpy(rows),
        epochs=round(settings["epochs"] / settings["kept"]),
        seed=seed,
        seeds=[1000 * seed + copy for copy in range(copies)] * 3,
        test=_turned_both_ways(data.test, settings["degrees"]),
        watched=False,
        **training,
    )
    progress()
    on_ambiguous, on_random, on_easy = np.split(chosen.accuracy, 3)
    return Outcome(
        measured={
            "flips_have_low_confidence": min(
                _examples.detection(-each.confidence, planted) for each, (_, planted) in zip(mapped, flips, strict=True)
            ),
            "flips_are_hard_to_learn": inside("hard-to-learn"),
            "ambiguous_examples_beat_chance_on_turned_digits": float((on_ambiguous - on_random).mean()),
        },
        controls={
            "flips_of_another_copy": min(
                _examples.detection(-mapped[copy].confidence, flips[copy - 1][1]) for copy in range(copies)
            ),
            "flips_that_are_easy_to_learn": inside("easy-to-learn"),
            "easy_examples": float((on_easy - on_random).mean()),
        },
        series={
            "confidence": atlas.confidence.tolist(),
            "variability": atlas.variability.tolist(),
            "accuracy_on_ambiguous": on_ambiguous.tolist(),
            "accuracy_on_random": on_random.tolist(),
        },
    )


study = Study(
    id="374",
    slug="dataset-cartography",
    paper=Paper(
        title="Dataset Cartography: Mapping and Diagnosing Datasets with Training Dynamics",
        authors=(
            "Swabha Swayamdipta",
            "Roy Schwartz",
            "Nicholas Lourie",
            "Yizhong Wang",
            "Hannaneh Hajishirzi",
            "Noah A. Smith",
            "Yejin Choi",
        ),
        year=2020,
        url="https://arxiv.org/abs/2009.10795",
    ),
    summary="Flipped labels are hard to learn; the ambiguous half of digits trains better than a random half.",
    settings=(
        Setting("width", "int", 64, "hidden units", 32, 128),
        Setting("epochs", "int", 20, "epochs of every training on all examples", 15, 60),
        Setting("rate", "float", 0.02, "learning rate, with momentum 0.9", 0.0125, 0.05),
        Setting("noise", "float", 0.2, "share of flipped labels, where labels are flipped", 0.1, 0.4),
        Setting(
            "kept",
            "float",
            0.55,
            "share of examples to train on",
            0.5,
            0.8,
            reason="fewer ambiguous ones alone are too few to learn from; nearly all are no choice",
        ),
        Setting("degrees", "float", 10.0, "by how much test digits are turned, to either side", 4.0, 16.0),
    ),
    statements=(
        Statement(
            "flips_have_low_confidence",
            "at_least",
            0.9,
            "Area under the ROC curve of low confidence for flipped labels, smallest of all copies.",
        ),
        Statement(
            "flips_are_hard_to_learn",
            "at_least",
            0.7,
            "Share of flips in the hard-to-learn region of as many examples as there are flips.",
        ),
        Statement(
            "ambiguous_examples_beat_chance_on_turned_digits",
            "at_least",
            0.0,
            "Accuracy on turned digits after training on ambiguous examples, less that after as many random ones.",
        ),
    ),
    controls=(
        Control("flips_of_another_copy", "flips_have_low_confidence", "Flips drawn for another copy."),
        Control("flips_that_are_easy_to_learn", "flips_are_hard_to_learn", "The easy-to-learn region instead."),
        Control(
            "easy_examples",
            "ambiguous_examples_beat_chance_on_turned_digits",
            "As many easy-to-learn examples instead.",
        ),
    ),
    plan=_plan,
    run=_run,
    smoke={"width": 32, "epochs": 15, "rate": 0.04},
)
