"""Point 2 of the recording contract: whatever fails inside, the training goes on and ends with the same weights."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.record import zoo
from tests.unhurried import unhurried

import separatrix
import separatrix.record.patches as patches_module
import separatrix.record.recording as recording_module
from separatrix.record import record
from separatrix.record.backwards import Backwards
from separatrix.record.clock import Clock
from separatrix.record.journal import Journal
from separatrix.record.training import Training
from separatrix.runs import Run, SeparatrixError, SeriesSpec, Status, open_run
from separatrix.runs.probe import Moment, Probe, Reading
from separatrix.runs.writer import RunWriter

STEPS = 12


def train(after_step: Callable[[int], None] = lambda step: None) -> list[torch.Tensor]:
    torch.manual_seed(5)
    model = zoo.perceptron()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(STEPS):
        x, y = zoo.digits()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        after_step(step)
    return [p.detach().clone() for p in model.parameters()]


@pytest.fixture(autouse=True, scope="module")
def _few_objects() -> Iterator[None]:
    """Everything imported so far is left out of the searches for living modules, which makes them fast."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def expected() -> list[torch.Tensor]:
    return train()


def same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


ERRORS: dict[str, BaseException] = {
    "plain": ValueError("bad"),
    "memory": MemoryError(),
    "device-memory": torch.OutOfMemoryError("no memory left on the device"),
    "recursion": RecursionError("too deep"),
    "unspeakable": UnspeakableError(),
    "stop-iteration": StopIteration(),
    "surrogates": ValueError("\ud800 <b>\x00"),
}


def with_probes(monkeypatch: pytest.MonkeyPatch, *probes: Probe) -> None:
    # A loaded machine must not decide whether a snapshot is taken.
    unhurried(monkeypatch)
    usual = recording_module.chosen_probes("default")
    monkeypatch.setattr(recording_module, "chosen_probes", lambda names: [*usual, *probes])


def events_of(run: Run, kind: str) -> list[Any]:
    return [event for event in run.events if event.kind == kind]


@pytest.mark.parametrize(
    ("error", "moment"),
    [*((error, Moment.GRADIENT) for error in ERRORS), *(("unspeakable", moment) for moment in Moment)],
)
def test_a_probe_that_always_raises(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    expected: list[torch.Tensor],
    error: str,
    moment: Moment,
) -> None:
    calls = []

    def measure(view: Any, state: dict[str, Any]) -> Iterator[Reading]:
        calls.append(1)
        yield Reading("broken_value", 1.0)
        raise ERRORS[error]

    with_probes(monkeypatch, Probe("broken", moment, (SeriesSpec("broken_value"),), measure, "raises"))
    with record(run=tmp_path / "run", budget=1.0):
        found = train()
    assert same(found, expected)
    assert len(calls) == 3
    with open_run(tmp_path / "run") as run:
        assert run.status is Status.FINISHED
        off = events_of(run, "probe-off")
        assert len(off) == 1
        assert "broken" in off[0].message
        assert off[0].data["probe"] == "broken"
        assert len(run.series("gradient_rms").steps) > 3
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("fails_at", [(1,), (1, 3), (2, 4)])
def test_a_probe_that_fails_now_and_then_stays_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: list[torch.Tensor], fails_at: tuple[int, ...]
) -> None:
    calls: list[int] = []

    def measure(view: Any, state: dict[str, Any]) -> Iterator[Reading]:
        calls.append(1)
        if len(calls) in fails_at:
            raise ValueError("now and then")
        yield Reading("moody", float(len(calls)))

    with_probes(monkeypatch, Probe("moody", Moment.GRADIENT, (SeriesSpec("moody"),), measure, "raises at times"))
    with record(run=tmp_path / "run", budget=1.0):
        assert same(train(), expected)
    with open_run(tmp_path / "run") as run:
        assert len(run.series("moody").steps) == len(calls) - len(fails_at) > 3
        assert not events_of(run, "probe-off")


GARBAGE: dict[str, Callable[[], Any]] = {
    "unknown series": lambda: Reading("nowhere", 1.0),
    "no reading": lambda: "loss",
    "matrix": lambda: Reading("garbage", torch.ones(2, 2)),
    "too long": lambda: Reading("garbage", torch.ones(1000)),
    "empty": lambda: Reading("garbage", torch.ones(0)),
    "none": lambda: Reading("garbage", None),  # type: ignore[arg-type]
    "text": lambda: Reading("garbage", "text"),  # type: ignore[arg-type]
    "positions out of range": lambda: Reading("garbage", torch.ones(2), [100, 200]),
    "positions too few": lambda: Reading("garbage", torch.ones(3), [0]),
    "positions that are no numbers": lambda: Reading("garbage", torch.ones(1), [float("nan")]),  # type: ignore[list-item]
    "weight zero": lambda: Reading("garbage", torch.ones(2), [0, 1], weight=0.0),
    "weight nan": lambda: Reading("garbage", torch.ones(2), [0, 1], weight=float("nan")),
    "complex": lambda: Reading("garbage", torch.ones(2, dtype=torch.complex64), [0, 1]),
    "sparse": lambda: Reading("garbage", torch.eye(2).to_sparse()),
    "meta": lambda: Reading("garbage", torch.ones(2, device="meta"), [0, 1]),
    "graph": lambda: Reading("garbage", torch.ones(2, requires_grad=True) * 2, [0, 1]),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_a_probe_that_returns_garbage(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    expected: list[torch.Tensor],
    what: str,
) -> None:
    def measure(view: Any, state: dict[str, Any]) -> Iterator[Reading]:
        yield GARBAGE[what]()

    spec = SeriesSpec("garbage", ("parameter",))
    with_probes(monkeypatch, Probe("garbage", Moment.GRADIENT, (spec,), measure, "returns garbage"))
    with record(run=tmp_path / "run", budget=1.0):
        assert same(train(), expected)
    with open_run(tmp_path / "run") as run:
        assert run.status is Status.FINISHED
        assert len(run.series("loss").steps) == STEPS
        # What others measured in the same steps is not lost with it.
        assert len(run.series("gradient_rms").steps) > 3
        assert len(run.series("weight_rms").steps) > 3
    assert capfd.readouterr().err == ""


def test_a_probe_that_yields_no_iterator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: list[torch.Tensor]
) -> None:
    nothing: Any = lambda view, state: None  # noqa: E731
    with_probes(monkeypatch, Probe("nothing", Moment.UPDATE, (SeriesSpec("nothing"),), nothing, "returns None"))
    with record(run=tmp_path / "run", budget=1.0):
        assert same(train(), expected)
    with open_run(tmp_path / "run") as run:
        assert len(events_of(run, "probe-off")) == 1


@pytest.mark.parametrize(
    ("owner", "inner"),
    [
        (Training, "discover"),
        (Training, "_finish_step"),
        (Backwards, "_value_of"),
        (Journal, "loss"),
        (Journal, "options"),
        (Journal, "put"),
        (Clock, "follow"),
        (Clock, "may_rest"),
    ],
)
@pytest.mark.parametrize("error", ["plain", "memory", "unspeakable"])
def test_a_recorder_that_fails_inside(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    expected: list[torch.Tensor],
    owner: type,
    inner: str,
    error: str,
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise ERRORS[error]

    monkeypatch.setattr(owner, inner, broken)
    places = {"cross_entropy": F.cross_entropy.__code__, "backward": torch.autograd.backward}
    with record(run=tmp_path / "run", budget=1.0):
        assert same(train(), expected)
    assert places == {"cross_entropy": F.cross_entropy.__code__, "backward": torch.autograd.backward}
    with open_run(tmp_path / "run") as run:
        assert run.status is Status.FINISHED
    assert capfd.readouterr().err.count("\n") <= 1


@pytest.mark.parametrize("moment", [Moment.MODULE, Moment.GRADIENT, Moment.UPDATE, Moment.LOSS])
def test_ctrl_c_inside_a_probe_passes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: Moment) -> None:
    def measure(view: Any, state: dict[str, Any]) -> Iterator[Reading]:
        raise KeyboardInterrupt
        yield Reading("interrupted", 0.0)

    with_probes(monkeypatch, Probe("slow", moment, (SeriesSpec("interrupted"),), measure, "is interrupted"))
    backward = torch.autograd.backward
    with pytest.raises(KeyboardInterrupt), record(run=tmp_path / "run", budget=1.0):
        train()
    assert torch.autograd.backward is backward
    assert not torch.nn.modules.module._global_forward_hooks
    assert torch.is_grad_enabled()
    with open_run(tmp_path / "run") as run:
        assert run.status is Status.INTERRUPTED


def test_an_error_of_the_training_passes_unchanged(tmp_path: Path) -> None:
    class OwnError(Exception):
        pass

    raised = OwnError("mine")

    def fail(step: int) -> None:
        if step == 4:
            raise raised

    backward, code = torch.autograd.backward, F.cross_entropy.__code__
    with pytest.raises(OwnError) as caught, record(run=tmp_path / "run", budget=1.0):
        train(fail)
    assert caught.value is raised
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert torch.autograd.backward is backward
    assert F.cross_entropy.__code__ is code
    with open_run(tmp_path / "run") as run:
        assert run.status is Status.CRASHED
        assert "OwnError: mine" in (run.traceback or "")
        assert len(run.series("loss").steps) == 5


def test_errors_inside_torch_calls_pass_unchanged_and_the_recording_goes_on(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=1)

    def train_once(fail: bool) -> None:
        def closure() -> torch.Tensor:
            if fail:
                raise LookupError("no batch")
            optimizer.zero_grad()
            loss = F.cross_entropy(model(torch.ones(2, 2)), torch.tensor([0, 1]))
            loss.backward()
            return loss

        optimizer.step(closure)

    with record(run=tmp_path / "run", budget=1.0):
        train_once(False)
        with pytest.raises(LookupError, match="no batch"):
            train_once(True)
        with pytest.raises(RuntimeError, match="grad can be implicitly created only for scalar outputs"):
            model(torch.ones(2, 2)).backward()
        with pytest.raises(ValueError, match="Expected input batch_size"):
            F.cross_entropy(torch.ones(2, 3), torch.tensor([0]))
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            model(torch.ones(5))
        for _ in range(3):
            train_once(False)
    with open_run(tmp_path / "run") as run:
        assert list(run.series("loss").steps) == [1, 2, 3, 4]


def test_the_folder_vanishes(tmp_path: Path, capfd: pytest.CaptureFixture[str], expected: list[torch.Tensor]) -> None:
    def lose(step: int) -> None:
        if step == 3:
            recording._writer.flush()
            shutil.rmtree(tmp_path / "run")
        if step == 4:
            recording._writer.flush()

    with record(run=tmp_path / "run", budget=1.0) as recording:
        assert same(train(lose), expected)
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("separatrix: the recording has ended, the training goes on: ")


@pytest.mark.parametrize("method", ["scalar", "vector", "positions", "event", "series"])
def test_a_store_that_breaks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    expected: list[torch.Tensor],
    method: str,
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise OSError("broken")

    def spoil(step: int) -> None:
        if step == 2:
            monkeypatch.setattr(recording._writer, method, broken)

    with record(run=tmp_path / "run", budget=1.0) as recording:
        assert same(train(spoil), expected)
    with open_run(tmp_path / "run") as run:
        assert len(run.series("loss").steps) >= 2
    assert capfd.readouterr().err.count("\n") <= 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_thread_that_stores_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: list[torch.Tensor]
) -> None:
    def die(self: RunWriter) -> None:
        raise SystemExit

    monkeypatch.setattr(RunWriter, "_work", die)
    with record(run=tmp_path / "run", budget=1.0) as recording:
        recording._writer._thread.join()
        assert same(train(), expected)
    with open_run(tmp_path / "run") as run:
        assert len(run.series("loss").steps) == STEPS


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


def test_facts_that_are_no_json(tmp_path: Path, expected: list[torch.Tensor]) -> None:
    loop: dict[str, Any] = {"set": {1, 2}, "nan": float("nan"), 3: torch.ones(2), "type": int}
    loop["self"] = loop
    for number, config in enumerate((loop, {"odd": Unprintable()}, {"bytes": b"\xff", "text": "\ud800"})):
        path = tmp_path / f"run-{number}"
        try:
            with record(run=path, budget=1.0, config=config):
                assert same(train(), expected)
        except SeparatrixError as error:
            assert "\n" not in str(error)
        else:
            with open_run(path) as run:
                assert len(run.series("loss").steps) == STEPS


def test_logging_of_values_never_stops_a_training(tmp_path: Path, expected: list[torch.Tensor]) -> None:
    def log(step: int) -> None:
        separatrix.log("mine", step)
        separatrix.log("gradient_rms", 1.0)
        separatrix.log("loss", float("nan"))
        separatrix.log("\ud800\x00 <script>", torch.tensor(2.0))
        separatrix.log("", 1)
        with pytest.raises(SeparatrixError, match="takes a number"):
            separatrix.log("mine", torch.ones(3))  # type: ignore[arg-type]

    with record(run=tmp_path / "run", budget=1.0):
        assert same(train(log), expected)
    with open_run(tmp_path / "run") as run:
        assert list(run.series("mine").values) == list(range(STEPS))
        assert run.series("gradient_rms").values.ndim == 2


def test_odd_names_of_parameters(tmp_path: Path) -> None:
    names = ["a b", "ä\ud800", "'; DROP TABLE meta; --", "<b>", "x\x00y", "n" * 3000, "\n"]
    model = torch.nn.Module()
    for name in names:
        model.register_parameter(name, torch.nn.Parameter(torch.ones(2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(run=tmp_path / "run", budget=1.0):
        for _ in range(3):
            optimizer.zero_grad()
            sum(p.square().sum() for p in model.parameters()).backward()
            optimizer.step()
    with open_run(tmp_path / "run") as run:
        assert run.series("gradient_rms").values.shape == (3, len(names))
        assert not events_of(run, "probe-off")


def test_two_recordings_at_once_are_refused_in_one_line_and_undo_nothing(tmp_path: Path) -> None:
    with record(run=tmp_path / "run", budget=1.0):
        with pytest.raises(SeparatrixError, match="recorded into"):
            recording_module.start(tmp_path / "other")
        with record(run=tmp_path / "inner"):
            train()
    with open_run(tmp_path / "run") as run:
        assert len(run.series("loss").steps) == STEPS
    assert not (tmp_path / "inner").exists()


def test_a_recording_that_cannot_start_leaves_torch_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("refused")

    backward, code = torch.autograd.backward, F.mse_loss.__code__
    monkeypatch.setattr(patches_module.optim_module, "register_optimizer_step_post_hook", fail)
    with pytest.raises(RuntimeError, match="refused"), record(run=tmp_path / "run"):
        pass
    assert torch.autograd.backward is backward
    assert F.mse_loss.__code__ is code


def test_closing_from_another_thread_during_a_step(tmp_path: Path, expected: list[torch.Tensor]) -> None:
    with record(run=tmp_path / "run", budget=1.0) as recording:

        def close(step: int) -> None:
            if step == 5:
                closer = threading.Thread(target=recording.close)
                closer.start()
                closer.join()

        assert same(train(close), expected)
    with open_run(tmp_path / "run") as run:
        assert len(run.series("loss").steps) == 6


FULL_DISK = """
    import resource, signal, sys
    import torch, torch.nn.functional as F
    from separatrix.record import record
    from tests.record.test_never_stops import train
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    plain = train()
    with record(run=sys.argv[1], budget=1.0, probes="all") as recording:
        recording._writer.flush()
        size = 80_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        def fill(step):
            for i in range(4000):
                recording.log(f"own_{i % 7}", i)
            recording._writer.flush()
        found = train(fill)
    print(all(torch.equal(a, b) for a, b in zip(plain, found)))
"""


def test_the_disk_is_full(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path / "run")],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "True\n", done.stderr
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("separatrix: the recording has ended, the training goes on: ")
