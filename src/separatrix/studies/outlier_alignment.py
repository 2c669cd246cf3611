"""SGD aligns with outlier eigenspaces: softmax regression on a mixture of Gaussians in many dimensions.

One class has one row of weights. Its diagonal blocks of the Hessian and of the second moment of gradients are means of
p (1 - p) x x' and of (p - y)^2 x x' over fresh examples. Their k largest eigenvalues leave the bulk, and after a
number of single-pass steps in proportion to the dimension each row lies in the space of those k.
"""

from __future__ import annotations

import dataclasses
import itertools

import torch
from torch.nn import functional

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

_RATE = 1.0  # learning rate times dimension
_DECAY = 0.1
_CHECKS = (0.0, 1.0, 3.0, 9.0, 27.0)  # steps over dimension


@dataclasses.dataclass(frozen=True)
class _Mixture:
    """Orthonormal means (copies, k, d) and the standard deviation of every coordinate around them."""

    means: torch.Tensor
    spread: float

    def draw(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Examples (copies, count, d) and their classes (copies, count), all equally likely."""
        copies, classes, dimension = self.means.shape
        labels = torch.randint(classes, (copies, count), generator=generator)
        noise = torch.randn(copies, count, dimension, dtype=torch.float64, generator=generator)
        return self.means[torch.arange(copies)[:, None], labels] + self.spread * noise, labels


def _mixture(copies: int, classes: int, dimension: int, spread: float, generator: torch.Generator) -> _Mixture:
    directions = torch.randn(copies, dimension, classes, dtype=torch.float64, generator=generator)
    return _Mixture(torch.linalg.qr(directions)[0].mT, spread)


def _excess(weights: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Class probabilities (copies, n, k), and by how much they exceed the truth."""
    chances = torch.softmax(inputs @ weights.mT, 2)
    return chances, chances - functional.one_hot(labels, weights.shape[1])


def _train(
    mixture: _Mixture, weights: torch.Tensor, steps: int, generator: torch.Generator, shuffled: bool = False
) -> torch.Tensor:
    """Weights (copies, k, d) after a step from each of `steps` fresh examples, with weight decay."""
    copies, classes, dimension = weights.shape
    rate = _RATE / dimension
    for start in range(0, steps, 100):
        count = min(100, steps - start)
        inputs, labels = mixture.draw(count, generator)
        if shuffled:
            labels = torch.randint(classes, (copies, count), generator=generator)
        for step in range(count):
            row = inputs[:, step : step + 1]
            _, excess = _excess(weights, row, labels[:, step : step + 1])
            weights = weights - rate * (excess.mT * row + _DECAY * weights)
    return weights


@dataclasses.dataclass(frozen=True)
class _Spectra:
    """Eigenvalues (copies, k, d), descending, and eigenvectors in columns, of every class's block."""

    values: torch.Tensor
    vectors: torch.Tensor


def _spectra(factors: torch.Tensor, inputs: torch.Tensor) -> _Spectra:
    """Of the means of `factors` (copies, n, k) times x x', a matrix for every class."""
    blocks = [(inputs * factors[..., each, None]).mT @ inputs for each in range(factors.shape[2])]
    values, vectors = torch.linalg.eigh(torch.stack(blocks, 1) / inputs.shape[1])
    return _Spectra(values.flip(2), vectors.flip(3))


def _overlap(weights: torch.Tensor, spectra: _Spectra, first: int, last: int) -> torch.Tensor:
    """Share of each row's length, (copies, k), in the space of the eigenvectors from `first` to before `last`."""
    inside = (weights[:, :, None] @ spectra.vectors[..., first:last])[:, :, 0]
    share: torch.Tensor = inside.norm(dim=2) / weights.norm(dim=2)
    return share


def _measure(mixture: _Mixture, weights: torch.Tensor, count: int, generator: torch.Generator) -> list[_Spectra]:
    """Spectra of the Hessian and of the second moment of gradients, from fresh examples."""
    inputs, labels = mixture.draw(count, generator)
    chances, excess = _excess(weights, inputs, labels)
    return [_spectra(factors, inputs) for factors in (chances * (1 - chances), excess.square())]


def _gap(spectra: _Spectra, outliers: int) -> float:
    """Last outlier over the bulk's edge, smallest of all blocks."""
    return float((spectra.values[..., outliers - 1] / spectra.values[..., outliers]).min())


def _plan(settings: Settings, quick: bool) -> Plan:
    return Plan(runs=2, seconds=(5e-6 if quick else 3e-5) * settings["classes"] * settings["dimension"] ** 1.8)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    copies = 2 if quick else 8
    generator = torch.Generator().manual_seed(seed)
    classes, dimension = settings["classes"], settings["dimension"]
    count = round(settings["samples"] * dimension)
    spread = (settings["signal"] * classes**2) ** -0.5
    mixture = _mixture(copies, classes, dimension, spread, generator)
    start = torch.randn(copies, classes, dimension, dtype=torch.float64, generator=generator) / dimension**0.5

    weights, rising = start, []
    spectra = _measure(mixture, weights, count, generator)
    first = spectra
    rising.append(float(_overlap(weights, spectra[0], 0, classes).mean()))
    for before, after in itertools.pairwise(_CHECKS):
        weights = _train(mixture, weights, round((after - before) * dimension), generator)
        spectra = _measure(mixture, weights, count, generator)
        rising.append(float(_overlap(weights, spectra[0], 0, classes).mean()))
    progress()
    shuffled = _train(mixture, start, round(_CHECKS[-1] * dimension), generator, shuffled=True)
    astray = _measure(mixture, shuffled, count, generator)
    progress()

    def shares(rows: torch.Tensor, of: list[_Spectra], low: int, high: int) -> list[float]:
        return [float(_overlap(rows, each, low, high).min()) for each in of]

    return Outcome(
        measured={
            "rows_align": shares(weights, spectra, 0, classes),
            "alignment_rises": rising,
            "outliers_leave_the_bulk": [_gap(each, classes) for each in spectra],
        },
        controls={
            "untrained": shares(start, first, 0, classes),
            "next_eigenvectors": shares(weights, spectra, classes, 2 * classes),
            "shuffled_labels": shares(shuffled, astray, 0, classes),
            "one_more_than_the_classes": [_gap(each, classes + 1) for each in spectra],
        },
        series={"alignment": rising, "steps_over_dimension": _CHECKS},
    )


study = Study(
    id="404",
    slug="outlier-alignment",
    paper=Paper(
        title="High-dimensional SGD aligns with emerging outlier eigenspaces",
        authors=("Gérard Ben Arous", "Reza Gheissari", "Jiaoyang Huang", "Aukosh Jagannath"),
        year=2023,
        url="https://arxiv.org/abs/2310.03010",
    ),
    summary="Single-pass SGD turns each class's weights into the space of the Hessian's outliers, one for each class.",
    settings=(
        Setting("classes", "int", 3, "classes of the mixture, and outliers", 2, 8),
        Setting("dimension", "int", 200, "inputs", 100, 400),
        Setting(
            "signal", "float", 16.0, "distance of means over that of coordinates, squared, over classes^2", 8.0, 32.0
        ),
        Setting("samples", "float", 4.0, "fresh examples over dimension that the spectra are from", 3.0, 12.0),
    ),
    statements=(
        Statement(
            "rows_align",
            "at_least",
            0.85,
            "Share of a class's weights in the outlier space: of the Hessian and of the gradients, worst class.",
        ),
        Statement(
            "alignment_rises",
            "monotone",
            "increasing",
            "Share in the Hessian's outlier space after 0, 1, 3, 9, 27 steps per dimension, mean over classes.",
            tolerance=0.02,
        ),
        Statement(
            "outliers_leave_the_bulk",
            "at_least",
            1.3,
            "Last of as many eigenvalues as classes over the next: of the Hessian and of the gradients, worst class.",
        ),
    ),
    controls=(
        Control("untrained", "rows_align", "Weights before training."),
        Control("next_eigenvectors", "rows_align", "As many eigenvectors, those after the outliers."),
        Control("shuffled_labels", "rows_align", "Weights trained for as long on labels at random."),
        Control("one_more_than_the_classes", "outliers_leave_the_bulk", "An outlier more than there are classes."),
    ),
    plan=_plan,
    run=_run,
    smoke={"classes": 2, "dimension": 100},
)
