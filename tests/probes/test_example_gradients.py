"""Gradient norms of single examples: against one backward pass an example, and under the right examples' labels."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import separatrix
from separatrix.probes._replaying import single_examples
from separatrix.probes.example_gradients import EXAMPLE_GRADIENTS
from separatrix.probes.gradient_noise import example_losses
from separatrix.record.shadow import undisturbed
from separatrix.record.snapshot import Snapshot, snapshot_of
from separatrix.runs import open_run
from separatrix.testing import check_probe, example_snapshots


def by_single_backwards(snapshot: Snapshot) -> dict[str, list[float]]:
    parameters = list(snapshot.parameters.values())
    with single_examples(snapshot.model, snapshot.forward):
        norms = []
        for loss in example_losses(snapshot):
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            norms.append(float(torch.sqrt(sum(g.square().sum() for g in gradients if g is not None))))
    return {"example_gradient_norm": norms}


def test_the_probe_keeps_the_contract_and_equals_single_backwards() -> None:
    assert check_probe(EXAMPLE_GRADIENTS, oracle=by_single_backwards) >= 2 * (len(example_snapshots()) - 2)


@pytest.mark.parametrize(
    "options", [{"reduction": "sum"}, {"weight": torch.tensor([1.0, 5.0, 0.2]).double()}, {"ignore_index": 1}]
)
def test_an_example_s_own_loss_is_the_same_however_the_batch_is_reduced(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(8, 4).double(), torch.tensor([0, 1, 2, 0, 1, 1, 2, 0])
    snapshot = snapshot_of(model, "cross_entropy", x, y, **options)
    snapshot.examples = range(8)
    with undisturbed():
        (reading,) = EXAMPLE_GRADIENTS.measure(snapshot, {})
    expected = []
    for i in range(8):
        loss = F.cross_entropy(model(x[i : i + 1]), y[i : i + 1], **{**options, "reduction": "sum"})
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        expected.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
    np.testing.assert_allclose(np.asarray(reading.values), expected, rtol=1e-10)


def test_without_knowing_the_examples_it_reads_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with separatrix.record(model, optimizer, run=tmp_path / "run", budget=1.0, probes="default,example-gradients"):
        for _ in range(12):
            x = torch.randn(6, 4)
            optimizer.zero_grad()
            # The rows of the loss are not those of the input, so that no example can be told.
            F.cross_entropy(model(x)[:5], torch.randint(0, 3, (5,))).backward()
            optimizer.step()
    with open_run(tmp_path / "run") as run:
        assert "example_gradient_norm" not in run
        assert any("example" in event.message for event in run.events if event.kind == "unseen")


def test_recorded_norms_are_those_of_their_examples(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(40, 4), torch.randint(0, 3, (40,))
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before: dict[int, Any] = {}
    run = tmp_path / "run"
    with separatrix.record(model, optimizer, run=run, budget=1.0, probes="example-gradients", memory_budget=1.0):
        step = 0
        for _ in range(6):
            for rows, targets in DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True):
                step += 1
                before[step] = copy.deepcopy(model).double()
                optimizer.zero_grad()
                F.cross_entropy(model(rows), targets).backward()
                optimizer.step()
    with open_run(run) as opened:
        data = opened.series("example_gradient_norm")
        assert "example_loss" in opened
        epochs = opened.series("example_loss")
    assert len(data.steps) >= 3 and list(data.coords["example"]) == list(epochs.coords["example"])
    for step, values, seen in zip(data.steps, data.values, data.measured, strict=True):
        known = np.flatnonzero(seen & ~np.isnan(values))
        assert len(known) == 8
        for position in known:
            index = int(data.coords["example"][position])
            net = before[int(step)]
            loss = F.cross_entropy(net(x[index : index + 1].double()), y[index : index + 1])
            gradients = torch.autograd.grad(loss, list(net.parameters()))
            norm = float(torch.cat([g.flatten() for g in gradients]).norm())
            assert abs(values[position] - norm) <= 1e-5 * norm
