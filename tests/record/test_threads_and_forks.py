"""A recording hears one thread of one process; others train, fork and receive signals unharmed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from separatrix.record import record
from separatrix.runs import RunWriter, Status, open_run

ROOT = Path(__file__).resolve().parents[2]


def train(
    seed: int = 0, steps: int = 12, after_step: Callable[[int], None] = lambda step: None
) -> tuple[list[torch.Tensor], list[float]]:
    """A training that draws from a generator of its own, so that threads do not share random numbers."""
    drawn = torch.Generator().manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=drawn) * 0.3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for step in range(steps):
        x = torch.randn(16, 6, generator=drawn)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), (x[:, 0] > 0).long())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        after_step(step)
    return [p.detach().clone() for p in model.parameters()], losses


def same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_another_thread_that_trains_is_not_heard(tmp_path: Path) -> None:
    expected, losses = train(1, 60)
    expected_other, _ = train(2, 60)
    found: dict[str, list[torch.Tensor]] = {}
    errors: list[BaseException] = []
    turns = threading.Barrier(2, timeout=30)

    def in_turn(step: int) -> None:
        turns.wait()

    def other() -> None:
        try:
            turns.wait()
            found["other"], _ = train(2, 60, in_turn)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    with record(run=tmp_path / "run", budget=1.0, probes="all"):
        thread.start()

        def first_then_in_turn(step: int) -> None:
            turns.wait()
            if step == 59:
                turns.wait()

        found["own"], _ = train(1, 60, first_then_in_turn)
        thread.join()
    assert not errors
    assert same(found["own"], expected)
    assert same(found["other"], expected_other)
    with open_run(tmp_path / "run") as run:
        recorded = run.series("loss")
        assert recorded.values.ndim == 1
        assert list(recorded.steps) == list(range(1, 61))
        assert list(recorded.values) == pytest.approx(losses, rel=1e-7)
        assert not [event for event in run.events if event.kind.startswith("probe")]


def test_a_training_in_a_thread_is_recorded(tmp_path: Path) -> None:
    expected, losses = train(3)
    found: list[list[torch.Tensor]] = []
    with record(run=tmp_path / "run", budget=1.0, probes="all"):
        thread = threading.Thread(target=lambda: found.append(train(3)[0]))
        thread.start()
        thread.join()
    assert same(found[0], expected)
    with open_run(tmp_path / "run") as run:
        assert list(run.series("loss").values) == pytest.approx(losses, rel=1e-7)


def test_replicas_in_threads(tmp_path: Path) -> None:
    """Forwards of one model in several threads at once, as data-parallel wrappers run them."""

    def train_replicated() -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(8):
            parts = torch.randn(2, 8, 6).unbind()
            outputs: list[torch.Tensor] = [torch.empty(0)] * 2

            def forward(i: int, parts: tuple[torch.Tensor, ...] = parts, outputs: list[torch.Tensor] = outputs) -> None:
                outputs[i] = model(parts[i])

            threads = [threading.Thread(target=forward, args=(i,)) for i in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            optimizer.zero_grad()
            F.cross_entropy(torch.cat(outputs), torch.arange(16) % 3).backward()
            optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    expected = train_replicated()
    with record(run=tmp_path / "run", budget=1.0, probes="all"):
        assert same(train_replicated(), expected)
    with open_run(tmp_path / "run") as run:
        assert len(run.series("loss").steps) == 8
        assert not [event for event in run.events if event.kind.startswith("probe")]


def wait_for(child: int) -> int:
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


FORKING = """
    import os, sys
    import torch
    from separatrix.record import log, record
    from tests.record.test_threads_and_forks import same, train, wait_for
    path, ending = sys.argv[1:]
    plain, _ = train(1)
    codes = []
    def fork(step):
        if step not in (3, 6):
            return
        child = os.fork()
        if child:
            codes.append(wait_for(child))
            return
        log("child", 1.0)
        found, _ = train(2, 40)
        if ending == "plain" and step == 3:
            os._exit(7 if torch.isfinite(found[0]).all() else 1)
        if ending == "plain":
            raise SystemExit(7)
        if ending == "own":
            with record(run=f"{path}-{step}", budget=1.0):
                again, _ = train(2, 40)
            os._exit(7 if same(found, again) else 1)
    with record(run=path, budget=1.0, probes="all"):
        found, _ = train(1, after_step=fork)
    print(same(found, plain), codes)
"""


@pytest.mark.parametrize("ending", ["plain", "own"])
def test_a_fork_in_the_middle_of_a_training(tmp_path: Path, ending: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FORKING), str(tmp_path / "run"), ending],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True [7, 7]\n", "")
    _, losses = train(1)
    with open_run(tmp_path / "run") as run:
        assert run.status is Status.FINISHED
        assert list(run.series("loss").values) == pytest.approx(losses, rel=1e-7)
        assert "child" not in run.names()
    for step in (3, 6) if ending == "own" else ():
        with open_run(tmp_path / f"run-{step}") as run:
            assert len(run.series("loss").steps) == 40


def test_a_forked_child_never_writes(tmp_path: Path) -> None:
    def fork(step: int) -> None:
        if step != 5:
            return
        recording._writer.flush()
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()}
        child = os.fork()
        if not child:
            # Nothing of pytest's may run in the child.
            try:
                train(2, 30)
                recording.log("child", 1.0)
                recording._writer.flush()
                recording.close()
            finally:
                after = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").iterdir()}
                os._exit(0 if after == before else 1)
        os.kill(os.getpid(), 0)
        assert wait_for(child) == 0

    # The parent's own thread must not write in the meantime.
    class Quiet(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            return super().wait(None if timeout is None else timeout * 100)

    with record(run=tmp_path / "run", budget=1.0) as recording:
        recording._writer._wake = Quiet()
        recording._writer.flush()
        threading.Event().wait(0.6)
        train(1, after_step=fork)
    with open_run(tmp_path / "run") as run:
        assert len(run.series("loss").steps) == 12


SPAWNING = """
    import multiprocessing, sys
    import torch
    from separatrix.record import record
    from tests.record.test_threads_and_forks import same, train
    def work(seed):
        return [p.tolist() for p in train(seed, 5)[0]]
    if __name__ == "__main__":
        plain, _ = train(1)
        with record(run=sys.argv[1], budget=1.0):
            with multiprocessing.get_context(sys.argv[2]).Pool(1) as pool:
                there = pool.map(work, [4])
            found, _ = train(1)
        print(same(found, plain), there == [work(4)])
"""


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_pool_of_processes(tmp_path: Path, method: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SPAWNING))
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run"), method],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((os.environ.get("PYTHONPATH", ""), str(ROOT)))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True True\n", "")
    with open_run(tmp_path / "run") as run:
        assert len(run.series("loss").steps) == 12


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGALRM])
def test_signal_handlers_of_the_user_run_as_ever(tmp_path: Path, number: signal.Signals) -> None:
    caught: list[int] = []
    previous = signal.signal(number, lambda n, frame: caught.append(n))
    try:
        with record(run=tmp_path / "run", budget=1.0):
            train(1, after_step=lambda step: os.kill(os.getpid(), number))
        assert caught == [number] * 12
        assert signal.getsignal(number) is not previous
    finally:
        signal.signal(number, previous)


def test_ctrl_c_ends_training_and_recording(tmp_path: Path) -> None:
    def interrupt(step: int) -> None:
        if step == 4:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), record(run=tmp_path / "run", budget=1.0):
        train(1, after_step=interrupt)
    with open_run(tmp_path / "run") as run:
        assert run.status is Status.INTERRUPTED
        assert len(run.series("loss").steps) == 5


def test_optimizers_freed_by_another_thread(tmp_path: Path) -> None:
    """Garbage is collected in whichever thread happens to allocate; what is freed there may have been tracked."""
    with record(run=tmp_path / "run", budget=1.0, probes="all"):
        for seed in range(10):
            thread = threading.Thread(target=lambda s=seed: train(s, 2))
            thread.start()
            train(seed, 3)
            thread.join()
    with open_run(tmp_path / "run") as run:
        assert not [event for event in run.events if event.kind.startswith("probe")]


def test_the_writer_keeps_no_thread_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    with record(run=tmp_path / "run"):
        train(1, 2)
    assert threading.active_count() == before
    assert isinstance(RunWriter(tmp_path / "other").close(), type(None))
