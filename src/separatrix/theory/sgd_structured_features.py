"""SGD on a linear model of structured features: the expected test loss from the covariance of the features alone.

A linear model w of features x has outputs w.x and is trained on y = v.x + noise by steps of size s along minus the
gradient of half the mean squared error over a batch of m examples drawn anew (from the population, or with replacement
from a training set). With e = w - v, S = E[x x'] and C = E[e e'], the average of the step over the batch gives

    C <- C - s (S C + C S) + s^2 (1 - 1/m) S C S + (s^2 / m) (E[x x' C x x'] + noise^2 S),

exactly, as x is independent of w. Normal features (Wick) have E[x x' C x x'] = 2 S C S + S tr(S C): equation (5) of the
paper, with the noise. Features that are independent with kurtosis k along the axes of S add (k - 3) l_i^2 C_ii on the
diagonal. The diagonal c of C in that basis then closes, c <- A c + (s^2 noise^2 / m) l with a symmetric

    A = diag((1 - s l)^2 + (k - 2) s^2 l^2 / m) + (s^2 / m) l l',

which is solved in its eigenvectors. A has all eigenvalues below 1 if and only if
S(s) = (s / m) sum_i l_i / (2 - s l_i (1 + (k - 2) / m)) < 1 (and no denominator is negative); the loss then tends to
noise^2 / 2 / (1 - S(s)).

Arbitrary features and targets that correlate in any way (a fixed training set, real data): with p = (x, y) and
U = (W; -I) the error on an example is U'p, and M = E[U U'] obeys the same recursion with H = E[p p'] for S and no noise
of its own, the rows of W alone moving. Its fourth moments E[p p' M p p'] are measured over the examples; the theory of
normal features takes 2 H M H + H tr(H M).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from separatrix.runs import SeriesSpec
from separatrix.tasks import ensemble
from separatrix.theory._averages import averaged
from separatrix.theory.linear_students import half_squares, learnt, students
from separatrix.theory.theory import (
    Band,
    Curves,
    Floats,
    Law,
    Paper,
    Prediction,
    Setting,
    Settings,
    Simulation,
    Theory,
)

KURTOSIS = {"normal": 3.0, "signs": 1.0, "laplace": 6.0}
_STEPS = 256
_NUMBERS = 12_000_000  # drawn by one simulation, about
_COPIES = (64, 1024)
_EXACT = "the recursion is exact; what is left are long tails that standard errors miss"

Fourth = Callable[[Floats], Floats]
"""From M, (k, k), to E[p p' M p p'], (k, k)."""


def noise_factor(spectrum: Floats, rate: float, batch: float, kurtosis: float = 3.0) -> float:
    """S(rate): below 1 SGD converges in mean square, and its last loss is that of the target over 1 - S."""
    left = 2.0 - rate * spectrum * (1.0 + (kurtosis - 2.0) / batch)
    return math.inf if left.min() <= 0.0 else float((spectrum / left).sum() * rate / batch)


def critical_rate(spectrum: Floats, batch: float, kurtosis: float = 3.0) -> float:
    """The learning rate from which on the expected loss diverges, for features with these variances (modes,)."""
    low, high = 0.0, 2.0 * batch / float(spectrum.sum())
    for _ in range(100):
        middle = (low + high) / 2.0
        low, high = (middle, high) if noise_factor(spectrum, middle, batch, kurtosis) < 1.0 else (low, middle)
    return low


def mode_errors(
    spectrum: Floats,
    errors: Floats,
    rate: float,
    batch: float,
    noise_variance: float,
    steps: Sequence[int],
    kurtosis: float = 3.0,
) -> Floats:
    """Expected squared distance of every weight from its target, (steps, modes), on independent features.

    `spectrum` and `errors` are the variances of the features and the squared distances at the start, both (modes,).
    Outputs share the dynamics: for several of them pass sums of their `errors` and `noise_variance`.
    """
    own = (1.0 - rate * spectrum) ** 2 + (kurtosis - 2.0) * (rate * spectrum) ** 2 / batch
    values, vectors = np.linalg.eigh(np.diag(own) + rate**2 / batch * np.outer(spectrum, spectrum))
    powers = values ** np.asarray(steps, dtype=np.float64)[:, None]
    still = np.abs(1.0 - values) < 1e-15
    sums = np.where(still, np.asarray(steps)[:, None], (1.0 - powers) / np.where(still, 1.0, 1.0 - values))
    source = rate**2 * noise_variance / batch * spectrum
    return np.asarray((powers * (errors @ vectors) + sums * (source @ vectors)) @ vectors.T)


def expected_losses(
    spectrum: Floats,
    errors: Floats,
    rate: float,
    batch: float,
    noise_variance: float,
    steps: Sequence[int],
    kurtosis: float = 3.0,
) -> Floats:
    """Half the expected squared error on a fresh example, (steps,); arguments as for `mode_errors`."""
    found = mode_errors(spectrum, errors, rate, batch, noise_variance, steps, kurtosis)
    return np.asarray((found @ spectrum + noise_variance) / 2.0)


def losses_at_compute(
    spectrum: Floats, errors: Floats, rate: float, noise_variance: float, compute: int, batches: Sequence[int]
) -> Floats:
    """Expected losses after `compute` examples in all, for each size of the batch, (batches,), on normal features.

    Infinite where the expected loss diverges.
    """
    losses = [
        float(expected_losses(spectrum, errors, rate, batch, noise_variance, [compute // batch])[0])
        if noise_factor(spectrum, rate, batch) < 1.0
        else math.inf
        for batch in batches
    ]
    return np.array(losses)


def normal_fourth(second: Floats) -> Fourth:
    """Fourth moments of normal vectors with these second moments (k, k)."""

    def fourth(moment: Floats) -> Floats:
        product = second @ moment
        return np.asarray(2.0 * product @ second + second * np.trace(product))

    return fourth


def measured_fourth(examples: Floats) -> Fourth:
    """Fourth moments over examples (n, k)."""

    def fourth(moment: Floats) -> Floats:
        weights = np.einsum("ni,ni->n", examples @ moment, examples) / len(examples)
        return np.asarray((examples.T * weights) @ examples)

    return fourth


def second_moments(
    second: Floats, fourth: Fourth, rate: float, batch: float, start: Floats, steps: Sequence[int]
) -> Iterator[Floats]:
    """M = E[U U'] after each of `steps`, which ascend: (features + outputs, features + outputs).

    `second` is E[p p'] over what SGD draws from; `start` the (features, outputs) weights at the start.
    """
    features, outputs = start.shape
    state = np.concatenate((start, -np.eye(outputs)))
    moves = (np.arange(features + outputs) < features).astype(np.float64)
    mean_step = np.eye(features + outputs) - rate * moves[:, None] * second
    moment, done = state @ state.T, 0
    for step in steps:
        for _ in range(step - done):
            spread = (fourth(moment) - second @ moment @ second) * (rate**2 / batch)
            moment = mean_step @ moment @ mean_step.T + moves[:, None] * spread * moves
        done = step
        yield moment


@dataclasses.dataclass(frozen=True)
class Problem:
    """Features with variances `spectrum` (modes,), of a law named in KURTOSIS, and the target's `weights` (modes,).

    `examples` (n, modes + 1) are features and targets of a training set; with none, every batch is fresh.
    """

    spectrum: Floats
    weights: Floats
    law: str
    noise: float
    rate: float
    batch: int
    examples: Floats | None


def _drawn(law: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Independent numbers of mean 0 and variance 1."""
    if law == "normal":
        return torch.randn(shape, dtype=torch.float64, generator=generator)
    signs = torch.randint(0, 2, shape, generator=generator).double().mul_(2.0).sub_(1.0)
    if law == "signs":
        return signs
    return signs * torch.empty(shape, dtype=torch.float64).exponential_(math.sqrt(2.0), generator=generator)


def _problem(settings: Settings, seed: int) -> Problem:
    modes = settings["features"]
    order = np.arange(1, modes + 1, dtype=np.float64)
    spectrum = order ** -settings["spectrum_exponent"]
    power = order ** -settings["target_exponent"]
    generator = torch.Generator().manual_seed(seed)
    signs = _drawn("signs", (modes,), generator).numpy()
    weights = signs * np.sqrt(power / power.sum() / spectrum)
    law, examples, kurtosis = settings["law"], None, KURTOSIS[settings["law"]]
    variances = spectrum
    if settings["data"] == "set":
        count = max(2, round(settings["examples_per_feature"] * modes))
        inputs = _drawn(law, (count, modes), generator).numpy() * np.sqrt(spectrum)
        noise = settings["noise"] * _drawn("normal", (count,), generator).numpy()
        examples = np.column_stack((inputs, inputs @ weights + noise))
        variances = np.linalg.eigvalsh(inputs.T @ inputs / count).clip(0.0)
        kurtosis = 3.0
    rate = settings["rate"] * critical_rate(variances, settings["batch"], kurtosis)
    return Problem(spectrum, weights, law, settings["noise"], rate, settings["batch"], examples)


def _steps(problem: Problem) -> list[int]:
    return sorted({0, *(round(_STEPS ** (k / 40)) for k in range(41))})


def _predict(problem: Problem, steps: Sequence[int]) -> Curves:
    spectrum, variance = problem.spectrum, problem.noise**2
    if problem.examples is None:
        errors = mode_errors(
            spectrum, problem.weights**2, problem.rate, problem.batch, variance, steps, KURTOSIS[problem.law]
        )
        fresh = (errors @ spectrum + variance) / 2.0
        return {"loss": fresh, "eval_loss": fresh, "mode_error": errors}
    second = problem.examples.T @ problem.examples / len(problem.examples)
    away = np.column_stack((np.eye(len(spectrum)), problem.weights))
    start = np.zeros((len(spectrum), 1))
    losses, found = [], []
    for moment in second_moments(second, measured_fourth(problem.examples), problem.rate, problem.batch, start, steps):
        losses.append(float((second * moment).sum()) / 2.0)
        found.append(np.einsum("ik,kl,il->i", away, moment, away))
    errors = np.array(found)
    return {"loss": np.array(losses), "eval_loss": (errors @ spectrum + variance) / 2.0, "mode_error": errors}


def _simulate(problem: Problem, steps: Sequence[int], seed: int) -> Simulation:
    """SGD from weights 0, many copies at once, each on batches of its own."""
    modes, batch = len(problem.spectrum), problem.batch
    copies = min(max(_NUMBERS // (modes * batch * max(max(steps), 1)), _COPIES[0]), _COPIES[1])
    generator = torch.Generator().manual_seed(seed + 1)
    scale, target = torch.from_numpy(np.sqrt(problem.spectrum)), torch.from_numpy(problem.weights)
    kept = None if problem.examples is None else torch.from_numpy(problem.examples)

    def drawn() -> tuple[torch.Tensor, torch.Tensor]:
        """Features (copies, batch, modes) and targets (copies, batch, 1)."""
        if kept is not None:
            rows = kept[torch.randint(0, len(kept), (copies, batch), generator=generator)]
            return rows[..., :-1], rows[..., -1:]
        inputs = _drawn(problem.law, (copies, batch, modes), generator) * scale
        noise = torch.randn(copies, batch, dtype=torch.float64, generator=generator)
        return inputs, (inputs @ target + problem.noise * noise)[..., None]

    training = ensemble.train(
        students(torch.zeros(copies, modes, 1, dtype=torch.float64)),
        half_squares,
        ensemble.SGD(problem.rate),
        lambda step: drawn(),
        max(steps) + 1,
        measure={"weights": learnt},
        every=steps,
    )
    errors = (training.measured["weights"].values[..., 0] - target).square()
    test = (errors @ scale.square() + problem.noise**2) / 2.0
    return averaged({"loss": training.loss[list(steps)], "eval_loss": test, "mode_error": errors})


def _start(problem: Problem, seen: Prediction) -> float:
    expected = (float(problem.spectrum @ problem.weights**2) + problem.noise**2) / 2.0
    return abs(float(seen["eval_loss"][0]) / expected - 1.0)


def _first_loss(problem: Problem, seen: Prediction) -> float:
    targets = None if problem.examples is None else problem.examples[:, -1]
    expected = seen["eval_loss"] if targets is None else np.mean(targets**2) / 2.0
    return float(np.abs(seen["loss"] - expected)[: None if targets is None else 1].max()) / float(seen["loss"][0])


def _modes_add_up(problem: Problem, seen: Prediction) -> float:
    total = (seen["mode_error"] @ problem.spectrum + problem.noise**2) / 2.0
    return float(np.abs(total / seen["eval_loss"] - 1.0).max())


def _large_batches(problem: Problem, seen: Prediction) -> float:
    """Distance from gradient descent, for batches of 10^12."""
    found = _predict(dataclasses.replace(problem, batch=10**12), seen.steps.tolist())["mode_error"]
    rows = np.diag(np.sqrt(problem.spectrum)) if problem.examples is None else problem.examples[:, :-1]
    targets = rows @ problem.weights if problem.examples is None else problem.examples[:, -1]
    count = 1 if problem.examples is None else len(rows)
    values, vectors = np.linalg.eigh(rows.T @ rows / count)
    safe = np.where(values > 1e-12, values, 1.0)
    decayed = (1.0 - problem.rate * values) ** seen.steps[:, None].astype(np.float64)
    pull = (rows.T @ targets / count) @ vectors
    weights = np.where(values > 1e-12, (1.0 - decayed) / safe, 0.0) * pull @ vectors.T
    expected = (weights - problem.weights) ** 2
    return float(np.abs(found - expected).max() / expected.max())


def _last_loss(problem: Problem, seen: Prediction) -> float:
    if problem.examples is not None:
        return 0.0
    factor = noise_factor(problem.spectrum, problem.rate, problem.batch, KURTOSIS[problem.law])
    last = float(_predict(problem, [10**9])["eval_loss"][0])
    return abs(last - problem.noise**2 / 2.0 / (1.0 - factor)) / float(seen["eval_loss"][0])


def _wrong(settings: Settings) -> Settings:
    return {**settings, "rate": settings["rate"] * (2.5 if settings["rate"] < 0.15 else 0.4)}


THEORY = Theory(
    name="sgd-structured-features",
    question="How do the spectrum of the features, the batch and the learning rate set the test loss of SGD?",
    assumptions=(
        "The model is linear in its features (a wide net near its start is, in those of its tangent kernel).",
        "The loss is half the mean squared error; batches are drawn independently, from a set with replacement.",
        "Of a stream the features are independent along the axes of their covariance; of a set they may be any.",
    ),
    papers=(
        Paper(
            "Learning Curves for SGD on Structured Features",
            ("Blake Bordelon", "Cengiz Pehlevan"),
            2021,
            "https://arxiv.org/abs/2106.02713",
        ),
    ),
    settings=(
        Setting("data", "str", "stream", "fresh examples at every step, or a training set", choices=("stream", "set")),
        Setting("law", "str", "normal", "of the features along the axes", choices=tuple(KURTOSIS)),
        Setting("features", "int", 48, "features", 12, 64),
        Setting("spectrum_exponent", "float", 1.2, "their variances fall like k^-exponent", 0.4, 2.0),
        Setting("target_exponent", "float", 1.6, "the target's variance along them falls likewise", 0.6, 2.4),
        Setting("noise", "float", 0.3, "standard deviation of the noise, over that of the signal", 0.0, 1.0),
        Setting("batch", "int", 4, "examples of a batch", 1, 32),
        Setting("rate", "float", 0.2, "learning rate over the one from which the loss diverges", 0.06, 0.36),
        Setting("examples_per_feature", "float", 2.0, "examples of the training set over features", 0.5, 4.0),
    ),
    series=(
        SeriesSpec("loss", description="half the mean squared error of a step's batch, expected"),
        SeriesSpec("eval_loss", description="half the mean squared error on fresh examples, expected"),
        SeriesSpec("mode_error", ("mode",), description="squared distance of a weight from its target, expected"),
    ),
    problem=_problem,
    steps=_steps,
    predict=_predict,
    simulate=_simulate,
    bands=(
        Band("loss", 0.02, f"{_EXACT}, above all in losses of batches"),
        Band("eval_loss", 0.01, _EXACT),
        Band("mode_error", 0.01, _EXACT),
    ),
    laws=(
        Law("start", "the test loss starts at half the variance of signal and noise", _start),
        Law("first-loss", "the first loss is that of the targets, and on a stream always the test loss", _first_loss),
        Law("modes-add-up", "errors of modes times their variances add up to the test loss", _modes_add_up),
        Law("large-batches", "with large batches it is gradient descent", _large_batches, 1e-8),
        Law("last-loss", "on a stream the loss tends to half the noise over 1 - S", _last_loss, 1e-8),
    ),
    wrong=_wrong,
    smoke={"features": 24, "batch": 4},
)
