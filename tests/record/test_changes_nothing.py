"""Point 1 of the recording contract: a training is the same, bit for bit, with and without a recording."""

from __future__ import annotations

import functools
import gc
import pickle
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.record import zoo

import separatrix.record.recording as recording_module
from separatrix.record import available_probes, record
from separatrix.record.tracks import Term, Track
from separatrix.runs import SeriesSpec, open_run
from separatrix.runs.probe import Moment, Probe, Reading
from separatrix.testing import check_changes_nothing


@pytest.fixture(autouse=True, scope="module")
def _few_objects() -> Iterator[None]:
    """Everything imported so far is left out of the searches for living modules, which makes them fast."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("kind", zoo.KINDS)
def test_every_probe_on_every_step(kind: str) -> None:
    comparison = check_changes_nothing(zoo.KINDS[kind], budget=1.0)
    failed = [event for event in comparison.events if event.startswith("probe")]
    assert not failed
    assert comparison.recorded["gradient_rms"] >= comparison.recorded["loss"] - 1
    assert comparison.recorded["loss"] >= 3


@pytest.mark.parametrize("kind", ["mlp-adam", "cnn-batchnorm", "user-hooks", "gan", "lbfgs", "autocast-scaled"])
def test_at_the_usual_budget(kind: str) -> None:
    check_changes_nothing(zoo.KINDS[kind], budget=0.05, probes="default")


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_model_with_dropout(backend: str) -> None:
    check_changes_nothing(functools.partial(zoo.compiled, backend))


def test_compiled_loss_and_optimizer(tmp_path: Path) -> None:
    check_changes_nothing(zoo.compiled_step, needs=(), run=tmp_path / "run")
    said = [event for event in open_run(tmp_path / "run").events if "the step of Adam is compiled" in event.message]
    assert len(said) == 1


def test_a_step_that_is_never_seen_is_said(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(model, optimizer, run=tmp_path / "run"):
        for _ in range(300):
            model(torch.ones(2, 3)).mean().backward()
    said = [event for event in open_run(tmp_path / "run").events if "no step of SGD was seen" in event.message]
    assert len(said) == 1


def _compiled_before(backend: str = "aot_eager") -> tuple[Any, Any]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    @torch.compile(backend=backend)
    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x), y)

    loss_of(*zoo.digits()).backward()
    optimizer.zero_grad()

    def train() -> list[torch.Tensor]:
        for _ in range(20):
            loss = loss_of(*zoo.digits())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return [p.detach().clone() for p in model.parameters()]

    return train, torch._dynamo.utils.counters["stats"]


def test_function_compiled_before_the_recording(tmp_path: Path) -> None:
    train, _ = _compiled_before()
    expected = train()
    train, stats = _compiled_before()
    graphs = stats["unique_graphs"]
    with record(run=tmp_path / "run", budget=1.0, probes="all"):
        found = train()
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert stats["unique_graphs"] - graphs <= 1
    torch._dynamo.reset()


def _training() -> Iterator[object]:
    return zoo.mlp(zoo.OPTIMIZERS["sgd-momentum"])


def test_a_training_that_does_not_repeat_itself_is_refused() -> None:
    runs = iter(range(10))

    def training() -> Iterator[object]:
        next(runs)
        yield next(runs)

    with pytest.raises(AssertionError, match="does not repeat itself"):
        check_changes_nothing(training)


def _disturb_rng(view: Any) -> None:
    torch.rand(1)


def _disturb_weight(view: Any) -> None:
    view.parameters[0].data.view(-1)[0] += 1e-7


def _disturb_version(view: Any) -> None:
    view.parameters[0].detach().add_(0)


def _disturb_threads(view: Any) -> None:
    torch.set_num_threads(torch.get_num_threads() + 1)


def _disturb_output(view: Any) -> None:
    print("probe")


@pytest.mark.parametrize(
    ("disturbance", "what"),
    [
        (_disturb_rng, "torch random state"),
        (_disturb_weight, "training"),
        (_disturb_version, "training"),
        (_disturb_threads, "threads"),
        (_disturb_output, "printed"),
    ],
)
def test_a_probe_that_disturbs_is_found_out(monkeypatch: pytest.MonkeyPatch, disturbance: Any, what: str) -> None:
    def measure(view: Any, state: dict[str, Any]) -> Iterator[Reading]:
        disturbance(view)
        yield Reading("clumsy", 0.0)

    clumsy = Probe("clumsy", Moment.GRADIENT, (SeriesSpec("clumsy"),), measure, "disturbs")
    monkeypatch.setattr(recording_module, "chosen_probes", lambda names: [clumsy])
    threads = torch.get_num_threads()
    try:
        with pytest.raises(AssertionError, match=f"differs when recorded.*{what}"):
            check_changes_nothing(_training)
    finally:
        torch.set_num_threads(threads)


def test_a_recording_that_saw_nothing_does_not_pass() -> None:
    with pytest.raises(AssertionError, match="holds no loss"):
        check_changes_nothing(lambda: iter([torch.ones(2)]))


def test_functions_of_torch_stay_the_objects_that_they_are(tmp_path: Path) -> None:
    held = {name: getattr(F, name) for name in ("cross_entropy", "mse_loss", "kl_div")}
    with record(run=tmp_path / "run"):
        inside = pickle.dumps(F.cross_entropy)
        assert all(getattr(F, name) is function for name, function in held.items())
        assert pickle.loads(inside) is held["cross_entropy"]
    assert pickle.loads(inside) is F.cross_entropy


def test_imported_names_are_heard(tmp_path: Path) -> None:
    cross_entropy = F.cross_entropy
    model = zoo.perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with record(model, optimizer, run=tmp_path / "run", budget=1.0):
        for _ in range(3):
            x, y = zoo.digits()
            cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    with open_run(tmp_path / "run") as run:
        assert len(run.series("accuracy").steps) == 3


def _few_steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int = 4) -> None:
    for _ in range(count):
        x, y = zoo.digits()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.mark.parametrize("explicit", [False, True])
def test_what_the_user_deletes_is_freed_during_the_recording(tmp_path: Path, explicit: bool) -> None:
    model = zoo.perceptron()
    optimizer = torch.optim.Adam(model.parameters())
    given = {"model": model, "optimizer": optimizer} if explicit else {}
    with record(run=tmp_path / "run", budget=1.0, probes="all", **given):
        given.clear()
        _few_steps(model, optimizer)
        alive = [weakref.ref(thing) for thing in (model, optimizer, model[0], model[0].weight)]
        del model, optimizer
        gc.collect()
        assert [reference() for reference in alive] == [None] * 4


def test_nothing_is_held_after_the_recording(tmp_path: Path) -> None:
    model = zoo.perceptron()
    optimizer = torch.optim.Adam(model.parameters())
    with record(run=tmp_path / "run", budget=1.0, probes="all") as recording:
        _few_steps(model, optimizer)
    alive = [weakref.ref(thing) for thing in (model, optimizer, model[0].weight)]
    session = weakref.ref(recording._session)
    del model, optimizer, recording
    gc.collect()
    assert [reference() for reference in alive] == [None] * 3
    assert session() is None


def test_memory_stays_flat(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    # Each new input is an example of its own, of which something must be kept: see test_examples_kept.
    probes = [
        name for name, probe in available_probes().items() if name != "examples" and "examples" not in probe.needs
    ]
    gc.collect()
    gc.disable()
    try:
        with record(run=tmp_path / "run", budget=1.0, probes=probes) as recording:
            _few_steps(model, optimizer, 200)
            recording._writer.flush()
            gc.collect()
            tracemalloc.start()
            _few_steps(model, optimizer, 2000)
            recording._writer.flush()
            grown, _ = tracemalloc.get_traced_memory()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
    finally:
        gc.set_debug(0)
        tracemalloc.stop()
        gc.enable()
    garbage = gc.garbage[:]
    gc.garbage.clear()
    # What torch leaves behind itself when it maps over containers is small and holds no tensors.
    ours = [x for x in garbage if isinstance(x, torch.Tensor | FrameType) or "separatrix" in type(x).__module__]
    assert ours == [], "references in a cycle"
    assert len(garbage) < 5000
    assert grown < 1_000_000


def test_losses_of_a_network_that_never_steps_do_not_pile_up() -> None:
    """A judge that is never trained receives gradients from the generator's loss for ever."""
    judge = torch.nn.Linear(2, 1)
    track = Track(torch.optim.SGD(judge.parameters(), lr=0.1))
    for _ in range(5000):
        track.add(Term(0.5))
    assert len(track.pending) <= 1001
    assert sum(float(term.value) for term in track.take_terms()[0]) == 2500.0


def test_local_variables_that_the_user_holds_stay_as_they_are(tmp_path: Path) -> None:
    def train(width: int) -> dict[str, object]:
        arguments = locals()
        model = torch.nn.Linear(6, width)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        _few_steps(model, optimizer)
        return arguments

    with record(run=tmp_path / "run", budget=1.0):
        assert train(3)["width"] == 3
