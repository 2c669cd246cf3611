"""Snapshots: the replay gives the loss and the gradient of the training itself, or says in one event why it cannot."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.unhurried import unhurried
from torch import nn

import separatrix
from separatrix.record import budget, recording
from separatrix.record.replay import ReplayError, find_link
from separatrix.record.snapshot import Snapshot, snapshot_of
from separatrix.record.snapshot_schedule import Schedule
from separatrix.runs.probe import Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec


@pytest.fixture
def snapshots(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, torch.Tensor], float]]:
    """(step, gradient by label, loss) of every snapshot taken by a recording with the probe "kept"."""
    taken: list[tuple[int, dict[str, torch.Tensor], float]] = []

    def measure(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
        gradients = dict(zip(snapshot.parameters, snapshot.gradient, strict=True))
        taken.append((snapshot.step, {k: g.clone() for k, g in gradients.items()}, float(snapshot.loss())))
        yield Reading("kept_norm", torch.stack([g.norm() for g in snapshot.gradient]), labels=list(gradients))

    series = (SeriesSpec("kept_norm", ("parameter",)),)
    probe = Probe("kept", Moment.SNAPSHOT, series, measure, "keeps what the snapshot holds", default=False)
    # A loaded machine must not decide whether a snapshot is taken.
    unhurried(monkeypatch)
    own = recording.available_probes()
    monkeypatch.setattr(recording, "available_probes", lambda: {**own, "kept": probe})
    return taken


def perceptron(dtype: torch.dtype = torch.float64) -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(12, 4)
    ).to(dtype)


class Characters(nn.Module):
    """A transformer layer with fused attention and dropout over 11 characters."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2, batch_first=True)
        self.head = nn.Linear(8, 11)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(tokens)))


class Recurrent(nn.Module):
    """A GRU that judges by its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cell(x)[0])


class OwnLoss(nn.Module):
    """A model that returns its loss and something else."""

    def __init__(self) -> None:
        super().__init__()
        self.body = perceptron()

    def forward(self, x: torch.Tensor, *, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.body(x)
        return {
            "logits": logits.detach(),
            "loss": (logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]).mean(),
        }


def rows(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(16, 6, dtype=dtype), torch.randint(0, 4, (16,))


def text() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(0, 11, (4, 7)), torch.randint(0, 11, (4, 7))


def sequences() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(16, 5, 6, dtype=torch.float64), torch.randint(0, 4, (16,))


class Padded(Characters):
    """The layer in evaluation with padding, which torch leaves out where no gradient is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        padding = torch.arange(tokens.shape[1]) > 4
        return self.head(self.layer(self.embed(tokens), src_key_padding_mask=padding.expand(tokens.shape)))


def hardest(losses: torch.Tensor) -> torch.Tensor:
    chosen = losses.detach().argsort(descending=True)[: len(losses) // 2]
    return torch.where(torch.isin(torch.arange(len(losses)), chosen), losses, 0.0).sum() / len(chosen)


def beside_a_metric(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    loss = F.cross_entropy(out, y)
    F.mse_loss(out.softmax(1), F.one_hot(y, 4).to(out.dtype))
    return loss


Loss = Callable[[Any, torch.Tensor], torch.Tensor]
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], Loss]] = {
    "cross-entropy": (perceptron, rows, F.cross_entropy),
    "a module's loss": (perceptron, rows, nn.CrossEntropyLoss(label_smoothing=0.1)),
    "divided": (perceptron, rows, lambda out, y: F.cross_entropy(out, y) / 4),
    "summed": (perceptron, rows, lambda out, y: F.cross_entropy(out, y, reduction="sum")),
    "reduced by hand": (perceptron, rows, lambda out, y: F.cross_entropy(out, y, reduction="none").mean()),
    "reduced by hand, by a number": (
        perceptron,
        rows,
        lambda out, y: (F.cross_entropy(out, y, reduction="none") * 0.5 / torch.tensor(3.0)).mean() * 2,
    ),
    "weighted examples": (
        perceptron,
        rows,
        lambda out, y: (F.cross_entropy(out, y, reduction="none") * (1.0 + y)).mean() / 3,
    ),
    "examples left out": (perceptron, rows, lambda out, y: F.cross_entropy(out, y, reduction="none")[y > 0].mean()),
    "a dot product": (
        perceptron,
        rows,
        lambda out, y: F.cross_entropy(out, y, reduction="none").dot(y.to(out.dtype) / len(y)),
    ),
    "the hardest half": (perceptron, rows, lambda out, y: hardest(F.cross_entropy(out, y, reduction="none"))),
    "weighted by how hard they are": (
        perceptron,
        rows,
        lambda out, y: ((o := F.cross_entropy(out, y, reduction="none")) * (1 - o.detach().neg().exp()) ** 2).sum() / 9,
    ),
    "characters, masked": (
        Characters,
        text,
        lambda out, y: (F.cross_entropy(out.mT, y, reduction="none") * (y > 2)).sum() / (y > 2).sum(),
    ),
    "entries weighted": (
        perceptron,
        rows,
        lambda out, y: (F.mse_loss(out, F.one_hot(y, 4).to(out.dtype), reduction="none").mean(1) * y).mean(),
    ),
    "beside a metric": (perceptron, rows, lambda out, y: beside_a_metric(out, y)),
    "log-softmax": (perceptron, rows, lambda out, y: F.nll_loss(F.log_softmax(out, 1), y)),
    "mse": (perceptron, rows, lambda out, y: F.mse_loss(out, F.one_hot(y, 4).to(out.dtype))),
    "characters, flat": (Characters, text, lambda out, y: F.cross_entropy(out.reshape(-1, 11), y.reshape(-1))),
    "characters, classes second": (Characters, text, lambda out, y: F.cross_entropy(out.transpose(1, 2), y)),
    "characters, shifted": (
        Characters,
        text,
        lambda out, y: F.cross_entropy(out[:, :-1].reshape(-1, 11), y[:, 1:].reshape(-1)),
    ),
    "padded, in evaluation": (lambda: Padded().double().eval(), text, lambda out, y: F.cross_entropy(out.mT, y)),
    "last position": (lambda: Recurrent().double(), sequences, lambda out, y: F.cross_entropy(out[:, -1], y)),
}


def train(model: nn.Module, data: Callable[[], Any], loss: Loss, run: Path, steps: int = 6) -> dict[int, Any]:
    """Train a few recorded steps; the gradient by name and the loss of each step."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    seen = {}
    with separatrix.record(model, optimizer, run=run, probes="kept", budget=1.0):
        for step in range(1, steps + 1):
            x, y = data()
            optimizer.zero_grad()
            value = loss(model(x), y)
            value.backward()
            seen[step] = {n: p.grad.clone() for n, p in model.named_parameters()}, value.item()
            optimizer.step()
    return seen


def assert_equal(snapshots: list[Any], seen: dict[int, Any], tolerance: float) -> None:
    assert snapshots
    for step, gradients, loss in snapshots:
        expected, value = seen[step]
        assert loss == pytest.approx(value, rel=tolerance)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            size = max(float(g.abs().max()) for g in expected.values())
            assert torch.allclose(
                gradient.to(expected[name].dtype), expected[name], rtol=tolerance, atol=tolerance * size
            )


@pytest.mark.parametrize("case", CASES)
def test_a_replay_has_the_trainings_loss_and_gradient(case: str, snapshots: list[Any], tmp_path: Path) -> None:
    torch.manual_seed(3)
    make, data, loss = CASES[case]
    model = make()
    seen = train(model, data, loss, tmp_path / "run")
    double = next(model.parameters()).dtype == torch.float64
    assert_equal(snapshots, seen, 1e-10 if double else 2e-5)


def test_a_model_that_returns_its_loss(snapshots: list[Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = OwnLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = {}
    with separatrix.record(run=tmp_path / "run", probes="kept", budget=1.0):
        for step in range(1, 6):
            x, y = rows()
            optimizer.zero_grad()
            loss = model(x, labels=y)["loss"] / 2
            loss.backward()
            seen[step] = {n: p.grad.clone() for n, p in model.named_parameters()}, loss.item()
            optimizer.step()
    assert_equal(snapshots, seen, 1e-10)


@pytest.mark.parametrize("passes", [3, 4])
def test_the_first_of_accumulated_batches_stands_for_all(passes: int, snapshots: list[Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = {}
    with separatrix.record(run=tmp_path / "run", probes="kept", budget=1.0):
        for step in range(1, 5):
            optimizer.zero_grad()
            for part in range(passes):
                x, y = rows()
                loss = F.cross_entropy(model(x), y) / passes
                loss.backward()
                if part == 0:
                    first = {n: passes * p.grad for n, p in model.named_parameters()}
                    seen[step] = first, passes * loss.item()
            optimizer.step()
    assert_equal(snapshots, seen, 1e-10)


def test_different_losses_of_a_step_are_not_taken_for_one_another(snapshots: list[Any], tmp_path: Path) -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with separatrix.record(run=tmp_path / "run", probes="kept", budget=1.0):
        for _ in range(4):
            optimizer.zero_grad()
            x, y = rows()
            F.cross_entropy(model(x), y).backward()
            F.mse_loss(model(x), torch.zeros(16, 4, dtype=torch.float64)).backward()
            optimizer.step()
    said = [e for e in separatrix.open(tmp_path / "run").events if "not the parts of one mean" in e.message]
    assert len(said) == 1 and not snapshots


def test_closures_and_loops_without_an_optimizer(snapshots: list[Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = perceptron()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    seen: dict[int, Any] = {}
    with separatrix.record(run=tmp_path / "closure", probes="kept", budget=1.0):
        for step in range(1, 4):
            x, y = rows()

            def closure(x: torch.Tensor = x, y: torch.Tensor = y, step: int = step) -> torch.Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                seen.setdefault(step, ({n: p.grad.clone() for n, p in model.named_parameters()}, loss.item()))
                return loss

            optimizer.step(closure)
    assert_equal(snapshots, seen, 1e-10)
    snapshots.clear()
    seen.clear()
    bare = perceptron()
    with separatrix.record(bare, run=tmp_path / "bare", probes="kept", budget=1.0):
        for step in range(1, 6):
            x, y = rows()
            loss = F.cross_entropy(bare(x), y)
            loss.backward()
            seen[step] = {n: p.grad.clone() for n, p in bare.named_parameters()}, loss.item()
            with torch.no_grad():
                for p in bare.parameters():
                    p -= 0.1 * p.grad
                    p.grad = None
    assert_equal(snapshots, seen, 1e-10)


@pytest.mark.parametrize("how", ["autocast", "bfloat16 weights"])
def test_half_precision_is_replayed_in_float32(how: str, snapshots: list[Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    half = how != "autocast"
    model = perceptron(torch.bfloat16 if half else torch.float32)
    reference = perceptron(torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with separatrix.record(run=tmp_path / "run", probes="kept", budget=1.0):
        for _ in range(4):
            x, y = rows(torch.bfloat16 if half else torch.float32)
            reference.load_state_dict(model.state_dict())
            optimizer.zero_grad()
            state = torch.get_rng_state()
            with torch.autocast("cpu", torch.bfloat16, enabled=not half):
                loss = F.cross_entropy(model(x), y)
            loss.backward()
            after = torch.get_rng_state()
            torch.set_rng_state(state)
            exact = torch.autograd.grad(F.cross_entropy(reference(x.float()), y), list(reference.parameters()))
            torch.set_rng_state(after)
            taken = len(snapshots)
            optimizer.step()
            if len(snapshots) > taken:
                for gradient, expected in zip(snapshots[-1][1].values(), exact, strict=True):
                    assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-6)
    assert snapshots


REFUSED: dict[str, tuple[Callable[[torch.Tensor, nn.Module, torch.Tensor], torch.Tensor], str]] = {
    "a sum of two": (lambda x, m, y: F.cross_entropy(o := m(x), y) + o.pow(2).mean(), "more than one cross_entropy"),
    "weights that learn": (
        lambda x, m, y: (F.cross_entropy(o := m(x), y, reduction="none") * o[:, 0].sigmoid()).mean(),
        "more than one cross_entropy",
    ),
    "powers of losses": (
        lambda x, m, y: F.cross_entropy(m(x), y, reduction="none").square().mean(),
        "more than one cross_entropy",
    ),
    "weighted and shifted": (
        lambda x, m, y: (F.cross_entropy(m(x), y, reduction="none") * y).mean() + 1.0,
        "more than one cross_entropy",
    ),
    "a reciprocal": (lambda x, m, y: 1.0 / F.cross_entropy(m(x), y), "more than one cross_entropy"),
    "not finite": (lambda x, m, y: F.mse_loss(m(x) / 0.0, x[:, :4]), "numbers that are not finite"),
    "written by hand": (lambda x, m, y: m(x).pow(2).mean(), "none of torch's loss functions"),
    "called in parts": (lambda x, m, y: F.cross_entropy(m[4](m[0](x)), y), "not called as a whole"),
    "a column": (
        lambda x, m, y: F.binary_cross_entropy_with_logits(m(x)[:, :1], y[:, None] % 2.0),
        "no simple part of the output",
    ),
    "two calls": (lambda x, m, y: F.mse_loss(m(x), m(x + 1.0)), "no simple part of the output"),
    "a target that learns": (lambda x, m, y: F.mse_loss(o := m(x), o * 0.5), "depend on the model"),
}


def test_a_loss_of_zero_is_replayed_where_nothing_can_have_scaled_it(snapshots: list[Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    train(perceptron(), rows, lambda out, y: F.mse_loss(out, out.detach()), tmp_path / "plain")
    assert snapshots and all(loss == 0.0 for _, _, loss in snapshots)
    snapshots.clear()
    train(perceptron(), rows, lambda out, y: F.mse_loss(out, out.detach()) * 3, tmp_path / "scaled")
    events = [event.message for event in separatrix.open(tmp_path / "scaled").events]
    assert not snapshots and sum("exactly zero does not tell" in message for message in events) == 1


@pytest.mark.parametrize("weighted", [False, True])
def test_what_a_gradient_scaler_multiplies_by_is_no_part_of_the_loss(
    weighted: bool, snapshots: list[Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = perceptron(torch.float32)
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=1e-2), torch.amp.GradScaler("cpu", init_scale=1024.0)
    seen = {}
    with separatrix.record(model, optimizer, run=tmp_path / "run", probes="kept", budget=1.0):
        for step in range(1, 7):
            x, y = rows(torch.float32)
            optimizer.zero_grad()
            single = F.cross_entropy(model(x), y, reduction="none")
            loss = (single * y).mean() if weighted else single.mean()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            seen[step] = {n: p.grad.clone() for n, p in model.named_parameters()}, loss.item()
            scaler.step(optimizer)
            scaler.update()
    assert_equal(snapshots, seen, 2e-5)


def test_to_see_weights_runs_no_hook_of_the_training(snapshots: list[Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, fired = perceptron(), []

    def loss(out: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        single = F.cross_entropy(out, y, reduction="none")
        single.register_hook(lambda gradient: fired.append("single"))
        single.retain_grad()
        whole = (single * y).sum()
        whole.register_hook(lambda gradient: fired.append("whole"))
        return whole

    train(model, rows, loss, tmp_path / "run")
    assert snapshots and fired == ["whole", "single"] * 6


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_replayed_gives_one_event(case: str, snapshots: list[Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    loss, reason = REFUSED[case]
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with separatrix.record(model, optimizer, run=tmp_path / "run", probes="kept", budget=1.0):
        for _ in range(5):
            x, y = rows()
            optimizer.zero_grad()
            loss(x, model, y).backward()
            optimizer.step()
    run = separatrix.open(tmp_path / "run")
    said = [e for e in run.events if e.kind == "unseen" and "kept_norm" in e.data["series"]]
    assert len(said) == 1 and reason in said[0].message
    assert not snapshots and "kept_norm" not in run.names()


def test_a_replay_that_differs_is_not_used(snapshots: list[Any], tmp_path: Path) -> None:
    class Drifting(nn.Module):
        """Adds a number that a replay cannot know."""

        clock = itertools.count()

        def __init__(self) -> None:
            super().__init__()
            self.body = perceptron()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x) * (1.0 + next(Drifting.clock) / 10)

    torch.manual_seed(0)
    train(Drifting(), rows, F.cross_entropy, tmp_path / "run")
    said = [e for e in separatrix.open(tmp_path / "run").events if "the replayed loss is" in e.message]
    assert len(said) == 1 and not snapshots


def test_the_link_is_found_by_value() -> None:
    output = torch.randn(3, 5, 7)
    assert find_link((output,), output).name == "output"
    assert find_link({"a": output}, output.reshape(15, 7)).name == "output"
    assert find_link([output], output.transpose(1, 2)).name == "output, classes second"
    assert find_link(output, output[:, :-1].reshape(12, 7)).name == "all but the last position"
    with pytest.raises(ReplayError, match=r"shape \(3, 5\)"):
        find_link(output, output.sum(2))


def test_where_numbers_do_not_tell_only_a_reshaped_output_is_linked() -> None:
    head = nn.Linear(7, 7, bias=False)
    nn.init.zeros_(head.weight)
    output = head(torch.randn(3, 5, 7))  # all zero
    assert find_link(output, output).name == "output"
    assert find_link([output], output.view(15, 7).reshape(1, 15, 7)).name == "output"
    for given in (output / 0.07, output[:, -1], output.mean(1), output.transpose(1, 2)):
        with pytest.raises(ReplayError, match="cannot be told what was done to them"):
            find_link(output, given)
    equal = torch.randn(7).expand(3, 5, 7) * torch.ones((), requires_grad=True)  # the same at every position
    for given in (equal[:, -1], equal.amax(1)):
        with pytest.raises(ReplayError, match="cannot be told what was done to them"):
            find_link(equal, given)
    one = torch.randn(1, 5, 7)  # the first of one sequence is the whole
    assert find_link(one, one[-1]).name == "output"


def test_a_snapshot_without_a_recording() -> None:
    torch.manual_seed(0)
    model = perceptron().eval()
    x, y = rows()
    snapshot = snapshot_of(model, "cross_entropy", x, y)
    loss = F.cross_entropy(model(x), y)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    assert float(snapshot.loss()) == pytest.approx(loss.item(), rel=1e-12)
    for found, wanted in zip(snapshot.gradient, expected, strict=True):
        assert torch.allclose(found, wanted, rtol=1e-10)
    outputs, value = snapshot.evaluate()
    assert outputs is not None
    assert torch.allclose(snapshot.per_example_losses(outputs).mean(), value, rtol=1e-12)


def test_the_part_that_holds_every_parameter_is_replayed_under_its_labels(snapshots: list[Any], tmp_path: Path) -> None:
    class Holder(nn.Module):
        """Never called itself, as a LightningModule whose training step calls its network."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ModuleDict({"net": perceptron()})

    torch.manual_seed(0)
    holder = Holder()
    optimizer = torch.optim.SGD(holder.parameters(), lr=0.1)
    seen = {}
    with separatrix.record(holder, optimizer, run=tmp_path / "run", probes="kept", budget=1.0):
        for step in range(1, 4):
            x, y = rows()
            optimizer.zero_grad()
            loss = F.cross_entropy(holder.inner["net"](x), y)
            loss.backward()
            seen[step] = {n: p.grad.clone() for n, p in holder.named_parameters()}, loss.item()
            optimizer.step()
    assert_equal(snapshots, seen, 1e-10)


def test_a_loss_function_given_its_options_by_position(snapshots: list[Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64)
    seen = train(perceptron(), rows, lambda out, y: F.cross_entropy(out, y, weight), tmp_path / "run")
    assert_equal(snapshots, seen, 1e-10)
    snapshots.clear()
    seen = train(perceptron(), rows, lambda out, y: F.cross_entropy(input=out, target=y), tmp_path / "named")
    assert_equal(snapshots, seen, 1e-10)


def test_a_model_too_large_for_the_memory_budget_is_not_copied(snapshots: list[Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40_000), nn.Linear(40_000, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    copies = 2 * sum(p.numel() * p.element_size() for p in model.parameters())
    for share, taken in ((1e-5, 0), (1.0, 3)):
        snapshots.clear()
        run = tmp_path / f"{share}"
        with separatrix.record(model, optimizer, run=run, probes="kept", budget=1.0, memory_budget=share):
            for _ in range(3):
                optimizer.zero_grad()
                F.cross_entropy(model(torch.randn(5, 6)), torch.randint(0, 4, (5,))).backward()
                optimizer.step()
        said = [e.message for e in separatrix.open(run).events if "memory_budget" in e.message]
        assert len(snapshots) == taken
        assert len(said) == (0 if taken else 1)
        assert all(f"{copies / 1e6:.0f} MB" in message and "\n" not in message for message in said)


def test_parameters_trained_later_begin_where_they_are_first_seen(tmp_path: Path) -> None:
    """The second optimizer takes the count over: distances of its parameters start at its first snapshot."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    slow, fast = (torch.optim.SGD(model[i].parameters(), lr=0.1) for i in (0, 2))
    x, y = rows()
    at: list[torch.Tensor] = []
    with separatrix.record(model, (slow, fast), run=tmp_path / "run", probes="default,weight-travel", budget=1.0):
        for i in range(9):
            slow.zero_grad()
            fast.zero_grad()
            F.cross_entropy(model(x), y).backward()
            if i % 3 == 0:
                slow.step()
            at.append(model[2].weight.detach().clone())
            fast.step()
    found = separatrix.open(tmp_path / "run")
    assert not [event for event in found.events if event.kind == "probe-off"]
    distance = found["weight_distance"].sel(parameter="2.weight").dropna("step")
    first = int(distance["step"][0]) - 1
    for step, value in zip(distance["step"].values, distance.values, strict=True):
        expected = float((at[int(step) - 1] - at[first]).norm())
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_sparse_lookups_are_replayed_with_whole_gradients(snapshots: list[Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 6, sparse=True), nn.Flatten(), nn.Linear(18, 4)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = {}
    with separatrix.record(model, optimizer, run=tmp_path / "run", probes="kept,sharpness", budget=1.0):
        for step in range(1, 4):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(torch.randint(0, 20, (7, 3))), torch.randint(0, 4, (7,)))
            loss.backward()
            seen[step] = {n: p.grad.to_dense().clone() for n, p in model.named_parameters()}, loss.item()
            optimizer.step()
    assert model[0].sparse
    assert_equal(snapshots, seen, 1e-10)
    assert "sharpness" in separatrix.open(tmp_path / "run").names()


@pytest.mark.parametrize(
    ("put_by", "saved", "wanted", "paid"),
    [
        (200.0, 3.9, False, 0.0),
        (200.0, 4.0, True, 2.0),  # half of what is saved, so that the other half goes on being saved
        (200.0, 101.0, True, 101.0),
        # Out of reach: if the training goes on for as long as it did, the dear one is still not paid.
        (50.0, 1.9, False, 0.0),
        (50.0, 2.0, True, 2.0),
    ],
)
def test_cheap_probes_run_while_a_dear_one_is_saved_for(
    put_by: float, saved: float, wanted: bool, paid: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = (SeriesSpec("nothing"),)
    cheap = Probe("cheap", Moment.SNAPSHOT, series, lambda view, state: (), "cheap", priority=60)
    dear = Probe("dear", Moment.SNAPSHOT, series, lambda view, state: (), "dear", priority=30)
    allowance = budget.Budget(0.1)
    schedule = Schedule([cheap, dear], allowance)
    schedule.learn(gradient=1.0, fixed=1.0)
    for standing in schedule.standings:
        standing.last, standing.seconds = (0, 1.0) if standing.probe is cheap else (-1, 100.0)
    monkeypatch.setattr(allowance, "purse", lambda wanted=0.0, name="snapshots": saved)
    monkeypatch.setattr(allowance, "put_by", lambda name="snapshots": put_by)
    assert [standing.probe for standing in schedule.upcoming()] == [dear, cheap]
    assert schedule.plan(1) is wanted
    assert schedule.asleep_until(1) >= 2
    if wanted:
        for standing in schedule.standings:
            assert schedule.pays(standing, paid - standing.seconds - 1e-9)
            assert not schedule.pays(standing, paid - standing.seconds + 1e-9)
