from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.record.kinds.trainers import train_with_lightning, train_with_transformers
from tests.record.kinds.truth import Truth

from separatrix.record.recording import record
from separatrix.runs import RunExistsError, Status, open_run

Train = Callable[[Truth, Sequence[Any], int | None], None]


def huggingface_callback(**options: Any) -> Any:
    pytest.importorskip("transformers")
    from separatrix.record.huggingface import SeparatrixCallback

    return SeparatrixCallback(**options)


def lightning_callback(**options: Any) -> Any:
    pytest.importorskip("lightning")
    from separatrix.record.lightning import SeparatrixCallback

    return SeparatrixCallback(**options)


ADAPTERS = pytest.mark.parametrize(
    ("train", "callback"),
    [(train_with_transformers, huggingface_callback), (train_with_lightning, lightning_callback)],
    ids=["transformers", "lightning"],
)


@ADAPTERS
def test_a_callback_records_what_the_trainer_does(train: Train, callback: Callable[..., Any], tmp_path: Path) -> None:
    truth = Truth()
    torch.manual_seed(0)
    backward = torch.autograd.backward
    train(truth, [callback(run=tmp_path / "run", budget=1.0, config={"note": "first"})], None)
    assert torch.autograd.backward is backward
    assert not [thread for thread in threading.enumerate() if thread.name == "separatrix-writer"]
    with open_run(tmp_path / "run") as run:
        assert run.status is Status.FINISHED
        assert run.config["note"] == "first"
        assert [event for event in run.events if event.kind in ("probe-off", "probe-failed", "unseen")] == []
        truth.compare(run)


def test_a_training_that_fails_is_a_crashed_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the data are gone"):
        train_with_lightning(Truth(), [lightning_callback(run=tmp_path / "run", budget=1.0)], 1)
    with open_run(tmp_path / "run") as run:
        assert run.status is Status.CRASHED
        assert "the data are gone" in (run.traceback or "")
        assert len(run.series("loss").steps) == 1


def test_a_training_whose_end_nobody_told_crashed_when_the_callback_is_used_again(tmp_path: Path) -> None:
    hook = huggingface_callback(run=tmp_path / "run", budget=1.0)
    with pytest.raises(RuntimeError, match="the data are gone"):
        train_with_transformers(Truth(), [hook], 1)
    with pytest.raises(RunExistsError):
        train_with_transformers(Truth(), [hook])
    with open_run(tmp_path / "run") as run:
        assert run.status is Status.CRASHED


@ADAPTERS
def test_inside_a_recording_the_callback_adds_nothing(
    train: Train, callback: Callable[..., Any], tmp_path: Path
) -> None:
    truth = Truth()
    torch.manual_seed(0)
    with record(run=tmp_path / "outer", budget=1.0):
        train(truth, [callback(run=tmp_path / "inner")], None)
    assert not (tmp_path / "inner").exists()
    with open_run(tmp_path / "outer") as run:
        assert [event.kind for event in run.events].count("nested") == 1
        truth.compare(run)
