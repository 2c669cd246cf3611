"""Stepwise self-supervision: one dimension of the embedding after another, at times that are known beforehand.

Linear Barlow Twins are trained by gradient descent and compared with the closed form of
`separatrix.theory.stepwise_self_supervised`; see there for the symbols. Eigenvalues of the cross-view covariance fall
by a factor `ratio` from one to the next. Starts are aligned, or random and small: the latter are compared with the
aligned start that they act as. In the features of a polynomial kernel the end of a training is compared with the kernel
PCA that the paper derives. Last, nets with one hidden layer learn from two distortions of handwritten digits.

Every W with W Gamma W' = I has no loss, and nothing moves among them: that the top eigenvectors are found is due to the
small start alone. From a start of size 1e-3 and with gamma_3 near gamma_2, the inner products of learned embeddings lay
4 % from those of the kernel PCA however long the training; the start is 1e-8 here.

The paper's net is a deep residual one; here it has one hidden layer, and a start that is small in its last layer only.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

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
from separatrix.tasks import ImageViews
from separatrix.theory.stepwise_self_supervised import (
    THEORY,
    Twins,
    cross_covariance,
    descend,
    effective_start,
    final_representation,
    predict,
    simulate,
    step_times,
    strengths,
)

_ODDS_BEYOND = 12.0  # logarithm of the odds of the last mode at the end
_SMALL = 1e-6  # of random starts
_SPECTRUM = 6  # inputs of random starts
_POINTS = 200
_PAIRS, _SWAYS = 24, 0.6  # of the kernel's data: pairs, and standard deviation of what differs between views
_KERNEL_STEP, _KERNEL_STEPS = 0.05, 6000  # over 1 / gamma_1
_IMAGES, _NET_EMBEDDINGS, _NET_STEP, _NET_STEPS = 256, 5, 0.3, 1000
_SMALL_NET, _LARGE_NET = 1e-8, 1.5


def _grid(last: int) -> list[int]:
    return sorted({round(last * point / _POINTS) for point in range(_POINTS + 1)})


@dataclasses.dataclass(frozen=True)
class _Aligned:
    """Of an aligned start: distance of strengths from the closed form, and from that at half the rate; both at worst.

    Distances are over the plateaus, as are the strengths at the end; `times` are measured over predicted step times,
    and `next` is what the next mode has learned when one is half learned, at worst.
    """

    distance: float
    halved: float
    plateaus: list[float]
    times: list[float]
    next: float


def _aligned(twins: Twins, seed: int) -> _Aligned:
    predicted_times = step_times(twins.learned, twins.start)
    steps = _grid(math.ceil((predicted_times + _ODDS_BEYOND / (8 * twins.learned)).max() / twins.rate))
    at = sorted(
        {*steps, *(max(0, round(time / twins.rate) + near) for time in predicted_times for near in (-40, 0, 40))}
    )
    curves = simulate(twins, at, seed).curves
    singular, learned = curves["weight_singular_values"], curves["representation_eigenvalues"]
    time = twins.rate * np.array(at)
    plateau = twins.learned**-0.5
    found = strengths(twins.learned, twins.start, time)
    slow = strengths(twins.learned, twins.start, time / 2)
    crossings, following = [], []
    for mode in range(len(twins.start)):
        crossings.append(float(np.interp(0.5, learned[:, mode], time)))
        if mode + 1 < len(twins.start):
            following.append(float(np.interp(crossings[-1], time, learned[:, mode + 1])))
    return _Aligned(
        float((np.abs(singular - found) / plateau).max()),
        float((np.abs(singular - slow) / plateau).max()),
        (singular[-1] / plateau).tolist(),
        (np.array(crossings) / predicted_times).tolist(),
        max(following),
    )


def _random(ratio: float, step_size: float, copies: int, seed: int) -> tuple[float, float]:
    """Distance of the loss from that of the effective aligned start, and of the columns' norms; mean over copies."""
    eigenvalues = ratio ** -np.arange(_SPECTRUM, dtype=np.float64)
    generator = np.random.default_rng(seed)
    basis = np.linalg.qr(generator.standard_normal((_SPECTRUM, _SPECTRUM)))[0]
    gamma = (basis * eigenvalues) @ basis.T
    starts = _SMALL * generator.standard_normal((copies, 2, _SPECTRUM))
    effective = np.stack([effective_start(start, basis) for start in starts])
    norms = np.linalg.norm(starts @ basis[:, :2], axis=1)
    rate = step_size / 8
    steps = _grid(math.ceil(1.3 * max(step_times(eigenvalues[:2], start).max() for start in effective) / rate))
    course = descend(starts, gamma, rate, steps)
    embedded = course @ gamma @ course.swapaxes(-1, -2)
    loss = ((embedded - np.eye(2)) ** 2).sum((-1, -2))

    def distance(start: Float[np.ndarray, " 2"], losses: Float[np.ndarray, " steps"]) -> float:
        return float(np.abs(losses - predict(Twins(eigenvalues, start, rate), steps)["loss"]).max())

    right, wrong = (np.mean([*map(distance, supposed, loss.T)]) for supposed in (effective, norms))
    return float(right), float(wrong)


def _features(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 6"]:
    """Of the kernel (1 + x y)^2."""
    one, two = points.T
    root = math.sqrt(2)
    return np.stack((np.ones_like(one), root * one, root * two, one**2, two**2, root * one * two), 1)


def _kernel_pca(seed: int) -> tuple[float, float]:
    """Relative distance of learned inner products of new points from those predicted by the cross-view kernel's PCA.

    And from those by the PCA of the kernel itself, which ignores which views are partners.
    """
    generator = np.random.default_rng(seed)
    shared = generator.standard_normal((_PAIRS, 2)) * [1.0, 0.3]
    views = np.concatenate([shared + _SWAYS * generator.standard_normal((_PAIRS, 2)) for _ in range(2)])
    gamma = cross_covariance(_features(views[:_PAIRS]), _features(views[_PAIRS:]))
    kernel = (1 + views @ views.T) ** 2
    eigenvalues, coefficients = final_representation(kernel, 2)
    start = 1e-8 * generator.standard_normal((2, 6))
    weights = descend(start, gamma, _KERNEL_STEP / eigenvalues[0], [_KERNEL_STEPS])[0]
    fresh = generator.standard_normal((20, 2))
    learned = _features(fresh) @ weights.T
    values, vectors = np.linalg.eigh(kernel / len(views))
    ordinary = (vectors[:, -2:] / (math.sqrt(len(views)) * values[-2:])).T
    products = learned @ learned.T

    def distance(coefficients: Float[np.ndarray, "2 views"]) -> float:
        predicted = (1 + fresh @ views.T) ** 2 @ coefficients.T
        return float(np.linalg.norm(predicted @ predicted.T - products) / np.linalg.norm(products))

    return distance(coefficients), distance(ordinary)


def _net(width: int, scale: float, seed: int) -> tuple[list[float], float]:
    """Steps at which eigenvalues of the embeddings' cross-view covariance pass 1/2, and the mean of the next then.

    A net with one hidden layer of ReLU, its last layer drawn with `scale` times the usual size, minimises |C - I|^2
    over distorted digits by gradient descent; C is taken about the mean embedding.
    """
    generator = torch.Generator().manual_seed(seed)
    one, two = ImageViews().sample(_IMAGES, generator).inputs.flatten(2).double().unbind(1)
    size = one.shape[1]
    layers = [
        torch.randn(width, size, dtype=one.dtype, generator=generator) / math.sqrt(size),
        scale * torch.randn(_NET_EMBEDDINGS, width, dtype=one.dtype, generator=generator) / math.sqrt(width),
    ]
    hidden = [(views @ layers[0].T).relu() for views in (one, two)]
    rate = _NET_STEP / (8 * float(torch.linalg.eigvalsh(_covariance(*hidden))[-1]))
    layers = [layer.requires_grad_() for layer in layers]
    course = []
    for _ in range(_NET_STEPS):
        covariance = _covariance(*((views @ layers[0].T).relu() @ layers[1].T for views in (one, two)))
        course.append(torch.linalg.eigvalsh(covariance.detach()).flip(0))
        if float(course[-1][-1]) > 0.5:
            break
        loss = (covariance - torch.eye(_NET_EMBEDDINGS, dtype=one.dtype)).square().sum()
        gradients = torch.autograd.grad(loss, layers)
        with torch.no_grad():
            for layer, gradient in zip(layers, gradients, strict=True):
                layer -= rate * gradient
    values = torch.stack(course)
    passed = values > 0.5
    steps = torch.where(passed.any(0), passed.double().argmax(0), len(values) - 1)
    following = [float(values[int(steps[mode]), mode + 1]) for mode in range(_NET_EMBEDDINGS - 1)]
    return steps.double().tolist(), float(np.mean(following))


def _covariance(one: Tensor, two: Tensor) -> Tensor:
    product = (one - one.mean(0)).T @ (two - two.mean(0)) / len(one)
    return (product + product.T) / 2


def _plan(settings: Settings, quick: bool) -> Plan:
    work = settings["ratio"] ** (settings["embeddings"] - 1) / settings["step_size"]
    return Plan(
        runs=6, seconds=2 + 2e-4 * work + (0.002 if quick else 0.008) * settings["ratio"] / settings["step_size"]
    )


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    embeddings, ratio, step_size = settings["embeddings"], settings["ratio"], settings["step_size"]
    generator = np.random.default_rng(seed)
    start = settings["initial"] * generator.uniform(0.8, 1.25, embeddings)
    twins = Twins(ratio ** -np.arange(embeddings + 2, dtype=np.float64), start, step_size / 8)
    aligned = _aligned(twins, seed)
    progress()
    equal = _aligned(dataclasses.replace(twins, eigenvalues=np.ones(embeddings + 2)), seed)
    progress()
    right, wrong = _random(ratio, step_size, 16 if quick else 64, seed)
    progress()
    cross_view, ordinary = _kernel_pca(seed)
    progress()
    steps, following = _net(settings["width"], _SMALL_NET, seed)
    progress()
    _, together = _net(settings["width"], _LARGE_NET, seed)
    progress()
    return Outcome(
        measured={
            "strengths_match_the_closed_form": aligned.distance,
            "strengths_reach_their_plateaus": aligned.plateaus,
            "steps_come_when_predicted": aligned.times,
            "one_dimension_at_a_time": aligned.next,
            "random_starts_act_as_aligned": right,
            "the_end_is_kernel_pca": cross_view,
            "nets_learn_one_at_a_time": following,
        },
        controls={
            "growth_at_half_the_rate": aligned.halved,
            "equal_eigenvalues": equal.next,
            "norms_as_strengths": wrong,
            "pca_without_partners": ordinary,
            "large_start": together,
        },
        series={"net_steps": steps},
    )


study = Study(
    id="397",
    slug="stepwise-self-supervised",
    paper=THEORY.papers[0],
    summary="Embeddings are learned one dimension at a time, at known times, and end as a kernel PCA.",
    settings=(
        Setting(
            "embeddings",
            "int",
            3,
            "dimensions of the linear embedding",
            2,
            3,
            reason="time goes as ratio^(embeddings - 1)",
        ),
        Setting("ratio", "float", 2.5, "of successive eigenvalues of the cross-view covariance", 1.6, 6.4),
        Setting("initial", "float", 0.01, "typical strength of aligned starts", 0.002, 0.02),
        Setting("step_size", "float", 0.008, "learning rate times 8 gamma_1", 0.003, 0.012),
        Setting("width", "int", 64, "hidden units of the net", 32, 128),
    ),
    statements=(
        Statement(
            "strengths_match_the_closed_form",
            "at_most",
            0.01,
            "Distance of singular values from the closed form, at worst, over their plateaus; aligned start.",
        ),
        Statement("strengths_reach_their_plateaus", "equal", 1.0, "Singular values at the end over gamma^-1/2.", 1e-4),
        Statement(
            "steps_come_when_predicted", "equal", 1.0, "Times of half learning over -log(gamma s^2) / (8 gamma).", 0.01
        ),
        Statement(
            "one_dimension_at_a_time",
            "at_most",
            0.1,
            "What the next mode has learned when one is half learned, at worst.",
        ),
        Statement(
            "random_starts_act_as_aligned",
            "at_most",
            0.06,
            "Distance of the loss, which starts at 2, from that of the aligned start Q R predicts, at worst; mean.",
        ),
        Statement(
            "the_end_is_kernel_pca",
            "at_most",
            0.005,
            "Relative distance of inner products of learned embeddings from those of the cross-view kernel's PCA.",
        ),
        Statement(
            "nets_learn_one_at_a_time",
            "at_most",
            0.1,
            "Next eigenvalue of the embeddings' covariance when one passes 1/2, mean; hidden layer, digits.",
        ),
    ),
    controls=(
        Control("growth_at_half_the_rate", "strengths_match_the_closed_form", "The closed form at half the time."),
        Control("equal_eigenvalues", "one_dimension_at_a_time", "All eigenvalues are equal."),
        Control("norms_as_strengths", "random_starts_act_as_aligned", "Norms of W(0) v_j without orthogonalisation."),
        Control("pca_without_partners", "the_end_is_kernel_pca", "PCA of the kernel of all views."),
        Control("large_start", "nets_learn_one_at_a_time", "A last layer larger than usual at the start."),
    ),
    plan=_plan,
    run=_run,
    smoke={"embeddings": 2, "step_size": 0.012, "width": 32},
)
