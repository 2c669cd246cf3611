"""The Hessian of a snapshot, shared by its probes; leading eigenpairs that start from those of the last snapshot."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from separatrix.operators.errors import OperatorError
from separatrix.operators.estimate import TraceEstimate
from separatrix.operators.lanczos import Eigenpairs, top_eigenpairs
from separatrix.operators.linear import LinearOperator
from separatrix.operators.products import CurvatureOperator, hessian_of
from separatrix.operators.traces import trace
from separatrix.record.replay import ReplayError
from separatrix.record.snapshot import Snapshot

TOLERANCE = 1e-2
"""Residual, relative to the eigenvalue, at which an eigenpair is good enough; the eigenvalue is far closer."""

TRACE_PRODUCTS = 16
"""Products that a trace is estimated from; exact for no more parameters than that."""

MOST_BYTES = 1 << 31
"""Memory that vectors of the size of the parameters may take together at one time."""

_GUARDS = 1
"""Pairs computed beyond those asked for: an eigenvalue on its way up is followed before it belongs to the top."""


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """What an operator cannot do is a reason why the probe sees nothing.

    Raises:
        ReplayError: an operator raised, with its message.
    """
    try:
        yield
    except OperatorError as error:
        raise ReplayError(str(error)) from error


def hessian(snapshot: Snapshot, labels: Sequence[str] | None = None) -> CurvatureOperator:
    """Hessian of the snapshot's loss over its parameters, or those of some labels; one graph a snapshot and choice."""
    labels = list(snapshot.parameters) if labels is None else list(labels)
    key = "hessian:" + "\n".join(labels)
    if key not in snapshot.cache:
        snapshot.tick()
        snapshot.cache[key] = hessian_of(snapshot.loss, [snapshot.parameters[label] for label in labels])
    found: CurvatureOperator = snapshot.cache[key]
    return found


def hessian_trace(snapshot: Snapshot) -> TraceEstimate:
    """Trace of the Hessian, estimated once a snapshot."""
    if "hessian_trace" not in snapshot.cache:
        snapshot.cache["hessian_trace"] = trace_of(hessian(snapshot), snapshot)
    found: TraceEstimate = snapshot.cache["hessian_trace"]
    return found


def trace_of(operator: LinearOperator, snapshot: Snapshot) -> TraceEstimate:
    """Trace of an operator from TRACE_PRODUCTS products with random vectors of the snapshot's generator.

    Raises:
        ReplayError: the vectors take too much memory.
    """
    check_memory(3 * TRACE_PRODUCTS if operator.size > TRACE_PRODUCTS else 0, operator)
    return trace(operator, products=TRACE_PRODUCTS, generator=snapshot.generator, deadline=snapshot.tick)


def leading(
    operator: LinearOperator, count: int, gradient: torch.Tensor, snapshot: Snapshot, state: dict[str, Any]
) -> Eigenpairs:
    """The largest eigenvalues, at most `count`, falling, with vectors and residuals; `state` keeps the vectors.

    The search starts from the vectors of the last snapshot, from the `gradient` (n,), which has a part along any
    direction in which training is about to become unstable, and from a random vector. Values are Rayleigh quotients:
    never above the true ones but for rounding. After `most_products` the best pairs are returned, whose residuals then
    tell how good they are.

    By Lanczos, or where its basis would take more than MOST_BYTES by LOBPCG, which needs more products.

    Raises:
        ReplayError: the vectors of LOBPCG would take more.
    """
    wanted = min(count + _GUARDS, operator.size)
    lanczos = fits(2 * (4 * wanted + 40), operator)
    if not lanczos:
        check_memory(6 * wanted, operator)
    kept = state.get("vectors")
    random = torch.randn(operator.size, generator=snapshot.generator, dtype=torch.float64).to(gradient)
    columns = [gradient[:, None], random[:, None]]
    if kept is not None and len(kept) == operator.size:
        columns.insert(0, kept)
    found = top_eigenpairs(
        operator,
        wanted,
        method="lanczos" if lanczos else "lobpcg",
        tolerance=TOLERANCE,
        start=torch.cat(columns, dim=1),
        max_products=most_products(wanted),
        generator=snapshot.generator,
        deadline=snapshot.tick,
    )
    state["vectors"] = found.vectors
    few = slice(0, min(count, len(found.values)))
    return Eigenpairs(found.values[few], found.vectors[:, few], found.residuals[few], found.products, found.converged)


def fits(vectors: int, operator: LinearOperator) -> bool:
    """Whether some vectors of an operator's size take no more than MOST_BYTES."""
    return vectors * operator.size * operator.dtype.itemsize <= MOST_BYTES


def check_memory(vectors: int, operator: LinearOperator) -> None:
    """Raises ReplayError unless some vectors of an operator's size fit."""
    if not fits(vectors, operator):
        size = vectors * operator.size * operator.dtype.itemsize / 2**30
        raise ReplayError(
            f"{vectors} vectors of {operator.size} parameters take {size:.1f} GiB: the model is too large"
        )


def most_products(count: int) -> int:
    """Products that a search for `count` pairs may take at one snapshot; the next one goes on from there."""
    return 20 + 10 * count


def subspace_share(vectors: torch.Tensor, direction: torch.Tensor) -> float:
    """Part of the squared length of `direction` (n,) that lies in the span of orthonormal columns (n, k); in [0, 1].

    NaN for a direction of length 0 or that is not finite.
    """
    direction = direction.double()
    inside = (vectors.double().T @ direction).square().sum()
    return float((inside / direction.square().sum()).clamp(max=1.0))


def subspace_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """1 - mean squared cosine of the principal angles between the spans of orthonormal columns (n, k), in [0, 1]."""
    cosines = first.double().T @ second.double()
    return float((1.0 - cosines.square().sum() / min(cosines.shape)).clamp(min=0.0))


def split_at_gap(values: Sequence[float]) -> tuple[int, float]:
    """How many of some falling eigenvalues stand out, and the log-ratio of the gap below them.

    The gap is the largest ratio between neighbours among the positive ones. (0, NaN) with fewer than two of them.

    Source: the bulk and outliers of Sagun et al. 2017, arXiv:1706.04454.
    """
    positive = torch.tensor([value for value in values if value > 0.0], dtype=torch.float64)
    if len(positive) < 2:
        return 0, float("nan")
    ratios = positive.log()[:-1] - positive.log()[1:]
    return int(ratios.argmax()) + 1, float(ratios.max())


@dataclasses.dataclass(frozen=True)
class Negated:
    """-A of an operator A, so that the largest eigenvalues of one are the smallest of the other."""

    base: LinearOperator

    @property
    def size(self) -> int:
        """Number of rows n."""
        return self.base.size

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the products."""
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        """Device of the products."""
        return self.base.device

    def __matmul__(self, other: torch.Tensor) -> torch.Tensor:
        return -(self.base @ other)
