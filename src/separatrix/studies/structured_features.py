"""Learning curves of SGD from second moments: exact on normal features, close on real ones, and right about the batch.

Online SGD on half the mean squared error of a linear model, batches drawn independently; see
`separatrix.theory.sgd_structured_features`. Two kinds of features: normal ones with a power-law spectrum, and random
ReLU features of images (pixels scaled to a mean squared norm of 1, weights from N(0, 2 / features)) with one centred
indicator of each class as targets. The images are the population of a stream, and drawn from with replacement; for a
training set the first of them are kept and the others are the test.

Learning rates are shares of the one from which the theory of normal features lets the expected loss diverge. Real
features are bounded: near that rate, with batches of one or two, their loss lies below the theory of normal features
(by up to two thirds where it nearly diverges), so that the best batch at a fixed rate and compute can be half the
predicted one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

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
from separatrix.tasks import Digits, FashionMnist, ensemble
from separatrix.tasks.fashion_mnist import installed
from separatrix.theory.linear_students import half_squares, learnt, students
from separatrix.theory.sgd_structured_features import (
    critical_rate,
    expected_losses,
    losses_at_compute,
    measured_fourth,
    normal_fourth,
    second_moments,
)
from separatrix.theory.theory import Floats

_IMAGES = 1000
_COMPUTE = 1024
_BATCHES = tuple(2**power for power in range(8))
_COARSE = (1, 16, 128)
_SHARES = tuple(float(share) for share in np.geomspace(0.02, 0.9, 25))
_LARGEST_LOSS = 1e6

Draw = Callable[[torch.Generator, int, int], torch.Tensor]
"""From a generator, copies and batch to features and targets side by side, (copies, batch, features + outputs)."""


@dataclasses.dataclass(frozen=True)
class _Problem:
    """What a stream yields, and its second moments E[p p'] with features before outputs."""

    draw: Draw
    second: Floats
    features: int

    @property
    def outputs(self) -> int:
        return len(self.second) - self.features

    @property
    def modes(self) -> tuple[Floats, Floats, float]:
        """Variances along the axes of the features, squared weights of the targets there, and what none can learn."""
        inner, across = self.second[: self.features, : self.features], self.second[: self.features, self.features :]
        variances, axes = np.linalg.eigh(inner)
        pull = axes.T @ across
        learnt = variances > 1e-10 * variances[-1]
        weights = np.where(learnt[:, None], pull / np.where(learnt, variances, 1.0)[:, None], 0.0)
        remains = float(np.trace(self.second[self.features :, self.features :]) - (weights * pull).sum())
        return variances.clip(0.0), (weights**2).sum(1), max(remains, 0.0)


def _normal(features: int, exponent: float, target_exponent: float, noise: float) -> _Problem:
    order = torch.arange(1, features + 1, dtype=torch.float64)
    scale, power = order ** (-exponent / 2), order**-target_exponent
    weights = (power / power.sum()).sqrt() / scale
    second = torch.zeros(features + 1, features + 1, dtype=torch.float64)
    second[:features, :features] = scale.square().diag()
    second[:features, features] = second[features, :features] = scale.square() * weights
    second[features, features] = 1.0 + noise**2

    def draw(generator: torch.Generator, copies: int, batch: int) -> torch.Tensor:
        drawn = torch.randn(copies, batch, features + 1, dtype=torch.float64, generator=generator)
        inputs = drawn[..., :-1] * scale
        return torch.cat((inputs, (inputs @ weights + noise * drawn[..., -1])[..., None]), -1)

    return _Problem(draw, second.numpy(), features)


def _real(images: str, features: int, generator: torch.Generator) -> torch.Tensor:
    """Random ReLU features of images and centred indicators of their classes, (images, features + 10)."""
    fashion = images == "fashion_mnist" and installed()
    batch, _ = (FashionMnist(limit=_IMAGES) if fashion else Digits()).load()
    pixels = batch.inputs[:_IMAGES].flatten(1).double()
    pixels = pixels / pixels.square().sum(1).mean().sqrt()
    weights = torch.randn(pixels.shape[1], features, dtype=torch.float64, generator=generator)
    classes = torch.nn.functional.one_hot(batch.targets[:_IMAGES], 10).double()
    return torch.cat((torch.relu(pixels @ weights) * math.sqrt(2.0 / features), classes - classes.mean(0)), 1)


def _moments(examples: torch.Tensor) -> Floats:
    return (examples.T @ examples / len(examples)).numpy()


def _sampled(examples: torch.Tensor, features: int) -> _Problem:
    def draw(generator: torch.Generator, copies: int, batch: int) -> torch.Tensor:
        return examples[torch.randint(0, len(examples), (copies, batch), generator=generator)]

    return _Problem(draw, _moments(examples), features)


def _train(
    problem: _Problem,
    rate: float,
    batch: int,
    steps: Sequence[int],
    copies: int,
    generator: torch.Generator,
    tests: Sequence[Floats],
) -> torch.Tensor:
    """Half the squared errors under each of the second moments `tests`, (steps, tests, copies), of SGD from 0."""
    target = -torch.eye(problem.outputs, dtype=torch.float64).expand(copies, -1, -1)
    kept = torch.from_numpy(np.stack(tests))

    def losses(now: ensemble.Ensemble) -> torch.Tensor:
        state = torch.cat((learnt(now), target), 1)[:, None]
        return ((kept @ state) * state).sum((2, 3)) / 2.0

    def drawn(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = problem.draw(generator, copies, batch)
        return rows[..., : problem.features], rows[..., problem.features :]

    training = ensemble.train(
        students(torch.zeros(copies, problem.features, problem.outputs, dtype=torch.float64)),
        half_squares,
        ensemble.SGD(rate),
        drawn,
        max(steps),
        measure={"losses": losses},
        every=steps,
    )
    return training.measured["losses"].values.mT


def _moment_losses(
    problem: _Problem,
    examples: torch.Tensor | None,
    rate: float,
    batch: float,
    steps: Sequence[int],
    tests: Sequence[Floats],
) -> Floats:
    """Expected losses (steps, tests) by the recursion, with the fourth moments of `examples` or those of a normal."""
    fourth = normal_fourth(problem.second) if examples is None else measured_fourth(examples.numpy())
    start = np.zeros((problem.features, problem.outputs))
    found = second_moments(problem.second, fourth, rate, batch, start, steps)
    return np.array([[float((test * moment).sum()) / 2.0 for test in tests] for moment in found])


def _errors_away(losses: torch.Tensor, expected: Floats) -> float:
    """Largest distance of means over copies (steps, copies) from what is expected after step 0, in standard errors."""
    error = losses.std(1) / math.sqrt(losses.shape[1])
    return float(((losses.mean(1) - torch.from_numpy(expected)).abs() / error)[1:].max())


def _explained(losses: torch.Tensor, expected: Floats) -> float:
    """R^2 of the expected curve (steps,) for the mean over copies of the measured ones, (steps, copies)."""
    measured = losses.mean(1).numpy()
    return float(1.0 - ((measured - expected) ** 2).sum() / ((measured - measured.mean()) ** 2).sum())


def _logarithmic(last: int) -> list[int]:
    return sorted({0, *(round(last ** (k / 24)) for k in range(25))})


@dataclasses.dataclass(frozen=True)
class _Batches:
    """Losses after equal compute by batch: expected and measured at one rate; measured each at its best rate.

    `one_rate` is measured at the best rate of the largest batch.
    """

    expected: Floats
    measured: list[float]
    best_rates: list[float]
    one_rate: list[float]

    @property
    def regret(self) -> float:
        """Loss at the batch expected to be best over the least one."""
        return self.measured[int(self.expected.argmin())] / min(self.measured)

    @property
    def doublings(self) -> float:
        """By how many powers of two the batch expected to be best exceeds the best one."""
        return float(int(self.expected.argmin()) - int(np.argmin(self.measured)))


def _compare_batches(problem: _Problem, rate: float, copies: int, generator: torch.Generator) -> _Batches:
    variances, errors, remains = problem.modes

    def measured(batch: int, rate: float) -> float:
        losses = _train(problem, rate, batch, [_COMPUTE // batch], copies, generator, [problem.second])
        return float(losses.mean().nan_to_num(nan=_LARGEST_LOSS).clamp(max=_LARGEST_LOSS))

    def best(batch: int) -> float:
        limit, steps = critical_rate(variances, batch), [_COMPUTE // batch]
        rates = [share * limit for share in _SHARES]
        return min(rates, key=lambda each: expected_losses(variances, errors, each, batch, remains, steps)[0])

    rates = [best(batch) for batch in _COARSE]
    return _Batches(
        losses_at_compute(variances, errors, rate, remains, _COMPUTE, _BATCHES),
        [measured(batch, rate) for batch in _BATCHES],
        [measured(batch, each) for batch, each in zip(_COARSE, rates, strict=True)],
        [measured(batch, rates[-1]) for batch in _COARSE],
    )


def _plan(settings: Settings, quick: bool) -> Plan:
    work = settings["features"] * (settings["features"] + settings["batch"]) / 4096
    return Plan(runs=4, seconds=(1.0 + 3.0 * work) * (1 if quick else 5))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    copies, steps = (64, _logarithmic(200)) if quick else (256, _logarithmic(400))
    features, batch, share = settings["features"], settings["batch"], settings["rate"]

    normal = _normal(features, settings["spectrum_exponent"], settings["target_exponent"], settings["noise"])
    variances, errors, remains = normal.modes
    rate = share * critical_rate(variances, batch)
    stream = _train(normal, rate, batch, steps, 4 * copies, generator, [normal.second])[:, 0]
    recursion, descent = (expected_losses(variances, errors, rate, m, remains, steps) for m in (batch, 10**9))
    progress()

    examples = _real(settings["images"], features, generator)
    real = _sampled(examples, features)
    variances, errors, remains = real.modes
    rate = share * critical_rate(variances, batch)
    measured = _train(real, rate, batch, steps, 4 * copies, generator, [real.second])[:, 0]
    exact = _moment_losses(real, examples, rate, batch, steps, [real.second])[:, 0]
    gaussian, without = (expected_losses(variances, errors, rate, m, remains, steps) for m in (batch, 10**9))
    power = (errors * variances)[::-1] / np.where(variances > 1e-10 * variances[-1], variances, np.inf)
    reversed_target = expected_losses(variances, power, rate, batch, remains, steps)
    progress()

    count = round(settings["examples_per_feature"] * features)
    kept = _sampled(examples[:count], features)
    tests = [kept.second, _moments(examples[count:])]
    rate = share * critical_rate(kept.modes[0], batch)
    on_set = _train(kept, rate, batch, steps, copies, generator, tests)
    expected = _moment_losses(kept, None, rate, batch, steps, tests)
    endless = expected_losses(variances, errors, rate, batch, remains, steps)
    progress()

    batches = _compare_batches(real, share * critical_rate(variances, batch), copies, generator)
    progress()
    return Outcome(
        measured={
            "recursion_is_exact": _errors_away(stream, recursion),
            "fourth_moments_are_exact": _errors_away(measured, exact),
            "normal_theory_fits_real_features": _explained(measured, gaussian),
            "normal_theory_fits_a_training_set": [_explained(on_set[:, k], expected[:, k]) for k in range(2)],
            "best_batch_is_predicted": batches.regret,
            "best_batch_within_a_doubling": batches.doublings,
            "small_batches_win_at_their_own_rates": batches.best_rates,
        },
        controls={
            "without_noise_of_batches": _errors_away(stream, descent),
            "real_features_without_noise_of_batches": _errors_away(measured, without),
            "reversed_target": _explained(measured, reversed_target),
            "endless_data": [_explained(on_set[:, k], endless) for k in range(2)],
            "largest_batch": batches.measured[-1] / min(batches.measured),
            "largest_batch_in_doublings": float(len(_BATCHES) - 1 - int(np.argmin(batches.measured))),
            "one_rate_for_all": batches.one_rate,
        },
        series={
            "step": [float(step) for step in steps],
            "eval_loss": measured.mean(1).tolist(),
            "eval_loss_normal_theory": gaussian.tolist(),
            "batch": [float(each) for each in _BATCHES],
            "loss_at_compute": batches.measured,
            "loss_at_compute_normal_theory": batches.expected.clip(max=_LARGEST_LOSS).tolist(),
        },
    )


study = Study(
    id="536",
    slug="structured-features",
    paper=Paper(
        title="Learning Curves for SGD on Structured Features",
        authors=("Blake Bordelon", "Cengiz Pehlevan"),
        year=2021,
        url="https://arxiv.org/abs/2106.02713",
    ),
    summary="Second moments of the features predict the test loss of SGD, on real images too, and so the best batch.",
    settings=(
        Setting(
            "images",
            "str",
            "digits",
            "that random features are taken of; digits also where Fashion-MNIST is not installed",
            choices=("digits", "fashion_mnist"),
        ),
        Setting("features", "int", 48, "features, normal and random ReLU ones", 24, 96),
        Setting("batch", "int", 8, "examples of a batch", 2, 32),
        Setting("rate", "float", 0.2, "learning rate over the one from which the loss diverges", 0.08, 0.32),
        Setting("spectrum_exponent", "float", 1.2, "variances of normal features fall like k^-exponent", 0.4, 2.0),
        Setting("target_exponent", "float", 1.6, "their target's variance falls likewise", 0.6, 2.4),
        Setting("noise", "float", 0.3, "standard deviation of their noise, over that of the signal", 0.0, 1.0),
        Setting("examples_per_feature", "float", 1.0, "examples of the training set over features", 0.5, 2.0),
    ),
    statements=(
        Statement(
            "recursion_is_exact",
            "at_most",
            5.0,
            "On normal features, largest distance of the mean test loss from the recursion, in standard errors.",
        ),
        Statement(
            "fourth_moments_are_exact",
            "at_most",
            5.0,
            "On random ReLU features of images likewise, from the recursion with measured fourth moments.",
        ),
        Statement(
            "normal_theory_fits_real_features",
            "at_least",
            0.95,
            "R^2 of the test loss by the theory of normal features, on random ReLU features of images.",
        ),
        Statement(
            "normal_theory_fits_a_training_set",
            "at_least",
            0.95,
            "The same on a fixed training set, of the training and the test loss.",
        ),
        Statement(
            "best_batch_is_predicted",
            "at_most",
            1.1,
            "At one rate and 1024 examples of compute, loss with the batch predicted to be best over the least loss.",
        ),
        Statement(
            "best_batch_within_a_doubling",
            "interval",
            (-1.0, 1.0),
            "Powers of two by which the predicted best batch exceeds the best one.",
        ),
        Statement(
            "small_batches_win_at_their_own_rates",
            "monotone",
            "increasing",
            "Loss at that compute with batches of 1, 16 and 128, each at the rate predicted to be best for it.",
        ),
    ),
    controls=(
        Control("without_noise_of_batches", "recursion_is_exact", "Gradient descent on the population."),
        Control("real_features_without_noise_of_batches", "fourth_moments_are_exact", "The same."),
        Control(
            "reversed_target", "normal_theory_fits_real_features", "The target's power in reversed order of modes."
        ),
        Control("endless_data", "normal_theory_fits_a_training_set", "The theory of a stream of fresh examples."),
        Control("largest_batch", "best_batch_is_predicted", "The loss with batches of 128."),
        Control("largest_batch_in_doublings", "best_batch_within_a_doubling", "Batches of 128."),
        Control("one_rate_for_all", "small_batches_win_at_their_own_rates", "All at the best rate of batches of 128."),
    ),
    plan=_plan,
    run=_run,
    smoke={"features": 24, "batch": 4},
)
