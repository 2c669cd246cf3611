"""Self-supervision without negative pairs: what keeps it from collapse, and a predictor that needs no training.

Linear nets are trained by gradient descent on pairs of views whose second moments are exact, and compared with the
equations of `separatrix.theory.non_contrastive`; see there for the symbols. Then small convolutional nets learn from
two distortions of handwritten digits, with a linear predictor trained by gradient or set by DirectPred, and linear
probes of their features are compared.

Two statements of the paper are sharpened. Without a predictor or without the stop of the gradient, the encoder decays
at least as exp(-(x' + eta) t), and exactly so without a predictor. And as with equal variances all modes that survive
end with one strength, the commutator of F with W_p would vanish whether or not they share eigenvectors: it is taken
relative to the parts of both that have no trace, and compared with that of two independent trainings.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float

from separatrix.studies import _siamese
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
from separatrix.theory.non_contrastive import (
    THEORY,
    Moments,
    Net,
    Views,
    alignment_rate,
    critical_weight_decay,
    resting_strengths,
    rotations,
    training_step,
)

_HORIZON = 30.0
_RATE = 0.01
_STARTS = np.array([0.5, 0.7, 0.9, 1.1, 1.4, 2.0])  # of the predictor, over the separatrix
_DECAYS = (0.3, 0.6, 0.85)  # over the critical weight decay
_FATE_RATE, _FATE_STEPS = 0.1, 8000
_PROGRESS_OF_COMMUTATOR = 4.0  # in units of time

Matrix = Float[np.ndarray, "d d"]


def _deviation(settings: Settings, choices: Settings, seed: int, *, ignored: bool = False) -> float:
    """Largest distance of a training from the equations of its modes, over the span of the prediction.

    With `ignored` those equations leave augmentation out.
    """
    given = {name: settings[name] for name in ("modes", "noise", "weight_decay", "predictor_rate", "offset")}
    views = THEORY.problem(THEORY.complete({**given, "rate": _RATE, **choices}), seed)
    supposed = dataclasses.replace(views, augmentation=0.0 * views.augmentation) if ignored else views
    predicted = THEORY.predicted(supposed)
    means, _ = THEORY.simulated(views, predicted.steps.tolist(), seed=seed)
    return max(float(shares(means[name] - predicted[name], predicted[name]).max()) for name in predicted.series)


def _even(settings: Settings) -> Views:
    """Equal variances in all directions, the target the encoder; starts are left open."""
    unused = np.ones(settings["modes"])
    return Views(
        unused,
        settings["noise"] * unused,
        unused,
        unused,
        settings["predictor_rate"],
        settings["weight_decay"],
        rate=_RATE,
    )


def _moments(views: Views) -> Moments:
    return Moments(np.diag(views.signal + views.augmentation), np.diag(views.signal))


def _unaligned(size: int, rate: float, seed: int) -> Net:
    """An encoder and a symmetric predictor without common directions, strengths in [0.4, 1] and [0.4, 1] / sqrt."""
    left, right, own = rotations(size, 3, seed)
    strengths = np.linspace(0.4, 1.0, size)
    encoder = (left * strengths / math.sqrt(rate)) @ right.T
    return Net(encoder, (own * strengths) @ own.T, encoder)


def _trained(net: Net, views: Views, *, symmetric: bool) -> Iterator[Net]:
    moments = _moments(views)
    yield net
    for _ in range(round(_HORIZON / views.rate)):
        net = training_step(net, moments, views, symmetric=symmetric)
        yield net


def _imbalance(net: Net, views: Views) -> Matrix:
    return np.asarray(net.encoder @ net.encoder.T - net.predictor.T @ net.predictor / views.predictor_rate)


def _balance(views: Views, seed: int) -> tuple[float, float]:
    """Relative distance of the imbalance from its decay as exp(-2 eta t), and from one as exp(-eta t), at worst."""
    net = _unaligned(len(views.signal), 2 * views.predictor_rate, seed)
    first = _imbalance(net, views)
    right, wrong = [], []
    for step, now in enumerate(_trained(net, views, symmetric=False)):
        decay = math.exp(-views.weight_decay * views.rate * step)
        right.append(np.linalg.norm(_imbalance(now, views) - decay**2 * first))
        wrong.append(np.linalg.norm(_imbalance(now, views) - decay * first))
    return float(max(right) / np.linalg.norm(first)), float(max(wrong) / np.linalg.norm(first))


def _commutator(features: Matrix, predictor: Matrix) -> Matrix:
    return np.asarray(features @ predictor - predictor @ features)


def _misalignment(features: Matrix, predictor: Matrix) -> float:
    """Size of the commutator over that of both matrices without their traces."""
    size = np.eye(len(features)) / len(features)
    parts = [np.linalg.norm(part - np.trace(part) * size) for part in (features, predictor)]
    return float(np.linalg.norm(_commutator(features, predictor)) / max(parts[0] * parts[1], np.finfo(float).tiny))


@dataclasses.dataclass(frozen=True)
class _Alignment:
    """Relative misalignment at the end over that at the start, with W_p of this training and of another.

    `predicted` is the distance of the commutator from theorem 3, at worst, `partly` without the predictor's part of K.
    """

    own: float
    foreign: float
    predicted: float
    partly: float
    course: list[float]


def _align(views: Views, seed: int) -> _Alignment:
    size, total = len(views.signal), float((views.signal + views.augmentation)[0])
    net = _unaligned(size, views.predictor_rate, seed)
    first = net.encoder @ net.encoder.T
    whole = partly = _commutator(first, net.predictor)
    scale, errors, course = np.linalg.norm(whole), [(0.0, 0.0)], []
    for step, now in enumerate(_trained(net, views, symmetric=True)):
        features = now.encoder @ now.encoder.T
        course.append(_misalignment(features, now.predictor))
        if step * views.rate <= _PROGRESS_OF_COMMUTATOR:
            seen = _commutator(features, now.predictor)
            errors.append((float(np.linalg.norm(seen - whole)), float(np.linalg.norm(seen - partly))))
            rates = [
                alignment_rate(features, now.predictor, total, rate, views.weight_decay)
                for rate in (views.predictor_rate, 0.0)
            ]
            whole, partly = (
                held - views.rate * (rate @ held + held @ rate)
                for held, rate in zip((whole, partly), rates, strict=True)
            )
    start = _unaligned(size, views.predictor_rate, seed + 1)
    other = collections.deque(_trained(start, views, symmetric=True), maxlen=1)[0]
    worst = np.max(errors, axis=0) / scale
    return _Alignment(
        course[-1] / course[0],
        _misalignment(features, other.predictor) / course[0],
        float(worst[0]),
        float(worst[1]),
        course[:: max(1, len(course) // 100)],
    )


def _decay(views: Views, kind: str, seed: int) -> float:
    """Rate at which log tr F falls over 2 (x' + eta), of a training that is whole or lacks a part."""
    net = _unaligned(len(views.signal), views.predictor_rate, seed)
    moments = _moments(views)
    first = np.trace(net.encoder @ net.encoder.T)
    steps = round(_HORIZON / 3 / views.rate)
    for _ in range(steps):
        if kind == "whole":
            net = training_step(net, moments, views)
        elif kind == "no predictor":
            pull = net.encoder @ (moments.own - moments.cross) + views.weight_decay * net.encoder
            net = dataclasses.replace(net, encoder=net.encoder - views.rate * pull)
        else:
            net = _unstopped(net, moments, views)
    fall = math.log(first / np.trace(net.encoder @ net.encoder.T)) / (steps * views.rate)
    return fall / (2 * float(views.augmentation[0] + views.weight_decay))


def _unstopped(net: Net, moments: Moments, views: Views) -> Net:
    """A step along the gradient that also passes through the target, by automatic differentiation."""
    encoder, predictor = (torch.from_numpy(part).requires_grad_() for part in (net.encoder, net.predictor))
    own, cross = torch.from_numpy(moments.own), torch.from_numpy(moments.cross)
    predicted = predictor @ encoder
    loss = ((predicted @ own * predicted).sum() + (encoder @ own * encoder).sum()) / 2
    loss = loss - (predicted @ cross * encoder).sum()
    by_encoder, by_predictor = (part.numpy() for part in torch.autograd.grad(loss, [encoder, predictor]))
    keep = 1 - views.rate * views.weight_decay
    return Net(
        keep * net.encoder - views.rate * by_encoder,
        keep * net.predictor - views.rate * views.predictor_rate * by_predictor,
        net.encoder,
    )


def _fates(settings: Settings, seed: int) -> tuple[float, float]:
    """Share of modes that end as the separatrix says, and as that of half the weight decay would say."""
    size = len(_STARTS)
    signal, noise = np.ones(size), np.full(size, settings["noise"])
    critical = float(critical_weight_decay(signal, noise)[0])
    right, wrong = [], []
    for share in (*_DECAYS, 1.2):
        lower = float(resting_strengths(signal, noise, share * critical)[0][0])
        half = float(resting_strengths(signal, noise, share / 2 * critical)[0][0])
        ending = critical / signal[0] if math.isnan(lower) else lower
        scale = 2 * critical if math.isnan(lower) else lower
        ends = _ends(settings, _STARTS * scale, share * critical, seed) > ending
        right += (ends == (_STARTS * scale > (math.inf if math.isnan(lower) else lower))).tolist()
        wrong += (ends == (_STARTS * scale > half)).tolist()
    return float(np.mean(right)), float(np.mean(wrong))


def _ends(settings: Settings, starts: Float[np.ndarray, " d"], weight_decay: float, seed: int) -> np.ndarray:
    """The predictor's strengths after a long training from balanced modes, one for each start."""
    size = len(starts)
    inputs, features = rotations(size, 2, seed)
    even = _even({**settings, "modes": size, "weight_decay": weight_decay})
    views = dataclasses.replace(even, rate=_FATE_RATE)
    encoder = (features * starts / math.sqrt(views.predictor_rate)) @ inputs.T
    net = Net(encoder, (features * starts) @ features.T, encoder)
    moments = _moments(views)
    for _ in range(_FATE_STEPS):
        net = training_step(net, moments, views)
    return np.asarray(np.diag(features.T @ net.predictor @ features))


def _probes(settings: Settings, seed: int, copies: int, progress: Progress) -> dict[str, float]:
    """Mean accuracy of linear probes by the way in which the predictor comes about; and with labels shuffled."""
    found: dict[str, list[float]] = {"trained": [], "direct": [], "shuffled": []}
    kinds: tuple[_siamese.Predictor, ...] = ("trained", "direct")
    for copy in range(copies):
        start = _siamese.drawn(torch.Generator().manual_seed(1000 * seed + copy))
        for kind in kinds:
            generator = torch.Generator().manual_seed(1000 * seed + copy + 500)
            net = _siamese.train(start, kind, settings["offset"], settings["net_steps"], generator)
            found[kind].append(_siamese.probe(net))
            progress()
        found["shuffled"].append(_siamese.probe(net, generator))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _copies(quick: bool) -> int:
    return 2 if quick else 8


_LINEAR_RUNS = 9  # three of modes, balance, alignment, three of decay, fates


def _plan(settings: Settings, quick: bool) -> Plan:
    nets = 2 * _copies(quick)
    return Plan(runs=_LINEAR_RUNS + nets, seconds=0.2 + 5e-4 * nets * settings["net_steps"])


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    kinds = ({"target": "online"}, {"target": "averaged"}, {"predictor": "direct"})
    deviations = []
    for kind in kinds:
        deviations.append(_deviation(settings, kind, seed))
        progress()
    ignoring = _deviation(settings, kinds[0], seed, ignored=True)
    views = _even(settings)
    balance, slow_balance = _balance(views, seed)
    progress()
    alignment = _align(views, seed)
    progress()
    decays = {}
    for kept in ("whole", "no predictor", "no stop"):
        decays[kept] = _decay(views, kept, seed)
        progress()
    fates, strange_fates = _fates(settings, seed)
    progress()
    probes = _probes(settings, seed, _copies(quick), progress)
    return Outcome(
        measured={
            "modes_follow_their_equations": max(deviations),
            "imbalance_decays": balance,
            "eigenvectors_align": alignment.own,
            "commutator_follows_its_equation": alignment.predicted,
            "decays_without_predictor": decays["no predictor"],
            "decays_without_stop_gradient": decays["no stop"],
            "separatrix_tells_collapse": fates,
            "set_predictor_is_no_worse": probes["direct"] - probes["trained"],
        },
        controls={
            "augmentation_left_out": ignoring,
            "half_the_decay": slow_balance,
            "predictor_of_another_training": alignment.foreign,
            "without_the_predictors_part": alignment.partly,
            "with_predictor": decays["whole"],
            "with_stop_gradient": decays["whole"],
            "half_the_weight_decay": strange_fates,
            "shuffled_labels": probes["shuffled"] - probes["trained"],
        },
        series={
            "misalignment": alignment.course,
            "probe_accuracy": [probes["trained"], probes["direct"]],
        },
    )


study = Study(
    id="17",
    slug="non-contrastive",
    paper=THEORY.papers[0],
    summary="Predictor and stopped gradient prevent collapse without negatives; the predictor can be set directly.",
    settings=(
        Setting("modes", "int", 4, "features of the linear nets", 2, 8),
        Setting("noise", "float", 0.25, "variance of augmentation over that of the strongest signal", 0.1, 0.5),
        Setting("weight_decay", "float", 0.04, "of encoder and predictor", 0.02, 0.08),
        Setting("predictor_rate", "float", 1.0, "learning rate of the predictor over that of the encoder", 0.5, 4.0),
        Setting("offset", "float", 0.1, "epsilon of DirectPred", 0.05, 0.3),
        Setting("net_steps", "int", 100, "training steps of the convolutional nets", 60, 240),
    ),
    statements=(
        Statement(
            "modes_follow_their_equations",
            "at_most",
            0.005,
            "Distance of both spectra and the loss from the equations, at worst, over their span.",
        ),
        Statement(
            "imbalance_decays",
            "at_most",
            0.003,
            "Relative distance of W W' - W_p' W_p / alpha from its decay as exp(-2 eta t), at worst, from any start.",
        ),
        Statement(
            "eigenvectors_align",
            "at_most",
            0.02,
            "Relative commutator of F and W_p at the end over that at the start.",
        ),
        Statement(
            "commutator_follows_its_equation",
            "at_most",
            0.003,
            "Distance of the commutator from theorem 3, at worst, over its size at the start.",
        ),
        Statement(
            "decays_without_predictor",
            "equal",
            1.0,
            "Rate at which log tr F falls over 2 (x' + eta), without a predictor.",
            0.005,
        ),
        Statement(
            "decays_without_stop_gradient",
            "at_least",
            1.0,
            "Rate at which log tr F falls over 2 (x' + eta), with the gradient passing through the target.",
        ),
        Statement(
            "separatrix_tells_collapse",
            "at_least",
            1.0,
            "Share of modes that collapse or survive as p- says; none survives above the critical weight decay.",
        ),
        Statement(
            "set_predictor_is_no_worse",
            "at_least",
            0.0,
            "Accuracy of a linear probe with DirectPred less that with a trained linear predictor, nets on digits.",
        ),
    ),
    controls=(
        Control("augmentation_left_out", "modes_follow_their_equations", "Equations without augmentation."),
        Control("half_the_decay", "imbalance_decays", "A decay as exp(-eta t)."),
        Control("predictor_of_another_training", "eigenvectors_align", "F and W_p of two independent trainings."),
        Control("without_the_predictors_part", "commutator_follows_its_equation", "The rate K without alpha F."),
        Control("with_predictor", "decays_without_predictor", "The whole method."),
        Control("with_stop_gradient", "decays_without_stop_gradient", "The whole method."),
        Control("half_the_weight_decay", "separatrix_tells_collapse", "The separatrix of half the weight decay."),
        Control(
            "shuffled_labels", "set_predictor_is_no_worse", "The probe of DirectPred is fitted to shuffled labels."
        ),
    ),
    plan=_plan,
    run=_run,
    smoke={"modes": 3, "net_steps": 60},
)
