"""Gradient descent on the factors of a low-rank matrix: solved for any start, symmetric or imbalanced.

Measurements y = <A, M> with Gaussian A turn, in great number, into M itself: the loss is |X X' - M|^2 / 4 for a
symmetric M, |F G' - M|^2 / 2 otherwise. Steps are X <- X - eta (X X' - M) X, and F <- F - eta (F G' - M) G together
with G <- G - eta (F G' - M)' F. M has rank r and X, F, G have k >= r columns.

Both are one equation. The flow of X gives S = X X' the Riccati equation S' = M S + S M - 2 S^2. The flow of F and G
keeps L = F' F - G' G; where L = l I, the stack Z = (F; G) obeys Z' = A Z - Z Z' Z / 2 with
A = [[l I / 2, M], [M', -l I / 2]], so that S = Z Z' solves S' = A S + S A - S^2. With c the coefficient of S^2,
S' = A S + S A - c S^2 has the solution

    S(t) = e^(At) Z0 (1 + Z0' Q(t) Z0)^-1 Z0' e^(At),    Q(t) = c int_0^t e^(2As) ds = c (e^(2At) - 1) / (2A).

`gram` takes e^(At) = (1 + eta A)^steps: what gradient descent itself does to small factors, so that delays of order
log(1 / start) are right and what is left is an error of order eta while a mode saturates.

What follows for k > r (Xiong, Ding and Du 2023), t = eta steps, N the k - r columns without signal at the start:
- Symmetric: |X X' - M|^2 >= sum_i (p_i / (1 + 2 t p_i))^2 with p_i the eigenvalues of N' X0' X0 N (from the Riccati
  solution and B^-1 >= N (N' B N)^-1 N'). For random starts it tends to (k - r) / (4 t^2), the bound Omega(1 / T^2).
- Asymmetric: G loses its rank beyond r at the rate of the smallest eigenvalue of F' F, which there is that of N' L N:
  |F G' - M|^2 falls like exp(-2 t min eig N' L N), as alpha^2 where F and G start at the scale alpha. If L has
  eigenvalues of both signs on N, the smallest in size takes its place.
- Replacing F and G once by beta A and G B D / beta, F = A D B' being the singular value decomposition, keeps F G' and
  makes every eigenvalue of F' F equal to beta^2: the rate is then 2 beta^2, whatever alpha was.

A simulation is one descent on the whole matrix: there is no data to draw and nothing to average.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from separatrix.runs import SeriesSpec
from separatrix.theory._decay import Decay, classify_decay
from separatrix.theory.theory import Band, Curves, Law, Paper, Prediction, Setting, Settings, Simulation, Theory

__all__ = [
    "Decay",
    "Factors",
    "asymmetric_rate",
    "classify_decay",
    "gram",
    "rebalanced",
    "spare_columns",
    "symmetric_floor",
]

Floats = NDArray[np.float64]

_HORIZON = 60.0  # steps times the learning rate
_REACH = 7.0  # largest growth exponent of one application of the closed form: keeps rounding far below the bands
_SMALLER = 3.0  # F starts that much larger than G


@dataclasses.dataclass(frozen=True)
class Factors:
    """A factorisation about to be trained: the matrix M, the factors at the start and the learning rate.

    `right` (m, k) is None where `left` (n, k) is the only factor, M then being symmetric; otherwise
    left' left - right' right is `imbalance` times the identity.
    """

    target: Float[np.ndarray, "n m"]
    left: Float[np.ndarray, "n k"]
    right: Float[np.ndarray, "m k"] | None
    imbalance: float
    rate: float
    rank: int

    @property
    def spare(self) -> int:
        """Columns beyond the rank."""
        return int(self.left.shape[1]) - self.rank


def gram(problem: Factors, steps: Sequence[int], rate: float | None = None) -> Float[np.ndarray, "steps d d"]:
    """X X' after so many steps; of the stack (F; G) if there are two factors. See the module for the solution.

    `rate` replaces the learning rate: a tiny one with as many more steps gives the gradient flow.
    """
    eta = problem.rate if rate is None else rate
    values, vectors = np.linalg.eigh(_generator(problem))
    curvature = 2.0 if problem.right is None else 1.0
    stacked = problem.left if problem.right is None else np.concatenate([problem.left, problem.right])
    stride = max(1, int(_REACH / (eta * max(np.abs(values).max(), 1e-9))))
    reached = [vectors.T @ stacked]
    found = []
    for step in steps:
        while len(reached) <= step // stride:
            reached.append(_advanced(reached[-1], values, curvature, eta, stride))
        rows = vectors @ _advanced(reached[step // stride], values, curvature, eta, step % stride)
        found.append(rows @ rows.T)
    return np.array(found)


def _generator(problem: Factors) -> Floats:
    """The matrix A of the Riccati equation."""
    if problem.right is None:
        return problem.target
    half = problem.imbalance / 2
    rows, columns = problem.target.shape
    return np.block([[half * np.eye(rows), problem.target], [problem.target.T, -half * np.eye(columns)]])


def _advanced(stacked: Floats, values: Floats, curvature: float, eta: float, steps: int) -> Floats:
    """A factor of S after further steps, in the eigenbasis of A."""
    exponent = steps * np.log1p(eta * values)
    tiny = np.abs(values) < 1e-14
    integral = np.where(tiny, 2 * eta * steps, np.expm1(2 * exponent) / np.where(tiny, 1.0, values))
    inner = np.eye(stacked.shape[1]) + stacked.T @ (0.5 * curvature * integral[:, None] * stacked)
    root = np.linalg.cholesky(inner)
    return np.asarray(np.linalg.solve(root, (np.exp(exponent)[:, None] * stacked).T).T, dtype=np.float64)


def spare_columns(signal: Float[np.ndarray, "r k"]) -> Float[np.ndarray, "k spare"]:
    """Orthonormal directions N in the columns that the signal at the start, U' X or U' F + V' G, does not touch."""
    return np.asarray(np.linalg.svd(signal)[2][len(signal) :].T, dtype=np.float64)


def symmetric_floor(
    target: Float[np.ndarray, "n n"], start: Float[np.ndarray, "n k"], rank: int, times: Float[np.ndarray, " steps"]
) -> Float[np.ndarray, " steps"]:
    """What |X X' - M|^2 cannot fall below under the flow; `times` are steps times learning rate."""
    vectors = np.linalg.eigh(target)[1][:, -rank:]
    spare = (start - vectors @ (vectors.T @ start)) @ spare_columns(vectors.T @ start)
    sizes = np.linalg.svd(spare, compute_uv=False) ** 2
    return np.asarray(((sizes / (1 + 2 * times[:, None] * sizes)) ** 2).sum(1), dtype=np.float64)


def asymmetric_rate(
    target: Float[np.ndarray, "n m"], left: Float[np.ndarray, "n k"], right: Float[np.ndarray, "m k"], rank: int
) -> float:
    """At which |F G' - M|^2 falls in the end, a unit of step times learning rate, for a small start and k > r.

    Twice the eigenvalue smallest in size of N' (F' F - G' G) N at the start.
    """
    u, _, v = np.linalg.svd(target)
    spare = spare_columns(u[:, :rank].T @ left + v[:rank] @ right)
    imbalance = spare.T @ (left.T @ left - right.T @ right) @ spare
    return 2 * float(np.abs(np.linalg.eigvalsh(imbalance)).min())


def rebalanced(
    left: Float[np.ndarray, "n k"], right: Float[np.ndarray, "m k"], beta: float
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "m k"]]:
    """The one modified step: factors with the same product, the left one having all singular values equal to beta.

    `left` must have full column rank.
    """
    u, sizes, v = np.linalg.svd(left, full_matrices=False)
    return beta * u, right @ v.T * (sizes / beta)


def _problem(settings: Settings, seed: int) -> Factors:
    generator = np.random.default_rng(seed)
    size, rank, columns = settings["size"], settings["rank"], settings["rank"] + settings["spare"]
    symmetric = settings["factors"] == "symmetric"

    def frame(width: int) -> Floats:
        return np.asarray(np.linalg.qr(generator.standard_normal((size, width)))[0], dtype=np.float64)

    strengths = settings["condition"] ** (-np.arange(rank) / max(1, rank - 1))
    u = frame(rank)
    v = u if symmetric else frame(rank)
    start = settings["init"] * generator.standard_normal((size, columns)) / math.sqrt(size)
    if symmetric:
        return Factors(u * strengths @ v.T, start, None, 0.0, settings["rate"], rank)
    imbalance, right = settings["init"] ** 2, start / _SMALLER
    values, vectors = np.linalg.eigh(imbalance * np.eye(columns) + right.T @ right)
    left = frame(columns) * np.sqrt(values) @ vectors.T
    return Factors(u * strengths @ v.T, left, right, imbalance, settings["rate"], rank)


def _steps(problem: Factors) -> list[int]:
    last = round(_HORIZON / problem.rate)
    return sorted({0, *np.geomspace(1, last, 80).round().astype(int).tolist()})


def _products(problem: Factors, stacked: Floats) -> Floats:
    """X X' or F G', (steps, n, m), from Gram matrices of `gram`."""
    return stacked if problem.right is None else stacked[:, : len(problem.left), len(problem.left) :]


def _curves(problem: Factors, products: Floats) -> Curves:
    share = 0.25 if problem.right is None else 0.5
    return {
        "loss": share * ((products - problem.target) ** 2).sum((1, 2)),
        "singular_values": np.linalg.svd(products, compute_uv=False)[:, : problem.left.shape[1]],
    }


def _predict(problem: Factors, steps: Sequence[int]) -> Curves:
    return _curves(problem, _products(problem, gram(problem, steps)))


def _simulate(problem: Factors, steps: Sequence[int], seed: int) -> Simulation:
    left, right, target, eta = problem.left, problem.right, problem.target, problem.rate
    wanted, products = set(steps), []
    for step in range(max(steps) + 1):
        if step in wanted:
            products.append(left @ (left if right is None else right).T)
        if right is None:
            left = left - eta * (left @ (left.T @ left) - target @ left)
        else:
            left, right = (
                left - eta * (left @ (right.T @ right) - target @ right),
                right - eta * (right @ (left.T @ left) - target.T @ left),
            )
    return Simulation(_curves(problem, np.array(products)))


def _starts(problem: Factors, seen: Prediction) -> float:
    product = problem.left @ (problem.left if problem.right is None else problem.right).T
    expected = float(_curves(problem, product[None])["loss"][0])
    return abs(float(seen["loss"][0]) / expected - 1)


def _falls(problem: Factors, seen: Prediction) -> float:
    return max(0.0, float(np.diff(seen["loss"]).max())) / float(seen["loss"][0])


def _keeps_floor(problem: Factors, seen: Prediction) -> float:
    if problem.right is not None or not problem.spare:
        return 0.0
    floor = symmetric_floor(problem.target, problem.left, problem.rank, problem.rate * seen.steps.astype(np.float64))
    return max(0.0, float((1 - 4 * seen["loss"] / floor).max()))


_FINE = 2.0**-20  # of a step


def _conserves(problem: Factors, seen: Prediction) -> float:
    if problem.right is None:
        return 0.0
    fine = [round(step / _FINE) for step in seen.steps[::8].tolist()]
    stacked = gram(problem, fine, problem.rate * _FINE)
    size = len(problem.left)
    diagonals = np.einsum("tii->ti", stacked)
    traces = diagonals[:, :size].sum(1) - diagonals[:, size:].sum(1)
    return float(np.abs(traces / (problem.left.shape[1] * problem.imbalance) - 1).max())


def _wrong(settings: Settings) -> Settings:
    return {**settings, "init": settings["init"] / 3 if settings["init"] > 0.15 else 3 * settings["init"]}


THEORY = Theory(
    name="matrix-sensing",
    question="Does the loss of a factorised matrix fall exponentially or as a power of the steps, and how fast?",
    assumptions=(
        "The loss sees the whole matrix: isotropic measurements, many more than the factors have entries.",
        "The learning rate is small against 1 / largest singular value of the matrix.",
        "Two factors start with F'F - G'G a multiple of the identity; late rates hold for any small start.",
    ),
    papers=(
        Paper(
            "How Over-Parameterization Slows Down Gradient Descent in Matrix Sensing: The Curses of Symmetry and"
            " Initialization",
            ("Nuoya Xiong", "Lijun Ding", "Simon S. Du"),
            2023,
            "https://arxiv.org/abs/2310.01769",
        ),
        Paper(
            "Understanding Incremental Learning with Closed-form Solution to Gradient Flow on Overparamerterized Matrix"
            " Factorization",
            ("Hancheng Min", "René Vidal"),
            2025,
            "https://arxiv.org/abs/2508.20344",
        ),
    ),
    settings=(
        Setting("factors", "str", "symmetric", "X X', or F G'", choices=("symmetric", "asymmetric")),
        Setting("size", "int", 20, "rows and columns of the matrix", 12, 48),
        Setting("rank", "int", 3, "of the matrix", 1, 4),
        Setting("spare", "int", 2, "columns of the factors beyond the rank", 0, 4),
        Setting("condition", "float", 2.0, "largest over smallest singular value; the largest is 1", 1.0, 4.0),
        Setting("init", "float", 0.1, "scale of the factors at the start", 0.05, 0.4),
        Setting("rate", "float", 0.01, "learning rate", 0.005, 0.02),
    ),
    series=(
        SeriesSpec("loss", description="quarter (one factor) or half (two) of the squared distance from the matrix"),
        SeriesSpec("singular_values", ("mode",), description="of the product of the factors, largest first"),
    ),
    problem=_problem,
    steps=_steps,
    predict=_predict,
    simulate=_simulate,
    bands=(
        Band("loss", 0.008, "a mode that saturates is off by a part of the learning rate: 0.3 eta at most was seen"),
        Band("singular_values", 0.012, "a mode that saturates is off by a part of the learning rate: 0.45 eta at most"),
    ),
    laws=(
        Law("start", "at first the loss is that of the factors at the start", _starts),
        Law("descent", "the loss never rises", _falls),
        Law(
            "floor",
            "with spare columns of one factor the squared distance stays above sum (p / (1 + 2 t p))^2",
            _keeps_floor,
        ),
        Law("imbalance", "the flow of two factors keeps the trace of F'F - G'G", _conserves, 1e-7),
    ),
    wrong=_wrong,
)
