"""A data diet: how wrong a net is on an example after a few epochs says how much the example matters.

EL2N, the norm of the error of the class probabilities, is averaged over nets from many initial weights and read after a
few epochs; so is GraNd, the norm of the gradient of one example's loss. Examples of low scores are left out of
trainings that take as many steps as one on all examples. With flipped labels, flips have the highest scores.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from separatrix.analysis.examples import agreement_with_the_end, most_important, rank_correlation
from separatrix.operators import per_example_gradient_norms
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


def _scores(watched: _examples.Watched) -> np.ndarray:
    """EL2N (epochs, examples), mean over copies."""
    scores: np.ndarray = np.mean([watched.error_norms(copy) for copy in range(watched.labels.shape[0])], axis=0)
    return scores


def _gradient_norms(watched: _examples.Watched, inputs: torch.Tensor) -> np.ndarray:
    """GraNd (examples,) of the trained nets, mean over copies."""
    labels = watched.labels
    norms = [
        per_example_gradient_norms(watched.networks.module(copy), functional.cross_entropy, inputs, labels[copy])
        for copy in range(labels.shape[0])
    ]
    return torch.stack([torch.as_tensor(each) for each in norms]).mean(0).double().numpy()


def _plan(settings: Settings, quick: bool) -> Plan:
    copies = 8 if quick else 24
    return Plan(runs=5, seconds=1.0 + 0.02 * copies * settings["epochs"] * (1 + settings["width"] / 128))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    copies = 8 if quick else 24
    data = _examples.digits(seed)
    inputs, targets = data.train
    examples = len(targets)
    labels = targets.expand(copies, -1)
    draws = np.random.default_rng(seed)
    perceptron = _examples.perceptron(64, settings["width"], _CLASSES)
    training = {"batch": _BATCH, "rate": settings["rate"]}
    early = settings["early"]

    usual = _examples.watch(
        perceptron, inputs, labels, epochs=settings["epochs"], seed=seed, test=data.test, **training
    )
    progress()
    scores = _scores(usual)
    score = scores[early - 1]
    begun = _examples.watch(perceptron, inputs, labels, epochs=early, seed=seed + 1, **training)
    gradients = _gradient_norms(begun, inputs)
    progress()
    other = _examples.watch(
        _examples.convolutional(_CHANNELS, _CLASSES), inputs, labels, epochs=early, seed=seed + 2, **training
    )
    others = _scores(other)[-1]
    progress()

    highest = most_important(score, 1 - settings["omitted"])
    lowest = most_important(-score, 1 - settings["omitted"])
    random = [np.sort(draws.permutation(examples)[: len(highest)]) for _ in range(copies)]
    rows = torch.from_numpy(np.concatenate([np.tile(highest, (copies, 1)), random, np.tile(lowest, (copies, 1))]))
    pruned = _examples.watch(
        perceptron,
        inputs,
        targets.expand(3 * copies, -1),
        rows=rows,
        epochs=round(settings["epochs"] * examples / len(highest)),
        seed=seed,
        seeds=[1000 * seed + copy for copy in range(copies)] * 3,
        test=data.test,
        watched=False,
        **training,
    )
    progress()
    kept, thinned, easy = np.split(pruned.accuracy, 3)

    noisy, planted = _examples.flipped(targets, settings["noise"], _CLASSES, torch.Generator().manual_seed(seed))
    mislabelled = _examples.watch(perceptron, inputs, noisy.expand(copies, -1), epochs=early, seed=seed, **training)
    progress()
    return Outcome(
        measured={
            "early_scores_agree_with_the_end": rank_correlation(score, scores[-1]),
            "gradients_agree_with_errors": rank_correlation(gradients, score),
            "architectures_agree": rank_correlation(others, score),
            "pruning_low_scores_costs_little": float((usual.accuracy - kept).mean()),
            "pruning_them_beats_chance": float((kept - thinned).mean()),
            "flips_have_the_highest_scores": _examples.detection(_scores(mislabelled)[-1], planted),
        },
        controls={
            "shuffled_scores": rank_correlation(draws.permutation(score), scores[-1]),
            "gradients_of_others": rank_correlation(draws.permutation(gradients), score),
            "shuffled_architecture": rank_correlation(draws.permutation(others), score),
            "pruning_high_scores": float((usual.accuracy - easy).mean()),
            "pruning_high_scores_too": float((easy - thinned).mean()),
            "before_the_flips": _examples.detection(score, planted),
        },
        series={
            "agreement_with_the_end": agreement_with_the_end(scores).tolist(),
            "accuracy": usual.accuracy.tolist(),
            "accuracy_of_high_scores": kept.tolist(),
            "accuracy_of_random_examples": thinned.tolist(),
        },
    )


study = Study(
    id="384",
    slug="data-diet",
    paper=Paper(
        title="Deep Learning on a Data Diet: Finding Important Examples Early in Training",
        authors=("Mansheej Paul", "Surya Ganguli", "Gintare Karolina Dziugaite"),
        year=2021,
        url="https://arxiv.org/abs/2107.07075",
    ),
    summary="Errors after a few epochs rank examples as the end does; half of them, of low scores, can be left out.",
    settings=(
        Setting("width", "int", 64, "hidden units of the perceptron", 32, 128),
        Setting("epochs", "int", 20, "epochs of every training on all examples", 12, 48),
        Setting("rate", "float", 0.02, "learning rate, with momentum 0.9", 0.01, 0.04),
        Setting("early", "int", 4, "epochs after which scores are read", 2, 8),
        Setting("omitted", "float", 0.5, "share of examples left out", 0.14, 0.6),
        Setting("noise", "float", 0.2, "share of flipped labels, where labels are flipped", 0.1, 0.4),
    ),
    statements=(
        Statement(
            "early_scores_agree_with_the_end",
            "at_least",
            0.7,
            "Spearman correlation of EL2N after a few epochs and after the last.",
        ),
        Statement(
            "gradients_agree_with_errors",
            "at_least",
            0.8,
            "Spearman correlation of GraNd and EL2N after the same few epochs, of other nets.",
        ),
        Statement(
            "architectures_agree",
            "at_least",
            0.6,
            "Spearman correlation of EL2N of convolutional nets and of perceptrons.",
        ),
        Statement(
            "pruning_low_scores_costs_little",
            "at_most",
            0.01,
            "Test accuracy lost by leaving out the share of lowest EL2N.",
        ),
        Statement(
            "pruning_them_beats_chance",
            "at_least",
            0.0,
            "Test accuracy without them less that without as many random examples.",
            tolerance=0.003,
        ),
        Statement(
            "flips_have_the_highest_scores",
            "at_least",
            0.95,
            "Area under the ROC curve of EL2N after a few epochs for flipped labels.",
        ),
    ),
    controls=(
        Control("shuffled_scores", "early_scores_agree_with_the_end", "Early scores of shuffled examples."),
        Control("gradients_of_others", "gradients_agree_with_errors", "Gradients of shuffled examples."),
        Control("shuffled_architecture", "architectures_agree", "Convolutional nets' scores of shuffled examples."),
        Control("pruning_high_scores", "pruning_low_scores_costs_little", "The same share of highest EL2N left out."),
        Control("pruning_high_scores_too", "pruning_them_beats_chance", "The same share of highest EL2N left out."),
        Control("before_the_flips", "flips_have_the_highest_scores", "Scores of the same examples with true labels."),
    ),
    plan=_plan,
    run=_run,
    smoke={"width": 32, "epochs": 12, "early": 3},
)
