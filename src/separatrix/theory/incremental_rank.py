"""Gradient descent from a tiny start learns a matrix rank by rank, each rank at its own time.

The loss is |X X' - M|^2 / 4 with M positive semi-definite of eigenvalues l_1 > ... > l_r and X with k columns, fewer
than r allowed, from a start of scale alpha. The trajectory is exact for any start
(`separatrix.theory.matrix_sensing`); what it tells for alpha -> 0:

- Mode i grows as a logistic of its own, s_i(t) = s e^(2 l t) / (1 + s (e^(2 l t) - 1) / l), from the part of its row
  u_i' X0 that is orthogonal to the rows of the stronger modes (`mode_starts`): what lies along learnt rows is driven
  out. It is learnt at t_i = log(l_i / s_i) / (2 l_i), which goes like log(1 / alpha) / l_i; modes beyond k have no
  such part and are never learnt, so that the end is the best fit of rank k.
- Between t_s and t_(s+1) the iterate passes the best fit of rank s. At t = tau log(1 / alpha) mode s + 1 has the
  strength alpha^(2 - 2 l_(s+1) tau), mode s lacks alpha^(2 l_s tau - 2), and rows still lie along learnt ones by
  alpha^((l_s - l_(s+1)) tau). All are equal at tau = 2 / (l_s + l_(s+1)): the least distance goes as alpha^p with p =
  2 (l_s - l_(s+1)) / (l_s + l_(s+1)), `distance_exponent`.

With random measurements the matrix that drives growth at the best fit Z_s is H_s, the mean of A <A, M - Z_s>, instead
of M - Z_s. With m_j(s) its j-th largest eigenvalue, the spare rows gain m_1(s) while at Z_s, those that come next
m_2(s), ...; rank s is learnt at t_s = tau_s log(1 / alpha), where

    1 = sum_(j < s) m_(s-j)(j) (tau_(j+1) - tau_j),    tau_0 = 0,

with the sum over fits j = 0 ... s - 1 (`learning_slopes`). The direction of growth at Z_(s-1) then differs from the
one at Z_s, and the curve that leads from one to the other arrives along the slowest direction, of rate l_s - l_(s+1),
with an amplitude that does not vanish with alpha: the least distance balances e^(-(l_s - l_(s+1)) (t - t_s)) against
e^(-2 l_(s+1) (t_(s+1) - t)), so that p is smaller by the factor (l_s - l_(s+1)) / l_s (`measured_distance_exponent`).

A simulation is one descent on the whole matrix: there is no data to draw and nothing to average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from separatrix.runs import SeriesSpec
from separatrix.theory.matrix_sensing import Factors, gram
from separatrix.theory.theory import Band, Curves, Law, Paper, Prediction, Setting, Settings, Simulation, Theory

__all__ = [
    "distance_exponent",
    "learning_slopes",
    "learning_times",
    "measured_distance_exponent",
    "mode_starts",
    "mode_strengths",
]

Floats = NDArray[np.float64]


def mode_starts(vectors: Float[np.ndarray, "n r"], start: Float[np.ndarray, "n k"]) -> Float[np.ndarray, " r"]:
    """Squared parts of the rows u_i' X0 that are orthogonal to the rows before; 0 from the (k + 1)-th on.

    `vectors` are those of M, strongest first.
    """
    upper = np.linalg.qr((vectors.T @ start).T)[1]
    found = np.zeros(vectors.shape[1])
    diagonal = np.diagonal(upper) ** 2
    found[: len(diagonal)] = diagonal
    return found


def mode_strengths(
    values: Float[np.ndarray, " r"], starts: Float[np.ndarray, " r"], rate: float, steps: Sequence[int]
) -> Float[np.ndarray, "steps r"]:
    """Eigenvalues of X X' after so many steps of a learning rate, for alpha -> 0: a logistic for each mode.

    As in `gram`, growth is by (1 + eta l) a step.
    """
    exponent = 2 * np.asarray(steps, dtype=np.float64)[:, None] * np.log1p(rate * values)
    some = starts > 0
    lacking = np.exp(-exponent) * (values / np.where(some, starts, 1.0) - 1)
    return np.asarray(np.where(some, values / (1 + lacking), 0.0), dtype=np.float64)


def learning_times(
    values: Float[np.ndarray, " r"], starts: Float[np.ndarray, " r"], rate: float
) -> Float[np.ndarray, " r"]:
    """Steps after which each mode has half its strength, for alpha -> 0; infinite for those never learnt."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.maximum(values / starts - 1, 1)) / (2 * np.log1p(rate * values)), dtype=np.float64)


def learning_slopes(growth: Sequence[Float[np.ndarray, " modes"]]) -> Float[np.ndarray, " fits"]:
    """tau_s for s = 1, 2, ...: how many steps or how much time later rank s is learnt for each e-fold off alpha.

    `growth[j]` are the growth rates of small factors at the best fit of rank j = 0, 1, ..., largest first: eigenvalues
    m of H_j for the flow, log(1 + eta m) a step of gradient descent.
    """
    times = [0.0]
    for fits, rates in enumerate(growth):
        gained = sum(float(growth[j][fits - j]) * (times[j + 1] - times[j]) for j in range(fits))
        times.append(times[-1] + (1 - gained) / float(rates[0]))
    return np.array(times[1:])


def distance_exponent(strong: float, weak: float) -> float:
    """P of the least distance alpha^p from the best fit between two modes of these eigenvalues, isotropic case."""
    return 2 * (strong - weak) / (strong + weak)


def measured_distance_exponent(strong: float, weak: float) -> float:
    """The same with random measurements, whose best fits do not share their eigenvectors."""
    return distance_exponent(strong, weak) * (strong - weak) / strong


def _problem(settings: Settings, seed: int) -> Factors:
    generator = np.random.default_rng(seed)
    size, rank = settings["size"], settings["rank"]
    vectors = np.linalg.qr(generator.standard_normal((size, rank)))[0]
    values = settings["condition"] ** (-np.arange(rank) / (rank - 1))
    start = settings["init"] * generator.standard_normal((size, settings["columns"])) / math.sqrt(size)
    return Factors(vectors * values @ vectors.T, start, None, 0.0, settings["rate"], rank)


def _modes(problem: Factors) -> tuple[Floats, Floats]:
    """Eigenvalues and eigenvectors of M that count, strongest first."""
    values, vectors = np.linalg.eigh(problem.target)
    return values[::-1][: problem.rank].copy(), vectors[:, ::-1][:, : problem.rank].copy()


def _last(problem: Factors, starts: Floats) -> int:
    """Half as many steps again as the last mode that is learnt takes."""
    values = _modes(problem)[0]
    times = learning_times(values, starts, problem.rate)
    return math.ceil(1.5 * float(times[np.isfinite(times)].max())) + math.ceil(4 / problem.rate)


def _steps(problem: Factors) -> list[int]:
    last = _last(problem, mode_starts(_modes(problem)[1], problem.left))
    return sorted(set(np.linspace(0, last, 120).round().astype(int).tolist()))


def _curves(problem: Factors, products: Float[np.ndarray, "steps n n"]) -> Curves:
    values, vectors = _modes(problem)
    fits = np.array([vectors[:, :s] * values[:s] @ vectors[:, :s].T for s in range(1, problem.rank + 1)])
    return {
        "loss": 0.25 * ((products - problem.target) ** 2).sum((1, 2)),
        "singular_values": np.linalg.eigvalsh(products)[:, ::-1][:, : problem.rank],
        "fit_distance": np.sqrt(((products[:, None] - fits) ** 2).sum((2, 3))),
    }


def _predict(problem: Factors, steps: Sequence[int]) -> Curves:
    return _curves(problem, gram(problem, steps))


def _simulate(problem: Factors, steps: Sequence[int], seed: int) -> Simulation:
    factor, target, eta = problem.left, problem.target, problem.rate
    wanted, products = set(steps), []
    for step in range(max(steps) + 1):
        if step in wanted:
            products.append(factor @ factor.T)
        factor = factor - eta * (factor @ (factor.T @ factor) - target @ factor)
    return Simulation(_curves(problem, np.array(products)))


def _starts_at(problem: Factors, seen: Prediction) -> float:
    values = _modes(problem)[0]
    expected = np.sqrt(np.cumsum(values**2))
    small = float((problem.left**2).sum())
    return max(0.0, float(np.abs(seen["fit_distance"][0] - expected).max()) - small)


def _greedy(problem: Factors, seen: Prediction) -> float:
    """Largest difference between the exact strengths and the logistics, from the problem's start made 1e-30 smaller."""
    tiny = Factors(problem.target, 1e-30 * problem.left, None, 0.0, problem.rate, problem.rank)
    values, vectors = _modes(problem)
    starts = mode_starts(vectors, tiny.left)
    steps = np.linspace(0, _last(tiny, starts), 60).round().astype(int).tolist()
    exact = _curves(tiny, gram(tiny, steps))["singular_values"]
    return float(np.abs(exact - mode_strengths(values, starts, problem.rate, steps)).max())


def _ends_at_best_fit(problem: Factors, seen: Prediction) -> float:
    late = 40 * int(seen.steps[-1])
    values = _modes(problem)[0]
    left = float((values[problem.left.shape[1] :] ** 2).sum()) / 4
    return abs(float(_predict(problem, [late])["loss"][0]) - left) / float(seen["loss"][0])


def _wrong(settings: Settings) -> Settings:
    return {**settings, "init": 100 * settings["init"] if settings["init"] < 1e-5 else settings["init"] / 100}


THEORY = Theory(
    name="incremental-rank",
    question="When is each rank of a matrix learnt from a small start, and how near does training pass the best fits?",
    assumptions=(
        "The loss sees the whole matrix: isotropic measurements, many more than the factor has entries.",
        "The learning rate is small against 1 / largest eigenvalue of the matrix.",
        "Times and exponents hold for starts small enough that gaps between eigenvalues tell.",
    ),
    papers=(
        Paper(
            "Understanding Incremental Learning of Gradient Descent: A Fine-grained Analysis of Matrix Sensing",
            ("Jikai Jin", "Zhiyuan Li", "Kaifeng Lyu", "Simon S. Du", "Jason D. Lee"),
            2023,
            "https://arxiv.org/abs/2301.11500",
        ),
    ),
    settings=(
        Setting("size", "int", 24, "rows and columns of the matrix", 12, 48),
        Setting(
            "rank", "int", 3, "of the matrix", 2, 5, reason="One rank has no order, and more take times like condition."
        ),
        Setting("columns", "int", 4, "of the factor; fewer than the rank are too few", 1, 8),
        Setting(
            "condition", "float", 4.0, "largest over smallest eigenvalue in equal ratios; the largest is 1", 2.0, 8.0
        ),
        Setting("init", "float", 1e-5, "scale of the factor at the start", 1e-7, 1e-3),
        Setting("rate", "float", 0.01, "learning rate", 0.005, 0.02),
    ),
    series=(
        SeriesSpec("loss", description="quarter of the squared distance from the matrix"),
        SeriesSpec("singular_values", ("mode",), description="of the product of the factor with itself"),
        SeriesSpec("fit_distance", ("mode",), description="from the best fit of rank 1, 2, ... to the whole matrix"),
    ),
    problem=_problem,
    steps=_steps,
    predict=_predict,
    simulate=_simulate,
    bands=(
        Band("loss", 0.008, "a mode that saturates is off by a part of the learning rate: 0.3 eta at most"),
        Band("singular_values", 0.012, "a mode that saturates is off by a part of the learning rate: 0.45 eta at most"),
        Band("fit_distance", 0.012, "a mode that saturates is off by a part of the learning rate: 0.45 eta at most"),
    ),
    laws=(
        Law("start", "the start is 0, but for the square of its scale", _starts_at, 1e-9),
        Law(
            "greedy",
            "for a start towards 0, modes are logistics from the orthogonal parts of their rows",
            _greedy,
            1e-4,
        ),
        Law("end", "in the end the loss is that of the best fit of the rank allowed", _ends_at_best_fit, 1e-6),
    ),
    wrong=_wrong,
)
