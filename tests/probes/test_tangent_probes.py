"""Tangent kernel probes: against Jacobians written out row by row, and on networks whose regime is known."""

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
from separatrix.probes import tangent
from separatrix.probes.tangent import ExampleNetwork, example_kernel, lazy_rich_index
from separatrix.record.replay import ReplayError
from separatrix.record.shadow import undisturbed
from separatrix.record.snapshot import Snapshot, snapshot_of
from separatrix.runs.probe import Reading
from separatrix.testing import check_probe, example_snapshots


def copied(snapshot: Snapshot, values: Mapping[str, torch.Tensor]) -> nn.Module:
    """A copy of the snapshot's model with other parameters."""
    model = copy.deepcopy(snapshot.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(values[name])
    return model


def jacobian(outputs: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """(entries, parameters), one backward pass a row; frozen and unused parameters give zeros or no columns."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for entry in outputs.flatten():
        found = torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows).detach()


def constant_statistics(model: nn.Module, x: torch.Tensor) -> None:
    """Evaluation mode; the one batch normalisation of the example nets keeps the statistics of the batch."""
    model.eval()
    norm = getattr(model, "norm", None)
    if isinstance(norm, nn.BatchNorm2d):
        entering = model.first(x).detach()
        norm.running_mean = entering.mean((0, 2, 3))
        norm.running_var = (entering - norm.running_mean[:, None, None]).square().mean((0, 2, 3))


def dense_kernel(snapshot: Snapshot, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    model, x = copied(snapshot, values), snapshot.inputs[0]
    constant_statistics(model, x)
    outputs = model(x)
    per_example = jacobian(outputs, model).reshape(len(x), outputs.numel() // len(x), -1)
    return torch.einsum("iap,jap->ij", per_example, per_example) / per_example.shape[1]


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()) if len(a) > 1 else math.nan


def dense_targets(snapshot: Snapshot) -> torch.Tensor:
    targets, n = snapshot.targets, len(snapshot.inputs[0])
    assert targets is not None
    if not targets.is_floating_point():
        targets = F.one_hot(targets, 7)
    y = targets.reshape(n, -1).double()
    return y @ y.T


def of_kernel(snapshot: Snapshot) -> Mapping[str, Any]:
    assert snapshot.initial is not None
    kernel = dense_kernel(snapshot, snapshot.parameters)
    start = dense_kernel(snapshot, snapshot.initial)
    n = len(kernel)
    eigenvalues = torch.linalg.eigvalsh(kernel).flip(0)
    shares = eigenvalues / eigenvalues.sum()
    centre = torch.eye(n, dtype=torch.float64) - 1.0 / n
    targets = centre @ dense_targets(snapshot) @ centre
    return {
        "ntk_eigenvalues": eigenvalues / n,
        "ntk_effective_rank": math.exp(-float((shares * shares.log()).sum())),
        "label_alignment": cosine(centre @ kernel @ centre, targets),
        "kernel_distance": 1.0 - cosine(kernel, start),
    }


def of_laziness(snapshot: Snapshot) -> Mapping[str, Any]:
    assert snapshot.initial is not None

    def outputs(model: nn.Module) -> torch.Tensor:
        snapshot.batch.call.random.restore()
        return model(snapshot.inputs[0])

    now, start = (copied(snapshot, values) for values in (snapshot.parameters, snapshot.initial))
    f = outputs(start)
    way = torch.cat([(snapshot.parameters[k] - snapshot.initial[k]).flatten() for k in snapshot.initial]).detach()
    predicted = jacobian(f, start) @ way
    moved = (outputs(now) - f).detach().flatten()
    return {"lazy_rich_index": (moved - predicted).norm() / (moved.norm() + predicted.norm())}


def test_kernel_probe() -> None:
    assert check_probe(tangent.tangent, oracle=of_kernel, tolerance=1e-9) > 0


def test_laziness_probe() -> None:
    assert check_probe(tangent.laziness, oracle=of_laziness, tolerance=1e-9) > 0


def read(measure: Any, snapshot: Snapshot, state: dict[str, Any] | None = None) -> dict[str, Reading]:
    with undisturbed():
        return {reading.series: reading for reading in measure(snapshot, {} if state is None else state)}


def net(width: int = 8, outputs: int = 3, inputs: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, outputs)).double()


def snapshot_at(model: nn.Module, initial: nn.Module, step: int, count: int = 9) -> Snapshot:
    torch.manual_seed(1)
    x, y = torch.randn(count, 4, dtype=torch.float64), torch.arange(count) % 3
    first = {name: p.detach().clone() for name, p in initial.named_parameters()}
    return snapshot_of(model, "cross_entropy", x, y, step=step, initial=first)


def disturbed(model: nn.Module, size: float) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(3)), alpha=size)
    return other


def test_velocity_is_the_distance_from_the_last_measurement_a_step() -> None:
    start = net()
    middle, end = disturbed(start, 0.1), disturbed(start, 0.3)
    state: dict[str, Any] = {}
    first = read(tangent.measure_kernel, snapshot_at(middle, start, 10), state)
    assert "kernel_velocity" not in first
    snapshot = snapshot_at(end, start, 14)
    second = read(tangent.measure_kernel, snapshot, state)
    before, after = (dense_kernel(snapshot, dict(m.named_parameters())) for m in (middle, end))
    assert float(second["kernel_velocity"].values) == pytest.approx((1 - cosine(before, after)) / 4, rel=1e-9)


def test_at_the_first_snapshot_the_kernel_has_not_moved_and_laziness_is_not_defined() -> None:
    start = net()
    snapshot = snapshot_at(start, start, 1)
    assert float(read(tangent.measure_kernel, snapshot)["kernel_distance"].values) == pytest.approx(0.0, abs=1e-15)
    assert math.isnan(float(read(tangent.measure_laziness, snapshot)["lazy_rich_index"].values))


def test_only_the_first_examples_of_a_large_batch_count(monkeypatch: pytest.MonkeyPatch) -> None:
    start = net()
    whole = dense_kernel(snapshot_at(start, start, 1), dict(start.named_parameters()))
    monkeypatch.setattr(tangent, "MOST_EXAMPLES", 5)
    found = read(tangent.measure_kernel, snapshot_at(start, start, 1))["ntk_eigenvalues"].values
    expected = torch.linalg.eigvalsh(whole[:5, :5]).flip(0) / 5
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_sums_of_many_outputs_estimate_the_kernel_without_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net(outputs=12)
    snapshot = snapshot_of(model, "mse_loss", torch.randn(4, 4, dtype=torch.float64), torch.zeros(4, 12).double())
    exact = dense_kernel(snapshot, dict(model.named_parameters()))
    monkeypatch.setattr(tangent, "MOST_OUTPUTS", 3)
    with undisturbed():
        network = ExampleNetwork(snapshot)
        drawn = []
        for _ in range(150):
            network._signs = 2.0 * torch.randint(2, (12,)).double() - 1.0
            network._sums = torch.randint(3, (12,))
            drawn.append(example_kernel(snapshot, network))
    kernels = torch.stack(drawn)
    error = kernels.std(0) / len(kernels) ** 0.5
    assert bool(((kernels.mean(0) - exact).abs() < 4 * error).all())
    assert float(error.max() / exact.max()) < 0.1


def refused(snapshot: Snapshot) -> str:
    with pytest.raises(ReplayError) as caught:
        read(tangent.measure_kernel, snapshot)
    return str(caught.value)


def test_examples_that_mix_are_refused() -> None:
    class Mixing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x - x.mean(0))

    model = Mixing()
    assert "alone" in refused(snapshot_at(model, model, 1))


def test_a_batch_normalisation_called_twice_is_refused() -> None:
    norm = nn.BatchNorm1d(4)
    model = nn.Sequential(norm, nn.Linear(4, 4), norm, nn.Linear(4, 3)).double()
    snapshot = snapshot_at(model, model, 1)
    assert "called twice" in refused(snapshot)
    assert all(module.training for module in snapshot.model.modules())


def test_constant_targets_have_no_alignment() -> None:
    model = net()
    x = torch.randn(6, 4, dtype=torch.float64)
    snapshot = snapshot_of(model, "cross_entropy", x, torch.full((6,), 2))
    assert math.isnan(float(read(tangent.measure_kernel, snapshot)["label_alignment"].values))


def test_equal_examples_have_no_alignment_in_single_precision() -> None:
    model = net().float()
    snapshot = snapshot_of(model, "cross_entropy", torch.randn(1, 4).expand(6, 4), torch.arange(6) % 3)
    assert math.isnan(float(read(tangent.measure_kernel, snapshot)["label_alignment"].values))


def test_ignored_positions_count_for_no_alignment() -> None:
    model = net()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, -100, 0, 1, -100])
    snapshot = snapshot_of(model, "cross_entropy", x, y)
    found = tangent.target_kernel(snapshot, 6)
    unit = torch.tensor([[1, 0], [0, 1], [0, 0], [1, 0], [0, 1], [0, 0]], dtype=torch.float64)
    assert found is not None
    assert torch.equal(found, unit @ unit.T)


def test_parameters_come_back_bit_for_bit_when_a_measurement_fails() -> None:
    for make in example_snapshots().values():
        snapshot = make()
        before = {k: (p.data_ptr(), p._version, p.detach().clone()) for k, p in snapshot.parameters.items()}
        assert snapshot.initial is not None
        snapshot.initial = {k: torch.full_like(v, torch.nan) for k, v in snapshot.initial.items()}
        with pytest.raises(ReplayError):
            read(tangent.measure_kernel, snapshot)
        for label, p in snapshot.parameters.items():
            pointer, version, values = before[label]
            assert p.data_ptr() == pointer and p._version == version and torch.equal(p, values)


# Lazy and rich


def test_the_index_of_simple_movements() -> None:
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([4.0, -3.0])
    assert float(lazy_rich_index(a, a)) == 0.0
    assert float(lazy_rich_index(a, -a)) == 1.0
    assert float(lazy_rich_index(a, 0 * a)) == 1.0
    assert float(lazy_rich_index(a, b)) == pytest.approx(math.sqrt(2) / 2)
    assert float(lazy_rich_index(7 * a, 7 * b)) == pytest.approx(float(lazy_rich_index(a, b)))
    assert math.isnan(float(lazy_rich_index(0 * a, 0 * a)))
    assert math.isnan(float(lazy_rich_index(1e-9 * a, 0 * a, rounding=1e-6)))


def test_a_linear_model_is_lazy_however_far_it_goes() -> None:
    start = nn.Linear(4, 3).double()
    snapshot = snapshot_at(disturbed(start, 10.0), start, 5)
    assert float(read(tangent.measure_laziness, snapshot)["lazy_rich_index"].values) < 1e-14


def trained(scale: float, rate: float, steps: int, start: nn.Module) -> nn.Module:
    """`start` after gradient descent on half the mean squared error of scale * (f - f_0), over scale^2."""
    model, reference = copy.deepcopy(start), copy.deepcopy(start)
    x, y = regression()
    for _ in range(steps):
        loss = (scale * (model(x) - reference(x)) - y).square().mean() / (2 * scale**2)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, g in zip(model.parameters(), gradients, strict=True):
                p.sub_(rate * g)
    return model


def regression() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return x, (x[:, :1] * x[:, 1:2]).sign()


def index_of(model: nn.Module, start: nn.Module) -> float:
    first = {name: p.detach().clone() for name, p in start.named_parameters()}
    snapshot = snapshot_of(model, "mse_loss", *regression(), initial=first)
    return float(read(tangent.measure_laziness, snapshot)["lazy_rich_index"].values)


def test_a_larger_output_scale_makes_training_lazier() -> None:
    start = net(width=32, outputs=1)
    found = [index_of(trained(scale, 0.3, 150, start), start) for scale in (1.0, 10.0, 100.0, 1000.0)]
    assert found == sorted(found, reverse=True)
    # Chizat et al. 2019, section 2: the distance from the linearisation falls as 1 / scale.
    slopes = [math.log10(a / b) for a, b in itertools.pairwise(found[1:])]
    assert all(0.8 < slope < 1.2 for slope in slopes), (found, slopes)
    assert found[0] > 0.05


def test_a_deep_linear_net_from_a_tiny_start_is_rich() -> None:
    torch.manual_seed(2)
    start = nn.Sequential(
        nn.Linear(4, 6, bias=False), nn.Linear(6, 6, bias=False), nn.Linear(6, 1, bias=False)
    ).double()
    with torch.no_grad():
        for p in start.parameters():
            p.mul_(1e-2)
    end = copy.deepcopy(start)
    x = regression()[0]
    optimizer = torch.optim.Adam(end.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        (end(x) - x[:, :1]).square().mean().backward()
        optimizer.step()
    assert index_of(end, start) > 0.9


def test_movement_below_rounding_is_not_defined() -> None:
    start = net().float()
    end = copy.deepcopy(start)
    with torch.no_grad():
        end[2].bias.add_(1e-7)
    first = {name: p.detach().clone() for name, p in start.named_parameters()}
    x, y = torch.randn(9, 4), torch.arange(9) % 3
    snapshot = snapshot_of(end, "cross_entropy", x, y, initial=first)
    assert math.isnan(float(read(tangent.measure_laziness, snapshot)["lazy_rich_index"].values))


# Recorded


def test_series_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A loaded machine must not decide whether a snapshot is taken.
    unhurried(monkeypatch)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    with separatrix.record(model, optimizer, run=tmp_path / "run", probes="tangent-kernel,lazy-rich", budget=1.0):
        for _ in range(12):
            x = torch.randn(12, 4, generator=generator, dtype=torch.float64)
            optimizer.zero_grad()
            F.cross_entropy(model(x), torch.arange(12) % 3).backward()
            optimizer.step()
    with separatrix.open(tmp_path / "run") as recorded:
        assert not [e for e in recorded.events if e.kind in ("unseen", "probe-off", "aborted")]
        assert recorded["ntk_eigenvalues"].dims == ("step", "mode")
        assert recorded["ntk_eigenvalues"].shape[1] == 12
        for name in ("ntk_effective_rank", "label_alignment", "kernel_distance", "kernel_velocity", "lazy_rich_index"):
            assert recorded[name].dims == ("step",)
        assert float(recorded["kernel_distance"][0]) == pytest.approx(0.0, abs=1e-7)
        assert float(recorded["kernel_distance"][-1]) > 1e-5
        assert 0.0 < float(recorded["lazy_rich_index"][-1]) < 1.0
