"""What a recording of a whole training holds is what brute force finds at the same moments."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from separatrix.record import record
from separatrix.runs import SeriesData, open_run


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.cells = nn.GRU(4, 4, batch_first=True)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(self.embed(ids))[0][:, -1])


MODELS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5)),
    "mlp-float64": lambda: nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5)).double(),
    "mlp-bfloat16": lambda: nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5)).bfloat16(),
    "cnn": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)),
    "cnn-batchnorm": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(32, 5)
    ),
    "gru-tied": Tied,
    "transformer": lambda: nn.Sequential(
        nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True), nn.Flatten(), nn.Linear(12, 5)
    ),
}


def batch(kind: str, model: nn.Module) -> torch.Tensor:
    if kind.startswith("gru"):
        return torch.randint(0, 5, (8, 3))
    shape = (8, 1, 6, 6) if kind.startswith("cnn") else (8, 2, 6) if kind == "transformer" else (8, 6)
    return torch.randn(shape).to(next(model.parameters()).dtype)


def root_mean_square(tensor: torch.Tensor) -> float:
    return float(np.sqrt(np.mean(tensor.detach().double().numpy() ** 2)))


def at(data: SeriesData, dim: str, label: str) -> np.ndarray:
    return data.values[:, data.coords[dim].index(label)]


@pytest.mark.parametrize("kind", MODELS)
def test_parameters_and_modules(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    model = MODELS[kind]()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    names = [name for name, _ in model.named_parameters()]
    expected: dict[str, list[list[float]]] = {
        "gradient_rms": [],
        "weight_rms": [],
        "update_rms": [],
        "update_ratio": [],
    }
    losses, outputs = [], []
    twin_name = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    with record(model, optimizer, run=tmp_path / "run", budget=1.0):
        for _ in range(4):
            x, y = batch(kind, model), torch.arange(8) % 5
            twin = copy.deepcopy(model)
            seen: list[torch.Tensor] = []
            twin.get_submodule(twin_name).register_forward_hook(lambda m, a, out, seen=seen: seen.append(out))
            with torch.no_grad():
                twin(x)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            gradients = [p.grad.clone() for p in model.parameters()]
            before = [p.detach().clone() for p in model.parameters()]
            optimizer.step()
            changes = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
            weights = [root_mean_square(b) for b in before]
            updates = [root_mean_square(c) for c in changes]
            expected["gradient_rms"].append([root_mean_square(g) for g in gradients])
            expected["weight_rms"].append(weights)
            expected["update_rms"].append(updates)
            expected["update_ratio"].append([u / w if w else np.nan for u, w in zip(updates, weights, strict=True)])
            losses.append(loss.item())
            outputs.append(root_mean_square(seen[0]))
    tolerance = 1e-2 if "bfloat16" in kind else 1e-5
    with open_run(tmp_path / "run") as run:
        assert list(run.series("loss").values) == pytest.approx(losses, rel=1e-6)
        for series, rows in expected.items():
            data = run.series(series)
            assert list(data.steps) == [1, 2, 3, 4]
            for position, name in enumerate(names):
                wanted = [row[position] for row in rows]
                assert at(data, "parameter", name) == pytest.approx(wanted, rel=tolerance, nan_ok=True), (series, name)
        activations = run.series("activation_rms")
        assert at(activations, "module", twin_name) == pytest.approx(outputs, rel=tolerance)
