"""What the recorder writes besides probes: values of the user's own, and what gradients held before a step."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from separatrix.analysis import diagnose
from separatrix.record import log, record
from separatrix.runs import open_run


def test_a_logged_name_that_the_recorder_uses_is_stored_beside_it(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with record(model, optimizer, run=tmp_path / "run", budget=1.0):
        for step in range(4):
            optimizer.zero_grad()
            loss = model(torch.ones(2, 3)).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            log("loss", 100.0 + step)
            log("gradient_rms", 5.0)
            log("mine", step)
    with open_run(tmp_path / "run") as run:
        assert run.series("loss").values.tolist() == losses
        assert run.series("logged_loss").values.tolist() == [100.0, 101.0, 102.0, 103.0]
        assert run.series("logged_gradient_rms").values.tolist() == [5.0] * 4
        assert run.series("mine").values.tolist() == [0.0, 1.0, 2.0, 3.0]
        assert sorted(e.data["series"][0] for e in run.events if e.kind == "renamed") == [
            "logged_gradient_rms",
            "logged_loss",
        ]


def adversarial(path: Path, clears_generator: bool) -> None:
    """A GAN whose generator steps every second time; its old gradients lie around while the critic learns."""
    torch.manual_seed(0)
    real = torch.randn(32, 6) + 2.0
    generator = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 6))
    critic = nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    of_generator = torch.optim.Adam(generator.parameters(), lr=1e-3)
    of_critic = torch.optim.Adam(critic.parameters(), lr=1e-3)
    with record(run=path, budget=1.0):
        for step in range(12):
            of_critic.zero_grad()
            fake = generator(torch.randn(32, 3))
            F.binary_cross_entropy_with_logits(critic(real), torch.ones(32, 1)).backward()
            F.binary_cross_entropy_with_logits(critic(fake.detach()), torch.zeros(32, 1)).backward()
            of_critic.step()
            if step % 2:
                if clears_generator:
                    of_generator.zero_grad()
                F.binary_cross_entropy_with_logits(critic(generator(torch.randn(32, 3))), torch.ones(32, 1)).backward()
                of_generator.step()


def test_gradients_cleared_before_their_own_backward_are_no_carryover(tmp_path: Path) -> None:
    adversarial(tmp_path / "run", clears_generator=True)
    with open_run(tmp_path / "run") as run:
        carried = run.series("gradient_carryover")
        assert any(label.startswith("generator.") for label in carried.coords["parameter"])
        assert not (carried.values > 0).any()
        assert "missing-zero-grad" not in diagnose(run).codes


def test_gradients_never_cleared_are_carryover_of_their_optimizer_alone(tmp_path: Path) -> None:
    adversarial(tmp_path / "run", clears_generator=False)
    with open_run(tmp_path / "run") as run:
        carried = run.series("gradient_carryover")
        dirty = {
            name
            for name, column in zip(carried.coords["parameter"], carried.values.T, strict=True)
            if (column > 0).any()
        }
        assert dirty
        assert all(name.startswith("generator.") for name in dirty)
        assert "missing-zero-grad" in diagnose(run).codes
