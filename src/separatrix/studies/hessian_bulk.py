"""Hessian of a trained net: a bulk near zero that the parameters fill, and outliers that the data alone count.

A tanh hidden layer fits tight clusters, one or two to a class, by squared loss. Where the loss is small the Hessian is
the second moment of the output gradients; within a cluster these hardly differ, so that clusters times outputs of its
eigenvalues stand out, those of the Gram matrix of the clusters' mean gradients. Two such minima lie in one valley: a
bend joins what small batches and the full batch reach from two starts. (Outliers as many as the classes, under
cross-entropy, are no claim here: in nets this small the largest gap was at 1 to 6 of 4 classes. With 16
clusters and 12 units the outliers here, too, ran into the bulk.)
"""

from __future__ import annotations

import dataclasses

import torch
from torch.func import grad, hessian, jacrev
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

_DIMENSION = 20
_PER_CLUSTER = 12
_DISTANCE = 1.5
_FITTED = 5e-4
_POINTS = 21


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Inputs (n, d), one-hot targets (n, classes), and the cluster of each example (n,)."""

    inputs: torch.Tensor
    targets: torch.Tensor
    clusters: torch.Tensor


def _problem(classes: int, clusters: int, spread: float, distance: float, generator: torch.Generator) -> _Problem:
    """Clusters at `distance` from 0 in orthogonal directions, dealt to the classes in turn."""
    drawn = torch.randn(_DIMENSION, clusters, dtype=torch.float64, generator=generator)
    means = distance * torch.linalg.qr(drawn)[0].mT
    members = torch.arange(clusters).repeat(_PER_CLUSTER)
    noise = torch.randn(len(members), _DIMENSION, dtype=torch.float64, generator=generator)
    targets = functional.one_hot(members % classes, classes).double()
    return _Problem(means[members] + spread * noise / _DIMENSION**0.5, targets, members)


def _initial(width: int, classes: int, generator: torch.Generator) -> torch.Tensor:
    hidden = torch.randn(width * _DIMENSION, dtype=torch.float64, generator=generator) / _DIMENSION**0.5
    output = torch.randn(width * classes, dtype=torch.float64, generator=generator) / width**0.5
    return torch.cat((hidden, torch.zeros(width, dtype=torch.float64), output))


def _outputs(weights: torch.Tensor, problem: _Problem) -> torch.Tensor:
    classes = problem.targets.shape[1]
    width = len(weights) // (_DIMENSION + 1 + classes)
    first, bias, second = torch.split(weights, [width * _DIMENSION, width, width * classes])
    return torch.tanh(problem.inputs @ first.view(_DIMENSION, width) + bias) @ second.view(width, classes)


def _loss(weights: torch.Tensor, problem: _Problem) -> torch.Tensor:
    return (_outputs(weights, problem) - problem.targets).square().sum(1).mean() / 2


def _jacobian(weights: torch.Tensor, problem: _Problem) -> torch.Tensor:
    """Gradients of every output at every example, (n, classes, parameters)."""
    found: torch.Tensor = jacrev(_outputs)(weights, problem)
    return found


def _gram_values(rows: torch.Tensor, count: int) -> torch.Tensor:
    """Largest eigenvalues of the sum of outer products of rows, over `count`, descending."""
    values: torch.Tensor = torch.linalg.eigvalsh(rows @ rows.mT / count)
    return values.flip(0)


def _train(
    weights: torch.Tensor, problem: _Problem, steps: int, batch: int = 0, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Descend with momentum until the loss is below `_FITTED`; with a generator from batches, a fifth as fast."""
    velocity, used, rate = torch.zeros_like(weights), problem, torch.zeros(())
    for step in range(steps):
        if step % 20 == 0 and _loss(weights, problem) < _FITTED:
            break
        if step % 200 == 0:
            rate = 0.5 / _gram_values(_jacobian(weights, problem).flatten(0, 1), len(problem.inputs))[0]
        if generator is not None:
            chosen = torch.randint(len(problem.inputs), (batch,), generator=generator)
            used = _Problem(problem.inputs[chosen], problem.targets[chosen], problem.clusters[chosen])
        velocity = 0.9 * velocity + grad(_loss)(weights, used) * (1.0 if generator is None else 0.2)
        weights = weights - rate * velocity
    return weights


@dataclasses.dataclass(frozen=True)
class _Spectrum:
    """Eigenvalues of the Hessian, descending; how many precede the largest ratio of neighbours; and predictions.

    Relative errors, largest of the expected outliers: of the Gauss-Newton matrix, of the clusters' mean gradients.
    """

    values: torch.Tensor
    outliers: int
    expected: int
    gauss_newton: float
    clusters: float


def _spectrum(weights: torch.Tensor, problem: _Problem) -> _Spectrum:
    values = torch.linalg.eigvalsh(hessian(_loss)(weights, problem)).flip(0)
    clusters = int(problem.clusters.max()) + 1
    expected = clusters * problem.targets.shape[1]
    window = values[: 2 * expected].clamp(min=1e-9)
    jacobian = _jacobian(weights, problem)
    means = torch.stack([jacobian[problem.clusters == each].mean(0) for each in range(clusters)])
    errors = [
        float((predicted[:expected] / values[:expected] - 1).abs().max())
        for predicted in (
            _gram_values(jacobian.flatten(0, 1), len(jacobian)),
            _gram_values(means.flatten(0, 1), clusters),
        )
    ]
    return _Spectrum(values, int((window[:-1] / window[1:]).argmax()) + 1, expected, *errors)


def _on_bend(first: torch.Tensor, middle: torch.Tensor, last: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """The quadratic Bezier curve; straight where `middle` is the mean of its ends."""
    return (1 - at) ** 2 * first + 2 * at * (1 - at) * middle + at**2 * last


def _barrier(first: torch.Tensor, middle: torch.Tensor, last: torch.Tensor, problem: _Problem) -> float:
    places = torch.linspace(0, 1, _POINTS, dtype=torch.float64)
    return max(float(_loss(_on_bend(first, middle, last, at), problem)) for at in places)


def _bent(first: torch.Tensor, last: torch.Tensor, problem: _Problem, steps: int) -> torch.Tensor:
    """Middle of the bend of least mean loss, by Adam from the straight line."""
    middle = ((first + last) / 2).requires_grad_()
    optimizer = torch.optim.Adam([middle], lr=0.03)
    places = torch.linspace(0, 1, 11, dtype=torch.float64)[1:-1]
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack([_loss(_on_bend(first, middle, last, at), problem) for at in places]).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return middle.detach()


def _plan(settings: Settings, quick: bool) -> Plan:
    return Plan(runs=5 * (1 if quick else 4), seconds=1.0 + settings["classes"] * settings["width"] / 50)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    classes, width, spread = settings["classes"], settings["width"], settings["spread"]
    steps = 4000
    measured: dict[str, list[float]] = {}
    controls: dict[str, list[float]] = {}

    def note(into: dict[str, list[float]], name: str, *values: float) -> None:
        into.setdefault(name, []).extend(values)

    values = torch.zeros(0)
    for _ in range(1 if quick else 4):
        base = _problem(classes, classes, spread, _DISTANCE, generator)
        more = _problem(classes, 2 * classes, spread, _DISTANCE, generator)
        spectra, ends = [], []
        for units, problem in ((width, base), (2 * width, base), (width, more)):
            start = _initial(units, classes, generator)
            ends.append(_train(start, problem, steps))
            spectra.append(_spectrum(ends[-1], problem))
            progress()
        values = spectra[0].values
        opposed = _spectrum(ends[0], dataclasses.replace(base, targets=-base.targets))
        cloud = _problem(classes, classes, 1.0, 0.0, generator)
        loose = _spectrum(_train(_initial(width, classes, generator), cloud, steps // 4), cloud)
        progress()
        note(measured, "outliers_are_clusters_times_outputs", *(each.outliers / each.expected for each in spectra))
        note(
            measured,
            "the_rest_is_bulk",
            *(float(each.values[each.expected :].abs().max() / each.values[each.expected - 1]) for each in spectra),
        )
        note(measured, "gauss_newton_has_the_outliers", *(each.gauss_newton for each in spectra))
        note(measured, "cluster_means_have_the_outliers", *(each.clusters for each in spectra))
        note(controls, "outliers_in_proportion_to_width", spectra[1].outliers / (2 * spectra[0].expected))
        note(controls, "no_clusters", loose.outliers / loose.expected)
        note(controls, "opposed_targets", opposed.gauss_newton)

        first, last = ends[0], _train(_initial(width, classes, generator), base, 2 * steps, 8, generator)
        straight = _barrier(first, (first + last) / 2, last, base)
        bend = _barrier(first, _bent(first, last, base, 400), last, base)
        note(measured, "a_bend_joins_small_and_large_batches", bend)
        note(controls, "the_straight_line", straight)
        progress()
    return Outcome(measured=measured, controls=controls, series={"eigenvalues": values.tolist()})


study = Study(
    id="23",
    slug="hessian-bulk",
    paper=Paper(
        title="Empirical Analysis of the Hessian of Over-Parametrized Neural Networks",
        authors=("Levent Sagun", "Utku Evci", "V. Ugur Guney", "Yann Dauphin", "Leon Bottou"),
        year=2017,
        url="https://arxiv.org/abs/1706.04454",
    ),
    summary="Outliers of the Hessian are counted by the data's clusters, not by the parameters; the rest is flat.",
    settings=(
        Setting("classes", "int", 2, "classes", 2, 4, reason="outliers, and the parameters they need, grow as squares"),
        Setting("width", "int", 24, "hidden units; twice as many where parameters are varied", 16, 64),
        Setting("spread", "float", 0.1, "root mean square distance of examples from their cluster", 0.03, 0.12),
    ),
    statements=(
        Statement(
            "outliers_are_clusters_times_outputs",
            "equal",
            1.0,
            "Eigenvalues before the largest gap over clusters x outputs: plain, twice the width, twice the clusters.",
        ),
        Statement(
            "the_rest_is_bulk",
            "at_most",
            0.25,
            "Largest magnitude of all other eigenvalues over the least outlier, for the same three.",
        ),
        Statement(
            "gauss_newton_has_the_outliers",
            "at_most",
            0.03,
            "Relative error of the Gauss-Newton matrix in the outliers, largest, for the same three.",
        ),
        Statement(
            "cluster_means_have_the_outliers",
            "at_most",
            0.03,
            "Relative error of the clusters' mean output gradients in the outliers, largest, for the same three.",
        ),
        Statement(
            "a_bend_joins_small_and_large_batches",
            "at_most",
            0.01,
            "Largest loss on a bend from a minimum of the full batch to one of batches of 8, from another start.",
        ),
    ),
    controls=(
        Control(
            "outliers_in_proportion_to_width",
            "outliers_are_clusters_times_outputs",
            "The count expected of twice the width, did outliers grow with the parameters.",
        ),
        Control("no_clusters", "outliers_are_clusters_times_outputs", "One cloud of examples, classes at random."),
        Control(
            "opposed_targets",
            "gauss_newton_has_the_outliers",
            "The same weights beside targets of the other sign, at a large loss.",
        ),
        Control("the_straight_line", "a_bend_joins_small_and_large_batches", "The straight line between the two."),
    ),
    plan=_plan,
    run=_run,
    smoke={"width": 16},
)
