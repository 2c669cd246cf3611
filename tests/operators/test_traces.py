from __future__ import annotations

import math

import pytest
import torch
from tests.operators.curvature_models import dense_hessian, make
from torch import Tensor

from separatrix.operators import (
    OperatorUsageError,
    frobenius_norm,
    gradient_second_moment,
    hessian,
    log_determinant,
    trace,
)
from separatrix.operators.traces import leave_one_out_traces

METHODS = ("hutchinson", "hutch++", "xtrace")
SEEDS = 200


def symmetric(values: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))
    matrix = basis @ torch.diag(values.double()) @ basis.T
    return (matrix + matrix.T) / 2


def decaying() -> Tensor:
    return symmetric(torch.arange(1, 101).double() ** -2 * torch.tensor([1.0, 1.0, -1.0, 1.0]).repeat(25))


def estimates(matrix: Tensor, method: str, products: int = 30) -> tuple[Tensor, Tensor]:
    """Values and standard errors over seeds."""
    found = [
        trace(matrix, method, products=products, generator=torch.Generator().manual_seed(seed)) for seed in range(SEEDS)
    ]
    return torch.tensor([f.value for f in found]).double(), torch.tensor([f.standard_error for f in found]).double()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("matrix", [decaying(), symmetric(torch.linspace(-1, 2, 60))], ids=["decaying", "flat"])
def test_estimates_are_unbiased_and_their_errors_honest(method: str, matrix: Tensor) -> None:
    values, errors = estimates(matrix, method)
    exact = float(matrix.trace())
    assert abs(float(values.mean()) - exact) < 3 * float(values.std()) / SEEDS**0.5
    spread = float(values.std())
    assert 0.6 * spread < float(errors.square().mean().sqrt()) < 1.6 * spread


def test_low_rank_methods_vary_less_on_a_decaying_spectrum() -> None:
    spread = {method: float(estimates(decaying(), method)[0].std()) for method in METHODS}
    assert spread["hutch++"] < spread["hutchinson"] / 3
    assert spread["xtrace"] < spread["hutch++"]


def test_hutchinson_has_the_variance_of_theory() -> None:
    matrix = symmetric(torch.linspace(-1, 2, 60))
    values, _ = estimates(matrix, "hutchinson", products=10)
    off_diagonal = matrix - torch.diag(matrix.diagonal())
    theory = 2 * float(off_diagonal.square().sum()) / 10
    assert float(values.var()) == pytest.approx(theory, rel=4 * math.sqrt(2 / SEEDS))


def paper_xtrace(matrix: Tensor, vectors: Tensor) -> Tensor:
    """The leave-one-out definition, literally: a new basis and a renormalised residual for every test vector."""
    size, count = vectors.shape
    samples = []
    for i in range(count):
        others = [j for j in range(count) if j != i]
        basis, _ = torch.linalg.qr(matrix @ vectors[:, others])
        rest = vectors[:, i] - basis @ (basis.T @ vectors[:, i])
        rest = rest * math.sqrt(size - count + 1) / torch.linalg.vector_norm(rest)
        samples.append((basis.T @ matrix @ basis).trace() + rest @ matrix @ rest)
    return torch.stack(samples)


@pytest.mark.parametrize("size", [12, 40])
@pytest.mark.parametrize("count", [2, 5])
def test_xtrace_is_the_literal_algorithm(size: int, count: int) -> None:
    matrix = symmetric(torch.linspace(-1, 3, size))
    vectors = torch.randn(size, count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    vectors *= math.sqrt(size) / torch.linalg.vector_norm(vectors, dim=0)
    sketch = matrix @ vectors
    basis, _ = torch.linalg.qr(sketch)
    samples = leave_one_out_traces(vectors, sketch, basis, matrix @ basis)
    assert torch.allclose(samples, paper_xtrace(matrix, vectors), rtol=1e-11)
    drawn = torch.randn(size, count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn *= math.sqrt(size) / torch.linalg.vector_norm(drawn, dim=0)
    found = trace(matrix, "xtrace", products=2 * count, generator=torch.Generator().manual_seed(1))
    wanted = paper_xtrace(matrix, drawn)
    assert found.value == pytest.approx(float(wanted.mean()), rel=1e-11)
    assert found.standard_error == pytest.approx(float(wanted.std()) / math.sqrt(count), rel=1e-9)


@pytest.mark.parametrize("method", ["hutch++", "xtrace"])
@pytest.mark.parametrize("rank", [0, 1, 4])
def test_low_ranks_are_exact(method: str, rank: int) -> None:
    matrix = symmetric(torch.tensor([1.0 + i for i in range(rank)] + [0.0] * (50 - rank)))
    found = trace(matrix, method, products=24)
    assert found.value == pytest.approx(rank * (rank + 1) / 2, abs=1e-10)
    assert found.standard_error < 1e-10 and found.products <= 24


def test_single_precision_on_a_steep_spectrum() -> None:
    matrix = symmetric(10.0 ** -torch.arange(60).double()).float()
    for method in METHODS[1:]:
        found = trace((matrix + matrix.T) / 2, method, products=40)
        assert found.value == pytest.approx(10 / 9, rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_enough_products_give_the_exact_trace(method: str) -> None:
    matrix = symmetric(torch.linspace(-1, 2, 8))
    found = trace(matrix, method, products=8)
    assert found.value == pytest.approx(4.0) and found.standard_error == 0 and found.products == 8
    assert frobenius_norm(matrix, products=8).value == pytest.approx(float(matrix.norm()))


def test_frobenius_norm() -> None:
    matrix = symmetric(torch.linspace(-1, 2, 60))
    found = [frobenius_norm(matrix, products=20, generator=torch.Generator().manual_seed(i)) for i in range(SEEDS)]
    squares = torch.tensor([f.value**2 for f in found]).double()
    exact = float(matrix.square().sum())
    assert abs(float(squares.mean()) - exact) < 3 * float(squares.std()) / SEEDS**0.5
    spread = float(torch.tensor([f.value for f in found]).std())
    error = sum(f.standard_error for f in found) / SEEDS
    assert 0.8 * spread < error < 1.2 * spread
    assert frobenius_norm(torch.zeros(40, 40), products=5).value == 0


def test_log_determinant() -> None:
    matrix = symmetric(torch.linspace(0.3, 5, 80))
    found = log_determinant(matrix, steps=30, probes=200)
    assert abs(found.value - float(torch.logdet(matrix))) < 3 * found.standard_error
    assert found.standard_error < 1
    exact = log_determinant(torch.eye(7) * 3, steps=3, probes=4)
    assert exact.value == pytest.approx(7 * math.log(3)) and exact.standard_error < 1e-5
    indefinite = symmetric(torch.linspace(-1, 2, 40))
    with pytest.raises(OperatorUsageError, match="pass damping above 1"):
        log_determinant(indefinite, steps=40)
    damped = log_determinant(indefinite, damping=1.5, steps=40, probes=100)
    exact_damped = float(torch.logdet(indefinite + 1.5 * torch.eye(40)))
    assert abs(damped.value - exact_damped) < 3 * damped.standard_error


def test_networks() -> None:
    case = make("mlp")
    data = (case.inputs, case.targets)
    dense = dense_hessian(case)
    for method in METHODS:
        found = trace(hessian(case.model, case.loss, data), method, products=30)
        assert abs(found.value - float(dense.trace())) < 4 * found.standard_error
    second = trace(gradient_second_moment(case.model, case.loss, data), "xtrace", products=20)
    norms = []
    for i in range(6):
        loss = case.loss(case.model(case.inputs[i : i + 1]), case.targets[i : i + 1])
        norms.append(sum(g.square().sum() for g in torch.autograd.grad(loss, list(case.model.parameters()))))
    assert second.value == pytest.approx(float(sum(norms)) / 6, rel=1e-9)


def test_a_deadline_is_asked_and_bad_arguments_are_told() -> None:
    def deadline() -> None:
        raise TimeoutError

    matrix = torch.eye(50)
    for call in (trace, frobenius_norm, log_determinant):
        with pytest.raises(TimeoutError):
            call(matrix, deadline=deadline)
    with pytest.raises(OperatorUsageError, match="unknown trace method"):
        trace(matrix, "hutch")
    for method, products in (("hutchinson", 0), ("hutch++", 2), ("xtrace", 3)):
        with pytest.raises(OperatorUsageError, match="at least"):
            trace(matrix, method, products=products)
    with pytest.raises(OperatorUsageError, match="at least 1"):
        frobenius_norm(matrix, products=0)
