"""Verified Koopman spectra: residuals tell eigenvalues of a system from artefacts of the dictionary; their limits.

Five systems. A rotation of the circle, whose eigenvalues exp(i n angle) are known, with a dictionary of Fourier
functions that is spoilt by bumps: some eigenvalues of the projection are artefacts. The pendulum, whose operator is
unitary with a continuous spectrum beside 1: no eigenvalue of a projection is one of the system, but a residual below
eps must bring it within eps of the unit circle, and the smallest residuals fill the circle as the dictionary grows. A
damped Duffing oscillator in one of its wells, with the eigenvalue of its linearisation there, where residuals must
shrink with samples and with degree. Lorenz's system along one long trajectory. And twins of the torus that differ by
almost nothing, one with a complete set of eigenfunctions in a sector where the other has none: the verified pictures
agree, and what no algorithm can decide stays open.

The bound | |lambda| - 1 | <= residual holds for measure-preserving systems with exact inner products; here it may be
missed by 0.02, what sampling and quadrature allow.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.special
from jaxtyping import Float

from separatrix.reconstruct.limits import TorusTwins, convergence
from separatrix.reconstruct.spectra import VerifiedSpectrum, compress
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

Points = Float[np.ndarray, "point variable"]

_RADIUS = 0.99  # an eigenvalue inside is none of a measure-preserving system
_CIRCLE = 16
_SHARP = 1e-3


def _flow(field: Callable[[Points], Points], points: Points, span: float, steps: int) -> Points:
    """Where points are after a time `span`, by the classical Runge-Kutta method."""
    width = span / steps
    for _ in range(steps):
        first = field(points)
        second = field(points + 0.5 * width * first)
        third = field(points + 0.5 * width * second)
        points = points + width / 6 * (first + 2 * second + 2 * third + field(points + width * third))
    return points


def _overshoot(found: VerifiedSpectrum, with_residuals: bool = True) -> float:
    """By how much an eigenvalue is farther from the unit circle than its residual allows, at worst."""
    allowed = found.residuals if with_residuals else 0.0
    return float(np.max(np.abs(np.abs(found.eigenvalues) - 1.0) - allowed))


def _rotation(settings: Settings, spoilt: bool = True) -> VerifiedSpectrum:
    order, angle = settings["order"], settings["angle"]
    points = 2 * np.pi * np.arange(100 * order) / (100 * order)
    orders, centres = np.arange(-order, order + 1), np.linspace(0.3, 5.0, settings["bumps"])

    def lift(angles: np.ndarray) -> np.ndarray:
        waves = np.exp(1j * np.outer(angles, orders))
        bumps = np.exp(order**2 * (np.cos(angles[:, None] - centres) - 1.0))  # as wide as the finest wave
        return np.hstack([waves, bumps]) if spoilt else waves

    return compress(lift(points), lift(points + angle)).spectrum()


def _of_waves(found: VerifiedSpectrum, settings: Settings) -> tuple[float, float]:
    """Largest residual, and largest error, of the pairs that belong to exp(i n angle), |n| up to the order."""
    worst, error = 0.0, 0.0
    for order in range(-settings["order"], settings["order"] + 1):
        gaps = np.abs(found.eigenvalues - np.exp(1j * order * settings["angle"]))
        residuals = np.where(gaps < _SHARP, found.residuals, np.inf)
        best = int(np.argmin(residuals))
        worst, error = max(worst, float(residuals[best])), max(error, float(gaps[best]))
    return worst, error


def _pendulum(reach: int, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Features now and later on a grid: exp(i j angle) Hermite_k(momentum), |j| k up to `reach`."""
    limit = np.sqrt(2 * reach + 1) + 3.0
    angles, momenta = 2 * np.pi * np.arange(6 * reach) / (6 * reach), np.linspace(-limit, limit, 8 * reach + 40)
    grid = np.stack(np.meshgrid(angles, momenta, indexing="ij"), axis=-1).reshape(-1, 2)
    pairs = [(j, k) for k in range(reach + 1) for j in range(-reach, reach + 1) if max(abs(j), 1) * max(k, 1) <= reach]

    def lift(states: np.ndarray) -> np.ndarray:
        hermite = _hermite(states[:, 1], reach)
        waves = np.exp(1j * np.outer(np.arange(-reach, reach + 1), states[:, 0]))
        return np.stack([waves[reach + j] * hermite[k] for j, k in pairs], axis=1)

    later = _flow(lambda s: np.stack([s[:, 1], -np.sin(s[:, 0])], axis=1), grid, settings["interval"], 40)
    return lift(grid), lift(later)


def _hermite(points: np.ndarray, order: int) -> np.ndarray:
    """Orthonormal Hermite functions 0 to `order`, by their recurrence."""
    values = [np.pi**-0.25 * np.exp(-(points**2) / 2)]
    values.append(np.sqrt(2.0) * points * values[0])
    for k in range(1, order):
        values.append(np.sqrt(2 / (k + 1)) * points * values[k] - np.sqrt(k / (k + 1)) * values[k - 1])
    return np.array(values[: order + 1])


def _duffing(settings: Settings, samples: int, seed: int) -> tuple[np.ndarray, np.ndarray, complex]:
    """Points of the right-hand well, where they are later, and the eigenvalue of the linearisation at its bottom."""
    generator = np.random.default_rng(seed)
    damping, span = settings["damping"], settings["interval"]
    points = np.zeros((0, 2))
    while len(points) < samples:
        drawn = generator.uniform((0.0, -1.0), (1.5, 1.0), (4 * samples, 2))
        energy = drawn[:, 1] ** 2 / 2 - drawn[:, 0] ** 2 / 2 + drawn[:, 0] ** 4 / 4
        points = np.concatenate([points, drawn[energy < -0.1]])  # damping keeps them there; the saddle is at 0
    points = points[:samples]

    def field(states: np.ndarray) -> np.ndarray:
        x, p = states.T
        return np.stack([p, -damping * p + x - x**3], axis=1)

    rate = (-damping + np.sqrt(complex(damping**2 - 8.0))) / 2.0
    return points, _flow(field, points, span, 40), complex(np.exp(rate * span))


def _monomials(points: np.ndarray, degree: int) -> np.ndarray:
    x, p = (points[:, 0] - 1.0) / 0.5, points[:, 1] / 0.5
    legendre = [[scipy.special.eval_legendre(k, each) for k in range(degree + 1)] for each in (x, p)]
    return np.stack([legendre[0][i] * legendre[1][j] for i in range(degree + 1) for j in range(degree + 1 - i)], axis=1)


def _lorenz(samples: int, seed: int) -> VerifiedSpectrum:
    generator = np.random.default_rng(seed)

    def field(states: np.ndarray) -> np.ndarray:
        x, y, z = states.T
        return np.stack([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z], axis=1)

    copies = 20  # one trajectory would do; twenty are as fast as one
    states = np.array([0.0, 0.0, 25.0]) + generator.standard_normal((copies, 3))
    states = _flow(field, states, 20.0, 2000)
    visited = [states]
    for _ in range(samples // copies):
        visited.append(_flow(field, visited[-1], 0.2, 20))
    path = (np.array(visited) - [0.0, 0.0, 23.5]) / [8.0, 9.0, 8.6]
    rates, phases = generator.standard_normal((3, 60)), generator.uniform(0, 2 * np.pi, 60)

    def lift(points: np.ndarray) -> np.ndarray:
        flat = points.reshape(-1, 3)
        return np.hstack([np.ones((len(flat), 1)), flat, np.cos(flat @ rates + phases)])

    return compress(lift(path[:-1]), lift(path[1:])).spectrum()


def _picture(twins: TorusTwins, angle: float, order: int) -> np.ndarray:
    circle = np.exp(2j * np.pi * np.arange(_CIRCLE) / _CIRCLE)
    return twins.compression(angle, order).smallest_residuals(circle)


def _plan(settings: Settings, quick: bool) -> Plan:
    return Plan(runs=5, seconds=4.0 if quick else 60.0)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    found = _rotation(settings)
    worst, error = _of_waves(found, settings)
    artefacts = np.abs(found.eigenvalues) < _RADIUS
    progress()

    circle = np.exp(2j * np.pi * np.arange(_CIRCLE) / _CIRCLE)
    reaches = (4, 8, 16) if quick else (4, 8, 16, 32)
    filled, inside, pendulum = [], [], found
    for reach in reaches:
        learnt = compress(*_pendulum(reach, settings))
        filled.append(learnt.smallest_residuals(circle))
        inside.append(float(learnt.smallest_residuals(0.5 * circle).min()))
        pendulum = learnt.spectrum()
    progress()

    count = 3000 if quick else 30_000
    now, later, target = _duffing(settings, 2 * count, seed)
    counts, degrees = (100, 400, count), (2, 4, 6, 8)
    report = convergence(
        _monomials, (now[:count], later[:count]), (now[count:], later[count:]), target, samples=counts, sizes=degrees
    )
    progress()

    lorenz = _lorenz(4000 if quick else 40_000, seed)
    progress()

    twins, order = TorusTwins(gap=settings["gap"]), 40
    resonant, shifted = twins.angles
    pictures = [_picture(twins, angle, order) for angle in (resonant, shifted)]
    other = _picture(twins, resonant + 0.3, order)
    progress()
    return Outcome(
        measured={
            "rotation_certified": worst,
            "rotation_exact": error,
            "artefacts_appear": float(artefacts.sum()),
            "artefacts_flagged": float(found.residuals[artefacts].min()) if artefacts.any() else 0.0,
            "residual_bounds_the_modulus": [_overshoot(each) for each in (found, pendulum, lorenz)],
            "pendulum_fills_the_circle": float(filled[-1].mean()),
            "pendulum_fills_it_with_the_dictionary": [float(each.max()) for each in filled],
            "pendulum_leaves_the_inside": inside[-1],
            "duffing_residual_falls_with_degree": report.residuals[-1].tolist(),
            "duffing_residual_falls_with_samples": report.residuals[:, -1].tolist(),
            "duffing_eigenvalue": float(np.abs(report.eigenvalues[-1, -1] - target)),
            "twins_look_alike": float(np.abs(pictures[0] - pictures[1]).max()),
            "one_twin_has_an_eigenfunction": twins.residual_of_hidden(shifted),
        },
        controls={
            "eigenvalues_without_residuals": [_overshoot(each, False) for each in (found, pendulum, lorenz)],
            "an_unspoilt_dictionary_has_no_artefacts": float(
                (np.abs(_rotation(settings, spoilt=False).eigenvalues) < _RADIUS).sum()
            ),
            "another_rotation_looks_different": float(np.abs(pictures[0] - other).max()),
            "the_other_twin_has_not": twins.residual_of_hidden(resonant),
        },
        series={
            "rotation_modulus": np.abs(found.eigenvalues).tolist(),
            "rotation_residual": found.residuals.tolist(),
            "pendulum_reach": [float(each) for each in reaches],
            "pendulum_circle": filled[-1].tolist(),
            "duffing_errors": np.abs(report.eigenvalues[-1] - target).tolist(),
            "lorenz_modulus": np.abs(lorenz.eigenvalues).tolist(),
            "lorenz_residual": lorenz.residuals.tolist(),
        },
    )


study = Study(
    id="33",
    slug="koopman-limits",
    paper=Paper(
        title="Limits and Powers of Koopman Learning",
        authors=("Matthew J. Colbrook", "Igor Mezić", "Alexei Stepanenko"),
        year=2024,
        url="https://arxiv.org/abs/2407.06312",
    ),
    summary="Residuals certify a system's eigenvalues and flag artefacts; what no algorithm can decide stays open.",
    settings=(
        Setting("angle", "float", 2.0**0.5, "rotation of the circle", 0.5, 3.0),
        Setting("order", "int", 10, "largest order of the waves in the rotation's dictionary", 5, 40),
        Setting("bumps", "int", 4, "functions that spoil the rotation's dictionary", 2, 8),
        Setting(
            "interval",
            "float",
            0.5,
            "sampling interval of pendulum and Duffing oscillator",
            0.5,
            1.0,
            reason="at 2 the flow shears functions too much for this dictionary (mean smallest residual 0.26), at 0.25"
            " too little to reach the far side of the circle",
        ),
        Setting("damping", "float", 0.5, "damping of the Duffing oscillator", 0.25, 1.0),
        Setting("gap", "float", 1e-6, "difference of the angles of the twins", 1e-8, 1e-5),
    ),
    statements=(
        Statement(
            "rotation_certified", "at_most", _SHARP, "Largest residual of the pairs that belong to exp(i n angle)."
        ),
        Statement("rotation_exact", "at_most", _SHARP, "Largest distance of their eigenvalues from exp(i n angle)."),
        Statement("artefacts_appear", "at_least", 1.0, "Eigenvalues of the spoilt dictionary with modulus below 0.99."),
        Statement(
            "artefacts_flagged",
            "at_least",
            0.01,
            "Smallest residual of those, which are a hundredth or more from the spectrum.",
        ),
        Statement(
            "residual_bounds_the_modulus",
            "at_most",
            0.0,
            "Largest | |eigenvalue| - 1 | less residual: rotation, pendulum, Lorenz.",
            0.02,
        ),
        Statement(
            "pendulum_fills_the_circle",
            "at_most",
            0.25,
            "Mean over the unit circle of the smallest residual there; pseudospectra of the pendulum are usually drawn"
            " at this level.",
        ),
        Statement(
            "pendulum_fills_it_with_the_dictionary",
            "monotone",
            "decreasing",
            "The largest of those over the circle, for ever larger dictionaries.",
        ),
        Statement(
            "pendulum_leaves_the_inside",
            "at_least",
            0.5,
            "Smallest residual at distance 0.5 from the circle.",
            0.02,
        ),
        Statement(
            "duffing_residual_falls_with_degree",
            "monotone",
            "decreasing",
            "Residual of the leading pair on unseen samples, for degrees 2 to 8.",
        ),
        Statement(
            "duffing_residual_falls_with_samples",
            "monotone",
            "decreasing",
            "The same at degree 8, for ever more samples.",
        ),
        Statement(
            "duffing_eigenvalue", "at_most", _SHARP, "Distance of that eigenvalue from the one of the linearisation."
        ),
        Statement(
            "twins_look_alike",
            "at_most",
            1e-3,
            "Largest difference of the twins' smallest residuals over the unit circle: the operators differ on the"
            " dictionary by 200 gaps at most.",
            2e-3,
        ),
        Statement(
            "one_twin_has_an_eigenfunction",
            "at_most",
            1e-6,
            "Residual of the hidden eigenfunction for the twin that has it.",
        ),
    ),
    controls=(
        Control(
            "eigenvalues_without_residuals",
            "residual_bounds_the_modulus",
            "The eigenvalues of the projections taken at their word, as if residuals were zero.",
        ),
        Control("an_unspoilt_dictionary_has_no_artefacts", "artefacts_appear", "Without bumps in the dictionary."),
        Control("another_rotation_looks_different", "twins_look_alike", "A map whose angle differs by 0.3."),
        Control("the_other_twin_has_not", "one_twin_has_an_eigenfunction", "The same function for the other twin."),
    ),
    plan=_plan,
    run=_run,
)
