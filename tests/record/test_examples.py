"""Every loss recorded of a single example is that example's own, however its batch was fetched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.record.following import (
    CLASSES,
    COUNT,
    Pass,
    Truth,
    compare,
    data,
    follow,
    network,
    reasons,
    shuffled,
)
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, Subset, TensorDataset, WeightedRandomSampler

import separatrix
from separatrix.record import record
from separatrix.runs import open_run


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether a pass is left out for want of time is not the question here.
    monkeypatch.setattr("separatrix.record.budget._CREDIT_SECONDS", 1e6)
    torch.set_num_threads(1)
    torch.manual_seed(0)


def dataset() -> TensorDataset:
    return TensorDataset(*data())


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(dataset(), **{"batch_size": 10, "shuffle": True, **options})


LOADERS = {
    "shuffled": {},
    "in order": {"shuffle": False},
    "drop_last": {"drop_last": True},
    "batch_sampler": {
        "batch_size": 1,
        "shuffle": False,
        "batch_sampler": BatchSampler(RandomSampler(range(COUNT)), 7, False),
    },
    "one at a time": {"batch_size": 1},
    "all at once": {"batch_size": COUNT},
    "no batches": {
        "batch_size": None,
        "shuffle": False,
        "sampler": BatchSampler(RandomSampler(range(COUNT)), 9, False),
    },
    "forked workers": {"num_workers": 2, "multiprocessing_context": "fork"},
    "spawned persistent workers": {
        "num_workers": 2,
        "multiprocessing_context": "spawn",
        "persistent_workers": True,
        "prefetch_factor": 3,
    },
}


@pytest.mark.parametrize("options", LOADERS.values(), ids=LOADERS)
def test_a_loader(options: dict[str, Any], tmp_path: Path) -> None:
    if "batch_sampler" in options:
        batches = DataLoader(dataset(), batch_sampler=options["batch_sampler"])
    else:
        batches = loader(**options)
    truth = follow(tmp_path / "run", [batches] * 3)
    compare(tmp_path / "run", truth)
    assert reasons(tmp_path / "run") == []


def test_subsets_of_subsets_lead_to_the_dataset(tmp_path: Path) -> None:
    whole = dataset()
    odd = Subset(whole, range(1, COUNT, 2))
    few = Subset(odd, torch.randperm(len(odd))[:15].tolist())
    truth = follow(tmp_path / "run", [DataLoader(few, batch_size=4, shuffle=True)] * 2)
    compare(tmp_path / "run", truth)
    seen = {int(i) for i in separatrix.open(tmp_path / "run")["example_loss"].example.values}
    assert seen == {odd.indices[i] for i in few.indices}


def test_drawing_with_replacement_keeps_the_last_value(tmp_path: Path) -> None:
    sampler = WeightedRandomSampler(torch.rand(COUNT), COUNT, replacement=True)
    truth = follow(tmp_path / "run", [loader(shuffle=False, sampler=sampler, batch_size=5)] * 3)
    assert all(np.isnan(each["example_loss"]).any() for each in truth.passes)
    compare(tmp_path / "run", truth)


def test_an_endless_sampler_has_passes_as_long_as_the_dataset(tmp_path: Path) -> None:
    sampler = RandomSampler(range(COUNT), replacement=True, num_samples=10 * COUNT)
    batches = iter(loader(shuffle=False, sampler=sampler, batch_size=11))
    follow(tmp_path / "run", [(next(batches) for _ in range(20))])
    with open_run(tmp_path / "run") as run:
        # Before batch 5, 55 examples were drawn: more than the dataset's 47. Before batch 9, 99 of twice 47; and so on.
        assert run.series("example_loss").steps.tolist() == [5, 9, 13, 18, 20]


def test_a_dataset_made_again_for_every_pass_is_the_same(tmp_path: Path) -> None:
    passes = (DataLoader(dataset(), batch_size=10, shuffle=True) for _ in range(3))
    compare(tmp_path / "run", follow(tmp_path / "run", passes))


def test_batches_fetched_ahead_and_trained_in_another_order(tmp_path: Path) -> None:
    x, _ = data()
    alike = TensorDataset(x, torch.ones(COUNT, dtype=torch.long))

    def ahead() -> Iterator[Any]:
        batches = list(DataLoader(alike, batch_size=5, shuffle=True))
        yield from (batches[i] for i in torch.randperm(len(batches)).tolist())

    # All targets are equal: only their identity tells the batches apart.
    truth = follow(tmp_path / "run", [ahead()])
    compare(tmp_path / "run", truth)


def test_equal_targets_that_were_copied_are_not_told_apart(tmp_path: Path) -> None:
    x, _ = data()
    alike = TensorDataset(x, torch.ones(COUNT, dtype=torch.long))

    def ahead() -> Iterator[Any]:
        batches = list(DataLoader(alike, batch_size=5, shuffle=True))
        yield from ((x, y.clone()) for x, y in batches if len(y) == 5)

    follow(tmp_path / "run", [ahead()])
    with open_run(tmp_path / "run") as run:
        assert "example_loss" not in run
    assert reasons(tmp_path / "run") == ["several batches fetched before have the targets of the loss"]


@pytest.mark.parametrize("change", [torch.clone, lambda y: F.one_hot(y, CLASSES).float(), lambda y: y.int().long()])
def test_targets_that_were_copied_are_told_by_their_values(change: Any, tmp_path: Path) -> None:
    truth = follow(tmp_path / "run", [loader()] * 2, loss=lambda outputs, y: F.cross_entropy(outputs, change(y)))
    compare(tmp_path / "run", truth)


def test_an_evaluation_in_between_is_no_training(tmp_path: Path) -> None:
    batches, other = loader(), DataLoader(TensorDataset(*data(seed=9)), batch_size=10)
    model = network()

    def evaluate(recording: Any, step: int) -> None:
        if step % 2:
            with torch.no_grad():
                for x, y in other:
                    F.cross_entropy(model(x), y)
        for x, y in other:
            with torch.no_grad():
                F.cross_entropy(model(x), y)

    truth = follow(tmp_path / "run", [batches] * 2, each=evaluate)
    compare(tmp_path / "run", truth)
    assert reasons(tmp_path / "run") == []


def test_accumulated_gradients(tmp_path: Path) -> None:
    compare(tmp_path / "run", follow(tmp_path / "run", [loader()] * 4, accumulate=5))


def test_a_batch_cut_into_parts(tmp_path: Path) -> None:
    def parts() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for x, y in loader():
            yield from zip(x.split(4), y.split(4), strict=True)

    compare(tmp_path / "run", follow(tmp_path / "run", [parts(), parts()]))


def test_two_loaders_side_by_side(tmp_path: Path) -> None:
    one, two = dataset(), TensorDataset(*data(seed=4))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    truth, other = Truth(), Truth()
    with record(model, optimizer, run=tmp_path / "run", probes="default,examples", budget=1.0):
        for _ in range(2):
            truth.begin()
            other.begin()
            pairs = zip(DataLoader(one, 8, shuffle=True), DataLoader(two, 8, shuffle=True), strict=True)
            for (x, y), (u, v) in pairs:
                first, second = model(x), model(u)
                (F.cross_entropy(first, y) + 0.5 * F.cross_entropy(second, v)).backward()
                optimizer.step()
                truth.note(x, first, y)
                other.note(u, second, v)
    with open_run(tmp_path / "run") as run:
        losses = run["example_loss"]
        assert losses.sizes == {"step": 2, "example": 2 * COUNT}
        for prefix, each in (("", truth), ("2/", other)):
            own = losses.sel(example=[f"{prefix}{i}" for i in range(COUNT)]).values
            np.testing.assert_allclose(own, [p["example_loss"] for p in each.passes], rtol=1e-5, atol=1e-6)


def test_one_loader_after_another(tmp_path: Path) -> None:
    one, two = dataset(), TensorDataset(*data(seed=4))
    loaders = [DataLoader(d, batch_size=10, shuffle=True) for d in (one, one, two, two)]
    truth = follow(tmp_path / "run", loaders)
    with open_run(tmp_path / "run") as run:
        losses = run["example_loss"]
        assert losses.step.values.tolist() == truth.steps == [5, 10, 15, 20]
        for prefix, rows in (("", slice(0, 2)), ("2/", slice(2, 4))):
            own = losses.sel(example=[f"{prefix}{i}" for i in range(COUNT)]).values
            assert np.isfinite(own).any(axis=1).tolist() == [not prefix, not prefix, bool(prefix), bool(prefix)]
            expected = [p["example_loss"] for p in truth.passes[rows]]
            np.testing.assert_allclose(own[rows], expected, rtol=1e-5, atol=1e-6)


def mixed(batches: Pass, both: bool) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for x, y in batches:
        order = torch.randperm(len(x))
        soft = 0.7 * F.one_hot(y, CLASSES) + 0.3 * F.one_hot(y[order], CLASSES)
        yield 0.7 * x + 0.3 * x[order], (torch.stack([y, y[order]]) if both else soft)


@pytest.mark.parametrize("both", [False, True], ids=["soft targets", "two losses"])
def test_mixed_examples_have_no_rows(both: bool, tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with record(model, optimizer, run=tmp_path / "run", probes="default,examples", budget=1.0):
        for x, y in mixed(loader(), both):
            outputs = model(x)
            if both:
                loss = 0.7 * F.cross_entropy(outputs, y[0]) + 0.3 * F.cross_entropy(outputs, y[1])
            else:
                loss = F.cross_entropy(outputs, y)
            loss.backward()
            optimizer.step()
    with open_run(tmp_path / "run") as run:
        assert "example_loss" not in run
        assert "loss" in run
    found = reasons(tmp_path / "run")
    assert found[0].startswith("several losses" if both else "the targets of the loss are not those of a batch")


def test_the_first_target_of_a_mixture_is_not_taken_for_the_example(tmp_path: Path) -> None:
    """As mixup is usually written: the batch's own targets first, the permuted ones second."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with record(model, optimizer, run=tmp_path / "run", probes="default,examples", budget=1.0):
        for x, y in loader():
            order = torch.randperm(len(x))
            outputs = model(0.7 * x + 0.3 * x[order])
            (0.7 * F.cross_entropy(outputs, y) + 0.3 * F.cross_entropy(outputs, y[order])).backward()
            optimizer.step()
    with open_run(tmp_path / "run") as run:
        assert "example_loss" not in run


def test_two_heads_have_no_single_loss(tmp_path: Path) -> None:
    x, y = data()
    model, head = network(), nn.Linear(5, CLASSES)
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.01)
    with record(run=tmp_path / "run", probes="default,examples", budget=1.0):
        for a, b, c in DataLoader(TensorDataset(x, y, 2 - y), batch_size=10):
            (F.cross_entropy(model(a), b) + F.cross_entropy(head(a), c)).backward()
            optimizer.step()
    with open_run(tmp_path / "run") as run:
        assert "example_loss" not in run
    assert reasons(tmp_path / "run") == ["an example has several losses in one step"]


def test_a_discriminators_ones_are_nobodys_labels(tmp_path: Path) -> None:
    x, _ = data()
    model = nn.Sequential(network(), nn.Linear(CLASSES, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    real = TensorDataset(x, torch.ones(COUNT, dtype=torch.long))
    with record(run=tmp_path / "run", probes="default,examples", budget=1.0):
        for a, _ in DataLoader(real, batch_size=10):
            outputs = model(a).squeeze(1)
            F.binary_cross_entropy_with_logits(outputs, torch.ones(len(a))).backward()
            optimizer.step()
    with open_run(tmp_path / "run") as run:
        assert "example_loss" not in run


def test_closures_show_an_example_once_a_step(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    truth = Truth()
    with record(model, optimizer, run=tmp_path / "run", probes="default,examples", budget=1.0):
        for _ in range(2):
            truth.begin()
            for x, y in loader():
                truth.note(x, model(x), y)

                def closure(x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
                    optimizer.zero_grad()
                    loss = F.cross_entropy(model(x), y)
                    loss.backward()
                    return loss

                optimizer.step(closure)
            truth.steps[-1] = len(truth.steps) * 5
    compare(tmp_path / "run", truth)


def test_without_a_loader_an_example_is_known_by_its_bytes(tmp_path: Path) -> None:
    import hashlib

    x, y = data()
    truth = follow(tmp_path / "run", shuffled(x, y, 10, 3))

    def label(index: int) -> str:
        return hashlib.blake2b(x[index].numpy().tobytes(), digest_size=8).hexdigest()

    compare(tmp_path / "run", truth, label)
    assert reasons(tmp_path / "run") == []


def test_full_batches_without_a_loader(tmp_path: Path) -> None:
    x, y = data()
    follow(tmp_path / "run", [[(x, y)] * 5])
    with open_run(tmp_path / "run") as run:
        assert run.series("example_loss").steps.tolist() == [1, 2, 3, 4, 5]


def indexed_passes(pairs: Any, size: int) -> Iterator[Pass]:
    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for where in torch.randperm(COUNT).split(size):
            items = [pairs[i] for i in where.tolist()]
            yield torch.stack([x for x, _ in items]), torch.stack([torch.as_tensor(y) for _, y in items])

    while True:
        yield batches()


@pytest.mark.parametrize("size", [1, 6])
@pytest.mark.parametrize("plain", [False, True], ids=["tensors", "integers"])
def test_indexed_items(size: int, plain: bool, tmp_path: Path) -> None:
    x, y = data()
    pairs = separatrix.indexed([(a, int(b)) for a, b in zip(x, y, strict=True)] if plain else TensorDataset(x, y))
    passes = indexed_passes(pairs, size)
    truth = follow(tmp_path / "run", [next(passes) for _ in range(3)])
    compare(tmp_path / "run", truth)
    assert reasons(tmp_path / "run") == []


def test_indexed_slices_and_loaders(tmp_path: Path) -> None:
    pairs = separatrix.indexed(dataset())
    assert len(pairs) == COUNT and pairs.tensors[0].shape == (COUNT, 5)
    order = [torch.randperm(COUNT) for _ in range(2)]
    truth = follow(tmp_path / "slices", ((pairs[w] for w in o.split(10)) for o in order))
    compare(tmp_path / "slices", truth)
    loaders = [DataLoader(pairs, batch_size=10, shuffle=True, num_workers=workers) for workers in (0, 1)]
    compare(tmp_path / "loaders", follow(tmp_path / "loaders", loaders))


def test_ids_that_are_given(tmp_path: Path) -> None:
    x, y = data()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    truth = Truth()
    with record(model, optimizer, run=tmp_path / "run", probes="default,examples", budget=1.0) as recording:
        for _ in range(2):
            truth.begin()
            for where in torch.randperm(COUNT).split(10):
                outputs = model(x[where] + 0.0)
                with recording.examples([f"picture-{i}" for i in where]):
                    F.cross_entropy(outputs, y[where]).backward()
                optimizer.step()
                truth.note(x[where], outputs, y[where])
            truth.steps[-1] = len(truth.steps) * 5
    compare(tmp_path / "run", truth, lambda index: f"picture-{index}")


def test_ids_without_the_probe_are_said_to_be_of_no_use(tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with record(model, optimizer, run=tmp_path / "run", budget=1.0) as recording, recording.examples([1]):
        F.cross_entropy(model(torch.randn(1, 5)), torch.tensor([1])).backward()
        optimizer.step()
    with open_run(tmp_path / "run") as run:
        assert [e.kind for e in run.events if "probes='default,examples'" in e.message] == ["unseen"]


def test_a_compiled_model(tmp_path: Path) -> None:
    model = network()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    truth = Truth()
    with record(run=tmp_path / "run", probes="default,examples", budget=1.0):
        for _ in range(2):
            truth.begin()
            for x, y in loader():
                optimizer.zero_grad()
                outputs = compiled(x)
                F.cross_entropy(outputs, y).backward()
                truth.note(x, outputs, y)
                optimizer.step()
            truth.steps[-1] = len(truth.steps) * 5
    compare(tmp_path / "run", truth)


def test_loaders_that_do_not_keep_order_and_iterable_datasets(tmp_path: Path) -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(zip(*data(), strict=True))

    follow(tmp_path / "stream", [DataLoader(Stream(), batch_size=10)] * 2)
    with open_run(tmp_path / "stream") as run:
        # They have no indices, but bytes.
        assert run.series("example_loss").steps.tolist() == [5, 10]
        assert {len(label) for label in run.series("example_loss").coords["example"]} == {16}
    follow(tmp_path / "order", [loader(num_workers=2, in_order=False)])
    assert "in_order=False" in reasons(tmp_path / "order")[0]


def test_a_batch_that_fails_in_a_worker_does_not_shift_the_others(tmp_path: Path) -> None:
    class Broken(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            if index == 13:
                raise ValueError("unreadable")
            return super().__getitem__(index)

    broken = Broken(*data())

    def survivors() -> Iterator[Any]:
        batches = iter(DataLoader(broken, batch_size=5, shuffle=True, num_workers=2))
        while True:
            try:
                yield next(batches)
            except ValueError:
                continue
            except StopIteration:
                return

    compare(tmp_path / "run", follow(tmp_path / "run", [survivors(), survivors()]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pause_in_the_middle_of_an_iteration_does_not_shift_the_batches(workers: int, tmp_path: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    truth = Truth()
    truth.begin()
    batches = iter(loader(batch_size=2, num_workers=workers))
    # The recording begins in the middle of the iteration, too.
    next(batches)
    with record(model, optimizer, run=tmp_path / "run", probes="default,examples", budget=1.0) as recording:
        for number, (x, y) in enumerate(batches):
            outputs = model(x)
            F.cross_entropy(outputs, y).backward()
            optimizer.step()
            # What workers had been asked for while nobody listened is not known.
            if 5 < number < 9 or number > 16 or (not workers and number != 10):
                truth.note(x, outputs, y)
            if number == 9:
                with recording.paused():
                    next(batches)
    with open_run(tmp_path / "run") as run:
        found = run.series("example_loss")
        for label, value in zip(found.coords["example"], found.values[0], strict=True):
            expected = truth.passes[0]["example_loss"][int(label)]
            assert np.isnan(expected) or value == pytest.approx(expected, rel=1e-5)
        known = {int(label) for label in found.coords["example"]}
        assert known >= set(np.flatnonzero(~np.isnan(truth.passes[0]["example_loss"])).tolist())


def test_a_trainer_that_fetches_ahead_and_accumulates(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    x, y = data()
    truth = Truth()

    class Rows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return COUNT

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {"x": x[index], "labels": y[index]}

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = network()

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            outputs = self.layers(x)
            if torch.is_grad_enabled():
                if not truth.passes or not np.isnan(truth.passes[-1]["example_loss"]).any():
                    truth.begin()
                truth.note(x, outputs, labels)
            return {"loss": nn.CrossEntropyLoss()(outputs.view(-1, CLASSES), labels.view(-1)), "logits": outputs}

    arguments = transformers.TrainingArguments(
        str(tmp_path / "trainer"),
        num_train_epochs=2,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=3,
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    # Snapshots would call the model once more, and so the truth's notes.
    with record(run=tmp_path / "run", probes="examples", budget=1.0):
        transformers.Trainer(Classifier(), arguments, train_dataset=Rows(), eval_dataset=Rows()).train()
    truth.steps = [4, 8]
    compare(tmp_path / "run", truth)
    assert reasons(tmp_path / "run") == []
