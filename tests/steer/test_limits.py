"""What noise holds a training up by, against simulated descents on quadratics, and what is advised of it."""

from __future__ import annotations

import numpy as np
import pytest
from tests.conftest import MakeRun

from separatrix.analysis import Diagnosis
from separatrix.runs import Run, open_run
from separatrix.steer.advice import Advice, advise
from separatrix.steer.advice._limits import limits

SIZES = (12, 8)
STEPS = 6000


def _descent(rate: float, momentum: float, roots: tuple[float, float], curved: bool) -> tuple[list[float], ...]:
    """Losses of noisy descent on a quadratic at rest, and mean squares of gradients, by parameter, and of their signal.

    Gradients of each parameter are divided by its root; Hessian and noise do not commute where `curved`.
    """
    draw, entries = np.random.default_rng(0), sum(SIZES)
    turned = np.linalg.qr(draw.normal(size=(entries, entries)))[0] if curved else np.eye(entries)
    hessian = turned @ np.diag(np.linspace(0.3, 1.0, entries)) @ turned.T
    deviations = draw.uniform(0.5, 1.5, entries)
    divisors = np.repeat(roots, SIZES)
    place, moved = np.zeros(entries), np.zeros(entries)
    losses, squares, signal = [], np.zeros(entries), 0.0
    noise = draw.normal(size=(2 * STEPS, entries)) * deviations
    for step, drawn in enumerate(noise):
        pull = hessian @ place
        moved = momentum * moved + (pull + drawn) / divisors
        if step >= STEPS:
            losses.append(0.5 * float(place @ pull))
            squares += (pull + drawn) ** 2 / STEPS
            signal += float(pull @ pull) / STEPS
        place = place - rate * moved
    means = [float(part.mean()) for part in np.split(squares, [SIZES[0]])]
    return losses, means, [signal, float((deviations**2).sum())]


def _recorded(make_run: MakeRun, rate: float, momentum: float, adam: bool, curved: bool) -> tuple[Run, float]:
    roots = (1.6, 0.4) if adam else (1.0, 1.0)
    losses, squares, (signal, variance) = _descent(rate, momentum, roots, curved)
    names = ["a", "b"]
    scalars = {
        "loss": losses,
        "learning_rate": {1: rate},
        "momentum": {1: momentum},
        "batch_size": {1: 1.0},
        "gradient_noise_scale": {1: variance / signal},
    }
    labelled = {"gradient_rms": ("parameter", names, [1, 2, 3], [np.sqrt(squares)] * 3)}
    if adam:
        labelled["adam_second_moment_rms"] = ("parameter", names, [1, 2, 3], [list(roots)] * 3)
    meta = {
        "parameters": [{"name": n, "shape": [k], "numel": k} for n, k in zip(names, SIZES, strict=True)],
        "config": {"optimizers": [{"class": "Adam" if adam else "SGD"}]},
    }
    return open_run(make_run(scalars=scalars, labelled=labelled, meta=meta)), float(np.mean(losses))


@pytest.mark.parametrize(
    ("rate", "momentum", "adam", "curved"),
    [(0.05, 0.0, False, True), (0.005, 0.9, False, True), (0.02, 0.0, True, False), (0.02, 0.0, True, True)],
)
def test_noise_holds_a_quadratic_up_by_as_much(
    make_run: MakeRun, rate: float, momentum: float, adam: bool, curved: bool
) -> None:
    run, measured = _recorded(make_run, rate, momentum, adam, curved)
    found = limits(run)
    assert found is not None and found.noise == pytest.approx(measured, rel=0.1) and found.decay_pays


def _training(make_run: MakeRun, gradient: float, edge: float | None, losses: np.ndarray) -> tuple[Advice, ...]:
    """Advice for SGD at a rate of 0.1 on one weight of 100 entries."""
    scalars = {
        "loss": losses.tolist(),
        "learning_rate": {1: 0.1},
        "batch_size": {1: 32.0},
    }
    if edge is not None:
        scalars["stability_ratio"] = dict.fromkeys(range(1, 201, 10), edge)
    labelled = {"gradient_rms": ("parameter", ["w"], [1, 100, 200], [[gradient]] * 3)}
    meta = {
        "parameters": [{"name": "w", "shape": [10, 10], "numel": 100}],
        "config": {"optimizers": [{"class": "SGD"}]},
    }
    run = open_run(make_run(f"{gradient}-{edge}", scalars=scalars, labelled=labelled, meta=meta))
    return advise(run, Diagnosis("run", ())).advice


def test_a_slow_training_is_told_to_hasten_and_a_noisy_one_to_decay(make_run: MakeRun) -> None:
    falling = 2.0 / (1 + 0.01 * np.arange(200)) + 0.5
    (slow,) = _training(make_run, gradient=0.01, edge=0.1, losses=falling)
    assert (slow.setting, slow.before, slow.after) == ("learning_rate", 0.1, pytest.approx(0.5))
    assert slow.expected is not None and slow.expected.after == pytest.approx(0.5)
    (very,) = _training(make_run, gradient=0.01, edge=0.001, losses=falling)
    assert very.after == pytest.approx(1.0)  # not more than ten times at once
    (unknown,) = _training(make_run, gradient=0.01, edge=None, losses=falling)
    assert unknown.after == pytest.approx(0.3) and unknown.expected is None
    assert _training(make_run, gradient=0.01, edge=0.4, losses=falling) == ()
    assert _training(make_run, gradient=0.3, edge=0.001, losses=falling) == ()  # noise would come up to the fall
    (noisy,) = _training(make_run, gradient=1.0, edge=0.1, losses=falling)
    assert noisy.setting == "schedule"
    still = np.full(200, 0.5) + 0.01 * np.random.default_rng(0).normal(size=200)
    (ended,) = _training(make_run, gradient=0.1, edge=0.1, losses=still)
    assert ended.setting == "schedule"
    assert _training(make_run, gradient=0.0, edge=0.1, losses=still) == ()
