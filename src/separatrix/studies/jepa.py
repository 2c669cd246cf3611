"""How a JEPA avoids noisy features: predicting embeddings favours what is predictable, predicting data does not.

Deep linear nets are trained by gradient descent to predict embeddings (JEPA) or data (MAE), and compared with
`separatrix.theory.jepa`; see there for the symbols. First features of all kinds follow their equations. Then a clean
feature (rho = 1) and a noisy one of equal lambda, rho = 1 / (1 + noise), race at each depth. Then the noisy one has the
larger lambda by half of what a JEPA of the greatest depth forgives, so that the two objectives learn in opposite
orders. Last, the covariances are those of a series in time: clean and noisy autoregressive features, seen through a
rotation, and the task is the next observation.

When a feature counts as learned: its strength in the encoder is nine tenths of what it is at rest. That a JEPA's order
follows rho holds among features of equal or not too different lambda: for a small start lambda leads in the times of
both objectives.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from separatrix.studies.study import (
    Control,
    Outcome,
    Plan,
    Progress,
    Setting,
    Settings,
    Statement,
    Study,
)
from separatrix.theory.comparing import shares
from separatrix.theory.jepa import (
    THEORY,
    Features,
    Objective,
    Pairs,
    balanced_net,
    critical_times,
    simulate,
    training_step,
)
from separatrix.theory.non_contrastive import rotations

_LEARNED = 0.9
_POINTS = 400
_OBJECTIVES: tuple[Objective, Objective] = ("jepa", "mae")
_TIME_DEPTH = 2
_TIME_FEATURES = 3  # of each kind
_MEMORY = (0.95, 0.475)  # correlation of successive values of clean and noisy features


def _deviations(settings: Settings, seed: int) -> tuple[float, float]:
    """Distance of trainings from their own equations and from the other objective's, over the span; worst and least."""
    own, other = [], []
    for objective in _OBJECTIVES:
        features = THEORY.problem(THEORY.complete({"objective": objective, "depth": settings["depth"]}), seed)
        predicted = THEORY.predicted(features)
        steps = predicted.steps.tolist()
        swapped = dataclasses.replace(features, objective=_OBJECTIVES[objective == "jepa"])
        strange = THEORY.predicted(swapped, steps)["encoder_strengths"]
        means, _ = THEORY.simulated(features, steps, seed=seed)
        own += [shares(means[name] - predicted[name], predicted[name]).max() for name in predicted.series]
        other.append(shares(means["encoder_strengths"] - strange, strange).max())
    return float(max(own)), float(min(other))


def _learning_times(features: Features, seed: int) -> Float[np.ndarray, " features"]:
    """Measured times at which features are learned; all must be within 1.2 times the predicted ones."""
    last = math.ceil(1.2 * critical_times(features, _LEARNED).max() / features.rate)
    steps = sorted({round(last * point / _POINTS) for point in range(_POINTS + 1)})
    strengths = simulate(features, steps, seed).curves["encoder_strengths"]
    return _passed(strengths, _LEARNED * features.layer_rest**features.depth, features.rate * np.array(steps))


def _passed(
    strengths: Float[np.ndarray, "steps d"], levels: Float[np.ndarray, " d"], times: Float[np.ndarray, " steps"]
) -> Float[np.ndarray, " d"]:
    """First times at which strengths reach their levels, between steps by straight lines; infinite where never."""
    found = []
    for course, level in zip(strengths.T, levels, strict=True):
        above = np.flatnonzero(course >= level)
        if not above.size or above[0] == 0:
            found.append(times[0] if above.size else math.inf)
            continue
        after = above[0]
        share = (level - course[after - 1]) / (course[after] - course[after - 1])
        found.append(times[after - 1] + share * (times[after] - times[after - 1]))
    return np.array(found)


def _pair(settings: Settings, depth: int, objective: Objective, gain: float = 0.0) -> Features:
    """A clean and a noisy feature, the lambda of the latter larger by the share `gain`."""
    return Features(
        np.array([1.0, 1.0 + gain]),
        np.array([1.0, 1 / (1 + settings["noise"])]),
        settings["initial"],
        depth,
        objective,
        settings["step_size"] / (depth + 1),
    )


@dataclasses.dataclass(frozen=True)
class _Race:
    """Times of the noisy over the clean feature, by depth from 1; worst error of a critical time, as a share of it."""

    jepa: list[float]
    mae: list[float]
    error: float


def _race(settings: Settings, seed: int, progress: Progress) -> _Race:
    ratios: dict[Objective, list[float]] = {"jepa": [], "mae": []}
    errors = []
    for depth in range(1, settings["depth"] + 1):
        for objective in _OBJECTIVES:
            features = _pair(settings, depth, objective)
            times = _learning_times(features, seed)
            errors.append(np.abs(times / critical_times(features, _LEARNED) - 1).max())
            ratios[objective].append(float(times[1] / times[0]))
        progress()
    return _Race(ratios["jepa"], ratios["mae"], float(max(errors)))


def _forgiven(settings: Settings) -> float:
    """By which share a JEPA's noisy feature may have the larger lambda and be learned at the same time."""
    times = critical_times(_pair(settings, settings["depth"], "jepa"), _LEARNED)
    return float(times[1] / times[0] - 1)


def _series(length: int, seed: int) -> tuple[Float[np.ndarray, "time inputs"], Float[np.ndarray, "d d"]]:
    """Autoregressive features of covariance 1 with their successors, clean ones first, rotated; and the rotation."""
    generator = np.random.default_rng(seed)
    memory = np.repeat(_MEMORY, _TIME_FEATURES)
    scale = 1 / np.sqrt(memory)
    now = scale * generator.standard_normal(2 * _TIME_FEATURES)
    pushes = scale * np.sqrt(1 - memory**2) * generator.standard_normal((length, 2 * _TIME_FEATURES))
    course = np.empty((length, 2 * _TIME_FEATURES))
    for time in range(length):
        course[time] = now
        now = memory * now + pushes[time]
    basis = rotations(2 * _TIME_FEATURES, 1, seed)[0]
    return course @ basis.T, basis


def _in_time(settings: Settings, objective: Objective, length: int, seed: int) -> tuple[float, float]:
    """Mean time of noisy over clean features, measured on a series in time, and predicted from the model of it."""
    observed, basis = _series(length, seed)
    now, then = observed[:-1], observed[1:]
    pairs = Pairs(now.T @ now / len(now), then.T @ now / len(now))
    size = 2 * _TIME_FEATURES
    rate = settings["step_size"] / (_TIME_DEPTH + 1)
    coefficient = np.repeat(_MEMORY, _TIME_FEATURES)
    features = Features(np.ones(size), coefficient, settings["initial"], _TIME_DEPTH, objective, rate)
    expected = critical_times(features, _LEARNED)
    net = balanced_net(size, _TIME_DEPTH, features.layer_start, objective, seed)
    levels = _LEARNED * features.layer_rest**_TIME_DEPTH
    strengths = [np.linalg.norm(net.encoder() @ basis, axis=0)]
    while (strengths[-1] < levels).any() and len(strengths) * rate < 3 * expected.max():
        net = training_step(net, pairs, objective, rate)
        strengths.append(np.linalg.norm(net.encoder() @ basis, axis=0))
    times = _passed(np.stack(strengths), levels, rate * np.arange(len(strengths)))
    clean, noisy = np.split(times, 2)
    return float(noisy.mean() / clean.mean()), float(expected[-1] / expected[0])


def _plan(settings: Settings, quick: bool) -> Plan:
    longest = settings["initial"] ** -1.8 / settings["step_size"]
    return Plan(runs=settings["depth"] + 3, seconds=0.2 + 1e-5 * longest * settings["depth"])


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    own, other = _deviations(settings, seed)
    progress()
    race = _race(settings, seed, progress)
    gain = _forgiven(settings) / 2
    orders = {}
    for objective in _OBJECTIVES:
        times = _learning_times(_pair(settings, settings["depth"], objective, gain), seed)
        orders[objective] = float(times[1] / times[0])
    progress()
    length = 60_000 if quick else 240_000
    (jepa, expected), (mae, _) = (_in_time(settings, objective, length, seed) for objective in _OBJECTIVES)
    progress()
    return Outcome(
        measured={
            "features_follow_their_equations": own,
            "critical_times_are_in_closed_form": race.error,
            "jepa_gap_grows_with_depth": (np.diff(race.jepa) / settings["noise"]).tolist(),
            "mae_does_not_wait_for_noise": race.mae,
            "jepa_learns_rho_first": orders["jepa"],
            "mae_learns_lambda_first": orders["mae"],
            "jepa_waits_in_time_as_predicted": jepa / expected,
            "mae_does_not_wait_in_time": mae,
        },
        controls={
            "equations_of_the_other": other,
            "gap_of_mae": (np.diff(race.mae) / settings["noise"]).tolist(),
            "jepa_instead_of_mae": race.jepa,
            "mae_at_rho": orders["mae"],
            "jepa_at_lambda": orders["jepa"],
            "mae_in_time": mae / expected,
            "jepa_in_time": jepa,
        },
        series={"jepa_times": race.jepa, "mae_times": race.mae},
    )


study = Study(
    id="76",
    slug="jepa-noisy-features",
    paper=THEORY.papers[0],
    summary="Predicting embeddings favours predictable features, the more so in deep nets; predicting data does not.",
    settings=(
        Setting(
            "depth", "int", 4, "layers of the deepest encoder", 3, 5, reason="the paper's are 1 to 5; 3 show order"
        ),
        Setting("noise", "float", 0.25, "variance of the noisy feature beyond its covariance, over it", 0.1, 0.4),
        Setting("initial", "float", 0.03, "strength of the encoder at the start", 0.015, 0.06),
        Setting("step_size", "float", 0.06, "learning rate times the number of layers", 0.03, 0.12),
    ),
    statements=(
        Statement(
            "features_follow_their_equations",
            "at_most",
            0.01,
            "Distance of strengths and loss from the equations, at worst, over their span; both objectives.",
        ),
        Statement(
            "critical_times_are_in_closed_form",
            "at_most",
            0.02,
            "Relative distance of learning times from the closed form, at worst; all depths, both objectives.",
        ),
        Statement(
            "jepa_gap_grows_with_depth",
            "at_least",
            0.1,
            "Rise, from each depth of a JEPA to the next, of the time of a noisy over that of a clean feature of equal"
            " lambda; over the noise.",
        ),
        Statement(
            "mae_does_not_wait_for_noise",
            "at_most",
            1.0,
            "Time of the noisy over that of the clean feature of an MAE, at every depth.",
            0.03,
        ),
        Statement(
            "jepa_learns_rho_first", "at_least", 1.0, "Time of a noisy feature with larger lambda over that of a clean."
        ),
        Statement("mae_learns_lambda_first", "at_most", 1.0, "The same for an MAE."),
        Statement(
            "jepa_waits_in_time_as_predicted",
            "equal",
            1.0,
            "Time of noisy over clean features of a series in time, over what the critical times say.",
            0.1,
        ),
        Statement("mae_does_not_wait_in_time", "at_most", 1.0, "Noisy over clean features for an MAE.", 0.05),
    ),
    controls=(
        Control("equations_of_the_other", "features_follow_their_equations", "The equations of the other objective."),
        Control("gap_of_mae", "jepa_gap_grows_with_depth", "An MAE."),
        Control("jepa_instead_of_mae", "mae_does_not_wait_for_noise", "A JEPA."),
        Control("mae_at_rho", "jepa_learns_rho_first", "An MAE."),
        Control("jepa_at_lambda", "mae_learns_lambda_first", "A JEPA."),
        Control("mae_in_time", "jepa_waits_in_time_as_predicted", "An MAE against the prediction for a JEPA."),
        Control("jepa_in_time", "mae_does_not_wait_in_time", "A JEPA."),
    ),
    plan=_plan,
    run=_run,
    smoke={"depth": 3, "step_size": 0.12, "initial": 0.06},
)
