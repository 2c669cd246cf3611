"""Linear self-supervision without contrast (BYOL, SimSiam, DirectPred): mode by mode, up to collapse or not.

A linear encoder f = W x and a linear predictor W_p minimise half of E |W_p W x1 - stopgrad(W_a x2)|^2 over two views
x1, x2 of one example, with weight decay eta; the target W_a is W itself or its running mean. With X the covariance
that views share and X' that of augmentation, the gradient is in the error E = W_p W (X + X') - W_a X, and (Tian, Chen
and Ganguli 2021, lemma 1)

    dW/dt = -W_p' E - eta W,   dW_p/dt = -alpha E W' - eta W_p,   dW_a/dt = beta (W - W_a).

Let X and X' be diagonal in one basis, with entries x_j and x'_j, and let W = U diag(w) V', W_p = U diag(p) U' and
W_a = U diag(a) V' at the start, V that basis. All products stay in this form, so each mode moves on its own:

    dw/dt = p e - eta w,   dp/dt = alpha e w - eta p,   da/dt = beta (w - a),   e = x a - (x + x') p w.

With a = tau w and equal x_j this is the paper's theorem 3; its one tau for all modes is one for each here, and needs no
further assumption. Consequences:

- w^2 - p^2 / alpha decays as exp(-2 eta t) (theorem 1).
- On w^2 = p^2 / alpha with a = w, modes rest at p = 0 and at the roots p-, p+ of (x + x') p^2 - x p + eta = 0: p- is
  the separatrix between collapse and p+, and both are gone if eta exceeds x^2 / (4 (x + x')).
- If X and X' are multiples of the identity and W_p is kept symmetric, the commutator L of F = W X W' with W_p obeys
  dL/dt = -(K L + L K) for a symmetric K, whatever the start: see `alignment_rate`.

DirectPred replaces the trained predictor by p_j = sqrt(s_j) + epsilon max_k s_k, s_j the eigenvalues of F.

A simulation is one training of the matrices, on second moments that are exact: there is nothing to average.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float

from separatrix.runs import SeriesSpec
from separatrix.tasks import GaussianViews
from separatrix.theory.theory import Band, Curves, Floats, Law, Paper, Prediction, Setting, Settings, Simulation, Theory

_HORIZON = 30.0  # in units of time, the step times the learning rate
_POINTS = 80
_STRIDE = 4  # training steps in a step of the integrator


@dataclasses.dataclass(frozen=True)
class Views:
    """A training without contrast, in its modes.

    `signal` and `augmentation` are the variances x and x'; `encoder` and `predictor` the strengths w and p at the
    start, each (modes,). `averaging` is the rate beta of the target's running mean, None if the target is the encoder.
    With `offset`, the epsilon of DirectPred, the predictor is set and not trained.
    """

    signal: Float[np.ndarray, " modes"]
    augmentation: Float[np.ndarray, " modes"]
    encoder: Float[np.ndarray, " modes"]
    predictor: Float[np.ndarray, " modes"]
    predictor_rate: float = 1.0
    weight_decay: float = 0.0
    averaging: float | None = None
    offset: float | None = None
    rate: float = 0.005


def critical_weight_decay(signal: Floats, augmentation: Floats) -> Floats:
    """Weight decay above which a mode collapses from every start, x^2 / (4 (x + x'))."""
    return np.asarray(signal**2 / (4 * (signal + augmentation)))


def resting_strengths(signal: Floats, augmentation: Floats, weight_decay: float) -> tuple[Floats, Floats]:
    """The predictor's strengths p- (the separatrix) and p+ at rest, NaN where a mode must collapse."""
    total = signal + augmentation
    with np.errstate(invalid="ignore"):
        root = np.sqrt(signal**2 - 4 * weight_decay * total)
    return (signal - root) / (2 * total), (signal + root) / (2 * total)


def set_predictor(representation: Floats, offset: float) -> Floats:
    """DirectPred: strengths of the predictor from eigenvalues of F, along the last axis."""
    positive = np.maximum(representation, 0.0)
    return np.asarray(np.sqrt(positive) + offset * positive.max(-1, keepdims=True))


def alignment_rate(
    features: Float[np.ndarray, "d d"],
    predictor: Float[np.ndarray, "d d"],
    total: float,
    predictor_rate: float,
    weight_decay: float,
) -> Float[np.ndarray, "d d"]:
    """K in dL/dt = -(K L + L K), L = [F, W_p], for X = I, X + X' = total I, the target the encoder, W_p symmetric.

    With A = W_p - total W_p^2, dF/dt = {A, F} - 2 eta F and dW_p/dt = -alpha total {F, W_p} / 2 + alpha F - eta W_p.
    A commutes with W_p, hence K = alpha total F / 2 - A + 3 eta / 2.
    """
    pull = predictor - total * predictor @ predictor
    return np.asarray(predictor_rate * total / 2 * features - pull + 1.5 * weight_decay * np.eye(len(features)))


def velocity(views: Views, state: Float[np.ndarray, "3 modes"]) -> Float[np.ndarray, "3 modes"]:
    """Time derivatives of w, p and a; those of what is not trained are 0."""
    encoder, predictor, target = state
    if views.averaging is None:
        target = encoder
    if views.offset is not None:
        predictor = set_predictor(views.signal * encoder**2, views.offset)
    error = views.signal * target - (views.signal + views.augmentation) * predictor * encoder
    moved = np.zeros_like(state)
    moved[0] = predictor * error - views.weight_decay * encoder
    if views.offset is None:
        moved[1] = views.predictor_rate * error * encoder - views.weight_decay * predictor
    if views.averaging is not None:
        moved[2] = views.averaging * (encoder - target)
    return moved


def flow(views: Views, steps: Sequence[int]) -> Float[np.ndarray, "steps 3 modes"]:
    """w, p and a after so many training steps, by the classical Runge-Kutta method on a grid fixed beforehand."""
    state = np.stack([views.encoder, views.predictor, views.encoder]).astype(np.float64)
    found: dict[int, Floats] = {}
    at = 0
    for step in sorted(set(steps)):
        while at + _STRIDE <= step:
            state = _advanced(views, state, _STRIDE * views.rate)
            at += _STRIDE
        found[step] = _settled(views, _advanced(views, state, (step - at) * views.rate))
    return np.stack([found[step] for step in steps])


def _advanced(views: Views, state: Floats, time: float) -> Floats:
    first = velocity(views, state)
    second = velocity(views, state + time / 2 * first)
    third = velocity(views, state + time / 2 * second)
    fourth = velocity(views, state + time * third)
    return np.asarray(state + time / 6 * (first + 2 * second + 2 * third + fourth))


def _settled(views: Views, state: Floats) -> Floats:
    """The state with what follows from the encoder filled in."""
    encoder, predictor, target = state
    if views.offset is not None:
        predictor = set_predictor(views.signal * encoder**2, views.offset)
    return np.stack([encoder, predictor, encoder if views.averaging is None else target])


def loss(views: Views, states: Float[np.ndarray, "steps 3 modes"]) -> Float[np.ndarray, " steps"]:
    """Half the mean squared distance of prediction and target."""
    encoder, predictor, target = np.moveaxis(states, 1, 0)
    total = views.signal + views.augmentation
    products = total * ((predictor * encoder) ** 2 + target**2) - 2 * views.signal * predictor * encoder * target
    return np.asarray(products.sum(-1) / 2)


def predict(views: Views, steps: Sequence[int]) -> Curves:
    """Course of both spectra and of the loss."""
    states = flow(views, steps)
    return {
        "loss": loss(views, states),
        "predictor_eigenvalues": states[:, 1],
        "representation_eigenvalues": views.signal * states[:, 0] ** 2,
    }


@dataclasses.dataclass(frozen=True)
class Moments:
    """Second moments of two views, own E x1 x1' and cross E x2 x1', each (inputs, inputs)."""

    own: Float[np.ndarray, "inputs inputs"]
    cross: Float[np.ndarray, "inputs inputs"]


@dataclasses.dataclass(frozen=True)
class Net:
    """Encoder and target (features, inputs), predictor (features, features)."""

    encoder: Float[np.ndarray, "features inputs"]
    predictor: Float[np.ndarray, "features features"]
    target: Float[np.ndarray, "features inputs"]


def training_step(net: Net, moments: Moments, views: Views, *, symmetric: bool = False) -> Net:
    """One step of gradient descent on the loss of data with these moments; only numbers of `views` are used.

    With `symmetric` the predictor's gradient is made symmetric, as in the paper's theorem 3.
    """
    error = net.predictor @ net.encoder @ moments.own - net.target @ moments.cross
    keep = 1.0 - views.rate * views.weight_decay
    encoder = keep * net.encoder - views.rate * net.predictor.T @ error
    push = error @ net.encoder.T
    push = (push + push.T) / 2 if symmetric else push
    predictor = keep * net.predictor - views.rate * views.predictor_rate * push
    if views.offset is not None:
        predictor = direct_predictor(encoder @ moments.cross @ encoder.T, views.offset)
    target = encoder
    if views.averaging is not None:
        target = net.target + views.rate * views.averaging * (net.encoder - net.target)
    return Net(encoder, predictor, target)


def direct_predictor(features: Float[np.ndarray, "d d"], offset: float) -> Float[np.ndarray, "d d"]:
    """DirectPred's predictor for the covariance F of features."""
    values, vectors = np.linalg.eigh((features + features.T) / 2)
    return np.asarray((vectors * set_predictor(values, offset)) @ vectors.T)


def rotations(size: int, count: int, seed: int) -> list[Floats]:
    """Orthogonal matrices, evenly distributed."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        factor, upper = np.linalg.qr(generator.standard_normal((size, size)))
        found.append(factor * np.sign(np.diag(upper)))
    return found


def simulate(views: Views, steps: Sequence[int], seed: int) -> Simulation:
    """Gradient descent on a sample of views with exact moments, in random bases of inputs and features."""
    size = len(views.signal)
    inputs, features = rotations(size, 2, seed)
    moments = _moments(views, inputs, seed)
    encoder = features @ np.diag(views.encoder) @ inputs.T
    predictor = features @ np.diag(views.predictor) @ features.T
    if views.offset is not None:
        predictor = direct_predictor(encoder @ moments.cross @ encoder.T, views.offset)
    net = Net(encoder, predictor, encoder)
    wanted, losses, predictors, spectra = set(steps), [], [], []
    for step in range(max(steps) + 1):
        if step in wanted:
            losses.append(_loss(net, moments))
            predictors.append(np.diag(features.T @ net.predictor @ features))
            spectra.append(np.diag(features.T @ net.encoder @ moments.cross @ net.encoder.T @ features))
        net = training_step(net, moments, views)
    return Simulation(
        {
            "loss": np.array(losses),
            "predictor_eigenvalues": np.array(predictors),
            "representation_eigenvalues": np.array(spectra),
        }
    )


def _moments(views: Views, basis: Floats, seed: int) -> Moments:
    """Of drawn pairs of views, whose coordinates are turned into the basis."""
    size = len(views.signal)
    pairs = GaussianViews(dimension=size, decay=0.0, noise=1.0, dtype=torch.float64).exact(4 * size, seed)
    shared = pairs.targets.numpy()
    own = pairs.inputs.numpy() - shared[:, None]
    first, second = (
        (shared * np.sqrt(views.signal) + own[:, view] * np.sqrt(views.augmentation)) @ basis.T for view in (0, 1)
    )
    return Moments(first.T @ first / len(first), second.T @ first / len(first))


def _loss(net: Net, moments: Moments) -> float:
    predicted = net.predictor @ net.encoder
    own = np.sum(predicted @ moments.own * predicted) + np.sum(net.target @ moments.own * net.target)
    return float(own - 2 * np.sum(predicted @ moments.cross.T * net.target)) / 2


def _problem(settings: Settings, seed: int) -> Views:
    generator = np.random.default_rng(seed)
    modes = settings["modes"]
    signal = np.arange(1, modes + 1, dtype=np.float64) ** -settings["decay"]
    predictor = settings["initial"] * generator.uniform(0.7, 1.3, modes)
    balanced = predictor / np.sqrt(settings["predictor_rate"])
    return Views(
        signal,
        np.full(modes, settings["noise"]),
        balanced * generator.uniform(0.8, 1.6, modes),
        predictor,
        settings["predictor_rate"],
        settings["weight_decay"],
        settings["averaging"] if settings["target"] == "averaged" else None,
        settings["offset"] if settings["predictor"] == "direct" else None,
        settings["rate"],
    )


def _steps(views: Views) -> Sequence[int]:
    last = round(_HORIZON / views.rate)
    return sorted({round(last * (point / _POINTS) ** 2) for point in range(_POINTS + 1)})


def _as_started(views: Views, seen: Prediction) -> float:
    """Distance from the strengths that were given."""
    encoder = seen["representation_eigenvalues"][0] / views.signal - views.encoder**2
    predictor = 0.0 if views.offset is not None else np.abs(seen["predictor_eigenvalues"][0] - views.predictor).max()
    return float(np.abs(encoder).max() + predictor)


def _balance(views: Views, seen: Prediction) -> float:
    """Relative distance of the predictor from what the encoder and the start make of it."""
    strengths, features = seen["predictor_eigenvalues"], seen["representation_eigenvalues"]
    if views.offset is not None:
        return float(np.abs(strengths - set_predictor(features, views.offset)).max())
    excess = features / views.signal - strengths**2 / views.predictor_rate
    decayed = excess[0] * np.exp(-2 * views.weight_decay * views.rate * seen.steps)[:, None]
    return float(np.abs(excess - decayed).max() / (views.encoder**2).max())


def _rest(views: Views, seen: Prediction) -> float:
    """How far modes move that start at rest, in the stable point or collapsed; with a trained predictor."""
    trained = dataclasses.replace(views, offset=None)
    _, stable = resting_strengths(views.signal, views.augmentation, views.weight_decay)
    strengths = np.nan_to_num(stable)
    still = dataclasses.replace(trained, predictor=strengths, encoder=strengths / np.sqrt(views.predictor_rate))
    moved = predict(still, [0, int(seen.steps[-1])])["predictor_eigenvalues"]
    return float(np.abs(moved[1] - moved[0]).max())


def _descended(views: Views, seen: Prediction) -> float:
    """Distance of the loss from its form in both spectra, where the target is the encoder."""
    if views.averaging is not None:
        return 0.0
    strengths, features = seen["predictor_eigenvalues"], seen["representation_eigenvalues"]
    share = (views.signal + views.augmentation) / views.signal
    whole = features * (share * (strengths**2 + 1) / 2 - strengths)
    return float(np.abs(whole.sum(1) - seen["loss"]).max())


def _wrong(settings: Settings) -> Settings:
    """Augmentation of quite another strength, on which the resting points depend."""
    return {**settings, "noise": settings["noise"] * (3.0 if settings["noise"] < 0.3 else 0.35)}


_OF = "discretisation: the training takes steps of finite size, the prediction is a flow"
_LAWS: tuple[tuple[str, str, Callable[[Views, Prediction], float], float], ...] = (
    ("start", "the strengths start as given", _as_started, 1e-9),
    ("balance", "w^2 - p^2 / alpha decays as exp(-2 eta t); a set predictor is its function of F", _balance, 1e-6),
    ("rest", "balanced modes at the stable root, or at 0 where there is none, stay there", _rest, 1e-9),
    ("loss", "with the encoder as target the loss follows from both spectra", _descended, 1e-9),
)

THEORY = Theory(
    name="non-contrastive",
    question="Will self-supervision without negative pairs collapse, and how strong will each feature become?",
    assumptions=(
        "Encoder and predictor are linear; the loss is squared, with the gradient stopped at the target.",
        "What views share and what augmentation adds have covariances with common eigenvectors.",
        "The encoder's right singular vectors are those, its left ones are the predictor's eigenvectors.",
    ),
    papers=(
        Paper(
            "Understanding self-supervised Learning Dynamics without Contrastive Pairs",
            ("Yuandong Tian", "Xinlei Chen", "Surya Ganguli"),
            2021,
            "https://arxiv.org/abs/2102.06810",
        ),
    ),
    settings=(
        Setting("modes", "int", 4, "features, each along one direction of the inputs", 2, 8),
        Setting("decay", "float", 0.5, "exponent with which the signal's variance falls from mode to mode", 0.0, 1.0),
        Setting("noise", "float", 0.3, "variance of augmentation in every direction", 0.1, 1.0),
        Setting("weight_decay", "float", 0.05, "of encoder and predictor", 0.0, 0.2),
        Setting("predictor_rate", "float", 1.0, "learning rate of the predictor over that of the encoder", 0.5, 4.0),
        Setting("target", "str", "averaged", "what is predicted", choices=("online", "averaged")),
        Setting("averaging", "float", 1.0, "rate at which the averaged target follows the encoder", 0.5, 4.0),
        Setting("predictor", "str", "trained", "by gradient, or set as in DirectPred", choices=("trained", "direct")),
        Setting("offset", "float", 0.1, "epsilon of DirectPred", 0.02, 0.5),
        Setting("initial", "float", 0.4, "strength of the predictor at the start", 0.2, 0.8),
        Setting("rate", "float", 0.005, "learning rate of the encoder", 0.0025, 0.01),
    ),
    series=(
        SeriesSpec("loss", description="half the mean squared distance of prediction and target"),
        SeriesSpec("predictor_eigenvalues", ("mode",), description="strengths of the predictor"),
        SeriesSpec(
            "representation_eigenvalues", ("mode",), description="of the covariance of features that two views share"
        ),
    ),
    problem=_problem,
    steps=_steps,
    predict=predict,
    simulate=simulate,
    bands=(
        Band("predictor_eigenvalues", 0.01, _OF),
        Band("representation_eigenvalues", 0.01, _OF),
        Band("loss", 0.01, _OF),
    ),
    laws=tuple(Law(*law) for law in _LAWS),
    wrong=_wrong,
    smoke={"rate": 0.01, "modes": 3},
)
