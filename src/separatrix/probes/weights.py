"""Weights of a snapshot: spectral norms, stable ranks, and how far they have come from the run's first snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from separatrix.probes._spectra import weight_spectrum, weight_travel
from separatrix.record.snapshot import Snapshot
from separatrix.runs.probe import Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec


def measure_spectra(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Spectral norm and stable rank of every weight of two or more dims, and stable rank of its change."""
    matrices = {label: w for label, w in snapshot.parameters.items() if w.dim() >= 2 and w.numel()}
    norms, ranks, moved, changes = [], [], [], []
    for label, weight in matrices.items():
        snapshot.tick()
        spectrum = weight_spectrum(weight, state.get(f"w:{label}"))
        state[f"w:{label}"] = spectrum.direction
        norms.append(spectrum.spectral_norm)
        ranks.append(spectrum.stable_rank)
        start = None if snapshot.initial is None else snapshot.initial.get(label)
        if start is not None and not torch.equal(start, weight):
            change = weight_spectrum(weight.detach() - start, state.get(f"d:{label}"))
            state[f"d:{label}"] = change.direction
            moved.append(label)
            changes.append(change.stable_rank)
    if matrices:
        yield Reading("weight_spectral_norm", torch.stack(norms), labels=list(matrices))
        yield Reading("weight_stable_rank", torch.stack(ranks), labels=list(matrices))
    if moved:
        yield Reading("update_stable_rank", torch.stack(changes), labels=moved)


def measure_travel(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Distance from the first snapshot, path length through the snapshots, and growth of the norm, each a parameter."""
    if snapshot.initial is None:
        return
    labels = [label for label in snapshot.parameters if label in snapshot.initial]
    current = [snapshot.parameters[label].detach().clone() for label in labels]
    previous = state.get("labels") == labels
    travel = weight_travel(
        current,
        [snapshot.initial[label] for label in labels],
        state["previous"] if previous else None,
        state["path"] if previous else None,
    )
    state.update(labels=labels, previous=current, path=travel.path)
    yield Reading("weight_distance", travel.distance, labels=labels)
    yield Reading("weight_relative_distance", travel.relative_distance, labels=labels)
    yield Reading("weight_path", travel.path, labels=labels)
    yield Reading("weight_growth", travel.growth, labels=labels)


def _spec(name: str, description: str) -> SeriesSpec:
    return SeriesSpec(name, ("parameter",), description=description)


weight_spectra = Probe(
    name="weight-spectra",
    moment=Moment.SNAPSHOT,
    series=(
        _spec("weight_spectral_norm", "largest singular value of the weight as a matrix (outputs, inputs)"),
        _spec("weight_stable_rank", "squared Frobenius over squared spectral norm of the weight"),
        _spec("update_stable_rank", "stable rank of the weight's change since the first snapshot"),
    ),
    measure=measure_spectra,
    description="size and rank of each weight matrix and of its change since the first snapshot",
    priority=60,
    default=False,
    cost=2.0,
    source="Golub and Van Loan, Matrix Computations, section 8.2",
)

weight_distances = Probe(
    name="weight-travel",
    moment=Moment.SNAPSHOT,
    series=(
        _spec("weight_distance", "L2 distance of the parameter from the first snapshot"),
        _spec("weight_relative_distance", "that distance over the parameter's norm at the first snapshot"),
        _spec("weight_path", "length of the way through the snapshots, at most that of the way travelled"),
        _spec("weight_growth", "norm of the parameter over its norm at the first snapshot"),
    ),
    measure=measure_travel,
    description="how far each parameter has come from the first snapshot, and along which length of path",
    priority=50,
    default=False,
    cost=1.0,
)
