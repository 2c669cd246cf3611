"""What a recording leaves behind between steps, and on those that it leaves out."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from separatrix.record import record
from separatrix.record.sampler import Plan, Sampler


def test_outputs_of_a_step_that_is_over_are_let_go(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(16, 4), torch.randint(3, (16,))
    with record(model, optimizer, run=tmp_path / "run", budget=1.0):
        for _ in range(3):
            optimizer.zero_grad()
            scores = model(x)
            F.cross_entropy(scores, y).backward()
            optimizer.step()
            place = scores.untyped_storage().data_ptr()
            del scores
            alive = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.untyped_storage().data_ptr() == place]
            assert not alive


def test_a_pause_leaves_no_hooks_on_steps_that_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(16, 4), torch.randint(3, (16,))
    with record(model, optimizer, run=tmp_path / "run", budget=1e-4) as recording:
        clock = recording._session.clock
        for _ in range(20000):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if clock.resting > 1:
                break
        assert clock.resting > 1
        monkeypatch.setattr(Sampler, "plan", lambda self, step: Plan((), frozenset()))
        with recording.paused():
            pass
        assert not nn.modules.module._global_forward_hooks
