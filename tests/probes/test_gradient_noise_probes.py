"""Gradient noise probes: against gradients taken example by example, planted noise, and planted stable laws."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.unhurried import unhurried
from torch import nn

import separatrix
from separatrix.probes import gradient_noise
from separatrix.probes._noise import noise_scale, tail_index
from separatrix.probes.gradient_noise import micro_batches
from separatrix.record import snapshots
from separatrix.record.replay import ReplayError
from separatrix.record.shadow import undisturbed
from separatrix.record.snapshot import Snapshot, snapshot_of
from separatrix.runs.probe import Probe, Reading
from separatrix.testing import check_probe

Parts = dict[str, torch.Tensor]


def gradients(loss: torch.Tensor, model: nn.Module) -> Parts:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), retain_graph=True, materialize_grads=True)
    return dict(zip(named, found, strict=True))


def entry_losses(snapshot: Snapshot) -> tuple[torch.Tensor, nn.Module]:
    """Loss of every row or entry of a copy of the model, in order, written out; and the copy."""
    model = copy.deepcopy(snapshot.model)
    snapshot.batch.call.random.restore()
    outputs = model(snapshot.inputs[0])
    outputs = outputs.reshape(-1, outputs.shape[-1]) if outputs.dim() > 2 else outputs
    assert snapshot.kind is not None
    losses = getattr(F, snapshot.kind)(outputs, snapshot.targets, reduction="none")
    return losses, model


def micro_gradients(snapshot: Snapshot) -> tuple[list[Parts], int]:
    """Gradients of the micro-batches that the probe draws, each the mean of its examples' own gradients."""
    losses, model = entry_losses(snapshot)
    examples = len(snapshot.inputs[0])
    losses = losses.reshape(examples, -1).mean(1)
    of_examples = [gradients(loss, model) for loss in losses]
    count = micro_batches(examples)
    size = examples // count
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(snapshot.step)).tolist()
    cut = [order[i * size : (i + 1) * size] for i in range(count)]
    return [{k: torch.stack([of_examples[i][k] for i in part]).mean(0) for k in of_examples[0]} for part in cut], size


def unbiased(gram: torch.Tensor, size: int) -> tuple[float, float]:
    """One example's variance, and the squared mean, from inner products of micro-batches: textbook formulas."""
    k = len(gram)
    deviations = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    variance = size * float(deviations.trace()) / (k - 1)
    signal = float(gram.masked_select(~torch.eye(k, dtype=torch.bool)).mean())
    return variance, signal


def of_noise(snapshot: Snapshot) -> Mapping[str, Any]:
    found, size = micro_gradients(snapshot)
    flat = {k: torch.stack([g[k].flatten() for g in found]) for k in found[0]}
    snr = {}
    for label, rows in flat.items():
        variance, signal = unbiased(rows @ rows.T, size)
        # The bias before a batch normalisation has no gradient but rounding.
        snr[label] = signal / variance if variance > 1e-25 else math.nan
    rows = torch.cat(list(flat.values()), dim=1)
    gram = rows @ rows.T
    variance, signal = unbiased(gram, size)
    lengths = gram.diagonal().sqrt()
    cosines = gram / torch.outer(lengths, lengths)
    return {
        "gradient_snr": snr,
        "gradient_noise_variance": variance,
        "gradient_signal": signal,
        "gradient_noise_scale": variance / signal if signal > 0 else math.nan,
        "microbatch_cosine": cosines.masked_select(~torch.eye(len(gram), dtype=torch.bool)).mean(),
    }


def of_classes(snapshot: Snapshot) -> Mapping[str, Any]:
    losses, model = entry_losses(snapshot)
    assert snapshot.targets is not None
    batch = torch.cat([g.flatten() for g in gradients(losses.mean(), model).values()])
    rows = {}
    for c in snapshot.targets.unique().tolist():
        of_class = gradients(losses[snapshot.targets == c].mean(), model)
        rows[str(c)] = torch.cat([g.flatten() for g in of_class.values()])
    expected: dict[str, Any] = {
        "class_gradient_norm": {c: row.norm() for c, row in rows.items()},
        "class_gradient_alignment": {c: F.cosine_similarity(row, batch, dim=0) for c, row in rows.items()},
    }
    if len(rows) > 1:
        units = torch.stack([row / row.norm() for row in rows.values()])
        off = ~torch.eye(len(rows), dtype=torch.bool)
        expected["class_gradient_cosine"] = (units @ units.T).masked_select(off).mean()
    return expected


def of_critical(snapshot: Snapshot) -> Mapping[str, Any]:
    losses, model = entry_losses(snapshot)
    parameters = list(model.parameters())
    parts = torch.autograd.grad(losses.mean(), parameters, create_graph=True)
    matrix = []
    for entry in torch.cat([part.flatten() for part in parts]):
        found = torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True)
        matrix.append(torch.cat([part.flatten() for part in found]))
    micro, size = micro_gradients(snapshot)
    rows = torch.stack([torch.cat([g[k].flatten() for k in g]) for g in micro])
    variance, signal = unbiased(rows @ torch.stack(matrix) @ rows.T, size)
    ratio = variance / signal if signal > 0 and variance > 0 else math.nan
    return {"critical_batch_size": ratio}


@pytest.mark.parametrize(
    ("probe", "oracle"),
    [
        (gradient_noise.gradient_noise, of_noise),
        (gradient_noise.class_gradients, of_classes),
        (gradient_noise.critical_batch, of_critical),
    ],
    ids=lambda x: x.name if isinstance(x, Probe) else "",
)
def test_against_gradients_of_single_examples(probe: Probe, oracle: Callable[[Snapshot], Any]) -> None:
    # One example has no noise: nothing is read there, and nothing compared.
    assert check_probe(probe, oracle=oracle, tolerance=1e-9) > 0


def read(probe: Probe, snapshot: Snapshot) -> dict[str, Reading]:
    with undisturbed():
        return {reading.series: reading for reading in probe.measure(snapshot, {})}


def number(found: Mapping[str, Reading], name: str) -> float:
    return float(found[name].values)


# Statistics of planted gradients


def planted(
    repeats: int, *, signal: float = 1.0, count: int = 16, size: int = 4, dims: int = 40
) -> tuple[list[Any], float, float]:
    """Noise scales of `repeats` sets of gradients with known mean and covariance; the true variance and signal."""
    generator = torch.Generator().manual_seed(0)
    mean = signal * F.normalize(torch.randn(dims, generator=generator, dtype=torch.float64), dim=0)
    spread = torch.linspace(0.1, 1.0, dims, dtype=torch.float64)
    found = []
    for _ in range(repeats):
        rows = mean + spread * torch.randn(count, dims, generator=generator, dtype=torch.float64) / size**0.5
        found.append(noise_scale(rows.square().sum(1), rows @ rows.sum(0), size))
    return found, float(spread.square().sum()), signal**2


@pytest.mark.parametrize("signal", [0.0, 0.3, 2.0])
def test_variance_and_signal_are_each_without_bias(signal: float) -> None:
    found, variance, square = planted(3000, signal=signal)
    for values, exact in (([f.variance for f in found], variance), ([f.signal for f in found], square)):
        estimates = torch.tensor(values, dtype=torch.float64)
        assert abs(float(estimates.mean()) - exact) < 4 * float(estimates.std()) / len(values) ** 0.5
    # The square of the mean gradient's norm, noise included, would be far off.
    biased = [f.signal + f.variance / 64 for f in found]
    assert abs(sum(biased) / len(biased) - square) > 0.1


@pytest.mark.parametrize(("signal", "size"), [(1.0, 16), (2.0, 4), (0.5, 64)])
def test_intervals_hold_what_they_promise(signal: float, size: int) -> None:
    found, variance, square = planted(2000, signal=signal, size=size)
    held = [f.low <= variance / square <= f.high for f in found]
    assert 0.85 <= sum(held) / len(held) <= 0.95


def test_without_a_signal_the_interval_has_no_upper_end_and_holds_at_least_what_it_promises() -> None:
    found, variance, _ = planted(500, signal=0.0)
    assert sum(math.isinf(f.high) for f in found) / len(found) > 0.9
    weak, variance, square = planted(1000, signal=0.2)
    assert sum(f.low <= variance / square <= f.high for f in weak) / len(weak) >= 0.9


def test_fewer_than_three_gradients_have_no_noise_scale() -> None:
    assert all(math.isnan(v) for v in vars(noise_scale(torch.ones(2), torch.ones(2), 1)).values())


def stable(alpha: float, count: int, seed: int) -> torch.Tensor:
    """Symmetric stable samples by the method of Chambers, Mallows and Stuck."""
    generator = torch.Generator().manual_seed(seed)
    u, w = torch.rand(2, count, generator=generator, dtype=torch.float64)
    u, w = (u - 0.5) * math.pi, -torch.log(w)
    if alpha == 1.0:
        return u.tan()
    return (alpha * u).sin() / u.cos() ** (1 / alpha) * ((u - alpha * u).cos() / w) ** ((1 - alpha) / alpha)


@pytest.mark.parametrize("alpha", [0.8, 1.0, 1.3, 1.6, 1.9])
def test_the_tail_index_of_stable_samples(alpha: float) -> None:
    inverses = torch.tensor([1 / tail_index(stable(alpha, 20_000, seed)) for seed in range(20)])
    error = float(inverses.std()) / 20**0.5
    assert abs(float(inverses.mean()) - 1 / alpha) < 4 * error + 1e-3
    # Variance of log|X| of a stable law.
    expected = math.pi * math.sqrt((1 / alpha**2 + 0.5) / 6) / (141**0.5 * math.log(141))
    assert float(inverses.std()) == pytest.approx(expected, rel=0.5)


def test_the_tail_index_does_not_depend_on_scale_or_zeros_and_is_not_guessed() -> None:
    samples = stable(1.5, 5_000, 0)
    found = tail_index(samples)
    assert tail_index(1e-6 * samples) == pytest.approx(found, rel=1e-9)
    assert tail_index(torch.cat([samples, torch.zeros(900)])) == found
    assert math.isnan(tail_index(samples[:50]))
    assert math.isnan(tail_index(torch.cat([samples, torch.tensor([math.nan])])))
    assert tail_index(torch.randn(10_000, generator=torch.Generator().manual_seed(1))) > 1.85


# Snapshots


class Location(nn.Module):
    """Half the squared distance of its parameter from its input: gradients are their difference."""

    def __init__(self, at: torch.Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(at)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.w - x).square().sum(1) / 2


def location(x: torch.Tensor, at: torch.Tensor, step: int = 0) -> Snapshot:
    return snapshot_of(Location(at.clone()), "l1_loss", x, torch.full((len(x),), -1.0).to(x), step=step)


def test_the_noise_scale_of_a_batch_of_planted_gradients() -> None:
    found = []
    at = torch.full((30,), 0.5, dtype=torch.float64)
    for seed in range(40):
        x = torch.randn(64, 30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        reading = read(gradient_noise.gradient_noise, location(x, at, seed))
        found.append([number(reading, f"gradient_{name}") for name in ("noise_variance", "signal", "tail_index")])
        assert float(reading["gradient_snr"].values) == pytest.approx(found[-1][1] / found[-1][0])
    values = torch.tensor(found)
    errors = values.std(0) / 40**0.5
    assert abs(float(values[:, 0].mean()) - 30.0) < 4 * float(errors[0])
    assert abs(float(values[:, 1].mean()) - 7.5) < 4 * float(errors[1])
    assert float(values[:, 2].mean()) > 1.75


def test_heavy_tails_of_planted_gradients_are_seen() -> None:
    x = stable(1.2, 16 * 2_000, 3).reshape(16, 2_000)
    reading = read(gradient_noise.gradient_noise, location(x, torch.zeros(2_000, dtype=torch.float64)))
    assert number(reading, "gradient_tail_index") == pytest.approx(1.2, abs=0.15)


def test_the_critical_batch_weighs_by_curvature() -> None:
    class Weighted(Location):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (torch.tensor([9.0, 1.0], dtype=x.dtype) * (self.w - x).square()).sum(1) / 2

    # Gradients are (9 a, b) with noise of covariance (81, 1), curvature (9, 1).
    found = []
    at = torch.tensor([1.0, 2.0], dtype=torch.float64)
    for seed in range(30):
        x = torch.randn(256, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        snapshot = snapshot_of(Weighted(at.clone()), "l1_loss", x, torch.full((256,), -1.0).double(), step=seed)
        found.append(number(read(gradient_noise.critical_batch, snapshot), "critical_batch_size"))
    exact = (9 * 81 + 1) / (9 * 81 + 4)
    assert sum(found) / 30 == pytest.approx(exact, rel=0.1)


def test_one_example_has_no_noise() -> None:
    snapshot = location(torch.randn(1, 4).double(), torch.zeros(4).double())
    assert read(gradient_noise.gradient_noise, snapshot) == {}
    assert read(gradient_noise.critical_batch, snapshot) == {}


def test_equal_examples_have_no_noise() -> None:
    snapshot = location(torch.ones(16, 4).double(), torch.zeros(4).double())
    found = read(gradient_noise.gradient_noise, snapshot)
    assert number(found, "gradient_noise_variance") == 0.0
    assert number(found, "gradient_noise_scale") == 0.0
    assert number(found, "microbatch_cosine") == pytest.approx(1.0)
    assert math.isnan(float(found["gradient_snr"].values))
    assert math.isnan(number(found, "gradient_tail_index"))


def test_gradients_that_are_not_finite_give_no_number() -> None:
    x = torch.ones(16, 4).double()
    x[3] = math.inf
    found = read(gradient_noise.gradient_noise, location(x, torch.zeros(4).double()))
    assert all(math.isnan(float(reading.values)) for reading in found.values())


def classification(y: torch.Tensor, **options: Any) -> Snapshot:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    x = torch.randn(len(y), 4).double()
    return snapshot_of(model, "cross_entropy", x, y, **options)


@pytest.mark.parametrize("options", [{}, {"weight": torch.tensor([1.0, 2.0, 3.0]).double()}, {"reduction": "sum"}])
def test_example_losses_have_the_gradient_of_the_loss(options: dict[str, Any]) -> None:
    y = torch.tensor([0, 1, 2, -100, 1, 1, -100, 0])
    snapshot = classification(y, **options)
    parameters = list(snapshot.parameters.values())
    with undisturbed():
        mean = gradient_noise.example_losses(snapshot).mean()
        for found, exact in zip(torch.autograd.grad(mean, parameters), snapshot.gradient, strict=True):
            torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-14)
        classes, losses = gradient_noise.class_losses(snapshot)
        outputs = snapshot.model(snapshot.inputs[0])
    assert classes.tolist() == [0, 1, 2, 1, 1, 0]
    own = F.cross_entropy(outputs, y, weight=options.get("weight"), reduction="none")
    torch.testing.assert_close(losses, own[y >= 0])


def test_only_the_most_frequent_classes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_noise, "MOST_CLASSES", 2)
    found = read(gradient_noise.class_gradients, classification(torch.tensor([0, 1, 1, 2, 2, 2])))
    assert found["class_gradient_norm"].labels == ["1", "2"]


def test_several_targets_an_example_have_no_class_gradients() -> None:
    model = nn.Conv1d(4, 3, 1).double()
    x, y = torch.randn(5, 4, 6).double(), torch.zeros(5, 6, dtype=torch.int64)
    snapshot = snapshot_of(model, "cross_entropy", x, y)
    with pytest.raises(ReplayError, match="one target a row"):
        read(gradient_noise.class_gradients, snapshot)
    assert "gradient_noise_scale" in read(gradient_noise.gradient_noise, snapshot)


def test_micro_batches_leave_out_few_examples() -> None:
    for examples in range(1, 1000):
        count = micro_batches(examples)
        assert min(8, examples) <= count <= 16
        assert examples % count <= 0.06 * examples
    assert [micro_batches(n) for n in (1, 5, 16, 100, 128)] == [1, 5, 16, 10, 16]


# Recorded


def test_series_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A loaded machine must not decide whether a snapshot is taken.
    unhurried(monkeypatch)
    monkeypatch.setattr(snapshots, "_SHORTEST_SECONDS", 1e3)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    x, y = torch.randn(48, 4), torch.arange(48) % 3
    names = "gradient-noise,critical-batch-size,class-gradients"
    with separatrix.record(model, optimizer, run=tmp_path / "run", probes=names, budget=1.0):
        for _ in range(15):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    with separatrix.open(tmp_path / "run") as recorded:
        assert not [e for e in recorded.events if e.kind in ("unseen", "probe-off", "aborted")]
        assert recorded["gradient_snr"].dims == ("step", "parameter")
        assert recorded["gradient_snr"].shape[1] == 6
        assert recorded["class_gradient_norm"].dims == ("step", "class")
        assert list(recorded["class_gradient_norm"]["class"].values) == ["0", "1", "2"]
        for probe in (gradient_noise.gradient_noise, gradient_noise.critical_batch, gradient_noise.class_gradients):
            for spec in probe.series:
                assert recorded[spec.name].dims == ("step", *spec.dims), spec.name
        assert bool((recorded["gradient_noise_variance"] > 0).all())
        low, high = (recorded[f"gradient_noise_scale_{end}"].values for end in ("low", "high"))
        assert (low <= high).all()
