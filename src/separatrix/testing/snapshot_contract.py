"""The contract of a probe of snapshots, on small nets of every architecture that probes are expected to handle."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from separatrix.record.replay import ReplayError
from separatrix.record.shadow import undisturbed
from separatrix.record.snapshot import Snapshot, snapshot_of
from separatrix.runs.probe import Probe, Reading
from separatrix.testing.fingerprints import Fingerprint, fingerprint, surroundings

SnapshotOracle = Callable[[Snapshot], Mapping[str, Any]]
"""From a snapshot to what series must read there, by brute force in float64: a number, numbers in order, or by label.

A series with a fixed further label is keyed by (name, label)."""


class Convolutional(nn.Module):
    """Two convolutions, optionally with batch normalisation, and a linear classifier."""

    def __init__(self, normalised: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3) if normalised else nn.Identity()
        self.second = nn.Conv2d(3, 4, 3, stride=2)
        self.head = nn.Linear(4 * 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores (n, 3) of images (n, 1, 6, 6)."""
        x = torch.tanh(self.norm(self.first(x)))
        scores: torch.Tensor = self.head(F.gelu(self.second(x)).flatten(1))
        return scores


class Recurrent(nn.Module):
    """A GRU that judges by its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores (n, 3) of sequences (n, t, 4)."""
        scores: torch.Tensor = self.head(self.cell(x)[0][:, -1])
        return scores


class Tied(nn.Module):
    """Fused causal attention between an embedding and a read-out that share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.qkv, self.norm = nn.Linear(6, 18), nn.LayerNorm(6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores (n, t, 7) of the next token after each of tokens (n, t)."""
        x = self.embed(tokens)
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        scores: torch.Tensor = self.head(self.norm(x + mixed.transpose(1, 2).flatten(2)))
        return scores


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.1, batch_first=True)
    return nn.Sequential(nn.Embedding(7, 6), layer, nn.Linear(6, 7))


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Softplus(), nn.Linear(5, 3))


def _normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3))


def _rows(shape: Sequence[int], count: int = 9) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
    return lambda: (torch.randn(count, *shape, dtype=torch.float64), torch.arange(count) % 3)


def _tokens() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(0, 7, (5, 6)), torch.randint(0, 7, (5, 6)).flatten()


def _values() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(9, 4, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)


def _choices() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = _values()
    return x, (y > 0).double()


_MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[torch.Tensor, torch.Tensor]], str]] = {
    "perceptron": (_perceptron, _rows((4,)), "cross_entropy"),
    "regression": (_perceptron, _values, "mse_loss"),
    "binary": (_perceptron, _choices, "binary_cross_entropy_with_logits"),
    "layer norm": (_normalised, _rows((4,)), "cross_entropy"),
    "convolutions": (lambda: Convolutional(False), _rows((1, 6, 6)), "cross_entropy"),
    "batch norm": (lambda: Convolutional(True), _rows((1, 6, 6)), "cross_entropy"),
    "recurrent": (Recurrent, _rows((5, 4)), "cross_entropy"),
    "transformer": (_encoder, _tokens, "cross_entropy"),
    "tied": (Tied, _tokens, "cross_entropy"),
    "one example": (_perceptron, _rows((4,), 1), "cross_entropy"),
}


def example_snapshots(dtype: torch.dtype = torch.float64) -> dict[str, Callable[[], Snapshot]]:
    """Makers of snapshots of small nets, by architecture: two steps of Adam after the run's first snapshot.

    They draw from torch's global generator. Batch normalisation and dropout are in training mode.
    """
    return {name: lambda name=name: _example(name, dtype) for name in _MODELS}  # type: ignore[misc]


def _example(name: str, dtype: torch.dtype) -> Snapshot:
    make, data, loss = _MODELS[name]
    model = make().to(dtype)
    x, y = data()
    x = x.to(dtype) if x.is_floating_point() else x
    y = y.to(dtype) if y.is_floating_point() else y
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    initial = {label: p.detach().clone() for label, p in model.named_parameters()}
    snapshot = None
    for step in (1, 2, 3):
        if step == 3:
            snapshot = snapshot_of(model, loss, x, y, step=step, optimizer=optimizer, initial=initial)
        optimizer.zero_grad()
        outputs = model(x)
        outputs = outputs.reshape(-1, outputs.shape[-1]) if outputs.dim() > 2 else outputs
        getattr(F, loss)(outputs, y).backward()
        optimizer.step()
    assert snapshot is not None
    live = dict(model.named_parameters())
    snapshot.update = {label: live[label].detach() - p.detach() for label, p in snapshot.parameters.items()}
    return snapshot


def check_snapshot_probe(probe: Probe, *, oracle: SnapshotOracle | None = None, tolerance: float = 1e-9) -> int:
    """Show `probe` the snapshots of `example_snapshots` and compare what it reads; the number of readings.

    It must change nothing, repeat itself, yield what it declares, in float64 and in float32. A probe may refuse a
    snapshot by ReplayError, or by naming in `needs` what that lacks. With `oracle`, float64 values must agree with it
    within `tolerance`, relative to the largest of a reading.

    Raises:
        AssertionError: the contract is broken; the message names the snapshot.
    """
    readings = 0
    for dtype in (torch.float64, torch.float32):
        for name, make in example_snapshots(dtype).items():
            where = f"{name}, {str(dtype).removeprefix('torch.')}"
            found = _readings(probe, make, where)
            again = _readings(probe, make, where)
            assert [_plain(r) for r in found] == [_plain(r) for r in again], (
                f"{probe.name} does not repeat itself: {where}"
            )
            for reading in found:
                _check_declared(probe, reading, where)
            if oracle is not None and dtype is torch.float64 and found:
                torch.manual_seed(0)
                with undisturbed():
                    _compare(probe, found, oracle(make()), where, tolerance)
            readings += len(found)
    assert readings, f"{probe.name} reads nothing of any snapshot"
    return readings


def _readings(probe: Probe, make: Callable[[], Snapshot], where: str) -> list[Reading]:
    torch.manual_seed(0)
    snapshot = make()
    if "examples" in probe.needs:
        snapshot.examples = list(range(len(next(iter(snapshot.inputs)))))
    if "classes" in probe.needs and snapshot.classes is None:
        return []
    before = {**_held(snapshot), **surroundings()}
    with undisturbed():
        try:
            found = list(probe.measure(snapshot, {}))
        except ReplayError:
            found = []
        except Exception as error:
            raise AssertionError(f"{probe.name} raises on {where}: {type(error).__name__}: {error}") from error
    assert {**_held(snapshot), **surroundings()} == before, f"{probe.name} changes what it is shown: {where}"
    return found


def _held(snapshot: Snapshot) -> Fingerprint:
    held = {"parameters": snapshot.parameters, "update": snapshot.update, "initial": snapshot.initial}
    modes = [module.training for module in snapshot.model.modules()]
    return fingerprint({**held, "states": dict(snapshot.states), "modes": modes}, "snapshot")


def _plain(reading: Reading) -> tuple[str, str, object, object]:
    values = str(torch.as_tensor(reading.values).tolist())
    return reading.series, values, reading.labels and list(reading.labels), dict(reading.at)


def _check_declared(probe: Probe, reading: Reading, where: str) -> None:
    specs = {spec.name: spec for spec in probe.series}
    assert reading.series in specs, f"{probe.name} yields {reading.series!r}, which it does not declare"
    values = torch.as_tensor(reading.values)
    what = f"{probe.name}, {reading.series}, {where}"
    assert values.dim() <= 1 and not values.is_complex(), f"{what}: values are no numbers in a row"
    assert not values.requires_grad, f"{what}: values hold on to a graph"
    if not specs[reading.series].dims:
        assert values.numel() == 1, f"{what}: {values.numel()} values for a series without dimensions"
    elif reading.positions is not None:
        assert len(reading.positions) == values.numel(), f"{what}: positions do not fit the values"
    elif reading.labels is not None:
        labels = list(reading.labels)
        assert len(labels) == values.numel() == len(set(labels)), f"{what}: labels do not fit the values"


def _compare(probe: Probe, found: Sequence[Reading], expected: Mapping[str, Any], where: str, tolerance: float) -> None:
    names = {key if isinstance(key, str) else key[0] for key in expected}
    seen = {reading.series for reading in found}
    assert names <= seen, f"{probe.name}, {where}: {', '.join(sorted(names - seen))} not read"
    for reading in found:
        if reading.series not in names:
            continue
        key: Any = (reading.series, *reading.at.values()) if reading.at else reading.series
        wanted = expected[key]
        values = torch.as_tensor(reading.values, dtype=torch.float64).reshape(-1)
        if isinstance(wanted, Mapping):
            wanted = [wanted[label] for label in reading.labels or map(str, range(len(values)))]
        target = torch.as_tensor(wanted, dtype=torch.float64).reshape(-1)
        assert values.shape == target.shape, f"{probe.name}, {reading.series}, {where}: {values.shape}, {target.shape}"
        size = float(target[target.isfinite()].abs().amax()) if bool(target.isfinite().any()) else 0.0
        close = torch.allclose(values, target, rtol=tolerance, atol=tolerance * size, equal_nan=True)
        worst = float((values - target).abs().nan_to_num().amax()) / size if size else math.nan
        assert close, (
            f"{probe.name}, {reading.series}, {where}: {values.tolist()} is not {target.tolist()} (off by {worst:.1e})"
        )
