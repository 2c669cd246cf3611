"""Deep linear joint-embedding prediction (JEPA) beside masked autoencoding (MAE): which feature is learned when.

Pairs (x, y) have covariances E x x' and E y x' that are diagonal in one basis, with entries sigma_i^2 and lambda_i;
rho_i = lambda_i / sigma_i^2 is the regression coefficient of y_i on x_i. An encoder W of `depth` linear layers is
followed by one more linear layer: a predictor P that minimises half of E |P W x - stopgrad(W y)|^2 in embedding space
(JEPA), or a decoder D that minimises half of E |D W x - y|^2 in data space (MAE). From a balanced start every layer has
the same strength a_i in feature i, and gradient flow is

    JEPA: da/dt = a^(2 L) (lambda - a sigma^2),    MAE: da/dt = a^L (lambda - a^(L + 1) sigma^2),

for L = depth. In w = a^L, the encoder's strength, these are L times equations (7) and (8) of Littwin et al. 2024. They
rest at a = rho and a = rho^(1 / (L + 1)). The times from a0 to a follow by expansion of 1 / (1 - z) into powers up to
where logarithms or a hypergeometric function take over:

    JEPA: lambda t = [ln a - ln |1 - a / rho|] / rho^(2 L - 1) - sum_{k=1}^{2 L - 1} a^-k / (k rho^(2 L - 1 - k)),
    MAE:  lambda t = a^(1 - L) / (1 - L) + a^2 / (2 rho) 2F1(1, 2 / (L + 1); 1 + 2 / (L + 1); a^(L + 1) / rho),

each taken between a0 and a, with ln a for the first term of MAE at L = 1. For small a0 both times are led by
1 / lambda; the next order of JEPA's, 1 / (lambda rho (2 L - 2) a0^(2 L - 2)), still diverges, and that of MAE's stays
bounded: among features of equal lambda a JEPA learns those of high rho first, an MAE does not.

A simulation is one training of the layers, on second moments that are exact: there is nothing to average.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import hyp2f1

from separatrix.runs import SeriesSpec
from separatrix.tasks import GaussianViews
from separatrix.theory.non_contrastive import rotations
from separatrix.theory.theory import Band, Curves, Floats, Law, Paper, Prediction, Setting, Settings, Simulation, Theory

Objective = Literal["jepa", "mae"]

_LEARNED = 0.98  # of the way to rest, where the fastest feature counts as learned
_BEYOND = 1.5
_POINTS = 80
_STRIDE = 2


@dataclasses.dataclass(frozen=True)
class Features:
    """A training: lambda and rho by feature, the encoder's strength w at the start, and its depth."""

    covariance: Float[np.ndarray, " features"]
    coefficient: Float[np.ndarray, " features"]
    start: float
    depth: int
    objective: Objective
    rate: float = 0.01

    @property
    def variance(self) -> Float[np.ndarray, " features"]:
        """Variance sigma^2 of x and of y."""
        return np.asarray(self.covariance / self.coefficient)

    @property
    def layer_start(self) -> float:
        """Strength of a layer at the start, the same for all features."""
        return float(self.start ** (1 / self.depth))

    @property
    def layer_rest(self) -> Float[np.ndarray, " features"]:
        """Strength of a layer at rest."""
        power = 1.0 if self.objective == "jepa" else 1 / (self.depth + 1)
        return np.asarray(self.coefficient**power)


def velocity(features: Features, strength: Float[np.ndarray, " features"]) -> Float[np.ndarray, " features"]:
    """da/dt, a the strength of a layer."""
    depth = features.depth
    if features.objective == "jepa":
        return np.asarray(strength ** (2 * depth) * (features.covariance - strength * features.variance))
    return np.asarray(strength**depth * (features.covariance - strength ** (depth + 1) * features.variance))


def _clock(features: Features, strength: Floats) -> Floats:
    """Time, up to a constant of each feature, at which a layer has this strength; for MAE below its rest."""
    depth, rho = features.depth, features.coefficient
    if features.objective == "jepa":
        last = 2 * depth - 1
        powers = sum(strength**-k / (k * rho ** (last - k)) for k in range(1, last + 1))
        logarithm = np.log(strength) - np.log(np.abs(1 - strength / rho))
        return np.asarray((logarithm / rho**last - powers) / features.covariance)
    order = 2 / (depth + 1)
    leading = np.log(strength) if depth == 1 else strength ** (1.0 - depth) / (1.0 - depth)
    rest = strength**2 / (2 * rho) * hyp2f1(1, order, 1 + order, strength ** (depth + 1) / rho)
    return np.asarray((leading + rest) / features.covariance)


def critical_times(features: Features, share: float) -> Float[np.ndarray, " features"]:
    """When the encoder's strength is this share of the one at rest; NaN where it never is, as it starts above."""
    end = share ** (1 / features.depth) * features.layer_rest
    start = np.full_like(end, features.layer_start)
    grows = start < end
    safe = np.where(grows, start, end)
    return np.where(grows, _clock(features, end) - _clock(features, safe), np.nan)


def leading_critical_times(features: Features) -> Float[np.ndarray, " features"]:
    """The part of the critical times that diverges for a small start, logarithms left out.

    Of MAE at depth 1 nothing but the logarithm diverges: 0.
    """
    start, depth, rho = features.layer_start, features.depth, features.coefficient
    if features.objective == "mae":
        return np.asarray((start ** (1 - depth) / max(depth - 1, 1) if depth > 1 else 0.0) / features.covariance)
    last = 2 * depth - 1
    return np.asarray(sum(start**-k / (k * rho ** (last - k)) for k in range(1, last + 1)) / features.covariance)


def flow(features: Features, steps: Sequence[int]) -> Float[np.ndarray, "steps features"]:
    """Strength of a layer after so many training steps, by the classical Runge-Kutta method on a fixed grid."""
    strength = np.full(len(features.covariance), features.layer_start)
    found: dict[int, Floats] = {}
    at = 0
    for step in sorted(set(steps)):
        while at + _STRIDE <= step:
            strength = _advanced(features, strength, _STRIDE * features.rate)
            at += _STRIDE
        found[step] = _advanced(features, strength, (step - at) * features.rate)
    return np.stack([found[step] for step in steps])


def _advanced(features: Features, strength: Floats, time: float) -> Floats:
    first = velocity(features, strength)
    second = velocity(features, strength + time / 2 * first)
    third = velocity(features, strength + time / 2 * second)
    fourth = velocity(features, strength + time * third)
    return np.asarray(strength + time / 6 * (first + 2 * second + 2 * third + fourth))


def predict(features: Features, steps: Sequence[int]) -> Curves:
    """Course of the encoder's strengths and of the loss."""
    layer = flow(features, steps)
    encoder = layer**features.depth
    wanted = encoder if features.objective == "jepa" else np.ones_like(encoder)
    made = layer * encoder
    terms = features.variance * (made**2 + wanted**2) - 2 * features.covariance * made * wanted
    return {"loss": terms.sum(1) / 2, "encoder_strengths": encoder}


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Second moments own E x x' and cross E y x', each (inputs, inputs)."""

    own: Float[np.ndarray, "inputs inputs"]
    cross: Float[np.ndarray, "inputs inputs"]


@dataclasses.dataclass(frozen=True)
class Net:
    """Square layers of the encoder, the first on the inputs, and the head: a predictor or a decoder."""

    layers: tuple[Float[np.ndarray, "d d"], ...]
    head: Float[np.ndarray, "d d"]

    def encoder(self) -> Float[np.ndarray, "d d"]:
        """Product of the layers."""
        product = self.layers[0]
        for layer in self.layers[1:]:
            product = layer @ product
        return product


def balanced_net(size: int, depth: int, strength: float, objective: Objective, seed: int) -> Net:
    """Layers of this strength in every direction, between random bases; the head undoes or keeps the last of them."""
    bases = rotations(size, depth + 1, seed)
    layers = tuple(strength * bases[k + 1] @ bases[k].T for k in range(depth))
    head = np.eye(size) if objective == "jepa" else bases[0] @ bases[-1].T
    return Net(layers, strength * head)


def training_step(net: Net, pairs: Pairs, objective: Objective, rate: float) -> Net:
    """One step of gradient descent on the loss of data with these moments."""
    before = [np.eye(len(net.head))]
    for layer in net.layers:
        before.append(layer @ before[-1])
    encoder = before[-1]
    wanted = encoder @ pairs.cross if objective == "jepa" else pairs.cross
    residual = net.head @ encoder @ pairs.own - wanted
    back = net.head.T @ residual
    layers = list(net.layers)
    for k in reversed(range(len(layers))):
        layers[k] = net.layers[k] - rate * back @ before[k].T
        back = net.layers[k].T @ back
    return Net(tuple(layers), net.head - rate * residual @ encoder.T)


def simulate(features: Features, steps: Sequence[int], seed: int) -> Simulation:
    """Gradient descent on a sample of pairs with exact moments, in a random basis of inputs."""
    size = len(features.covariance)
    net = balanced_net(size, features.depth, features.layer_start, features.objective, seed)
    basis = rotations(size, 1, seed + 1)[0]
    pairs = _pairs(features, basis, seed)
    first = net.encoder() / features.start
    wanted, losses, strengths = set(steps), [], []
    for step in range(max(steps) + 1):
        if step in wanted:
            encoder = net.encoder()
            losses.append(_loss(net.head @ encoder, encoder, pairs, features.objective))
            strengths.append(np.diag(basis.T @ first.T @ encoder @ basis))
        net = training_step(net, pairs, features.objective, features.rate)
    return Simulation({"loss": np.array(losses), "encoder_strengths": np.array(strengths)})


def _pairs(features: Features, basis: Floats, seed: int) -> Pairs:
    """Of drawn pairs whose coordinates share lambda and differ in the rest of their variance."""
    size = len(features.covariance)
    drawn = GaussianViews(dimension=size, decay=0.0, noise=1.0, dtype=torch.float64).exact(4 * size, seed)
    shared = drawn.targets.numpy()
    rest = np.sqrt(features.variance - features.covariance)
    own = (drawn.inputs.numpy() - shared[:, None]) * rest
    one, two = ((shared * np.sqrt(features.covariance) + own[:, view]) @ basis.T for view in (0, 1))
    return Pairs(one.T @ one / len(one), two.T @ one / len(one))


def _loss(made: Floats, encoder: Floats, pairs: Pairs, objective: Objective) -> float:
    wanted = encoder if objective == "jepa" else np.eye(len(made))
    own = np.sum(made @ pairs.own * made) + np.sum(wanted @ pairs.own * wanted)
    return float(own - 2 * np.sum(made @ pairs.cross.T * wanted)) / 2


def _problem(settings: Settings, seed: int) -> Features:
    generator = np.random.default_rng(seed)
    count = settings["features"]
    depth = settings["depth"]
    coefficient = 1 / (1 + settings["noise"] * generator.uniform(0.0, 1.0, count))
    coefficient[0] = 0.98
    covariance = np.asarray(generator.uniform(0.7, 1.0, count))
    rate = settings["step_size"] / (depth + 1)
    return Features(covariance, coefficient, settings["initial"], depth, settings["objective"], rate)


def _steps(features: Features) -> Sequence[int]:
    last = math.ceil(_BEYOND * np.nanmin(critical_times(features, _LEARNED)) / features.rate)
    return sorted({round(last * point / _POINTS) for point in range(_POINTS + 1)})


def _as_started(features: Features, seen: Prediction) -> float:
    return float(np.abs(seen["encoder_strengths"][0] / features.start - 1).max())


def _on_time(features: Features, seen: Prediction) -> float:
    """Relative distance of the clock from the time, while a feature is on its way and off its rest."""
    layer = seen["encoder_strengths"] ** (1 / features.depth)
    off = np.abs(layer / features.layer_rest - 1)
    growing = layer < features.layer_rest if features.objective == "mae" else np.ones_like(off, dtype=bool)
    fair = growing & (off > 0.01)
    with np.errstate(all="ignore"):
        passed = _clock(features, layer) - _clock(features, layer[:1])
    time = features.rate * seen.steps[:, None]
    return float(np.abs(np.where(fair, passed - time, 0.0)).max() / time.max())


def _rest(features: Features, seen: Prediction) -> float:
    return float(np.abs(velocity(features, features.layer_rest)).max() / features.covariance.max())


def _critical(features: Features, seen: Prediction) -> float:
    """Distance from half of the rest at the fastest feature's critical time."""
    times = critical_times(features, 0.9)
    fastest = int(np.nanargmin(times))
    alone = dataclasses.replace(features, rate=float(times[fastest]) / 4000)
    reached = flow(alone, [4000])[0, fastest] ** features.depth
    return abs(float(reached / (0.9 * features.layer_rest[fastest] ** features.depth)) - 1)


_OF = "discretisation: the training takes steps of finite size, the prediction is a flow"

THEORY = Theory(
    name="jepa",
    question="Which features will a latent-space predictor learn first, and which an autoencoder?",
    assumptions=(
        "Encoder and head are linear, all layers equally strong at the start; the loss is squared.",
        "The covariances E x x' and E y x' have common eigenvectors.",
    ),
    papers=(
        Paper(
            "How JEPA Avoids Noisy Features: The Implicit Bias of Deep Linear Self Distillation Networks",
            (
                "Etai Littwin",
                "Omid Saremi",
                "Madhu Advani",
                "Vimal Thilak",
                "Preetum Nakkiran",
                "Chen Huang",
                "Joshua Susskind",
            ),
            2024,
            "https://arxiv.org/abs/2407.03475",
        ),
    ),
    settings=(
        Setting("objective", "str", "jepa", "prediction of embeddings or of data", choices=("jepa", "mae")),
        Setting("depth", "int", 2, "layers of the encoder", 1, 5),
        Setting("features", "int", 4, "features of the data, one without noise", 2, 8),
        Setting("noise", "float", 0.5, "largest variance that belongs to one side, over the covariance", 0.25, 2.0),
        Setting("initial", "float", 0.1, "strength of the encoder at the start", 0.07, 0.28),
        Setting("step_size", "float", 0.04, "learning rate times the number of layers", 0.02, 0.08),
    ),
    series=(
        SeriesSpec("loss", description="half the mean squared distance of prediction and target"),
        SeriesSpec("encoder_strengths", ("mode",), description="of the encoder, by feature"),
    ),
    problem=_problem,
    steps=_steps,
    predict=predict,
    simulate=simulate,
    bands=(Band("loss", 0.01, _OF), Band("encoder_strengths", 0.01, _OF)),
    laws=(
        Law("start", "all features start with the strength given", _as_started),
        Law("clock", "the time in closed form is the time", _on_time, 1e-6),
        Law("rest", "nothing moves at rho, or at its root", _rest),
        Law("critical", "at its critical time a feature has the share asked for", _critical, 1e-6),
    ),
    wrong=lambda settings: {**settings, "objective": "mae" if settings["objective"] == "jepa" else "jepa"},
    smoke={"step_size": 0.08, "features": 3},
)
