"""Area under the margin: wrong labels stand out in one training, and examples mislabelled on purpose say how far.

Digits with a share of labels flipped. One ensemble trains as usual; two more, with disjoint sets of threshold examples
in a fake class, judge every example. Nets are trained again on what was kept. The last statements hold the package's
own probabilities, which need no threshold run, against the flips.
"""

from __future__ import annotations

import numpy as np
import torch

from separatrix.analysis.examples import (
    area_under_margin,
    below_threshold,
    mislabeled,
    reliability,
    threshold_examples,
)
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


def _matthews(suspected: np.ndarray, planted: np.ndarray) -> float:
    """Correlation of being suspected and being flipped: 1 for both precision and recall 1, about 0 at random."""
    return float(np.corrcoef(suspected, planted)[0, 1])


def _highest(scores: np.ndarray, count: int) -> np.ndarray:
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[np.argsort(-scores, kind="stable")[:count]] = True
    return chosen


def _kept(removed: list[np.ndarray], generator: np.random.Generator) -> torch.Tensor:
    """Rows (copies, chosen) that were not removed, as many for every copy as the fewest, chosen at random."""
    rows = [generator.permutation(np.flatnonzero(~part)) for part in removed]
    fewest = min(len(part) for part in rows)
    return torch.from_numpy(np.stack([part[:fewest] for part in rows]))


def _plan(settings: Settings, quick: bool) -> Plan:
    copies = 4 if quick else 12
    return Plan(runs=3, seconds=0.5 + 0.02 * copies * settings["epochs"] * (0.5 + settings["width"] / 128))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    copies = 4 if quick else 12
    data = _examples.digits(seed)
    inputs, targets = data.train
    generator, draws = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    flips = [_examples.flipped(targets, settings["noise"], _CLASSES, generator) for _ in range(copies)]
    labels, planted = torch.stack([flip[0] for flip in flips]), [flip[1] for flip in flips]
    training = {"batch": _BATCH, "rate": settings["rate"]}

    usual = _examples.watch(
        _examples.perceptron(64, settings["width"], _CLASSES),
        inputs,
        labels,
        epochs=settings["epochs"],
        seed=seed,
        test=data.test,
        **training,
    )
    progress()
    chosen = [threshold_examples(len(targets), _CLASSES, 2, seed + copy) for copy in range(copies)]
    faked = torch.stack([labels, labels])
    for copy, sets in enumerate(chosen):
        for run, rows in enumerate(sets):
            faked[run, copy, torch.from_numpy(rows)] = _CLASSES
    threshold = _examples.watch(
        _examples.perceptron(64, settings["width"], _CLASSES + 1),
        inputs,
        faked.reshape(2 * copies, -1),
        epochs=settings["epochs"],
        seed=seed + 1,
        **training,
    )
    progress()

    areas = [area_under_margin(usual.margins(copy)) for copy in range(copies)]
    judged = [
        below_threshold([area_under_margin(threshold.margins(run * copies + copy)) for run in (0, 1)], chosen[copy])
        for copy in range(copies)
    ]
    suspected = [verdict.suspected for verdict in judged]
    by_loss = [_highest(usual.losses(copy)[-1], int(suspected[copy].sum())) for copy in range(copies)]
    removed = [suspected, [draws.permutation(part) for part in suspected]]
    kept = torch.cat([_kept(part, np.random.default_rng(seed)) for part in removed])
    again = _examples.watch(
        _examples.perceptron(64, settings["width"], _CLASSES),
        inputs,
        labels.repeat(2, 1),
        rows=kept,
        epochs=round(settings["epochs"] * len(targets) / kept.shape[1]),
        seed=seed,
        seeds=[1000 * seed + copy for copy in range(copies)] * 2,
        test=data.test,
        watched=False,
        **training,
    )
    progress()
    errors = 1 - usual.accuracy
    cleaned, thinned = np.split(1 - again.accuracy, 2)

    found = [mislabeled(usual.losses(copy), usual.margins(copy)) for copy in range(copies)]
    checks = [reliability(each.probability, planted[copy]) for copy, each in enumerate(found)]
    brier = np.array([check.brier / check.brier_of_base_rate for check in checks])
    gains = [_matthews(suspected[c], planted[c]) - _matthews(by_loss[c], planted[c]) for c in range(copies)]
    return Outcome(
        measured={
            "margins_find_flips": min(_examples.detection(-areas[c], planted[c]) for c in range(copies)),
            "threshold_finds_flips": float(np.mean([_matthews(suspected[c], planted[c]) for c in range(copies)])),
            "threshold_beats_the_loss": float(np.mean(gains)),
            "cleaning_lowers_the_error": float(cleaned.mean() / errors.mean()),
            "probabilities_are_calibrated": float(np.mean([check.error for check in checks])),
            "probabilities_beat_the_base_rate": float(brier.mean()),
        },
        controls={
            "flips_of_another_copy": min(_examples.detection(-areas[c], planted[c - 1]) for c in range(copies)),
            "as_many_at_random": float(
                np.mean([_matthews(draws.permutation(suspected[c]), planted[c]) for c in range(copies)])
            ),
            "removing_as_many_at_random": float(thinned.mean() / errors.mean()),
            "the_other_way_round": float(
                np.mean([reliability(1 - each.probability, planted[c]).error for c, each in enumerate(found)])
            ),
            "the_base_rate_for_all": float(
                np.mean(
                    [
                        reliability(np.full(len(part), part.mean()), part).brier / check.brier_of_base_rate
                        for part, check in zip(planted, checks, strict=True)
                    ]
                )
            ),
        },
        series={
            "test_error": errors.tolist(),
            "test_error_after_cleaning": cleaned.tolist(),
            "noise_rate": [each.noise_rate for each in found],
        },
    )


study = Study(
    id="448",
    slug="area-under-margin",
    paper=Paper(
        title="Identifying Mislabeled Data using the Area Under the Margin Ranking",
        authors=("Geoff Pleiss", "Tianyi Zhang", "Ethan R. Elenberg", "Kilian Q. Weinberger"),
        year=2020,
        url="https://arxiv.org/abs/2001.10528",
    ),
    summary="The mean margin over a training tells flipped labels, a fake class where to cut; cleaning helps.",
    settings=(
        Setting("noise", "float", 0.2, "share of labels replaced by another class", 0.1, 0.4),
        Setting("width", "int", 64, "hidden units", 32, 128),
        Setting("epochs", "int", 20, "epochs of every training", 10, 40),
        Setting("rate", "float", 0.02, "learning rate, with momentum 0.9", 0.01, 0.04),
    ),
    statements=(
        Statement(
            "margins_find_flips",
            "at_least",
            0.95,
            "Area under the ROC curve of the area under the margin for flipped labels, smallest of all copies.",
        ),
        Statement(
            "threshold_finds_flips",
            "at_least",
            0.3,
            "Matthews correlation of lying below the threshold of the fake class, over both runs, and being flipped.",
        ),
        Statement(
            "threshold_beats_the_loss",
            "at_least",
            0.0,
            "That correlation less the one for as many examples of largest loss at the end of an ordinary training.",
        ),
        Statement(
            "cleaning_lowers_the_error",
            "at_most",
            0.9,
            "Test error of nets trained on what was kept, over that of nets trained on everything.",
        ),
        Statement(
            "probabilities_are_calibrated",
            "at_most",
            0.15,
            "Expected calibration error of the probabilities of wrong labels, from the ordinary training alone.",
        ),
        Statement(
            "probabilities_beat_the_base_rate",
            "at_most",
            0.6,
            "Brier score of those probabilities over that of the true share of flips.",
        ),
    ),
    controls=(
        Control("flips_of_another_copy", "margins_find_flips", "Flips drawn for another copy, with other labels."),
        Control("as_many_at_random", "threshold_finds_flips", "As many examples, drawn at random."),
        Control("removing_as_many_at_random", "cleaning_lowers_the_error", "As many examples removed at random."),
        Control("the_other_way_round", "probabilities_are_calibrated", "One minus every probability."),
        Control(
            "the_base_rate_for_all", "probabilities_beat_the_base_rate", "The true share as everyone's probability."
        ),
    ),
    plan=_plan,
    run=_run,
    smoke={"width": 32, "epochs": 15, "rate": 0.03},
)
