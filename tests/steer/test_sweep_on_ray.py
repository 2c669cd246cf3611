"""A sweep on a Ray cluster of this machine, one of whose workers is killed: no trial is lost, the sweep finishes."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tests.steer._planted import PlantedTarget

from separatrix.runs import open_run
from separatrix.steer.tuning import Parameter, Space, SweepError, SweepOptions, ray_workers, sweep
from separatrix.steer.tuning.result import rows_of
from separatrix.steer.tuning.searching import opened, pruner, sampler

pytest.importorskip("ray")


def _kill_a_worker(options: SweepOptions, killed: list[str]) -> None:
    """Kill the process that attends to the first trial, once the trial is being recorded."""
    end = time.monotonic() + 100
    while time.monotonic() < end and not killed:
        time.sleep(0.2)
        if not (options.folder / "trial-0000" / "run.sqlite").exists():
            continue
        rows = rows_of(opened(options.url, options.name, "minimize", sampler("random", 0), pruner("none")))
        if rows and rows[0].worker:
            os.kill(int(rows[0].worker.rpartition(":")[2]), signal.SIGKILL)
            killed.append(rows[0].worker)


@pytest.mark.timeout(240)
def test_a_killed_worker_loses_no_trial(tmp_path: Path) -> None:
    space = Space((Parameter("x", choices=(0.1, 0.2, 0.3, 0.4)),))
    options = SweepOptions(tmp_path / "s", sampler="grid", pruner="none", workers=2)
    killed: list[str] = []
    killer = threading.Thread(target=_kill_a_worker, args=(options, killed), daemon=True)
    with ray_workers(workers=2) as workers:
        killer.start()
        result = sweep(PlantedTarget(steps=40, pause=0.1), space, options, workers=workers)
    killer.join()
    assert len(killed) == 1
    finished = sorted(row.parameters["x"] for row in result.rows if row.state == "finished")
    assert finished == [0.1, 0.2, 0.3, 0.4]
    lost = [row for row in result.rows if row.state == "lost"]
    assert [(row.number, row.worker) for row in lost] == [(0, killed[0])]
    assert "was lost" in lost[0].note
    assert [row.parameters["x"] for row in result.rows if row.retry_of == 0] == [lost[0].parameters["x"]]
    assert len({row.worker for row in result.rows}) >= 2
    with open_run(lost[0].run) as run:
        assert run.status.value != "running", "a training ends with its worker"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere", "127.0.0.1:x", "127.0.0.1:99999"])
def test_no_cluster_is_said(address: str) -> None:
    with pytest.raises(SweepError, match=f"no Ray cluster at {address} "), ray_workers(address):
        pass
