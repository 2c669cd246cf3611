"""`separatrix sweep`: its grammar, its output, a script that is watched and a study that is searched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.conftest import RunSeparatrix

from separatrix.arguments import parse
from separatrix.cli import main
from separatrix.runs import open_run

SCRIPT = """
import argparse

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, required=True)
parser.add_argument("--steps", type=int, default=10)
options = parser.parse_args()
torch.manual_seed(0)
x = torch.randn(64, 4)
model = nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=options.lr)
for _ in range(options.steps):
    optimizer.zero_grad()
    nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)).backward()
    optimizer.step()
    with torch.no_grad():
        nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
"""


def test_the_grammar() -> None:
    options = parse(["sweep", "--param", "lr=1..2", "--workers", "2", "train.py", "--lr-decay", "--json", "x"])
    assert (options.script, options.arguments) == ("train.py", ["--lr-decay", "--json", "x"])
    assert not options.json and options.ray is None and options.workers == 2
    assert parse(["sweep", "--ray", "--study", "44"]).ray == "local"


def test_a_script(run_separatrix: RunSeparatrix, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    command = ["sweep", "--param", "lr=0.01,0.1", "--sampler", "grid", "--out", "s"]
    done = run_separatrix(*command, "train.py", "--steps", "20", timeout=110)
    assert done.code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["trial", "eval_loss:last", "state", "steps", "lr", "note"]
    assert [line.split()[0] for line in lines[1:3]] == ["1", "0"]
    assert lines[3].startswith("best: trial 1, eval_loss:last ")
    assert lines[4] == "again: separatrix watch train.py --steps 20 --lr=0.1"
    with open_run(tmp_path / "s" / "trial-0001") as run:
        assert run.series("loss").steps.tolist() == list(range(1, 21))
    again = run_separatrix(*command, "--json", "train.py", "--steps", "20")
    assert (again.code, again.stderr) == (0, "")
    document = json.loads(again.stdout)
    assert document["best"]["number"] == 1
    assert document["command"] == ["separatrix", "watch", "train.py", "--steps", "20", "--lr=0.1"]
    assert [trial["state"] for trial in document["trials"]] == ["finished", "finished"]
    assert document["best"]["value"] < document["trials"][0]["value"]


def test_a_study(run_separatrix: RunSeparatrix) -> None:
    command = ["sweep", "--study", "105", "--param", "dimension=20", "--sampler", "grid", "--out", "s", "--json"]
    done = run_separatrix(*command, timeout=110)
    assert done.code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["metric"] == "passed"
    assert [trial["value"] for trial in document["trials"]] == [1.0]
    assert document["command"][:4] == ["separatrix", "study", "run", "105"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "sweep needs a script"),
        (["train.py"], "the space is empty"),
        (["--param", "lr=2..1", "train.py"], "lr=2..1 is empty"),
        (["--param", "lr", "train.py"], "'lr' is no parameter"),
        (["--space", "none.toml", "train.py"], "none.toml cannot be read"),
        (["--param", "lr=1..2", "missing.py"], "there is no script missing.py"),
        (["--param", "lr=1..2", "--sampler", "best", "train.py"], "there is no sampler 'best'"),
        (["--param", "lr=1..2", "--pruner", "best", "train.py"], "there is no pruner 'best'"),
        (["--param", "lr=1..2", "--metric", "loss:mean", "train.py"], "loss:mean is no metric"),
        (["--param", "lr=1..2", "--stop-on", "no-such", "train.py"], "no finding 'no-such'"),
        (["--param", "lr=1..2", "--trials", "0", "train.py"], "'0' is no positive integer"),
        (["--param", "lr=1..2", "--full", "train.py"], "--full is for studies"),
        (["--study", "no-such"], "there is no study 'no-such'"),
        (["--study", "105", "train.py"], "--study takes no script"),
        (["--study", "105", "--param", "lr=1..2"], "study 105 has no setting 'lr'"),
        (["--study", "105", "--metric", "x"], "study 105 has no claim 'x'"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    assert main(["sweep", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert part in printed.err and len(printed.err.splitlines()) == 1
