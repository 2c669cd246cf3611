"""A sweep: what it finds, what stops a trial, that an interrupted or killed one loses nothing, what it refuses."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from tests.steer._planted import PlantedTarget

from separatrix.runs import RunLockedError, UsageError, open_run
from separatrix.runs.locking import RunLock
from separatrix.steer.tuning import (
    Metric,
    Parameter,
    Row,
    ScriptTarget,
    Space,
    StudyTarget,
    SweepError,
    SweepOptions,
    SweepResult,
    sweep,
)
from separatrix.steer.tuning.attendant import Look, TrialJob
from separatrix.steer.tuning.claiming import claimed
from separatrix.steer.tuning.errors import WorkerLostError

SPACE = Space((Parameter("x", 0.0, 1.0),))
FAST = {"sampler": "random", "pruner": "none"}


def _kinds(*kinds: str) -> Space:
    return Space((Parameter("kind", choices=kinds),))


def _states(result: SweepResult) -> list[str]:
    return [row.state for row in result.rows]


def test_the_best_trial_and_its_command(tmp_path: Path) -> None:
    seen: list[Row] = []
    options = SweepOptions(tmp_path / "s", trials=3, workers=2, **FAST)
    result = sweep(PlantedTarget(), SPACE, options, progress=seen.append)
    assert _states(result) == ["finished"] * 3
    assert sorted(row.number for row in seen) == [0, 1, 2]
    for row in result.rows:
        assert row.value == pytest.approx((row.parameters["x"] - 0.3) ** 2 + 1 / 40, rel=1e-5)
        with open_run(row.run) as run:
            assert "eval_loss" in run
    best = min(result.rows, key=lambda row: row.value or 0.0)
    assert result.best == best
    assert result.command == ["planted", f"x={best.parameters['x']}"]
    assert json.loads((tmp_path / "s" / "trials.json").read_text()) == result.to_dict()
    again = sweep(PlantedTarget(), SPACE, options)
    assert again == result, "all trials have ended: nothing is left to do"


def test_a_sweep_goes_on_with_other_values(tmp_path: Path) -> None:
    first = sweep(PlantedTarget(), SPACE, SweepOptions(tmp_path / "s", trials=1, **FAST))
    second = sweep(PlantedTarget(), SPACE, SweepOptions(tmp_path / "s", trials=2, **FAST))
    assert second.rows[:1] == first.rows
    assert len({row.parameters["x"] for row in second.rows}) == 2


def test_a_grid_is_tried_once_each(tmp_path: Path) -> None:
    space = Space((Parameter("x", choices=(0.1,)), Parameter("n", 1, 3)))
    result = sweep(PlantedTarget(), space, SweepOptions(tmp_path / "s", sampler="grid", workers=2))
    assert _states(result) == ["finished"] * 3
    assert [(row.parameters["x"], row.parameters["n"]) for row in result.rows] == [(0.1, 1), (0.1, 2), (0.1, 3)]


def test_findings_stop_a_trial_and_say_so(tmp_path: Path) -> None:
    target = PlantedTarget(steps=5000, pause=0.02)
    options = SweepOptions(tmp_path / "s", sampler="grid", workers=2)
    result = sweep(target, _kinds("polite", "nan"), options)
    assert _states(result) == ["stopped", "stopped"]
    notes = {row.parameters["kind"]: row.note for row in result.rows}
    assert notes["polite"].startswith("diverging at step "), "although the script ends as if all were well"
    assert notes["nan"].startswith("nonfinite at step ")
    for row in result.rows:
        with open_run(row.run) as run:
            assert run.status.value == "interrupted"
            assert len(run.series("loss").steps) < 5000
    assert result.best is None


def test_without_findings_a_diverging_trial_ends_by_itself(tmp_path: Path) -> None:
    target = PlantedTarget(stop_on=())
    result = sweep(target, _kinds("rises", "nan"), SweepOptions(tmp_path / "s", sampler="grid", pruner="none"))
    rises, nan = sorted(result.rows, key=lambda row: str(row.parameters["kind"]), reverse=True)
    assert (rises.state, rises.findings) == ("finished", ("diverging",))
    assert (nan.state, nan.note) == ("stopped", "eval_loss:last is nan")


def test_a_pruner_stops_a_trial_that_lags(tmp_path: Path) -> None:
    space = Space((Parameter("x", choices=(0.3, 0.31, 0.32, 0.33, 0.34, 3.0)),))
    quick = SweepOptions(tmp_path / "s", sampler="grid", trials=5)
    sweep(PlantedTarget(), space, quick)
    result = sweep(PlantedTarget(steps=2000, pause=0.05), space, dataclasses.replace(quick, trials=6))
    assert _states(result) == ["finished"] * 5 + ["stopped"]
    lagging = result.rows[-1]
    assert lagging.parameters["x"] == 3.0
    assert lagging.note.startswith("median pruner: eval_loss:last ")
    with open_run(lagging.run) as run:
        assert len(run.series("loss").steps) < 2000


def test_failed_trials_are_told_and_end_a_hopeless_sweep(tmp_path: Path) -> None:
    result = sweep(PlantedTarget(), _kinds("crashes", "falls"), SweepOptions(tmp_path / "a", sampler="grid"))
    notes = {row.parameters["kind"]: (row.state, row.note) for row in result.rows}
    assert notes["crashes"] == ("failed", "ended with 1: planted: no such option")
    assert notes["falls"][0] == "finished"
    with pytest.raises(
        SweepError, match=r"all 3 trials failed, the last one ended with 1: planted: no such option; its"
    ):
        sweep(PlantedTarget(), _kinds("crashes"), SweepOptions(tmp_path / "b", trials=9, **FAST))
    with pytest.raises(SweepError, match="all 1 trials failed"):
        sweep(PlantedTarget(), _kinds("crashes"), SweepOptions(tmp_path / "c", trials=1, **FAST))


def test_a_metric_that_no_trial_will_have_ends_the_sweep(tmp_path: Path) -> None:
    target = PlantedTarget(metric=Metric("accuracy"))
    with pytest.raises(SweepError, match=r"holds no accuracy, .*--metric loss is there"):
        sweep(target, SPACE, SweepOptions(tmp_path / "s", trials=9, **FAST))


def test_a_trial_without_the_metric_ends_no_sweep_that_has_finished_another(tmp_path: Path) -> None:
    result = sweep(PlantedTarget(), _kinds("falls", "skips"), SweepOptions(tmp_path / "a", sampler="grid"))
    found = {row.parameters["kind"]: row for row in result.rows}
    assert (found["falls"].state, found["skips"].state) == ("finished", "failed")
    assert (
        found["skips"].note == "the run trial-0001 is empty (it trained nothing): give a script that trains with torch"
    )
    options = SweepOptions(tmp_path / "b", trials=1, **FAST)
    for _ in range(2):
        with pytest.raises(SweepError, match="is empty"):
            sweep(PlantedTarget(), _kinds("skips"), options)
    rows = json.loads((tmp_path / "b" / "trials.json").read_text())["trials"]
    assert [row["state"] for row in rows] == ["lost", "failed"], "the third time there is something else to try"


def test_a_trial_stopped_before_its_first_metric_is_stopped(tmp_path: Path) -> None:
    target = PlantedTarget(steps=5000, pause=0.02)
    result = sweep(target, _kinds("unevaluated"), SweepOptions(tmp_path / "s", sampler="grid"))
    assert _states(result) == ["stopped"]
    assert result.rows[0].note.startswith("diverging at step ")


SWEEPING = """
import signal
import sys
from pathlib import Path
# Tests may be run where interrupts are ignored, as in the background of a shell script.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = [{root!r}]
from tests.steer._planted import PlantedTarget
from separatrix.steer.tuning import Parameter, Space, SweepOptions, sweep

space = Space((Parameter("x", choices=(0.1, 0.2, 0.3, 0.4)),))
options = SweepOptions(Path({folder!r}), sampler="grid", pruner="none", workers=2)
sweep(PlantedTarget(steps=5000, pause=0.05), space, options)
"""


def _started(folder: Path) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[2])
    program = textwrap.dedent(SWEEPING).format(root=root, folder=str(folder))
    return subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)


def _wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.05)


def _alive(run: Path) -> bool:
    with open_run(run) as opened:
        return opened.status.value == "running"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_an_ended_sweep_loses_nothing(number: int, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    process = _started(folder)
    try:
        _wait_for(lambda: len(list(folder.glob("trial-*/run.sqlite"))) >= 2)
        process.send_signal(number)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == -number
    # Trainings end with their sweep, however it ended.
    _wait_for(lambda: not any(_alive(path) for path in folder.glob("trial-*/")))
    space = Space((Parameter("x", choices=(0.1, 0.2, 0.3, 0.4)),))
    options = SweepOptions(folder, sampler="grid", pruner="none", workers=2)
    result = sweep(PlantedTarget(steps=50), space, options)
    finished = sorted(row.parameters["x"] for row in result.rows if row.state == "finished")
    assert finished == [0.1, 0.2, 0.3, 0.4]
    lost = [row for row in result.rows if row.state == "lost"]
    assert len(lost) == 2 and all(row.note for row in lost)
    retried = {row.retry_of for row in result.rows if row.state == "finished"} - {None}
    assert retried == {row.number for row in lost}
    assert result.best is not None and result.best.parameters["x"] == 0.3


TAKING_UP = """
import os
import signal
import sys
from pathlib import Path
sys.path[:0] = [{root!r}]
from optuna.trial import Trial
from tests.steer._planted import PlantedTarget
from tests.steer.test_sweep import PAIRS
from separatrix.steer.tuning import SweepOptions, sweep

suggest, left = Trial._suggest, {left}

def interrupted(trial, name, distribution):
    global left
    left -= 1
    if left < 0:
        {end}
    return suggest(trial, name, distribution)

Trial._suggest = interrupted
sweep(PlantedTarget(steps=5), PAIRS, SweepOptions(Path({folder!r}), sampler="grid"))
"""
PAIRS = Space((Parameter("x", choices=(0.1, 0.3)), Parameter("kind", choices=("falls", "rises"))))
ENDS = {"interrupted": "raise KeyboardInterrupt", "killed": "os.kill(os.getpid(), signal.SIGKILL)"}


@pytest.mark.parametrize("left", [0, 3], ids=["before its values", "between its values"])
@pytest.mark.parametrize("end", ENDS)
def test_a_sweep_that_ends_while_it_takes_up_a_trial_loses_nothing(end: str, left: int, tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[2])
    program = TAKING_UP.format(root=root, folder=str(tmp_path / "s"), left=left, end=ENDS[end])
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=100)
    assert ended.returncode < 0
    result = sweep(PlantedTarget(steps=5), PAIRS, SweepOptions(tmp_path / "s", sampler="grid"))
    (lost,) = (row for row in result.rows if row.state == "lost")
    assert lost.parameters == dict(zip(PAIRS.names, ((0.1, "falls"), (0.1, "rises"))[left // 2], strict=True))
    finished = sorted((row.parameters["x"], row.parameters["kind"]) for row in result.rows if row.state == "finished")
    assert finished == [(0.1, "falls"), (0.1, "rises"), (0.3, "falls"), (0.3, "rises")]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    lock = RunLock(tmp_path / "s" / "sweep.lock")
    assert lock.acquire()
    try:
        with pytest.raises(RunLockedError, match="in use by another sweep"):
            sweep(PlantedTarget(), SPACE, SweepOptions(tmp_path / "s", trials=1, **FAST))
    finally:
        lock.release()


def test_a_locked_storage_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("separatrix.steer.tuning.searching._LOCK_SECONDS", 0.2)
    url = f"sqlite:///{tmp_path / 'shared.sqlite'}"
    sweep(PlantedTarget(), SPACE, SweepOptions(tmp_path / "a", trials=1, storage=url, **FAST))
    holder = sqlite3.connect(tmp_path / "shared.sqlite")
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(SweepError, match=r"storage .* cannot be used \(database is locked\): another process"):
            sweep(PlantedTarget(), SPACE, SweepOptions(tmp_path / "b", trials=2, storage=url, **FAST))
    finally:
        holder.close()


def test_sweeps_share_a_storage(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.sqlite'}"
    sweep(PlantedTarget(), SPACE, SweepOptions(tmp_path / "a", trials=2, storage=url, **FAST))
    result = sweep(PlantedTarget(), SPACE, SweepOptions(tmp_path / "b", trials=3, storage=url, **FAST))
    assert [Path(row.run).parent.name for row in result.rows] == ["a", "a", "b"]
    with pytest.raises(SweepError, match="begun to minimize"):
        other = PlantedTarget(direction="maximize")
        sweep(other, SPACE, SweepOptions(tmp_path / "c", trials=3, storage=url, **FAST))


def test_a_trial_of_an_ended_sweep_on_the_same_storage_is_tried_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shared.sqlite'}"
    options = SweepOptions(tmp_path / "a", trials=1, storage=url, **FAST)
    sweep(PlantedTarget(), SPACE, options)
    study = optuna.load_study(study_name="sweep", storage=url)
    with claimed(tmp_path / "other", {}) as claim:
        taken, elsewhere = (study.ask(SPACE.distributions()) for _ in range(2))
        taken.set_user_attr("sweep", dataclasses.asdict(claim))
        elsewhere.set_user_attr("sweep", dataclasses.asdict(dataclasses.replace(claim, host="elsewhere")))
        more = dataclasses.replace(options, trials=3)
        assert _states(sweep(PlantedTarget(), SPACE, more)) == ["finished", "running", "running"]
    result = sweep(PlantedTarget(), SPACE, more)
    assert _states(result) == ["finished", "lost", "running", "finished"]
    assert (result.rows[3].parameters, result.rows[3].retry_of) == (taken.params, taken.number)
    assert result.rows[1].note == f"the sweep of {tmp_path / 'other'} ended while it ran"
    with claimed(tmp_path / "other", {}) as again:
        assert again == claim, "a folder keeps its identity"


def test_bad_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="at least 1"):
        SweepOptions(tmp_path, trials=0)
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("")
    sweep(PlantedTarget(), SPACE, SweepOptions(tmp_path / "done", trials=1, **FAST))
    refused: list[tuple[Any, Any, SweepOptions, str]] = [
        (PlantedTarget(), SPACE, SweepOptions(tmp_path / "s", sampler="best"), "no sampler 'best': choose from tpe, "),
        (PlantedTarget(), SPACE, SweepOptions(tmp_path / "s", pruner="best"), "no pruner 'best': choose from median, "),
        (
            PlantedTarget(),
            SPACE,
            SweepOptions(tmp_path / "s", sampler="cmaes"),
            "cmaes needs a package that is missing",
        ),
        (PlantedTarget(), SPACE, SweepOptions(tmp_path / "s", sampler="grid"), r"x=0\.0\.\.1\.0 has no list"),
        (PlantedTarget(), SPACE, SweepOptions(tmp_path / "file"), "is a file"),
        (PlantedTarget(), SPACE, SweepOptions(tmp_path / "full"), "holds no sweep"),
        (PlantedTarget(), _kinds("falls"), SweepOptions(tmp_path / "done"), "a sweep of another space"),
        (PlantedTarget(stop_on=("no-such",)), SPACE, SweepOptions(tmp_path / "s", **FAST), "no finding 'no-such'"),
        (ScriptTarget("missing.py"), SPACE, SweepOptions(tmp_path / "s", **FAST), r"no script missing\.py"),
        (
            StudyTarget("44", ("width",)),
            SPACE,
            SweepOptions(tmp_path / "s", **FAST),
            "no setting 'x': choose from width",
        ),
        (PlantedTarget(), SPACE, SweepOptions(tmp_path / "s", storage="sqlite:////no/such/x"), "cannot be used"),
        (PlantedTarget(), SPACE, SweepOptions(tmp_path / "s", storage="no url"), "cannot be used"),
    ]
    for target, space, options, part in refused:
        with pytest.raises(UsageError, match=part):
            sweep(target, space, options)


def test_values_go_into_the_command() -> None:
    target = ScriptTarget("train.py", ("--out", "w{width}-{width}", "{lr}", "{other}"))
    command = target.shown({"lr": 0.1, "width": 8, "bias": True})
    assert command == ["separatrix", "watch", "train.py", "--out", "w8-8", "0.1", "{other}", "--bias=true"]


def test_negative_values_reach_argparse() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shift", type=float)
    parser.add_argument("--n", type=int)
    for shift in (-1e-5, -3.2e-12, -2.0, 1e300):
        arguments = ScriptTarget("train.py").shown({"shift": shift, "n": -3})[3:]
        assert parser.parse_args(arguments) == argparse.Namespace(shift=shift, n=-3)


def test_no_process_is_left(tmp_path: Path) -> None:
    sweep(PlantedTarget(), SPACE, SweepOptions(tmp_path / "s", trials=1, **FAST))
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in listed


class _LosingWorkers:
    """Workers that are lost as soon as they are looked at."""

    where = "host:1"

    def start(self, job: TrialJob) -> _LosingWorkers:
        return self

    def look(self) -> Look | None:
        raise WorkerLostError("the worker at host:1 was lost")

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_trial_that_ends_its_workers_is_given_up(tmp_path: Path) -> None:
    options = SweepOptions(tmp_path / "s", trials=1, **FAST)
    with pytest.raises(SweepError, match=r"the last one given up after 3 workers: the worker at host:1 was lost; its"):
        sweep(PlantedTarget(), SPACE, options, workers=_LosingWorkers())
    rows = json.loads((tmp_path / "s" / "trials.json").read_text())["trials"]
    assert [row["state"] for row in rows] == ["lost", "lost", "failed"]
    assert [row["retry_of"] for row in rows] == [None, 0, 1]
    assert len({row["parameters"]["x"] for row in rows}) == 1
