"""Curvature probes: against Hessians written out entry by entry, planted spectra, and training at the edge."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.unhurried import unhurried
from torch import nn

import separatrix
from separatrix.probes import _eigenspace, curvature
from separatrix.probes._eigenspace import split_at_gap, subspace_distance, subspace_share
from separatrix.record.replay import ReplayError
from separatrix.record.shadow import undisturbed
from separatrix.record.snapshot import Snapshot, snapshot_of
from separatrix.runs.probe import Probe, Reading
from separatrix.testing import check_probe

PROBES = [p for p in vars(curvature).values() if isinstance(p, Probe)]


def loss_of(snapshot: Snapshot) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Outputs, loss and parameters of a copy of the snapshot's model, written out."""
    model = copy.deepcopy(snapshot.model)
    snapshot.batch.call.random.restore()
    outputs = model(snapshot.inputs[0])
    outputs = outputs.reshape(-1, outputs.shape[-1]) if outputs.dim() > 2 else outputs
    assert snapshot.kind is not None
    return outputs, getattr(F, snapshot.kind)(outputs, snapshot.targets), list(model.parameters())


def rows(values: torch.Tensor, parameters: list[torch.Tensor]) -> torch.Tensor:
    """Jacobian, a backward pass an entry."""
    found = []
    for value in values.flatten():
        parts = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
        found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found).detach()


_DENSE: dict[tuple[float, int], tuple[torch.Tensor, torch.Tensor]] = {}


def dense_hessian(snapshot: Snapshot) -> tuple[torch.Tensor, torch.Tensor]:
    """Hessian (n, n) and gradient (n,), kept for nets that come again."""
    _, loss, parameters = loss_of(snapshot)
    key = (float(loss.detach()), sum(p.numel() for p in parameters))
    if key not in _DENSE:
        _DENSE[key] = _dense_hessian(loss, parameters)
    return _DENSE[key]


def _dense_hessian(loss: torch.Tensor, parameters: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    parts = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
    gradient = torch.cat([part.flatten() for part in parts])
    matrix = rows(gradient, parameters)
    return (matrix + matrix.T) / 2, gradient.detach()


def dense_ggn(snapshot: Snapshot) -> torch.Tensor:
    outputs, _, parameters = loss_of(snapshot)
    leaf = outputs.detach().requires_grad_()
    assert snapshot.kind is not None
    (slope,) = torch.autograd.grad(getattr(F, snapshot.kind)(leaf, snapshot.targets), leaf, create_graph=True)
    jacobian = rows(outputs, parameters)
    return jacobian.T @ rows(slope, [leaf]) @ jacobian


def adams_preconditioner(snapshot: Snapshot) -> torch.Tensor:
    """Of Adam with its default options after t steps, written out."""
    parts = []
    for label in snapshot.parameters:
        state, t = snapshot.states[label], float(snapshot.states[label]["step"])
        root = (state["exp_avg_sq"] / (1 - 0.999**t)).sqrt()
        parts.append(((1 - 0.9**t) * (root + 1e-8)).flatten())
    return torch.cat(parts)


def of_eigenvalues(snapshot: Snapshot) -> Mapping[str, Any]:
    return {"hessian_eigenvalues": torch.linalg.eigvalsh(dense_hessian(snapshot)[0]).flip(0)[:5]}


def of_sharpness(snapshot: Snapshot) -> Mapping[str, Any]:
    return {"sharpness": torch.linalg.eigvalsh(dense_hessian(snapshot)[0])[-1]}


def of_smallest(snapshot: Snapshot) -> Mapping[str, Any]:
    return {"hessian_smallest_eigenvalue": torch.linalg.eigvalsh(dense_hessian(snapshot)[0])[0]}


def of_stability(snapshot: Snapshot) -> Mapping[str, Any]:
    # Eigenvalues of P^-1 H, without making it symmetric first.
    matrix = dense_hessian(snapshot)[0] / adams_preconditioner(snapshot)[:, None]
    largest = float(torch.linalg.eigvals(matrix).real.max())
    return {"preconditioned_sharpness": largest, "stability_ratio": 0.02 * largest / (2 * 1.9 / 0.1)}


def of_trace(snapshot: Snapshot) -> Mapping[str, Any]:
    return {"hessian_trace": dense_hessian(snapshot)[0].trace(), "hessian_trace_error": 0.0}


def of_gauss_newton(snapshot: Snapshot) -> Mapping[str, Any]:
    part, whole = dense_ggn(snapshot), dense_hessian(snapshot)[0].trace()
    largest = torch.linalg.eigvalsh(part)[-1]
    return {"ggn_sharpness": largest, "ggn_trace": part.trace(), "ggn_share": part.trace() / whole}


def of_outliers(snapshot: Snapshot) -> Mapping[str, Any]:
    values = torch.linalg.eigvalsh(dense_hessian(snapshot)[0]).flip(0)[:10]
    positive = [float(v) for v in values if v > 0]
    gaps = [math.log(a / b) for a, b in itertools.pairwise(positive)]
    count = gaps.index(max(gaps)) + 1
    return {"hessian_outliers": count, "hessian_bulk_edge": positive[count], "hessian_outlier_gap": max(gaps)}


EXACT = [
    (curvature.sharpness, of_sharpness),
    (curvature.eigenvalues, of_eigenvalues),
    (curvature.negative_curvature, of_smallest),
    (curvature.stability, of_stability),
    (curvature.hessian_traces, of_trace),
    (curvature.gauss_newton, of_gauss_newton),
]


@pytest.mark.parametrize(("probe", "oracle"), EXACT, ids=lambda x: x.name if isinstance(x, Probe) else "")
def test_against_dense_matrices(probe: Probe, oracle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # The error of an eigenvalue is of the order of the squared residual.
    monkeypatch.setattr(_eigenspace, "TOLERANCE", 1e-5)
    monkeypatch.setattr(_eigenspace, "most_products", lambda count: 1000)
    monkeypatch.setattr(_eigenspace, "TRACE_PRODUCTS", 1000)
    assert check_probe(probe, oracle=oracle, tolerance=1e-9) > 0


def test_at_the_tolerance_in_use_an_eigenvalue_is_within_each_residual() -> None:
    snapshot = classification()
    found = read(curvature.eigenvalues, snapshot)
    values, residuals = (torch.as_tensor(found[f"hessian_{name}"].values) for name in ("eigenvalues", "residuals"))
    with undisturbed():
        matrix, gradient = dense_hessian(snapshot)
    exact, vectors = torch.linalg.eigh(matrix)
    assert float(residuals.max()) <= _eigenspace.TOLERANCE
    distances = (values[:, None] - exact).abs().min(1).values
    assert bool((distances <= residuals * values.abs()).all())
    assert bool((values <= exact.flip(0)[:5] * (1 + 1e-12)).all())
    share = (vectors[:, -5:].T @ gradient).norm() ** 2 / gradient.norm() ** 2
    assert number(found, "gradient_top_share") == pytest.approx(float(share), abs=1e-3)


def test_outliers_against_a_dense_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_eigenspace, "TOLERANCE", 1e-5)
    monkeypatch.setattr(_eigenspace, "most_products", lambda count: 1000)
    found = read(curvature.outliers, classification())
    with undisturbed():
        expected = of_outliers(classification())
    assert {name: number(found, name) for name in expected} == pytest.approx(expected, rel=1e-8)


def test_costly_probes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curvature, "QUADRATURE_STEPS", 5)
    monkeypatch.setattr(curvature, "MOST_CANDIDATES", 3)
    for probe in (curvature.spectrum, curvature.outliers):
        assert check_probe(probe) > 0


def of_spectrum(snapshot: Snapshot) -> tuple[torch.Tensor, torch.Tensor]:
    """The Hessian and the random signs that the probe drew, (n, probes)."""
    matrix, _ = dense_hessian(snapshot)
    generator = torch.Generator().manual_seed(snapshot.step)
    shape = (len(matrix), curvature.QUADRATURE_PROBES)
    return matrix, torch.randint(0, 2, shape, generator=generator).double() * 2 - 1


def test_the_spectrum_has_the_moments_of_the_random_vectors() -> None:
    snapshot = classification()
    found = read(curvature.spectrum, snapshot)
    nodes, weights = (found[f"hessian_spectrum_{name}"].values for name in ("nodes", "weights"))
    with undisturbed():
        matrix, signs = of_spectrum(snapshot)
    assert isinstance(nodes, torch.Tensor) and isinstance(weights, torch.Tensor)
    assert len(nodes) == curvature.QUADRATURE_STEPS * curvature.QUADRATURE_PROBES < len(matrix)
    assert bool((nodes.diff() >= 0).all())
    image = signs
    for power in range(12):
        moment = (signs * image).sum() / signs.numel()
        assert float((weights * nodes**power).sum()) == pytest.approx(float(moment), rel=1e-9, abs=1e-12)
        image = matrix @ image


def test_the_negative_share_of_a_planted_spectrum() -> None:
    diagonal = torch.tensor([4.0, 3.0, 1.0, -1.0, -3.0])
    found = read(curvature.spectrum, quadratic(diagonal))
    assert float(found["negative_curvature_share"].values) == pytest.approx(4 / 12, rel=1e-9)


def read(probe: Probe, snapshot: Snapshot, state: dict[str, Any] | None = None) -> dict[str, Reading]:
    with undisturbed():
        return {reading.series: reading for reading in probe.measure(snapshot, {} if state is None else state)}


def number(found: Mapping[str, Reading], name: str) -> float:
    return float(found[name].values)


class Diagonal(nn.Module):
    """Half a sum of squares of its parameter, weighted by its input: the Hessian is the input on a diagonal."""

    def __init__(self, size: int, at: torch.Tensor | None = None) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(size, dtype=torch.float64) if at is None else at)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.w.square() / 2).sum(-1)


def quadratic(diagonal: torch.Tensor, optimizer: Any = None, **options: Any) -> Snapshot:
    model = Diagonal(diagonal.shape[-1])
    stepped = None if optimizer is None else optimizer(model.parameters(), **options)
    # l1 loss below all values: the mean of the outputs and a constant.
    x = diagonal.double().reshape(-1, diagonal.shape[-1])
    return snapshot_of(model, "l1_loss", x, torch.full((len(x),), -1e3).double(), optimizer=stepped)


def classification(optimizer: Any = None, **options: Any) -> Snapshot:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).double()
    x, y = torch.randn(20, 6).double(), torch.arange(20) % 5
    stepped = None if optimizer is None else optimizer(model.parameters(), **options)
    return snapshot_of(model, "cross_entropy", x, y, optimizer=stepped, step=7)


@pytest.mark.parametrize(
    ("options", "threshold"),
    [
        ({}, 2.0),
        ({"momentum": 0.9}, 3.8),
        ({"momentum": 0.9, "nesterov": True}, 3.8 / 2.8),
        ({"momentum": 0.5, "dampening": 0.5}, 6.0),
    ],
)
def test_the_ratio_is_1_at_the_textbook_limit_of_sgd(options: dict[str, Any], threshold: float) -> None:
    snapshot = quadratic(torch.tensor([5.0, 1.0, 0.5]), torch.optim.SGD, lr=threshold / 5.0, **options)
    found = read(curvature.stability, snapshot)
    assert number(found, "stability_ratio") == pytest.approx(1.0, rel=1e-9)
    assert number(found, "preconditioned_sharpness") == pytest.approx(5.0, rel=1e-9)


def test_the_ratio_tells_divergence_from_convergence() -> None:
    for rate, diverges in ((0.39, False), (0.41, True)):
        ratio = number(
            read(curvature.stability, quadratic(torch.tensor([5.0, 1.0]), torch.optim.SGD, lr=rate)), "stability_ratio"
        )
        assert (ratio > 1) is diverges
        assert (abs(1 - rate * 5.0) > 1) is diverges


def test_parameters_that_do_not_move_have_no_part_in_stability() -> None:
    model = Diagonal(2)
    other = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    model.register_parameter("v", other)
    model.forward = lambda x: (x * model.w.square() / 2).sum(-1) + 50.0 * model.v.square().sum()  # type: ignore[method-assign]
    groups = [{"params": [model.w], "lr": 0.1}, {"params": [model.v], "lr": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    x = torch.tensor([[3.0, 1.0]]).double()
    snapshot = snapshot_of(model, "l1_loss", x, torch.full((1,), -1e3).double(), optimizer=optimizer)
    snapshot.model.forward = lambda x: (
        (x * snapshot.parameters["w"].square() / 2).sum(-1) + 50.0 * snapshot.parameters["v"].square().sum()
    )  # type: ignore[method-assign]
    assert number(read(curvature.stability, snapshot), "stability_ratio") == pytest.approx(0.15, rel=1e-9)
    assert number(read(curvature.sharpness, snapshot), "sharpness") == pytest.approx(100.0, rel=1e-6)


def test_nothing_moves_nothing_is_read() -> None:
    assert read(curvature.stability, classification(torch.optim.SGD, lr=0.0)) == {}


@pytest.mark.parametrize(
    ("optimizer", "options", "why"),
    [(None, {}, "no optimizer"), (torch.optim.Rprop, {}, "Rprop"), (torch.optim.SGD, {"maximize": True}, "maximizes")],
)
def test_optimizers_without_a_threshold_are_refused(optimizer: Any, options: dict[str, Any], why: str) -> None:
    snapshot = classification(optimizer, **({"lr": 0.1} if optimizer else {}), **options)
    if optimizer is torch.optim.Rprop:
        snapshot.states = {label: {"step": torch.tensor(1.0)} for label in snapshot.parameters}
    with pytest.raises(ReplayError, match=why):
        read(curvature.stability, snapshot)
    assert "sharpness" in read(curvature.sharpness, snapshot)


def test_a_loss_that_is_not_finite_is_refused() -> None:
    snapshot = classification()
    with torch.no_grad():
        next(iter(snapshot.parameters.values())).fill_(torch.nan)
    for probe in PROBES:
        if probe is not curvature.stability:
            with pytest.raises(ReplayError):
                read(probe, snapshot)


def test_a_large_model_takes_the_way_that_needs_less_memory_and_a_larger_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = read(curvature.sharpness, classification())
    size = sum(p.numel() for p in classification().parameters.values())
    monkeypatch.setattr(_eigenspace, "MOST_BYTES", 20 * size * 8)
    frugal = read(curvature.sharpness, classification())
    assert number(frugal, "sharpness") == pytest.approx(number(usual, "sharpness"), rel=1e-3)
    assert frugal["sharpness_residual"] != usual["sharpness_residual"]
    for probe in (curvature.eigenvalues, curvature.spectrum, curvature.hessian_traces, curvature.outliers):
        with pytest.raises(ReplayError, match="too large"):
            read(probe, classification())


# From one snapshot to the next


def test_a_new_largest_eigenvalue_is_found_although_the_old_vectors_are_exact() -> None:
    state: dict[str, Any] = {}
    before = torch.tensor([8.0, 6.0, *torch.linspace(0.1, 1, 40).tolist()])
    assert number(read(curvature.sharpness, quadratic(before), state), "sharpness") == pytest.approx(8.0, rel=1e-3)
    after = before.clone()
    after[20] = 9.0
    assert number(read(curvature.sharpness, quadratic(after), state), "sharpness") == pytest.approx(9.0, rel=1e-3)


def test_a_warm_start_saves_products(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    search = _eigenspace.top_eigenpairs

    def counted(*args: Any, **options: Any) -> Any:
        found = search(*args, **options)
        used.append(found.products)
        return found

    monkeypatch.setattr(_eigenspace, "top_eigenpairs", counted)
    state: dict[str, Any] = {}
    for _ in range(2):
        read(curvature.eigenvalues, classification(), state)
    assert used[1] <= 8 < used[0]


def test_drift_of_planted_eigenspaces() -> None:
    state: dict[str, Any] = {}
    before = torch.tensor([9.0, 8.0, 7.0, 6.0, 5.0, 0.1, 0.2])
    assert "eigenspace_drift" not in read(curvature.eigenvalues, quadratic(before), state)
    same = read(curvature.eigenvalues, quadratic(before), state)
    assert number(same, "eigenspace_drift") == pytest.approx(0.0, abs=1e-4)
    after = torch.tensor([0.1, 0.2, 7.0, 6.0, 5.0, 9.0, 8.0])
    assert number(read(curvature.eigenvalues, quadratic(after), state), "eigenspace_drift") == pytest.approx(
        0.4, abs=1e-3
    )


def test_subspaces() -> None:
    turn = torch.tensor([[math.cos(0.3)], [math.sin(0.3)]])
    axis = torch.tensor([[1.0], [0.0]])
    assert subspace_distance(axis, turn) == pytest.approx(math.sin(0.3) ** 2, rel=1e-6)
    assert subspace_share(axis, torch.tensor([3.0, 4.0])) == pytest.approx(9 / 25)
    assert math.isnan(subspace_share(axis, torch.zeros(2)))


# Outliers


def test_planted_outliers_are_counted() -> None:
    values = torch.cat([torch.tensor([50.0, 40.0, 30.0, 20.0]), torch.linspace(0.5, 1.0, 12)])
    found = read(curvature.outliers, quadratic(values))
    assert number(found, "hessian_outliers") == 4
    assert number(found, "hessian_bulk_edge") == pytest.approx(1.0, rel=1e-3)
    assert number(found, "hessian_outlier_gap") == pytest.approx(math.log(20), rel=1e-3)


def test_without_positive_eigenvalues_nothing_stands_out() -> None:
    assert split_at_gap([-1.0, -2.0]) == (0, pytest.approx(math.nan, nan_ok=True))
    assert read(curvature.outliers, quadratic(-torch.linspace(1, 2, 12))) == {}


# Traces


def test_the_estimated_trace_is_within_its_error() -> None:
    found = []
    exact = None
    for step in range(60):
        snapshot = classification()
        snapshot.generator.manual_seed(step)
        with undisturbed():
            exact = float(dense_hessian(snapshot)[0].trace()) if exact is None else exact
        reading = read(curvature.hessian_traces, snapshot)
        found.append((number(reading, "hessian_trace"), number(reading, "hessian_trace_error")))
    assert exact is not None
    values = torch.tensor(found, dtype=torch.float64)
    mean, spread = values[:, 0].mean(), values[:, 0].std() / len(values) ** 0.5
    assert abs(float(mean) - exact) < 4 * float(spread)
    assert 0.5 < float(values[:, 1].mean() / values[:, 0].std()) < 2.0


def test_the_trace_ratio_is_1_where_single_examples_diverge() -> None:
    # Fitted linear regression on examples of one length: |x|^2 = tr H.
    torch.manual_seed(0)
    x = F.normalize(torch.randn(40, 8).double(), dim=1)
    x = torch.cat([x, -x])
    for ratio in (0.9, 1.1):
        rate = 2.0 * ratio / 2.0
        model = nn.Linear(8, 1, bias=False).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        snapshot = snapshot_of(model, "mse_loss", x, torch.zeros(80, 1).double(), optimizer=optimizer)
        found = read(curvature.hessian_traces, snapshot)
        # The loss is the squared error, not half of it: tr H = 2.
        assert number(found, "sgd_trace_ratio") == pytest.approx(ratio, rel=1e-9)
        # Mean square of the weights after a step on one example, as a matrix on their covariances.
        second = (
            sum(
                torch.kron(torch.eye(8) - 2 * rate * torch.outer(a, a), torch.eye(8) - 2 * rate * torch.outer(a, a))
                for a in x
            )
            / 80
        )
        assert isinstance(second, torch.Tensor)
        assert (float(torch.linalg.eigvals(second).abs().max()) > 1) is (ratio > 1)


@pytest.mark.parametrize(("optimizer", "options"), [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.Adam, {})])
def test_the_trace_ratio_is_read_for_plain_sgd_only(optimizer: Any, options: dict[str, Any]) -> None:
    assert "sgd_trace_ratio" not in read(curvature.hessian_traces, classification(optimizer, lr=0.1, **options))


# Recorded


@pytest.fixture
def every_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded machine must not decide whether a snapshot is taken."""
    unhurried(monkeypatch)


def record(run: Path, probes: str, steps: int, optimizer: Any = torch.optim.SGD) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
    stepped = optimizer(model.parameters(), lr=0.2)
    x = torch.randn(32, 4)
    y = torch.sign(x[:, :1] * x[:, 1:2])
    with separatrix.record(model, stepped, run=run, probes=probes, budget=1.0):
        for _ in range(steps):
            stepped.zero_grad()
            F.mse_loss(model(x), y).backward()
            stepped.step()


@pytest.mark.usefixtures("every_snapshot")
def test_series_arrive(tmp_path: Path) -> None:
    chosen = [p for p in PROBES if p is not curvature.outliers]
    record(tmp_path / "run", ",".join(p.name for p in chosen), 6)
    with separatrix.open(tmp_path / "run") as recorded:
        assert not [e for e in recorded.events if e.kind in ("unseen", "probe-off", "aborted")]
        for spec in [spec for probe in chosen for spec in probe.series]:
            assert recorded[spec.name].dims == ("step", *spec.dims), spec.name
        assert recorded["hessian_eigenvalues"].shape[1] == 5
        assert recorded["hessian_spectrum_nodes"].shape == recorded["hessian_spectrum_weights"].shape


@pytest.mark.usefixtures("every_snapshot")
def test_full_batch_gradient_descent_comes_to_the_edge_and_stays_there(tmp_path: Path) -> None:
    # Cohen et al. 2021: progressive sharpening up to 2 / learning rate, then balance.
    record(tmp_path / "run", "stability", 700)
    with separatrix.open(tmp_path / "run") as recorded:
        ratio = recorded["stability_ratio"]
        assert float(ratio[0]) < 0.5
        assert float(ratio.max()) > 1.0
        assert abs(ratio.values[ratio.step.values > 250] - 1.0).max() < 0.1


@pytest.mark.usefixtures("every_snapshot")
def test_an_optimizer_without_a_threshold_is_said_once_and_other_probes_go_on(tmp_path: Path) -> None:
    record(tmp_path / "run", "stability,sharpness", 30, torch.optim.Rprop)
    with separatrix.open(tmp_path / "run") as recorded:
        unseen = [e.message for e in recorded.events if e.kind == "unseen"]
        assert len(unseen) == 1
        assert "Rprop" in unseen[0]
        assert "stability_ratio" not in recorded
        assert len(recorded["sharpness"]) > 10
