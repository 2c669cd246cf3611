"""Under a launcher such as torchrun every worker records itself, the launcher and what workers start do not."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from tests.record.watching import Workplace, make_workplace, write

from separatrix.runs import RunWriter, Status, open_run

# Starts two workers as torchrun does, or one without a rank as `accelerate launch` does on one processor.
LAUNCHER = """
import os, subprocess, sys, torch
environments = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]
if "--simple" in sys.argv:
    environments = [{"ACCELERATE_MIXED_PRECISION": "no"}]
command = sys.argv[sys.argv.index("--") + 1 :]
workers = [subprocess.Popen([*command], env={**os.environ, **each}) for each in environments]
codes = [worker.wait() for worker in workers]
print("launched", codes)
sys.exit(max(codes))
"""

TRAIN = """
import os, subprocess, sys, torch
below = "import os, torch; print(sorted(name for name in os.environ if name.startswith('SEPARATRIX')), end='')"
print(os.environ.get("RANK"), subprocess.run([sys.executable, "-c", below], capture_output=True, text=True).stdout)
print("SEPARATRIX_WATCH" in os.environ, [path for path in sys.path if "sitecustomize" in path])
"""

REAL_TRAIN = """
import torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = torch.utils.data.DataLoader(torch.randn(12, 4), batch_size=2, num_workers=1)
    for batch in loader:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(batch), torch.zeros(2, 2)).backward()
        optimizer.step()
    dist.destroy_process_group()
"""


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    made = make_workplace(tmp_path)
    write(made.library, {"torch/distributed/run.py": LAUNCHER, "torch/distributed/__init__.py": ""})
    made.write({"train.py": TRAIN})
    return made


def launched(place: Workplace, *command: str, simple: bool = False, **options: object) -> tuple[int, list[str]]:
    flags = ["--simple"] if simple else []
    what = ("-m", "torch.distributed.run", *flags, "--", *command)
    ended = place.watched(*what, options=options)
    assert ended.stderr == b""
    return ended.code, sorted(ended.stdout.decode().splitlines())


def test_each_worker_records_itself_and_nothing_below_it(place: Workplace) -> None:
    code, lines = launched(place, sys.executable, "train.py")
    assert code == 0
    assert lines == ["0 []", "1 []", "False []", "False []", "launched [0, 0]"]
    assert sorted(place.journal()) == ["close", "close", "start rank 0", "start rank 1"]
    assert (place.folder.parent / "run" / "script.py").read_text() == TRAIN


def test_a_worker_run_as_a_module_is_recorded(place: Workplace) -> None:
    code, _ = launched(place, sys.executable, "-m", "train")
    assert code == 0
    assert sorted(place.journal()) == ["close", "close", "start rank 0", "start rank 1"]
    assert (place.folder.parent / "run" / "script.py").read_text() == TRAIN


def test_a_worker_without_rank_of_a_simple_launch_is_recorded(place: Workplace) -> None:
    launched(place, sys.executable, "train.py", simple=True)
    assert place.journal() == ["start rank 0", "close"]


def test_helper_processes_of_a_launcher_are_no_workers(place: Workplace) -> None:
    launched(place, sys.executable, "-c", "import torch")
    assert place.journal() == []


def test_workers_that_crash_are_told_apart(place: Workplace) -> None:
    place.write(
        {"train.py": "import os, sys, torch\nif os.environ['RANK'] == '1':\n    sys.stderr = None\n    1 / 0\n"}
    )
    assert launched(place, sys.executable, "train.py")[0] == 1
    assert "crashed ZeroDivisionError: division by zero" in place.journal()
    assert place.journal().count("close") == 2


def test_a_launcher_whose_children_record_nothing_leaves_a_run_that_says_so(place: Workplace) -> None:
    launched(place, sys.executable, "-c", "pass")
    with open_run(place.folder.parent / "run") as run:
        assert run.status is Status.FINISHED
        assert [event.kind for event in run.events] == ["unseen"]
        assert "no process that the launcher started" in run.events[0].message
        assert run.config["command"].startswith("-m torch.distributed.run -- ")


def test_a_resumed_launch_without_workers_says_so_in_a_further_segment(place: Workplace) -> None:
    run_folder = place.folder.parent / "run"
    RunWriter(run_folder).close()
    launched(place, sys.executable, "-c", "pass", resume=True, segments=1)
    with open_run(run_folder) as run:
        assert len(run.segments) == 2
        assert [event.kind for event in run.events] == ["unseen"]


@pytest.mark.timeout(300)
def test_two_real_processes_under_torchrun(tmp_path: Path) -> None:
    place = make_workplace(tmp_path, real_torch=True)
    place.write({"train.py": REAL_TRAIN})
    what = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "train.py")
    ended = place.watched(*what, options={"start": "separatrix.record.recording:start"})
    assert ended.code == 0, ended.stderr.decode()
    with open_run(tmp_path / "run") as first, first.of_rank(1) as second:
        for run in (first, second):
            assert run.status is Status.FINISHED
            loss = run.series("loss")
            assert list(loss.steps) == [1, 2, 3, 4, 5, 6]
            assert all(math.isfinite(value) for value in loss.values)
    assert (tmp_path / "run" / "script.py").read_text() == REAL_TRAIN
