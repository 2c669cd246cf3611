"""`separatrix watch` from the shell: the whole way, with real torch and the real recording."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.record.watching import make_workplace

from separatrix.runs import Status, open_run

TRAIN = """
import io, sys, torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x):
        return self.layer(x)


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.full((3,), float(index))


if __name__ == "__main__":
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
    loader = torch.utils.data.DataLoader(Data(), 4, num_workers=1, multiprocessing_context="spawn")
    for batch in loader:
        optimizer.zero_grad()
        loss = net(batch).square().mean()
        loss.backward()
        optimizer.step()
        print(loss.item())
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    print(type(again) is Net, [p.tolist() for p in again.parameters()], torch.rand(2), sys.argv)
    raise RuntimeError("done")
"""


@pytest.mark.timeout(300)
def test_a_real_training_differs_in_nothing_and_is_recorded(
    tmp_path: Path, run_separatrix: Callable[..., object]
) -> None:
    place = make_workplace(tmp_path, real_torch=True)
    place.write({"train.py": TRAIN})
    alone = place.alone("train.py", "--x")
    watched = run_separatrix("watch", "--run", tmp_path / "new", "--quiet", "train.py", "--x", cwd=place.folder)
    assert watched == (alone.code, alone.stdout.decode(), alone.stderr.decode())
    with open_run(tmp_path / "new") as run:
        assert run.status is Status.CRASHED
        assert run.traceback == alone.stderr.decode()
        loss = run.series("loss")
        printed = [float(line) for line in alone.stdout.decode().splitlines()[:2]]
        assert list(loss.steps) == [1, 2]
        assert all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(loss.values, printed, strict=True))
    assert (tmp_path / "new" / "script.py").read_text() == TRAIN


def test_options_of_python_and_the_exit_code_reach_through(tmp_path: Path) -> None:
    place = make_workplace(tmp_path)
    place.write(
        {"s.py": "import sys\nprint(sys.flags.optimize, sys.warnoptions, sys._xoptions, sys.argv)\nsys.exit(5)"}
    )
    options = ["-O", "-Wignore", "-X", "own=1", "-u"]
    run = str(tmp_path / "new")
    command = [sys.executable, *options, "-m", "separatrix", "watch", "--quiet", "--run", run, "s.py", "--run", "-m"]
    done = subprocess.run(command, cwd=place.folder, env=place.environment(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (5, b"")
    assert done.stdout.decode() == "1 ['ignore'] {'own': '1'} ['s.py', '--run', '-m']\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["missing.py"],
        ["-m", "no_such_module"],
        ["folder"],
        ["--run", "full", "s.py"],
        ["--resume", "--run", "full", "s.py"],
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_written(
    arguments: list[str], tmp_path: Path, run_separatrix: Callable[..., object]
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").touch()
    (tmp_path / "s.py").write_text("print('ran')")
    before = sorted(tmp_path.rglob("*"))
    code, out, error = run_separatrix("watch", *arguments, cwd=tmp_path)  # type: ignore[misc]
    assert (code, out) == (2, "")
    assert error.startswith("separatrix: ") and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_watching_process_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys; import separatrix.cli, separatrix.record.watch; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    assert subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=False).returncode == 0
