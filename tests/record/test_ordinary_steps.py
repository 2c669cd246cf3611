"""Steps that are not sampled take a short way through the recorder: what is recorded of every step must be the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.record.kinds import KINDS
from tests.record.kinds._recorded import recorded
from tests.record.kinds.kind import Kind

from separatrix.record.journal import Journal
from separatrix.record.sampler import Plan, Sampler
from separatrix.record.snapshots import Snapshots
from separatrix.record.tracks import Track
from separatrix.runs import open_run

NEVER = 1 << 60
EVERY_STEP = (
    "loss",
    "loss_terms",
    "closure_calls",
    "learning_rate",
    "momentum",
    "weight_decay",
    "beta1",
    "clip_coefficient",
    "skipped_steps",
    "loss_scale",
    "eval_loss",
    "eval_mode",
    "eval_accuracy",
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def without_snapshots(patch: pytest.MonkeyPatch) -> None:
    """A step that is caught for a snapshot is no ordinary one."""
    patch.setattr(Snapshots, "plan", lambda self, step: False)
    patch.setattr(Snapshots, "asleep_until", lambda self, step: NEVER)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_the_short_way_records_what_the_long_one_does(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_snapshots(monkeypatch)
    sampled, _ = recorded(kind, tmp_path / "sampled")
    plan = Sampler.plan

    def first_step_only(self: Sampler, step: int) -> Plan | None:
        planned = plan(self, step) if step == 1 else None
        self.asleep_until = NEVER
        return planned

    monkeypatch.setattr(Sampler, "plan", first_step_only)
    quiet, _ = recorded(kind, tmp_path / "quiet")
    with open_run(sampled) as long, open_run(quiet) as short:
        for name in EVERY_STEP:
            assert (name in long) == (name in short), name
            if name in long:
                expected, found = long.series(name), short.series(name)
                assert found.steps.tolist() == expected.steps.tolist(), name
                assert found.coords == expected.coords, name
                np.testing.assert_array_equal(found.values, expected.values, err_msg=name)
        assert [event for event in short.events if event.kind in ("probe-off", "probe-failed")] == []


def test_an_ordinary_training_does_take_the_short_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    ordinary_step = Journal.ordinary_step

    def counted(self: Journal, track: Track, step: int, *values: Any) -> None:
        steps.append(step)
        ordinary_step(self, track, step, *values)

    def never(self: Sampler, step: int) -> None:
        self.asleep_until = NEVER

    monkeypatch.setattr(Journal, "ordinary_step", counted)
    monkeypatch.setattr(Sampler, "plan", never)
    without_snapshots(monkeypatch)
    path, _ = recorded(next(iter(KINDS.values())), tmp_path)
    with open_run(path) as run:
        all_steps = run.series("loss").steps.tolist()
    assert len(all_steps) > 2
    assert steps == all_steps[1:]
