"""Example forgetting: some digits are forgotten again and again, most never, and that is a property of the digits.

Correctness of every example is read after every epoch. Many nets, a perceptron and a convolutional one, say how often
each example is forgotten; what is never learnt counts as forgotten more often than all else. The least forgotten
examples are then left out of trainings that take as many steps as one on all of them.
"""

from __future__ import annotations

import numpy as np
import torch

from separatrix.analysis.examples import forgetting, most_important, rank_correlation
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
_CHANNELS = 6


def _rankings(watched: _examples.Watched) -> np.ndarray:
    """Forgetting events (copies, examples); one more than epochs for what was never learnt."""
    epochs, copies = watched.logits.shape[:2]
    return np.stack([np.minimum(forgetting(watched.correct(copy)).ranking, epochs + 1) for copy in range(copies)])


def _plan(settings: Settings, quick: bool) -> Plan:
    copies = 16 if quick else 32
    return Plan(runs=4, seconds=1.0 + 0.03 * copies * settings["epochs"] * (1 + settings["width"] / 128))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    copies = 16 if quick else 32
    data = _examples.digits(seed)
    inputs, targets = data.train
    examples = len(targets)
    labels = targets.expand(copies, -1)
    draws = np.random.default_rng(seed)
    perceptron = _examples.perceptron(64, settings["width"], _CLASSES)
    training = {"batch": _BATCH, "rate": settings["rate"]}

    usual = _examples.watch(
        perceptron, inputs, labels, epochs=settings["epochs"], seed=seed, test=data.test, **training
    )
    progress()
    other = _examples.watch(
        _examples.convolutional(_CHANNELS, _CLASSES),
        inputs,
        labels[: copies // 2],
        epochs=settings["epochs"],
        seed=seed + 1,
        **training,
    )
    progress()
    ranks = _rankings(usual)
    score, others = ranks.mean(0), _rankings(other).mean(0)
    halves = ranks[: copies // 2].mean(0), ranks[copies // 2 :].mean(0)

    share = settings["omitted"]
    least = most_important(score, 1 - share)
    most = most_important(-score, 1 - share)
    random = [np.sort(draws.permutation(examples)[: len(least)]) for _ in range(copies)]
    rows = torch.from_numpy(np.concatenate([np.tile(least, (copies, 1)), random, np.tile(most, (copies, 1))]))
    omitted = _examples.watch(
        perceptron,
        inputs,
        targets.expand(3 * copies, -1),
        rows=rows,
        epochs=round(settings["epochs"] * examples / len(least)),
        seed=seed,
        seeds=[1000 * seed + copy for copy in range(copies)] * 3,
        test=data.test,
        watched=False,
        **training,
    )
    progress()
    kept, thinned, easy = np.split(omitted.accuracy, 3)

    noisy, planted = _examples.flipped(targets, settings["noise"], _CLASSES, torch.Generator().manual_seed(seed))
    mislabelled = _examples.watch(
        perceptron, inputs, noisy.expand(copies // 2, -1), epochs=settings["epochs"], seed=seed, **training
    )
    progress()
    never = [forgetting(usual.correct(copy)).unforgettable.mean() for copy in range(copies)]
    flagged = _rankings(mislabelled).mean(0)
    return Outcome(
        measured={
            "most_are_never_forgotten": float(np.mean(never)),
            "seeds_agree": rank_correlation(*halves),
            "architectures_agree": rank_correlation(score, others),
            "omitting_the_least_forgotten_costs_little": float((usual.accuracy - kept).mean()),
            "omitting_them_beats_chance": float((kept - thinned).mean()),
            "flips_are_forgotten_most": _examples.detection(flagged, planted),
        },
        controls={
            "shuffled_examples": rank_correlation(halves[0], draws.permutation(halves[1])),
            "shuffled_architecture": rank_correlation(score, draws.permutation(others)),
            "omitting_the_most_forgotten": float((usual.accuracy - easy).mean()),
            "omitting_the_most_forgotten_too": float((easy - thinned).mean()),
            "before_the_flips": _examples.detection(score, planted),
        },
        series={"events": score.tolist(), "accuracy": usual.accuracy.tolist(), "kept": kept.tolist()},
    )


study = Study(
    id="558",
    slug="example-forgetting",
    paper=Paper(
        title="An Empirical Study of Example Forgetting during Deep Neural Network Learning",
        authors=(
            "Mariya Toneva",
            "Alessandro Sordoni",
            "Remi Tachet des Combes",
            "Adam Trischler",
            "Yoshua Bengio",
            "Geoffrey J. Gordon",
        ),
        year=2018,
        url="https://arxiv.org/abs/1812.05159",
    ),
    summary="Most examples are never forgotten; seeds and nets agree on which are; many others can be left out.",
    settings=(
        Setting("width", "int", 64, "hidden units of the perceptron", 32, 128),
        Setting("epochs", "int", 20, "epochs of every training on all examples", 10, 40),
        Setting("rate", "float", 0.015, "learning rate, with momentum 0.9", 0.0075, 0.03),
        Setting("omitted", "float", 0.3, "share of examples left out", 0.12, 0.5),
        Setting("noise", "float", 0.2, "share of flipped labels, where labels are flipped", 0.1, 0.4),
    ),
    statements=(
        Statement(
            "most_are_never_forgotten",
            "at_least",
            0.7,
            "Share of examples that a net learns and never forgets, mean over nets.",
        ),
        Statement(
            "seeds_agree",
            "at_least",
            0.6,
            "Spearman correlation of the mean forgetting events of one half of the nets and of the other half.",
        ),
        Statement(
            "architectures_agree",
            "at_least",
            0.5,
            "Spearman correlation of the mean forgetting events of perceptrons and of convolutional nets.",
        ),
        Statement(
            "omitting_the_least_forgotten_costs_little",
            "at_most",
            0.005,
            "Test accuracy lost by leaving out the share that is forgotten least.",
        ),
        Statement(
            "omitting_them_beats_chance",
            "at_least",
            0.0,
            "Test accuracy without them less that without as many random examples.",
            tolerance=0.003,
        ),
        Statement(
            "flips_are_forgotten_most",
            "at_least",
            0.85,
            "Area under the ROC curve of the mean forgetting events for flipped labels.",
        ),
    ),
    controls=(
        Control("shuffled_examples", "seeds_agree", "Examples of the second half shuffled."),
        Control("shuffled_architecture", "architectures_agree", "Examples of the convolutional nets shuffled."),
        Control(
            "omitting_the_most_forgotten",
            "omitting_the_least_forgotten_costs_little",
            "The same share of those forgotten most.",
        ),
        Control("omitting_the_most_forgotten_too", "omitting_them_beats_chance", "Those forgotten most instead."),
        Control("before_the_flips", "flips_are_forgotten_most", "Events of the same examples with their true labels."),
    ),
    plan=_plan,
    run=_run,
    smoke={"epochs": 10, "width": 32},
)
