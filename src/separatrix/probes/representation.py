"""Representations of a snapshot's inputs in its leaf modules: how far from the first snapshot's, and of which shape.

Features are (rows, units) as the module gave them in training; those at the first snapshot's parameters are of the same
inputs with the same random numbers, so that dropout hides the same units, and with the buffers of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch

from separatrix.probes._geometry import (
    duplicate_units,
    effective_rank,
    feature_spectrum,
    intrinsic_dimension,
    participation_ratio,
    stable_rank,
)
from separatrix.probes._layers import initial_features, snapshot_features
from separatrix.probes._similarity import CanonicalCorrelations, cca, linear_cka, svcca
from separatrix.record.snapshot import Snapshot
from separatrix.runs.probe import Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec

MOST_UNITS = 2048
"""Duplicates are not looked for among more units."""

Item = TypeVar("Item")


def measure_alignment(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Centred kernel alignment of each module's features with those at the first parameters, plain and debiased."""
    pairs = _pairs(snapshot)
    yield from _read("cka_to_init", _each(snapshot, pairs, lambda pair: linear_cka(*pair)))
    yield from _read("cka_debiased_to_init", _each(snapshot, pairs, lambda pair: linear_cka(*pair, debiased=True)))


def measure_correlations(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Mean canonical correlations of each module's features with those at the first parameters.

    NaN where rows are so few that some correlations are 1 whatever the data.
    """
    pairs = _pairs(snapshot)
    whole = _each(snapshot, pairs, lambda pair: cca(*pair))
    leading = _each(snapshot, pairs, lambda pair: svcca(*pair))
    yield from _read("cca_to_init", {label: unforced(found, found.mean) for label, found in whole.items()})
    yield from _read("pwcca_to_init", {label: unforced(found, found.weighted_mean) for label, found in whole.items()})
    yield from _read("svcca_to_init", {label: unforced(found, found.mean) for label, found in leading.items()})


def measure_shape(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Ranks of each module's centred features, from their singular values."""
    spectra = _each(snapshot, snapshot_features(snapshot), feature_spectrum)
    for series, rank in _RANKS.items():
        yield from _read(series, {label: rank(values) for label, values in spectra.items()})


def measure_units(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Share of each module's units that repeat others."""
    features = {label: x for label, x in snapshot_features(snapshot).items() if 1 < x.shape[1] <= MOST_UNITS}
    yield from _read("duplicate_unit_share", _each(snapshot, features, lambda x: duplicate_units(x).share))


def measure_dimension(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Intrinsic dimension of each module's features, with its standard error."""
    found = _each(snapshot, snapshot_features(snapshot), intrinsic_dimension)
    yield from _read("intrinsic_dimension", {label: estimate.value for label, estimate in found.items()})
    yield from _read("intrinsic_dimension_error", {label: estimate.standard_error for label, estimate in found.items()})


def _pairs(snapshot: Snapshot) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Features now and at the first parameters of each module that gave as many rows there."""
    now, start = snapshot_features(snapshot), initial_features(snapshot)
    return {label: (x, start[label]) for label, x in now.items() if label in start and len(start[label]) == len(x)}


def unforced(found: CanonicalCorrelations, mean: torch.Tensor) -> torch.Tensor:
    """A mean of canonical correlations; NaN where rows are so few that some are 1 whatever the data."""
    return torch.full_like(mean, torch.nan) if found.forced else mean


def _each(snapshot: Snapshot, items: Mapping[str, Any], value: Callable[[Any], Item]) -> dict[str, Item]:
    """`value` of each item, as long as the time given lasts."""
    found = {}
    for label, item in items.items():
        snapshot.tick()
        found[label] = value(item)
    return found


def _read(series: str, values: Mapping[str, torch.Tensor | float]) -> Iterator[Reading]:
    if values:
        numbers = torch.tensor([float(value) for value in values.values()], dtype=torch.float64)
        yield Reading(series, numbers, labels=list(values))


_RANKS = {
    "feature_effective_rank": effective_rank,
    "feature_stable_rank": stable_rank,
    "feature_participation_ratio": participation_ratio,
}


def _spec(name: str, description: str) -> SeriesSpec:
    return SeriesSpec(name, ("module",), description=description)


alignment = Probe(
    name="representation-alignment",
    moment=Moment.SNAPSHOT,
    series=(
        _spec("cka_to_init", "linear CKA of the module's output with that at the first snapshot's parameters"),
        _spec("cka_debiased_to_init", "the same from unbiased estimators: 0 on average for independent features"),
    ),
    measure=measure_alignment,
    description="centred kernel alignment of each module's output with that of the network at the first snapshot",
    priority=60,
    default=False,
    cost=10.0,
    source="Kornblith et al. 2019, arXiv:1905.00414, eq. 5",
)

correlations = Probe(
    name="representation-correlations",
    moment=Moment.SNAPSHOT,
    series=(
        _spec("cca_to_init", "mean canonical correlation of the module's output with that at the first snapshot"),
        _spec("pwcca_to_init", "the same, weighted by the share of the output each direction accounts for"),
        _spec("svcca_to_init", "mean canonical correlation of the directions that hold 99 % of the variance"),
    ),
    measure=measure_correlations,
    description="canonical correlations of each module's output with that of the network at the first snapshot",
    priority=80,
    default=False,
    cost=30.0,
    source="Raghu et al. 2017, arXiv:1706.05806; Morcos et al. 2018, arXiv:1806.05759",
)

shape = Probe(
    name="representation-shape",
    moment=Moment.SNAPSHOT,
    series=(
        _spec("feature_effective_rank", "exponential of the entropy of the centred output's singular values"),
        _spec("feature_stable_rank", "squared Frobenius over squared spectral norm of the centred output"),
        _spec("feature_participation_ratio", "(sum l)^2 / sum l^2 for l the eigenvalues of the output's covariance"),
    ),
    measure=measure_shape,
    description="how many directions each module's output fills",
    priority=60,
    default=False,
    cost=5.0,
    source="Roy and Vetterli 2007, EUSIPCO; Rudelson and Vershynin 2007, arXiv:math/0503442; Gao et al. 2017",
)

units = Probe(
    name="duplicate-units",
    moment=Moment.SNAPSHOT,
    series=(
        _spec("duplicate_unit_share", "share of varying units whose correlation with another is 0.99 or more in size"),
    ),
    measure=measure_units,
    description="units of each module's output that repeat others",
    priority=70,
    default=False,
    cost=3.0,
)

dimension = Probe(
    name="intrinsic-dimension",
    moment=Moment.SNAPSHOT,
    series=(
        _spec("intrinsic_dimension", "dimension of the manifold of the module's outputs, by two nearest neighbours"),
        _spec("intrinsic_dimension_error", "its standard error"),
    ),
    measure=measure_dimension,
    description="dimension of the manifold that each module's outputs lie on",
    priority=70,
    default=False,
    cost=10.0,
    source="Facco et al. 2017, arXiv:1803.06992, eqs. 3-5",
)
