"""Curvature of a snapshot's loss: leading and trailing eigenvalues, trace, spectrum, Gauss-Newton part, stability.

All are of the loss of the recorded batch, at the parameters before the step, with the random numbers that the step
drew. Eigenvalues come with measured residuals: some eigenvalue is within residual times eigenvalue of the one given.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from separatrix.operators.density import lanczos_quadrature
from separatrix.operators.preconditioned import precondition
from separatrix.operators.products import ggn_of
from separatrix.operators.stability import stability_threshold
from separatrix.probes._eigenspace import (
    Negated,
    check_memory,
    hessian,
    hessian_trace,
    leading,
    refusing,
    split_at_gap,
    subspace_distance,
    subspace_share,
    trace_of,
)
from separatrix.record.replay import ReplayError
from separatrix.record.snapshot import Snapshot
from separatrix.runs.probe import Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec

EIGENVALUES = 5
"""Leading eigenvalues that are recorded."""

FEWEST_CANDIDATES, MOST_CANDIDATES = 10, 20
"""Eigenvalues among which outliers are looked for: twice the number of classes within these bounds."""

QUADRATURE_STEPS, QUADRATURE_PROBES = 32, 2
"""Nodes a random vector, and random vectors, of the spectrum."""

Measure = Callable[[Snapshot, dict[str, Any]], Iterator[Reading]]


def _measure(measure: Measure) -> Measure:
    """What operators cannot do becomes a ReplayError, the documented refusal."""

    @functools.wraps(measure)
    def measured(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
        with refusing():
            yield from measure(snapshot, state)

    return measured


@_measure
def measure_sharpness(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Largest eigenvalue of the Hessian."""
    operator = hessian(snapshot)
    top = leading(operator, 1, operator.gradient, snapshot, state)
    yield Reading("sharpness", float(top.values[0]))
    yield Reading("sharpness_residual", float(top.residuals[0]))


@_measure
def measure_stability(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Largest eigenvalue of the Hessian as the optimizer sees it, over what the optimizer bears.

    Of the parameters that the optimizer moves: those with a learning rate above 0 that had a gradient. None: nothing is
    read.

    Raises:
        ReplayError: no optimizer, one whose threshold is not known, or groups without a common threshold.
    """
    labels = moving_parameters(snapshot)
    optimizer = optimizer_of(snapshot, labels)
    if not labels:
        return
    threshold = stability_threshold(optimizer)
    operator = precondition(hessian(snapshot, labels), optimizer)
    gradient = operator.scale * hessian(snapshot, labels).gradient
    top = leading(operator, 1, gradient, snapshot, state)
    value = float(top.values[0])
    yield Reading("preconditioned_sharpness", value)
    yield Reading("stability_residual", float(top.residuals[0]))
    yield Reading("stability_ratio", threshold.ratio(value))


def moving_parameters(snapshot: Snapshot) -> list[str]:
    """Labels of the parameters that the optimizer has stepped with a learning rate above 0."""
    adapts = any(snapshot.states.values())
    return [
        label
        for label in snapshot.parameters
        if float(snapshot.groups.get(label, {}).get("lr", 0.0)) > 0.0 and (snapshot.states.get(label) or not adapts)
    ]


def optimizer_of(snapshot: Snapshot, labels: list[str]) -> torch.optim.Optimizer:
    """An optimizer of the recorded one's class, options and state over the replay's parameters; never to be stepped.

    Raises:
        ReplayError: no optimizer was seen.
    """
    if snapshot.optimizer is None:
        raise ReplayError("no optimizer of torch was seen: stability is that of an optimizer")
    optimizer: torch.optim.Optimizer = object.__new__(type(snapshot.optimizer))
    parameters = {label: snapshot.parameters[label] for label in labels}
    groups = [{**snapshot.groups[label], "params": [parameter]} for label, parameter in parameters.items()]
    states = {parameter: snapshot.states.get(label, {}) for label, parameter in parameters.items()}
    vars(optimizer).update(param_groups=groups, state=states)
    return optimizer


@_measure
def measure_eigenvalues(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Leading eigenvalues of the Hessian; how their space has turned, and how much of gradient and update is in it."""
    previous = state.get("top")
    operator = hessian(snapshot)
    top = leading(operator, EIGENVALUES, operator.gradient, snapshot, state)
    state["top"] = top.vectors
    yield Reading("hessian_eigenvalues", top.values)
    yield Reading("hessian_residuals", top.residuals)
    if previous is not None and previous.shape == top.vectors.shape:
        yield Reading("eigenspace_drift", subspace_distance(previous, top.vectors))
    yield Reading("gradient_top_share", subspace_share(top.vectors, operator.gradient))
    if snapshot.update is not None:
        update = operator.flat([snapshot.update[label] for label in snapshot.parameters])
        yield Reading("update_top_share", subspace_share(top.vectors, update))


@_measure
def measure_trace(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Trace of the Hessian with its standard error; for plain SGD what it means for single examples."""
    estimate = hessian_trace(snapshot)
    yield Reading("hessian_trace", estimate.value)
    yield Reading("hessian_trace_error", estimate.standard_error)
    rate = plain_rate(snapshot)
    if rate is not None:
        yield Reading("sgd_trace_ratio", rate * estimate.value / 2.0)


def plain_rate(snapshot: Snapshot) -> float | None:
    """The one learning rate of SGD without momentum and weight decay over all parameters; None for all else."""
    groups = [snapshot.groups.get(label, {}) for label in snapshot.parameters]
    rates = {float(group.get("lr", math.nan)) for group in groups}
    plain = type(snapshot.optimizer) is torch.optim.SGD and len(rates) == 1
    options = ("momentum", "weight_decay", "maximize")
    return rates.pop() if plain and not any(group.get(name) for group in groups for name in options) else None


@_measure
def measure_gauss_newton(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Largest eigenvalue and trace of the Gauss-Newton matrix, and its part in the trace of the Hessian."""

    def closure() -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
        outputs, _ = snapshot.evaluate()
        assert outputs is not None, "the probe needs outputs"
        return outputs, snapshot.loss_of

    operator = ggn_of(closure, list(snapshot.parameters.values()))
    top = leading(operator, 1, operator.gradient, snapshot, state)
    yield Reading("ggn_sharpness", float(top.values[0]))
    yield Reading("ggn_residual", float(top.residuals[0]))
    part, whole = trace_of(operator, snapshot), hessian_trace(snapshot)
    yield Reading("ggn_trace", part.value)
    yield Reading("ggn_trace_error", part.standard_error)
    told_apart = abs(whole.value) > 2.0 * whole.standard_error
    yield Reading("ggn_share", part.value / whole.value if told_apart else math.nan)


@_measure
def measure_negative(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Smallest eigenvalue of the Hessian."""
    operator = hessian(snapshot)
    top = leading(Negated(operator), 1, operator.gradient, snapshot, state)
    yield Reading("hessian_smallest_eigenvalue", -float(top.values[0]))
    yield Reading("hessian_smallest_residual", float(top.residuals[0]))


@_measure
def measure_spectrum(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Quadrature of the Hessian's spectral density, and the negative part of the curvature."""
    operator = hessian(snapshot)
    check_memory(QUADRATURE_PROBES * min(QUADRATURE_STEPS, operator.size), operator)
    quadrature = lanczos_quadrature(
        operator,
        steps=QUADRATURE_STEPS,
        probes=QUADRATURE_PROBES,
        generator=snapshot.generator,
        deadline=snapshot.tick,
    )
    nodes, order = quadrature.nodes.flatten().sort()
    weights = quadrature.weights.flatten()[order] / len(quadrature.nodes)
    yield Reading("hessian_spectrum_nodes", nodes)
    yield Reading("hessian_spectrum_weights", weights)
    sizes = weights * nodes.abs()
    yield Reading("negative_curvature_share", float(sizes[nodes < 0].sum() / sizes.sum()))


@_measure
def measure_outliers(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """How many of the leading eigenvalues stand out, and where the bulk below them ends.

    Nothing is read where fewer than three of them are positive.
    """
    operator = hessian(snapshot)
    top = leading(operator, candidates(snapshot), operator.gradient, snapshot, state)
    count, gap = split_at_gap(top.values.tolist())
    if int((top.values > 0).sum()) > 2:
        yield Reading("hessian_outliers", float(count))
        yield Reading("hessian_bulk_edge", float(top.values[count]))
        yield Reading("hessian_outlier_gap", gap)
        yield Reading("hessian_outlier_residual", float(top.residuals[: count + 1].max()))


def candidates(snapshot: Snapshot) -> int:
    """Number of eigenvalues among which outliers are looked for."""
    view = snapshot.batch.view
    classes = (
        view.outputs.shape[min(1, view.outputs.dim() - 1)] if view is not None and snapshot.classes is not None else 0
    )
    return min(max(2 * classes, FEWEST_CANDIDATES), MOST_CANDIDATES)


_PER_PARAMETER = "loss/parameter^2"
_COHEN = "Cohen et al. 2021, arXiv:2103.00065"


def _residual(name: str, of: str) -> SeriesSpec:
    return SeriesSpec(name, description=f"length of A v - lambda v over |lambda|, for the {of}")


sharpness = Probe(
    name="sharpness",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec("sharpness", units=_PER_PARAMETER, description="largest eigenvalue of the Hessian of the loss"),
        _residual("sharpness_residual", "sharpness"),
    ),
    measure=measure_sharpness,
    description="largest eigenvalue of the Hessian",
    priority=40,
    default=False,
    cost=30.0,
    source=_COHEN,
)

stability = Probe(
    name="stability",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec(
            "stability_ratio",
            description="learning rate times preconditioned sharpness over the optimizer's threshold: 1 is the edge",
        ),
        SeriesSpec(
            "preconditioned_sharpness",
            description="largest eigenvalue of P^-1 (H + coupled weight decay), P the optimizer's preconditioner",
        ),
        _residual("stability_residual", "preconditioned sharpness"),
    ),
    measure=measure_stability,
    description="how near the optimizer is to the edge of stability",
    priority=35,
    cost=30.0,
    source=f"{_COHEN}; Cohen et al. 2022, arXiv:2207.14484",
)

eigenvalues = Probe(
    name="hessian-eigenvalues",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec("hessian_eigenvalues", ("mode",), units=_PER_PARAMETER, description="largest eigenvalues, falling"),
        SeriesSpec(
            "hessian_residuals", ("mode",), description="length of H v - lambda v over |lambda| of each of them"
        ),
        SeriesSpec(
            "eigenspace_drift",
            description="1 - mean squared cosine of the principal angles between the leading eigenspace here and at"
            " the last measurement",
        ),
        SeriesSpec("gradient_top_share", description="part of the gradient's squared norm in the leading eigenspace"),
        SeriesSpec("update_top_share", description="part of the update's squared norm in the leading eigenspace"),
    ),
    measure=measure_eigenvalues,
    description="leading eigenvalues of the Hessian, and the part of gradient and update in their space",
    priority=55,
    default=False,
    cost=80.0,
    source="Ghorbani et al. 2019, arXiv:1901.10159; Gur-Ari et al. 2018, arXiv:1812.04754",
)

hessian_traces = Probe(
    name="hessian-trace",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec("hessian_trace", units=_PER_PARAMETER, description="trace of the Hessian, estimated without bias"),
        SeriesSpec(
            "hessian_trace_error", units=_PER_PARAMETER, description="standard error of the trace; 0 where it is exact"
        ),
        SeriesSpec(
            "sgd_trace_ratio",
            description="learning rate times trace over 2, for SGD without momentum: 1 is the edge for batches of one"
            " example where all are fitted, whatever the batch size recorded",
        ),
    ),
    measure=measure_trace,
    description="trace of the Hessian",
    priority=60,
    default=False,
    cost=40.0,
    source="Epperly, Tropp, Webber 2024, arXiv:2301.07825",
)

gauss_newton = Probe(
    name="gauss-newton",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec("ggn_sharpness", units=_PER_PARAMETER, description="largest eigenvalue of the Gauss-Newton matrix"),
        _residual("ggn_residual", "Gauss-Newton sharpness"),
        SeriesSpec("ggn_trace", units=_PER_PARAMETER, description="trace of the Gauss-Newton matrix"),
        SeriesSpec("ggn_trace_error", units=_PER_PARAMETER, description="standard error of that trace"),
        SeriesSpec(
            "ggn_share",
            description="trace of the Gauss-Newton matrix over that of the Hessian: above 1 where the rest has a"
            " negative trace, NaN where the Hessian's is within two standard errors of 0",
        ),
    ),
    measure=measure_gauss_newton,
    description="the Gauss-Newton part of the curvature",
    priority=70,
    default=False,
    cost=120.0,
    needs=("outputs",),
    source="Martens 2020, arXiv:1412.1193; Sagun et al. 2017, arXiv:1706.04454",
)

negative_curvature = Probe(
    name="negative-curvature",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec("hessian_smallest_eigenvalue", units=_PER_PARAMETER, description="smallest eigenvalue"),
        _residual("hessian_smallest_residual", "smallest eigenvalue"),
    ),
    measure=measure_negative,
    description="smallest eigenvalue of the Hessian",
    priority=65,
    default=False,
    cost=50.0,
    source="Alain et al. 2019, arXiv:1902.02366",
)

spectrum = Probe(
    name="hessian-spectrum",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec(
            "hessian_spectrum_nodes",
            ("mode",),
            units=_PER_PARAMETER,
            description="nodes, rising, of a quadrature of the spectral density (stochastic Lanczos)",
        ),
        SeriesSpec(
            "hessian_spectrum_weights",
            ("mode",),
            description="weights of the nodes, of sum 1: a sum of normal kernels at the nodes is the density",
        ),
        SeriesSpec(
            "negative_curvature_share", description="sum of |negative eigenvalues| over sum of all |eigenvalues|"
        ),
    ),
    measure=measure_spectrum,
    description="spectral density of the Hessian",
    priority=80,
    default=False,
    cost=150.0,
    source="Ghorbani et al. 2019, arXiv:1901.10159; Ubaru, Chen, Saad 2017",
)

outliers = Probe(
    name="hessian-outliers",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec("hessian_outliers", description="leading eigenvalues above the largest ratio between neighbours"),
        SeriesSpec("hessian_bulk_edge", units=_PER_PARAMETER, description="the first eigenvalue below that gap"),
        SeriesSpec(
            "hessian_outlier_gap", description="natural logarithm of that ratio: small where nothing stands out"
        ),
        SeriesSpec("hessian_outlier_residual", description="largest residual of the outliers and the bulk's edge"),
    ),
    measure=measure_outliers,
    description="outliers of the Hessian's spectrum and the edge of its bulk",
    priority=85,
    default=False,
    cost=300.0,
    source="Sagun et al. 2017, arXiv:1706.04454",
)
