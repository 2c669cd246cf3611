"""Data-parallel training of two processes, watched through its launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed

from separatrix.runs import Status, open_run

SCRIPT = """
import collections, json, os, sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

called = collections.Counter()


def counted(name):
    original = getattr(dist.ProcessGroup, name)

    def call(*args, **kwargs):
        called[name] += 1
        return original(*args, **kwargs)

    return call


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    for name in ("allreduce", "broadcast", "allgather", "reduce", "barrier", "gather", "alltoall"):
        setattr(dist.ProcessGroup, name, counted(name))
    # The counter counts: these two are the script's own.
    dist.barrier()
    dist.all_reduce(torch.ones(1))
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(rank)
    noted = {"loss": [], "gradient_rms": [], "batch": []}
    for step in range(6):
        x = torch.randn(4 + rank, 6, generator=generator)
        y = torch.randint(0, 3, (4 + rank,), generator=generator)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        noted["loss"].append(loss.item())
        noted["batch"].append(float(len(x)))
        noted["gradient_rms"].append(float(model.module[0].weight.grad.double().square().mean().sqrt()))
        optimizer.step()
    noted["weights"] = model.module[0].weight.double().sum().item().hex()
    noted["called"] = dict(called)
    with open(f"{sys.argv[1]}-{rank}.json", "w") as file:
        json.dump(noted, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
"""
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "train.py")

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the notes of a watched and of an unwatched training, and the run of the watched one."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "train.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    alone = [sys.executable, *LAUNCH, "alone"]
    watched = [sys.executable, "-m", "separatrix", "watch", "--run", "run", "--budget", "1.0", *LAUNCH, "watched"]
    started = [
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for command in (alone, watched)
    ]
    for process in started:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors[-3000:]
    return folder


def notes(folder: Path, name: str, rank: int) -> dict[str, Any]:
    return json.loads((folder / f"{name}-{rank}.json").read_text())


@pytest.mark.parametrize("rank", [0, 1])
def test_every_process_records_its_own_part(trained: Path, rank: int) -> None:
    noted = notes(trained, "watched", rank)
    with open_run(trained / "run") as whole:
        assert whole.ranks == (0, 1)
        with whole.of_rank(rank) as run:
            assert run.status is Status.FINISHED
            assert [event for event in run.events if event.kind in ("probe-off", "probe-failed", "unseen")] == []
            loss = run.series("loss")
            assert (loss.steps.tolist(), loss.values.tolist()) == ([1, 2, 3, 4, 5, 6], noted["loss"])
            gradients = run.series("gradient_rms")
            assert gradients.coords["parameter"] == ("0.weight", "0.bias", "2.weight", "2.bias")
            expected = np.array(noted["gradient_rms"])[gradients.steps - 1]
            np.testing.assert_allclose(gradients.values[:, 0], expected, rtol=2e-5)
            size = run.series("batch_size")
            assert size.values.tolist() == np.array(noted["batch"])[size.steps - 1].tolist()
            assert run.series("activation_rms").coords["module"] == ("0", "1", "2")


def test_processes_differ_in_losses_and_agree_in_gradients(trained: Path) -> None:
    first, second = notes(trained, "watched", 0), notes(trained, "watched", 1)
    assert first["loss"] != second["loss"]
    assert first["gradient_rms"] == second["gradient_rms"]


@pytest.mark.parametrize("rank", [0, 1])
def test_no_collective_is_added_and_nothing_is_changed(trained: Path, rank: int) -> None:
    watched = notes(trained, "watched", rank)
    assert watched["called"] == {"barrier": 1, "allreduce": 1}
    assert watched == notes(trained, "alone", rank)


def test_the_command_line_reads_the_run(trained: Path, run_separatrix: Callable[..., Any]) -> None:
    assert run_separatrix("show", trained / "run").code == 0
