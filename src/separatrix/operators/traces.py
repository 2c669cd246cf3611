"""Traces, Frobenius norms and log-determinants from products with random vectors."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from separatrix.operators.density import lanczos_quadrature
from separatrix.operators.errors import OperatorUsageError
from separatrix.operators.estimate import TraceEstimate, summarise
from separatrix.operators.linear import Deadline, LinearOperator, as_operator, multiply, random_block, seeded

if TYPE_CHECKING:
    from jaxtyping import Float

Method = Literal["xtrace", "hutch++", "hutchinson"]


def trace(
    operator: LinearOperator | Tensor,
    method: Method = "xtrace",
    *,
    products: int = 30,
    generator: torch.Generator | None = None,
    deadline: Deadline | None = None,
) -> TraceEstimate:
    """Trace of a symmetric operator from at most `products` products; exact when these reach its size.

    `hutchinson` averages z'Az over random signs z: variance 2 (|A|_F^2 - |diag A|^2) / products. `hutch++` takes the
    trace exactly on the range found by a third of the products and samples the rest. `xtrace` does so too, but lets
    every vector serve for both by leaving out one at a time: the smallest error of the three on decaying spectra.
    All are unbiased. Memory: the block of products, O(n products).

    Sources: Hutchinson 1990; Meyer, Musco, Musco, Woodruff 2021 (algorithm 1), arXiv:2010.09649; Epperly, Tropp,
    Webber 2024 (with its normalisation of the residual vectors), arXiv:2301.07825.

    Raises:
        OperatorUsageError: unknown method, or fewer products than it needs (1, 3 and 4).
        NonFiniteError: a product is not finite.
    """
    operator = as_operator(operator)
    estimators = {"hutchinson": (_hutchinson, 1), "hutch++": (_hutch_plus_plus, 3), "xtrace": (_xtrace, 4)}
    if method not in estimators:
        raise OperatorUsageError(f"unknown trace method {method!r}: use one of {', '.join(estimators)}")
    estimate, fewest = estimators[method]
    if products >= operator.size:
        return _exact(operator, deadline)
    if products < fewest:
        raise OperatorUsageError(f"{method} needs at least {fewest} products, not {products}: raise products=")
    return estimate(operator, products, seeded(generator), deadline)


def frobenius_norm(
    operator: LinearOperator | Tensor,
    *,
    products: int = 30,
    generator: torch.Generator | None = None,
    deadline: Deadline | None = None,
) -> TraceEstimate:
    """Frobenius norm from the mean of |Az|^2 over random signs z; exact when `products` reaches the size.

    |A|_F^2 is estimated without bias; its root is biased low by O(1 / products), its standard error linearised.

    Raises:
        OperatorUsageError: fewer than one product.
        NonFiniteError: a product is not finite.
    """
    operator = as_operator(operator)
    if products < 1:
        raise OperatorUsageError(f"the Frobenius norm needs at least 1 product, not {products}: raise products=")
    if products >= operator.size:
        identity = torch.eye(operator.size, dtype=operator.dtype, device=operator.device)
        norm = torch.linalg.vector_norm(multiply(operator, identity, deadline).double())
        return TraceEstimate(float(norm), 0.0, operator.size)
    signs = random_block(operator, products, distribution="rademacher", generator=seeded(generator))
    squares = multiply(operator, signs, deadline).double().square().sum(0)
    squared = summarise(squares, products)
    norm = math.sqrt(squared.value)
    return TraceEstimate(norm, squared.standard_error / (2 * norm) if norm else 0.0, products)


def log_determinant(
    operator: LinearOperator | Tensor,
    *,
    damping: float = 0.0,
    steps: int = 30,
    probes: int = 10,
    generator: torch.Generator | None = None,
    deadline: Deadline | None = None,
) -> TraceEstimate:
    """Log-determinant of A + damping I by stochastic Lanczos quadrature, in nats.

    The quadrature's own error falls geometrically in steps / sqrt(condition number); the standard error covers the
    spread over probes only. Source: Ubaru, Chen, Saad 2017.

    Raises:
        OperatorUsageError: A + damping I is not positive definite, as far as the quadrature sees.
        NonFiniteError: a product is not finite.
    """
    operator = as_operator(operator)
    quadrature = lanczos_quadrature(operator, steps=steps, probes=probes, generator=generator, deadline=deadline)
    seen = quadrature.weights > torch.finfo(operator.dtype).eps
    lowest = float(quadrature.nodes[seen].min()) + damping
    if lowest <= 0:
        raise OperatorUsageError(
            f"the operator has an eigenvalue near {lowest:.3g} after damping and so no log-determinant:"
            f" pass damping above {damping - lowest:.3g}"
        )
    return quadrature.integral(lambda nodes: torch.log(torch.where(seen, nodes + damping, 1.0)))


def _exact(operator: LinearOperator, deadline: Deadline | None) -> TraceEstimate:
    identity = torch.eye(operator.size, dtype=operator.dtype, device=operator.device)
    diagonal = multiply(operator, identity, deadline).diagonal().double()
    return TraceEstimate(float(diagonal.sum()), 0.0, operator.size)


def _hutchinson(
    operator: LinearOperator, products: int, generator: torch.Generator, deadline: Deadline | None
) -> TraceEstimate:
    signs = random_block(operator, products, distribution="rademacher", generator=generator)
    return summarise((signs * multiply(operator, signs, deadline)).double().sum(0), products)


def _hutch_plus_plus(
    operator: LinearOperator, products: int, generator: torch.Generator, deadline: Deadline | None
) -> TraceEstimate:
    count = products // 3
    signs = random_block(operator, 2 * count, distribution="rademacher", generator=generator)
    basis, _ = torch.linalg.qr(multiply(operator, signs[:, :count], deadline))
    rest = signs[:, count:] - basis @ (basis.T @ signs[:, count:])
    images = multiply(operator, torch.cat([basis, rest], dim=1), deadline)
    inside = float((basis * images[:, :count]).double().sum())
    outside = summarise((rest * images[:, count:]).double().sum(0), 3 * count)
    return dataclasses.replace(outside, value=inside + outside.value)


def _xtrace(
    operator: LinearOperator, products: int, generator: torch.Generator, deadline: Deadline | None
) -> TraceEstimate:
    count = products // 2
    vectors = random_block(operator, count, generator=generator)
    vectors *= math.sqrt(operator.size) / torch.linalg.vector_norm(vectors, dim=0)
    sketch = multiply(operator, vectors, deadline)
    basis, _ = torch.linalg.qr(sketch)
    images = multiply(operator, basis, deadline)
    samples = leave_one_out_traces(vectors.double(), sketch.double(), basis.double(), images.double())
    return summarise(samples, 2 * count)


def leave_one_out_traces(
    vectors: Float[Tensor, " n m"],
    sketch: Float[Tensor, " n m"],
    basis: Float[Tensor, " n m"],
    images: Float[Tensor, " n m"],
) -> Float[Tensor, " m"]:
    """XTrace's estimates, one for each vector w_i, from Y = AW, Q = orth(Y) and AQ, in O(n m^2).

    Estimate i is tr(Q_i' A Q_i) + c_i w_i'(I - P_i) A (I - P_i) w_i with Q_i a basis of Y without column i, P_i its
    projector and c_i = (n - m + 1) / |(I - P_i) w_i|^2. With R = Q'Y and s_i the unit vector along R^-T e_i, which is
    orthogonal to the other columns of R, P_i = Q (I - s_i s_i') Q'. Where Y is rank deficient, leaving out one of its
    columns does not change its range and s_i is 0.
    """
    size, count = vectors.shape
    rows = basis.T @ sketch
    inner = basis.T @ images
    inner = (inner + inner.T) / 2
    singular = torch.linalg.svdvals(rows)
    if float(singular[-1]) > torch.finfo(rows.dtype).eps * count * float(singular[0]):
        directions = torch.linalg.inv(rows).T
        directions = directions / torch.linalg.vector_norm(directions, dim=0)
        rank = count - 1
    else:
        left, singular, _ = torch.linalg.svd(rows)
        rank = int((singular > torch.finfo(rows.dtype).eps * count * singular[0]).sum())
        basis, images, rows = basis @ left[:, :rank], images @ left[:, :rank], left[:, :rank].T @ rows
        inner = left[:, :rank].T @ inner @ left[:, :rank]
        directions = torch.zeros_like(rows)
    inside: Tensor = inner.trace() - (directions * (inner @ directions)).sum(0)
    coordinates = basis.T @ vectors
    coordinates = coordinates - directions * (directions * coordinates).sum(0)
    rest = size - coordinates.square().sum(0)
    outside = (vectors * sketch).sum(0) - 2 * (coordinates * rows).sum(0) + (coordinates * (inner @ coordinates)).sum(0)
    samples: Tensor = inside + (size - rank) * outside / rest
    return samples
