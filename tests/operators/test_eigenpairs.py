from __future__ import annotations

import itertools
import math

import pytest
import torch
from tests.operators.curvature_models import CASES, dense_hessian, make
from torch import Tensor

from separatrix.operators import (
    DenseOperator,
    LinearOperator,
    NonFiniteError,
    OperatorUsageError,
    hessian,
    lanczos_quadrature,
    spectral_density,
    top_eigenpairs,
)

SIZE = 200
methods = pytest.mark.parametrize("method", ["lanczos", "lobpcg"])


def symmetric(values: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))
    matrix = basis @ torch.diag(values.double()) @ basis.T
    return (matrix + matrix.T) / 2


def spectrum() -> Tensor:
    bulk = torch.linspace(-0.5, 0.6, SIZE - 8)
    return torch.cat([torch.tensor([9.0, 7.5, 6.0, 4.0, 3.0]), bulk, torch.tensor([-2.0, -4.5, -8.0])]).double()


class Counted:
    """A dense operator that counts the vectors it multiplies."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.vectors = matrix, 0
        self.size, self.dtype, self.device = len(matrix), matrix.dtype, matrix.device

    def __matmul__(self, other: Tensor) -> Tensor:
        self.vectors += other.shape[1]
        return self.matrix @ other


@methods
@pytest.mark.parametrize(
    ("which", "wanted"),
    [
        ("largest", [9.0, 7.5, 6.0, 4.0, 3.0]),
        ("magnitude", [9.0, -8.0, 7.5, 6.0, -4.5]),
        ("both ends", [9.0, 7.5, 6.0, -4.5, -8.0]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_pairs_are_within_their_measured_residuals(method: str, which: str, wanted: list[float], dtype) -> None:
    matrix = symmetric(spectrum()).to(dtype)
    for tolerance in (1e-2, 1e-4):
        operator = Counted((matrix + matrix.T) / 2)
        found = top_eigenpairs(operator, 5, method=method, which=which, tolerance=tolerance)
        assert found.converged and bool((found.residuals <= tolerance).all())
        assert found.products == operator.vectors < 100
        verified = top_eigenpairs(operator, 5, method=method, which=which, tolerance=tolerance, verify=True)
        assert verified.products == found.products + 5 and operator.vectors == 2 * found.products + 5
        rounding = 20 * torch.finfo(dtype).eps
        rest = matrix.double() @ found.vectors.double() - found.vectors.double() * found.values
        measured = torch.linalg.vector_norm(rest, dim=0) / found.values.abs()
        for claimed in (found.residuals, verified.residuals):
            assert torch.allclose(claimed, measured, rtol=1e-2, atol=rounding * 9)
        distance = (found.values - torch.tensor(wanted).double()).abs()
        assert bool((distance <= (found.residuals * found.values.abs() + rounding * 9)).all())
        gram = found.vectors.T @ found.vectors
        assert torch.allclose(gram, torch.eye(5, dtype=dtype), atol=rounding * 10)
        assert found.vectors.dtype == dtype and found.values.dtype == torch.float64


@methods
def test_a_start_near_the_eigenvectors_costs_only_what_is_missing(method: str) -> None:
    matrix = symmetric(spectrum())
    cold = top_eigenpairs(matrix, 5, method=method, tolerance=1e-3)
    again = top_eigenpairs(matrix, 5, method=method, tolerance=1e-3, start=cold.vectors)
    assert again.converged and again.products == 5
    moved = matrix + 3e-3 * symmetric(torch.linspace(-1, 1, SIZE), seed=1)
    warm = top_eigenpairs(moved, 5, method=method, tolerance=1e-3, start=cold.vectors)
    assert warm.converged and warm.products < cold.products
    assert torch.allclose(warm.values, torch.linalg.eigvalsh(moved).flip(0)[:5], rtol=1e-5)


@methods
def test_converged_pairs_are_not_refined(method: str) -> None:
    values, vectors = torch.linalg.eigh(symmetric(spectrum()))
    start = vectors[:, -5:].clone()
    start[:, 1] += 0.05 * vectors[:, :150].sum(1) / 150**0.5
    operator = Counted(symmetric(spectrum()))
    found = top_eigenpairs(operator, 5, method=method, tolerance=1e-6, start=start)
    assert found.converged and found.products <= 25
    assert torch.allclose(found.values, values[-5:].flip(0), rtol=1e-9)


def test_restarts_keep_within_the_basis_allowed() -> None:
    values = torch.linspace(0, 1, SIZE).pow(0.3)
    widest = 0

    class Watched(Counted):
        def __matmul__(self, other: Tensor) -> Tensor:
            nonlocal widest
            widest = max(widest, other.shape[1])
            return super().__matmul__(other)

    small = top_eigenpairs(Watched(symmetric(values)), 3, tolerance=1e-3, max_basis=12, max_products=2000)
    large = top_eigenpairs(symmetric(values), 3, tolerance=1e-3, max_basis=150, max_products=2000)
    assert small.converged and large.converged and widest == 1
    assert small.products > large.products
    wanted = values.flip(0)[:3].double()
    assert bool(((small.values - wanted).abs() <= small.residuals * small.values).all())


@methods
@pytest.mark.parametrize(
    "values", [torch.ones(8), torch.zeros(8), torch.tensor([2.0, 2.0, 1.0] + [0.0] * 9), torch.tensor([3.0])]
)
def test_multiple_eigenvalues_and_small_ranks(method: str, values: Tensor) -> None:
    k = min(4, len(values))
    found = top_eigenpairs(symmetric(values), k, method=method, tolerance=1e-6)
    assert found.converged and found.vectors.shape == (len(values), k)
    assert torch.allclose(found.values, values.double().sort(descending=True).values[:k], atol=1e-9)


@methods
def test_all_eigenvalues_of_a_small_matrix(method: str) -> None:
    matrix = symmetric(spectrum()[::25])
    found = top_eigenpairs(matrix, len(matrix), method=method, tolerance=1e-8)
    assert torch.allclose(found.values, torch.linalg.eigvalsh(matrix).flip(0), atol=1e-10)


def test_a_small_budget_gives_the_best_so_far_and_says_so() -> None:
    found = top_eigenpairs(symmetric(spectrum()), 5, tolerance=1e-8, max_products=9)
    assert not found.converged and found.products == 9
    rest = symmetric(spectrum()) @ found.vectors - found.vectors * found.values
    assert torch.allclose(found.residuals, torch.linalg.vector_norm(rest, dim=0) / found.values.abs(), rtol=1e-6)
    fewer = top_eigenpairs(symmetric(spectrum()), 5, max_products=2)
    assert not fewer.converged and len(fewer.values) == fewer.vectors.shape[1] == 2


@methods
def test_a_deadline_ends_the_work_between_products(method: str) -> None:
    calls = []

    def deadline() -> None:
        calls.append(1)
        if len(calls) == 4:
            raise TimeoutError

    operator = Counted(symmetric(spectrum()))
    with pytest.raises(TimeoutError):
        top_eigenpairs(operator, 2, method=method, deadline=deadline)
    assert operator.vectors == 3 * (2 if method == "lobpcg" else 1)


def test_random_draws_leave_the_global_state_alone_and_follow_the_generator() -> None:
    state = torch.get_rng_state()
    matrix = symmetric(spectrum())
    first, second = (top_eigenpairs(matrix, 2) for _ in range(2))
    assert torch.equal(first.vectors, second.vectors)
    other = top_eigenpairs(matrix, 2, generator=torch.Generator().manual_seed(5))
    assert not torch.equal(first.vectors, other.vectors)
    spectral_density(matrix, 10, probes=2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", CASES)
@methods
def test_eigenpairs_of_networks(name: str, method: str) -> None:
    case = make(name)
    torch.manual_seed(3)
    operator = hessian(case.model, case.loss, (case.inputs, case.targets))
    found = top_eigenpairs(operator, 4, method=method, tolerance=1e-3)
    wanted = torch.linalg.eigvalsh(dense_hessian(case)).flip(0)[:4]
    assert isinstance(operator, LinearOperator) and found.converged
    assert bool(((found.values - wanted).abs() <= found.residuals * found.values.abs() + 1e-12 * wanted[0]).all())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "ask for 1 to 200"),
        ({"k": 201}, "ask for 1 to 200"),
        ({"k": 2, "method": "power"}, "unknown method"),
        ({"k": 2, "which": "smallest"}, "unknown which"),
        ({"k": 2, "start": torch.ones(200)}, "pass columns"),
        ({"k": 2, "start": torch.ones(199, 2)}, "pass columns"),
        ({"k": 2, "start": torch.full((200, 2), torch.nan)}, "non-finite"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(OperatorUsageError, match=message):
        top_eigenpairs(symmetric(spectrum()), **arguments)


def test_matrices_that_are_no_operators() -> None:
    for matrix in (torch.ones(2, 3), torch.ones(3), torch.ones(3, 3, dtype=torch.int64)):
        with pytest.raises(OperatorUsageError, match="square floating"):
            DenseOperator(matrix)
    with pytest.raises(OperatorUsageError, match="not symmetric"):
        top_eigenpairs(torch.triu(torch.ones(3, 3)), 1)
    with pytest.raises(NonFiniteError, match="non-finite entries"):
        top_eigenpairs(torch.full((3, 3), torch.nan), 1)


def test_quadrature_has_the_moments_of_its_probes() -> None:
    matrix = symmetric(spectrum())
    quadrature = lanczos_quadrature(matrix, steps=6, probes=4)
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (SIZE, 4), generator=generator).double() * 2 - 1
    power = signs
    for order in range(12):
        exact = (signs * power).sum(0) / SIZE
        assert torch.allclose((quadrature.weights * quadrature.nodes**order).sum(1), exact, rtol=1e-10, atol=1e-10)
        power = matrix @ power
    assert quadrature.products == 24


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_quadrature_moments_are_unbiased(order: int) -> None:
    matrix = symmetric(spectrum())
    quadrature = lanczos_quadrature(matrix, steps=8, probes=300, generator=torch.Generator().manual_seed(order))
    estimate = quadrature.integral(lambda nodes: nodes**order)
    exact = float((spectrum() ** order).sum())
    assert abs(estimate.value - exact) < 3 * estimate.standard_error
    assert estimate.standard_error < 0.2 * float((spectrum().abs() ** order).sum())


def test_quadrature_error_falls_with_steps() -> None:
    matrix = symmetric(torch.linspace(0.05, 4, SIZE))
    signs = torch.randint(0, 2, (SIZE, 3), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    values, vectors = torch.linalg.eigh(matrix)
    exact = ((vectors.T @ signs) ** 2 * values.sqrt()[:, None]).sum(0).mean()
    errors = [
        abs(lanczos_quadrature(matrix, steps=steps, probes=3).integral(torch.sqrt).value - float(exact))
        for steps in (2, 4, 8, 16, 32)
    ]
    assert all(after < before / 3 for before, after in itertools.pairwise(errors))


def test_quadrature_of_exhausted_krylov_spaces_is_exact() -> None:
    values = torch.tensor([3.0] + [1.0] * 5 + [0.0] * 14)
    quadrature = lanczos_quadrature(symmetric(values), steps=15, probes=200)
    for value in (3.0, 1.0, 0.0):
        near = (quadrature.nodes - value).abs() < 1e-6
        shares = (quadrature.weights * near).sum(1)
        exact = float((values == value).double().mean())
        assert abs(float(shares.mean()) - exact) < 3 * float(shares.std()) / math.sqrt(200)
    assert torch.allclose(quadrature.weights.sum(1), torch.ones(200).double())
    distance = (quadrature.nodes[..., None] - torch.tensor([3.0, 1.0, 0.0])).abs().amin(-1)
    assert float(distance[quadrature.weights > 1e-9].max()) < 1e-6


def test_density_is_the_smoothed_spectrum_within_its_error() -> None:
    matrix, values = symmetric(spectrum()), spectrum()
    found = spectral_density(matrix, 60, probes=40, width=0.2)
    exact = torch.exp(-((found.grid[:, None] - values) ** 2) / 0.08).mean(1) / (0.2 * math.sqrt(2 * math.pi))
    assert bool(((found.density - exact).abs() <= 5 * found.error + 1e-4).all())
    assert float(torch.trapezoid(found.density, found.grid)) == pytest.approx(1, abs=1e-3)
    assert bool(((found.density - exact).abs() <= 2 * found.error + 1e-4).double().mean() > 0.8)
    single = spectral_density(matrix, 20, grid=torch.linspace(-1, 1, 7))
    assert single.grid.shape == (7,) and bool(single.error.isnan().all())
    flat = spectral_density(torch.zeros(4, 4), 3)
    assert bool(flat.density.isfinite().all()) and flat.width == 1.0


def test_density_of_a_network_counts_its_eigenvalues() -> None:
    case = make("mlp")
    torch.manual_seed(3)
    operator = hessian(case.model, case.loss, (case.inputs, case.targets))
    quadrature = lanczos_quadrature(operator, steps=31, probes=200)
    exact = dense_hessian(case)
    for order in (1, 2):
        estimate = quadrature.integral(lambda nodes, order=order: nodes**order)
        assert abs(estimate.value - float(exact.matrix_power(order).trace())) < 3.5 * estimate.standard_error


def test_bad_density_arguments() -> None:
    for arguments in ({"steps": 0}, {"probes": 0}, {"width": 0.0}, {"width": math.nan}):
        with pytest.raises(OperatorUsageError):
            spectral_density(torch.eye(3), **arguments)


def test_directions_carried_along_make_lobpcg_fast() -> None:
    values = torch.linspace(0, 1, SIZE).pow(0.5)
    found = top_eigenpairs(symmetric(values), 2, method="lobpcg", tolerance=1e-4, max_products=2000)
    krylov = top_eigenpairs(symmetric(values), 2, block=2, tolerance=1e-4)
    assert found.converged and krylov.converged
    assert krylov.products <= found.products < 3 * krylov.products
