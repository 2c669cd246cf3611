"""Linear Barlow Twins from a small start: embeddings are learned one dimension at a time.

A linear model f = W x with d embeddings minimises |C - I|^2 (Frobenius) over pairs of views, C = W Gamma W' the
cross-view covariance of embeddings and Gamma = E (x1 x2' + x2 x1') / 2 that of inputs. Gradient flow is

    dW/dt = -4 (W Gamma W' - I) W Gamma.

With gamma_j and v_j the eigenpairs of Gamma, W = U diag(s) V' for the first d of them stays in that form (Simon et al.
2023, proposition 4.1), and ds/dt = 4 gamma s (1 - gamma s^2) for each mode. g = gamma s^2 obeys the logistic equation
dg/dt = 8 gamma g (1 - g), hence

    s(t)^2 = e^{8 gamma t} / (s(0)^-2 + (e^{8 gamma t} - 1) gamma),

half of its plateau 1 / gamma at about t = -log(gamma s(0)^2) / (8 gamma), up to terms of the order of gamma s(0)^2. The
loss is the sum of (1 - g_j)^2: it falls from d by 1 at each of these times.

A small random start acts as an aligned one: while nothing has grown W(t) = W(0) e^{4 Gamma t}, so that the first mode
grows along W(0) v_1, the second along the part of W(0) v_2 orthogonal to it, and so on. The strengths that count are
therefore the diagonal of R in W(0) V = Q R, for well separated times. With a kernel the same holds in its features, and
the end is a kernel PCA of the cross-view kernel: see `final_representation`.

A simulation is one training of the matrix, on second moments that are exact: there is nothing to average.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from separatrix.runs import SeriesSpec
from separatrix.tasks import GaussianViews
from separatrix.theory.theory import Band, Curves, Floats, Law, Paper, Prediction, Setting, Settings, Simulation, Theory

_BEYOND = 1.3  # the last step time is followed so far
_POINTS = 100
_RELATIVE_CUT = 1e-10


@dataclasses.dataclass(frozen=True)
class Twins:
    """A training from an aligned start: eigenvalues of Gamma (inputs,), largest first, strengths s(0) (embeddings,)."""

    eigenvalues: Float[np.ndarray, " inputs"]
    start: Float[np.ndarray, " embeddings"]
    rate: float

    @property
    def learned(self) -> Float[np.ndarray, " embeddings"]:
        """The eigenvalues that become embeddings."""
        return self.eigenvalues[: len(self.start)]


def strengths(eigenvalues: Floats, start: Floats, time: Floats) -> Floats:
    """Singular values of W after each time, (times, modes)."""
    decay = np.exp(-8 * np.multiply.outer(time, eigenvalues))
    return np.asarray(1 / np.sqrt(decay * start**-2.0 + (1 - decay) * eigenvalues))


def step_times(eigenvalues: Floats, start: Floats) -> Floats:
    """When each mode is half learned, for a start well below the plateau, (modes,)."""
    return np.asarray(-np.log(eigenvalues * start**2) / (8 * eigenvalues))


def effective_start(weights: Float[np.ndarray, "embeddings inputs"], vectors: Floats) -> Float[np.ndarray, " modes"]:
    """Strengths of the aligned start that small weights act as, given eigenvectors of Gamma (inputs, modes)."""
    return np.abs(np.diag(np.linalg.qr(weights @ vectors[:, : len(weights)])[1]))


def final_representation(
    kernel: Float[np.ndarray, "views views"], embeddings: int
) -> tuple[Float[np.ndarray, " embeddings"], Float[np.ndarray, "embeddings views"]]:
    """Top eigenvalues of the cross-view kernel, and the coefficients a of the learned f(x) = a k(views, x).

    `kernel` is that of all views, the first half paired in order with the second. With P the exchange of partners, the
    cross-view kernel is K^1/2 P K^1/2 / views; its eigenvectors b give a = gamma^-1/2 b' K^-1/2, up to a rotation of
    embeddings. Directions in which K has no more than 1e-10 of its largest eigenvalue are left out.
    """
    views = len(kernel)
    values, vectors = np.linalg.eigh(kernel)
    kept = values > _RELATIVE_CUT * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    root = vectors * np.sqrt(values)
    exchanged = np.roll(root, views // 2, axis=0)
    found, inside = np.linalg.eigh((root.T @ exchanged + exchanged.T @ root) / (2 * views))
    order = np.argsort(found)[::-1][:embeddings]
    coefficients = (inside[:, order] / np.sqrt(found[order])).T @ (vectors / np.sqrt(values)).T
    return found[order], coefficients


def predict(twins: Twins, steps: Sequence[int]) -> Curves:
    """Course of singular values, eigenvalues of the embeddings and loss."""
    singular = strengths(twins.learned, twins.start, twins.rate * np.asarray(steps, dtype=np.float64))
    return _curves(singular, twins.learned * singular**2)


def _curves(singular: Floats, embedded: Floats) -> Curves:
    return {
        "loss": ((1 - embedded) ** 2).sum(1),
        "representation_eigenvalues": embedded,
        "weight_singular_values": singular,
    }


def descend(
    weights: Float[np.ndarray, "*copies embeddings inputs"],
    gamma: Float[np.ndarray, "inputs inputs"],
    rate: float,
    steps: Sequence[int],
) -> Float[np.ndarray, "steps *copies embeddings inputs"]:
    """Weights after so many steps of gradient descent on |W Gamma W' - I|^2, for each copy."""
    wanted, found = set(steps), {}
    one = np.eye(weights.shape[-2])
    for step in range(max(steps) + 1):
        if step in wanted:
            found[step] = weights
        product = weights @ gamma
        weights = weights - 4 * rate * (product @ np.swapaxes(weights, -1, -2) - one) @ product
    return np.stack([found[step] for step in steps])


def cross_covariance(
    first: Float[np.ndarray, "n inputs"], second: Float[np.ndarray, "n inputs"]
) -> Float[np.ndarray, "inputs inputs"]:
    """Gamma of these pairs."""
    product = first.T @ second / len(first)
    return np.asarray((product + product.T) / 2)


def simulate(twins: Twins, steps: Sequence[int], seed: int) -> Simulation:
    """Gradient descent on a sample of pairs with exact moments, in random bases of inputs and embeddings."""
    size, embeddings = len(twins.eigenvalues), len(twins.start)
    generator = np.random.default_rng(seed)
    basis, outer = (np.linalg.qr(generator.standard_normal((n, n)))[0] for n in (size, embeddings))
    pairs = GaussianViews(dimension=size, decay=0.0, noise=0.5, dtype=torch.float64).exact(4 * size, seed)
    views = (pairs.inputs.numpy() * np.sqrt(twins.eigenvalues)) @ basis.T
    gamma = cross_covariance(views[:, 0], views[:, 1])
    start = (outer * twins.start) @ basis[:, :embeddings].T
    course = outer.T @ descend(start, gamma, twins.rate, steps)
    singular = np.linalg.norm(course, axis=2)
    return Simulation(_curves(singular, np.einsum("sei,ij,sej->se", course, gamma, course)))


def _problem(settings: Settings, seed: int) -> Twins:
    generator = np.random.default_rng(seed)
    embeddings = settings["embeddings"]
    eigenvalues = np.arange(1, embeddings + 3, dtype=np.float64) ** -settings["decay"]
    start = settings["initial"] * generator.uniform(0.5, 1.5, embeddings)
    return Twins(eigenvalues, start, settings["step_size"] / 8)


def _steps(twins: Twins) -> Sequence[int]:
    last = math.ceil(_BEYOND * step_times(twins.learned, twins.start).max() / twins.rate)
    return sorted({round(last * point / _POINTS) for point in range(_POINTS + 1)})


def _wrong(settings: Settings) -> Settings:
    """Strengths at the start of another order of magnitude, which shift every step."""
    return {**settings, "initial": settings["initial"] * (4.0 if settings["initial"] < 0.02 else 0.25)}


def _as_started(twins: Twins, seen: Prediction) -> float:
    return float(np.abs(seen["weight_singular_values"][0] / twins.start - 1).max())


def _logistic(twins: Twins, seen: Prediction) -> float:
    """Odds of what is learned grow by e^{8 gamma t}; measured while 1 - g is no rounding error."""
    share = seen["representation_eigenvalues"]
    time = twins.rate * seen.steps[:, None]
    fair = share < 1 - 1e-6
    with np.errstate(divide="ignore"):
        odds = np.log(share) - np.log1p(-share)
    return float(np.abs(np.where(fair, odds - odds[0] - 8 * twins.learned * time, 0.0)).max())


def _plateau(twins: Twins, seen: Prediction) -> float:
    late = predict(twins, [20 * int(seen.steps[-1])])
    return float(np.abs(late["weight_singular_values"][0] * np.sqrt(twins.learned) - 1).max())


def _half(twins: Twins, seen: Prediction) -> float:
    """At its step time a mode has learned 1 / (2 - gamma s(0)^2)."""
    at_steps = strengths(twins.learned, twins.start, step_times(twins.learned, twins.start)).diagonal()
    return float(np.abs(twins.learned * at_steps**2 * (2 - twins.learned * twins.start**2) - 1).max())


_OF = "discretisation: a step of relative size h delays a mode by a share h / 4 of its step time"

THEORY = Theory(
    name="stepwise-self-supervised",
    question="When will each dimension of a self-supervised embedding be learned?",
    assumptions=(
        "The model is linear in fixed features, as in the infinite-width limit; the loss is |C - I|^2.",
        "Weights start small, along the top eigenvectors of the cross-view covariance.",
    ),
    papers=(
        Paper(
            "On the Stepwise Nature of Self-Supervised Learning",
            (
                "James B. Simon",
                "Maksis Knutins",
                "Liu Ziyin",
                "Daniel Geisz",
                "Abraham J. Fetterman",
                "Joshua Albrecht",
            ),
            2023,
            "https://arxiv.org/abs/2303.15438",
        ),
    ),
    settings=(
        Setting("embeddings", "int", 4, "dimensions of the embedding", 2, 8),
        Setting("decay", "float", 1.0, "exponent with which eigenvalues of Gamma fall from the largest, 1", 0.25, 1.25),
        Setting("initial", "float", 0.02, "typical strength at the start", 0.005, 0.08),
        Setting("step_size", "float", 0.008, "learning rate times 8, the fastest mode's growth rate", 0.004, 0.016),
    ),
    series=(
        SeriesSpec("loss", description="squared distance of the embeddings' cross-view covariance from the identity"),
        SeriesSpec("representation_eigenvalues", ("mode",), description="of the embeddings' cross-view covariance"),
        SeriesSpec("weight_singular_values", ("mode",), description="strengths of the linear map"),
    ),
    problem=_problem,
    steps=_steps,
    predict=predict,
    simulate=simulate,
    bands=(
        Band("loss", 0.02, _OF),
        Band("representation_eigenvalues", 0.02, _OF),
        Band("weight_singular_values", 0.01, _OF),
    ),
    laws=(
        Law("start", "strengths start as given", _as_started),
        Law("logistic", "the odds of each mode grow as exp(8 gamma t)", _logistic, 1e-6),
        Law("plateau", "strengths end at gamma^-1/2", _plateau, 1e-9),
        Law("half", "at its step time a mode is half learned", _half),
    ),
    wrong=_wrong,
    smoke={"step_size": 0.016, "embeddings": 3},
)
