"""What is kept of single examples: whole passes within a budget, nothing lost by a kill, and no bit of the training."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.record.following import COUNT, compare, data, follow, network, reasons, shuffled
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import separatrix
from separatrix.record import record
from separatrix.record.passes import Column, Passes, Turns
from separatrix.record.readings import Readings
from separatrix.runs import Redactor, RunWriter, SeriesSpec, Status, open_run
from separatrix.testing import check_changes_nothing


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


LEARNS_NOTHING = """
import sys
import time

import torch
from torch.utils.data import DataLoader, TensorDataset

import separatrix
from tests.record.following import data, network

model = network()
optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
torch.manual_seed(3)
passes = 0
with separatrix.record(model, optimizer, run=sys.argv[1], probes="default,examples", budget=1.0):
    while True:
        for step, (x, y) in enumerate(DataLoader(TensorDataset(*data(400)), batch_size=2, shuffle=True), start=1):
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            time.sleep(0.01)
            if passes == 1 and step % 10 == 0:
                print(step, flush=True)
        passes += 1
"""


def test_a_kill_in_the_middle_of_a_pass_keeps_its_chunks(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(LEARNS_NOTHING)
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, str(tmp_path / "s.py"), str(tmp_path / "run")]
    paths = {"PYTHONPATH": f"{root / 'src'}:{root}", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(command, env=paths, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        before = [(time.monotonic(), int(line)) for line in iter(process.stdout.readline, "150\n")]
        process.kill()
    killed = time.monotonic()
    x, y = data(400)
    with torch.no_grad():
        losses = F.cross_entropy(network()(x), y, reduction="none").numpy()
    with open_run(tmp_path / "run") as run:
        assert run.status is Status.KILLED
        found = run["example_loss"]
        # A whole pass at its last step, and the one that was cut off at its first.
        assert found.step.values.tolist() == [200, 201]
        assert found.epoch.values.tolist() == [1.0, 2.0]
        assert not np.isnan(found.values[0]).any()
        seen = found.values[1][~np.isnan(found.values[1])]
        enough = max(step for moment, step in before if moment < killed - 1.5)
        assert 2 * enough <= len(seen) < 400
        for row in found.values:
            np.testing.assert_allclose(row[~np.isnan(row)], losses[~np.isnan(row)], rtol=1e-5)
        assert (
            run.sql("SELECT count(*) FROM vectors v JOIN series s ON s.id=v.series WHERE name='example_loss'")[0][0] > 2
        )


def test_a_closed_run_holds_one_row_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("separatrix.record.budget._CREDIT_SECONDS", 1e6)
    follow(tmp_path / "run", [DataLoader(TensorDataset(*data()), batch_size=10, shuffle=True)] * 3)
    with open_run(tmp_path / "run") as run:
        query = (
            "SELECT name, count(*) FROM vectors v JOIN series s ON s.id=v.series WHERE name LIKE 'example_%' GROUP BY 1"
        )
        assert set(run.sql(query)) == {
            *((name, 3) for name in ("example_loss", "example_margin", "example_correct", "example_prediction")),
            ("example_error_norm", 3),
            ("example_target", 1),
        }


def train(fetch: Any) -> Any:
    def training() -> Iterator[Any]:
        torch.manual_seed(2)
        model = nn.Sequential(network(), nn.Dropout(0.2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(2):
            for x, y in fetch():
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                yield model, optimizer, loss.detach(), x, y

    return training


TRAININGS = {
    "loader": lambda: DataLoader(TensorDataset(*data()), batch_size=10, shuffle=True),
    "workers": lambda: DataLoader(TensorDataset(*data()), batch_size=10, shuffle=True, num_workers=2),
    "tensors": lambda: next(shuffled(*data(), 10, 1)),
    "indexed": lambda: (separatrix.indexed(TensorDataset(*data()))[w] for w in torch.randperm(COUNT).split(10)),
}


@pytest.mark.parametrize("fetch", TRAININGS.values(), ids=TRAININGS)
def test_nothing_is_changed(fetch: Any) -> None:
    check_changes_nothing(train(fetch), probes="default,examples", needs=("loss", "example_loss", "example_target"))


def test_whole_passes_are_left_out_where_the_budget_does_not_pay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("separatrix.record.budget._CREDIT_SECONDS", 0.0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    rows = 0
    with record(model, optimizer, run=tmp_path / "run", probes="default,examples", budget=0.05):
        for _ in range(25):
            for x, y in DataLoader(TensorDataset(*data(400)), batch_size=10, shuffle=True):
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            rows += 1
    with open_run(tmp_path / "run") as run:
        losses = run["example_loss"]
        assert run.series("epoch").values.tolist() == list(range(1, 26))
        assert run.series("epoch").steps.tolist() == list(range(1, 1000, 40))
        assert 1 <= len(losses.step) < 20
        # Those recorded are whole, and stand at the ends of passes.
        assert not np.isnan(losses.values).any()
        assert all(step % 40 == 0 for step in losses.step.values)
        assert losses.epoch.values.tolist() == [step // 40 for step in losses.step.values]
        said = [event for event in run.events if event.kind == "budget" and "pass over the examples" in event.message]
        assert len(said) == 1


@pytest.mark.parametrize("way", ["loader", "tensors"])
def test_after_passes_left_out_the_next_is_recorded_from_its_first_batch(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("separatrix.record.budget._CREDIT_SECONDS", 1e6)
    recorded = iter([False, True, False, False, True])

    def purse(self: Any, wanted: float = 0.0, name: str = "snapshots") -> float:
        return wanted if name != "examples" or next(recorded) else -1.0

    monkeypatch.setattr("separatrix.record.budget.Budget.purse", purse)
    x, y = data()
    passes = [DataLoader(TensorDataset(x, y), batch_size=10, shuffle=True)] * 6
    follow(tmp_path / "run", passes if way == "loader" else shuffled(x, y, 10, 6))
    with open_run(tmp_path / "run") as run:
        losses = run["example_loss"]
        assert losses.epoch.values.tolist() == [1, 3, 6]
        assert losses.step.values.tolist() == [5, 15, 30]
        assert not np.isnan(losses.values).any()


def test_a_failure_is_an_event_and_the_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, *args: Any) -> None:
        raise RuntimeError("no reading today")

    monkeypatch.setattr(Readings, "of", fail)
    truth = follow(tmp_path / "run", [DataLoader(TensorDataset(*data()), batch_size=10)])
    assert truth.steps == [5]
    with open_run(tmp_path / "run") as run:
        assert [e.kind for e in run.events if "no reading today" in e.message] == 2 * ["probe-failed"] + ["probe-off"]
        assert "example_loss" not in run
        assert len(run.series("loss").steps) == 5


def test_a_resumed_run_goes_on_counting_its_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("separatrix.record.budget._CREDIT_SECONDS", 1e6)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for again in (False, True):
        with record(model, optimizer, run=tmp_path / "run", probes="examples", budget=1.0, resume=again):
            for _ in range(2):
                for x, y in DataLoader(TensorDataset(*data()), batch_size=10):
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()
    with open_run(tmp_path / "run") as run:
        losses = run["example_loss"]
        assert losses.step.values.tolist() == [5, 10, 15, 20]
        assert losses.example.values.tolist() == [str(i) for i in range(COUNT)]
        assert not np.isnan(losses.values).any()


@pytest.mark.parametrize("way", ["loader", "tensors"])
def test_memory_does_not_grow_from_pass_to_pass(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("separatrix.record.budget._CREDIT_SECONDS", 1e6)
    x, y = data(400)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    held: list[int] = []
    tracemalloc.start()
    try:
        with record(model, optimizer, run=tmp_path / "run", probes="examples", budget=1.0) as recording:
            for number in range(19):
                loader = DataLoader(TensorDataset(x, y), batch_size=10, shuffle=True)
                for a, b in loader if way == "loader" else next(shuffled(x, y, 10, 1)):
                    F.cross_entropy(model(a), b).backward()
                    optimizer.step()
                if number in (4, 18):
                    recording._writer.flush()
                    gc.collect()
                    held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # The values of the 14 passes in between take 73 kB as they are stored, and five times that as they are gathered.
    assert held[1] - held[0] < 20_000
    with open_run(tmp_path / "run") as run:
        assert run["example_loss"].sizes == {"step": 19, "example": 400}


def test_inputs_that_never_return_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("separatrix.record.examples._MOST_HASHED", 100)
    new = ((torch.randn(10, 5), torch.arange(10) % 3) for _ in range(30))
    follow(tmp_path / "run", [new], probes="examples")
    assert reasons(tmp_path / "run") == ["100 inputs without a DataLoader were all different: they have no identity"]
    with open_run(tmp_path / "run") as run:
        assert len(run["example_loss"].example) == 100


# The parts


def test_a_row_is_stored_in_pieces_where_that_is_shorter() -> None:
    column = Column(1, np.zeros(0, np.float32), np.zeros(0, bool))
    column.put(np.arange(1000), np.arange(1000))
    (whole,) = column.pieces()
    assert whole[0] == 0 and whole[1] is None and len(whole[2]) == 1000
    column.seen[[0, 500]] = False
    first, second = column.pieces()
    assert (first[0], len(first[2]), second[0], len(second[2])) == (1, 499, 501, 499)
    column.seen[::3] = False
    (scattered,) = column.pieces()
    assert scattered[1] is not None
    np.testing.assert_array_equal(scattered[2], scattered[1])


def test_a_pass_takes_the_place_of_its_chunks(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", redactor=Redactor({}))
    assert writer.number_labels("example", 6)
    passes = Passes(writer)
    passes.declare(SeriesSpec("example_loss", ("example",)))
    passes.add(1, np.array([4, 2]), {"example_loss": np.array([40.0, 20.0])})
    writer.flush()
    passes.add(7, np.array([2, 3, 3]), {"example_loss": np.array([21.0, np.nan, 30.0])})
    writer.flush()
    with open_run(tmp_path / "run") as run:
        half = run.series("example_loss")
        assert half.steps.tolist() == [1]
        np.testing.assert_array_equal(half.values, [[21.0, 30.0, 40.0]])
    passes.end(3)
    passes.add(4, np.array([0]), {"example_loss": np.array([5.0])})
    passes.end(4)
    writer.close()
    with open_run(tmp_path / "run") as run:
        found = run.series("example_loss")
        assert found.steps.tolist() == [3, 4]
        assert found.coords["example"] == ("0", "2", "3", "4")
        np.testing.assert_array_equal(found.values, [[np.nan, 21.0, 30.0, 40.0], [5.0, np.nan, np.nan, np.nan]])


def test_turns_of_loaders_and_of_returning_examples() -> None:
    turns, one, two, three = Turns(), "one", "two", "three"
    here = np.array([0, 1])
    assert turns.begins(one, 1, here)
    assert not turns.begins(two, 1, here)
    assert not turns.begins(one, 1, here)
    # A shorter loader beside it begins again and again.
    assert not turns.begins(two, 2, here)
    assert turns.begins(one, 2, here)
    # It goes on alone: the first one is done.
    assert not turns.begins(two, 3, here)
    assert turns.begins(two, 4, here)
    turns.ended(two, 4)
    assert turns.begins(three, None, here)
    turns.note(three, here)
    assert not turns.begins(three, None, np.array([2, 3]))
    turns.note(three, np.array([2, 3]))
    assert turns.begins(three, None, np.array([3]))


def test_compare_can_fail(tmp_path: Path) -> None:
    truth = follow(tmp_path / "run", [DataLoader(TensorDataset(*data()), batch_size=10, shuffle=True)])
    compare(tmp_path / "run", truth)
    assert reasons(tmp_path / "run") == []
    truth.passes[0]["example_loss"][[3, 4]] = truth.passes[0]["example_loss"][[4, 3]]
    with pytest.raises(AssertionError, match="example_loss"):
        compare(tmp_path / "run", truth)


def test_a_large_run_keeps_every_second_pass_whole(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", redactor=Redactor({}), max_bytes=200_000)
    writer.number_labels("example", 1000)
    passes = Passes(writer)
    for name, dtype in (("example_loss", "float32"), ("example_correct", "uint8")):
        passes.declare(SeriesSpec(name, ("example",), dtype=dtype))
    loss = writer.series(SeriesSpec("loss"))
    random = np.random.default_rng(0)
    for number in range(1, 101):
        seen = random.permutation(1000)[:990]
        rows = np.full(990, float(number % 2))
        passes.add(number, seen, {"example_loss": rows + number, "example_correct": rows})
        writer.scalar(loss, number, 1.0)
        passes.end(number)
        writer.flush()
    writer.close()
    with open_run(tmp_path / "run") as run:
        assert "thinned" in [event.kind for event in run.events]
        assert len(run.series("loss").steps) == 100
        kept = run.series("example_loss")
        assert 8 < len(kept.steps) < 60 and kept.steps[0] == 1 and kept.steps[-1] == 100
        assert kept.measured.sum(axis=1).tolist() == [990] * len(kept.steps)
        assert run.series("example_correct").steps.tolist() == kept.steps.tolist()
        np.testing.assert_array_equal(np.nanmax(kept.values, axis=1), kept.steps + kept.steps % 2)


def test_labels_that_are_numbers_take_one_statement(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run", redactor=Redactor({}))
    assert writer.number_labels("example", 3)
    assert writer.number_labels("example", 5)
    assert writer.positions("example", ["4", "04", "5", "²"]) == [4, 5, 6, 7]
    assert not writer.number_labels("example", 9)
    writer.close()
    again = RunWriter(tmp_path / "run", resume=True, redactor=Redactor({}))
    assert again.positions("example", ["²", "2", "5", "new"]) == [7, 2, 6, 8]
    again.close()
    with open_run(tmp_path / "run") as run:
        found = run.sql("SELECT label FROM labels WHERE dim='example' ORDER BY position")
        assert [label for (label,) in found] == ["0", "1", "2", "3", "4", "04", "5", "²", "new"]
