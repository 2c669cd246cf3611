"""Every task: seeded, exact, apart from the global generators; each bad knob one clear error."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from separatrix.tasks import (
    Batch,
    Dataset,
    Digits,
    FashionMnist,
    GaussianMixture,
    Imbalanced,
    LinearTeacher,
    Parity,
    SourceText,
    Task,
    TaskError,
    TwoLayerTeacher,
    XorMixture,
    tasks,
)
from separatrix.tasks.fashion_mnist import installed

NAMES = sorted(tasks())
OF_FILES = {"digits", "fashion_mnist", "image_views", "imbalanced", "text"}
OF_TOKENS = {"group_arithmetic", "text", "token_cooccurrence"}
OF_REAL_NUMBERS = [name for name in NAMES if name not in OF_FILES | OF_TOKENS]


@pytest.fixture(params=NAMES)
def task(request: pytest.FixtureRequest) -> Task:
    if request.param == "fashion_mnist":
        if not installed():
            pytest.skip("Fashion-MNIST is not installed")
        return FashionMnist(limit=500)
    return tasks()[request.param]


def test_the_first_tasks_are_found() -> None:
    assert set(NAMES) >= OF_FILES | OF_TOKENS | {"gaussian_mixture", "linear_teacher", "parity", "two_layer_teacher"}
    assert all(type(member).__doc__ and member.source for member in tasks().values())


def test_equal_seeds_give_equal_samples_and_others_do_not(task: Task) -> None:
    one, again, other = task.sample(40, 3), dataclasses.replace(task).sample(40, 3), task.sample(40, 4)
    assert torch.equal(one.inputs, again.inputs) and torch.equal(one.targets, again.targets)
    assert not torch.equal(one.inputs, other.inputs)
    assert len(one.inputs) == len(one.targets) == 40
    stream = torch.Generator().manual_seed(3)
    assert torch.equal(task.sample(40, stream).inputs, one.inputs)
    assert not torch.equal(task.sample(40, stream).inputs, one.inputs)


def test_the_global_generators_are_not_used(task: Task) -> None:
    fresh = dataclasses.replace(task, seed=5)
    fresh.sample(3, 1)  # may import what seeds python's generator
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    fresh.sample(3, 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])


@pytest.mark.parametrize("name", OF_REAL_NUMBERS)
def test_real_numbers_have_the_type_asked_for(name: str) -> None:
    batch = dataclasses.replace(tasks()[name], dtype=torch.float64).sample(4, 0)
    assert batch.inputs.dtype == torch.float64
    assert batch.targets.dtype in (torch.float64, torch.int64)


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_a_sample_of_no_examples_is_refused(task: Task, n: Any) -> None:
    with pytest.raises(TaskError, match="a sample of"):
        task.sample(n, 0)


def test_a_batch_is_dealt_to_copies_in_order() -> None:
    batch = Parity(dimension=4).sample(6, 0)
    dealt = batch.stacked(3)
    assert dealt.inputs.shape == (3, 2, 4)
    assert torch.equal(dealt.inputs[2], batch.inputs[4:]) and torch.equal(dealt.targets[1], batch.targets[2:4])
    with pytest.raises(TaskError, match="6 examples cannot be dealt to 4 copies"):
        batch.stacked(4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GaussianMixture(classes=1), r"classes=1 must be a whole number from 2 on"),
        (lambda: GaussianMixture(classes=2.5), r"classes=2.5 must be a whole number"),
        (lambda: GaussianMixture(classes=5, dimension=3), r"dimension=3 must be at least 4 for 5 simplex means"),
        (lambda: GaussianMixture(priors=(0.5, 0.6, -0.1)), r"priors=.* must be 3 positive numbers with sum 1"),
        (lambda: GaussianMixture(spread=0.0), r"spread=0.0 must be a finite number above 0"),
        (lambda: GaussianMixture(separation=float("nan")), r"separation=nan must be a finite number from 0"),
        (lambda: GaussianMixture(layout="grid"), r"layout='grid' must be one of 'simplex', 'orthogonal', 'random'"),
        (lambda: XorMixture(dimension=1), r"dimension=1 must be a whole number from 2 on"),
        (lambda: Parity(dimension=3, order=4), r"order=4 must be a whole number from 1 to 3"),
        (lambda: Parity(flip=0.6), r"flip=0.6 must be a finite number from 0 to 0.5"),
        (lambda: LinearTeacher(decay=-1.0), r"decay=-1.0 must be a finite number from 0"),
        (lambda: TwoLayerTeacher(activation="tanh"), r"activation='tanh' must be one of"),
        (lambda: Digits(test_share=1.0), r"test_share=1.0 must be a finite number from 0.01 to 0.9"),
        (lambda: FashionMnist(limit=0), r"limit=0 must be a whole number from 1 on"),
        (lambda: Imbalanced(ratio=0.5), r"ratio=0.5 must be a finite number from 1"),
        (lambda: Imbalanced(keep=(3, 3)), r"keep=\(3, 3\) must be at least two different classes"),
        (lambda: Imbalanced(keep=(3, 10)).train, r"keep=\(3, 10\) must be classes of digits, from 0 to 9"),
        (lambda: Imbalanced(ratio=1000.0).train, r"0 rows of class 5, which has \d+: lower the ratio"),
        (lambda: SourceText(length=0), r"length=0 must be a whole number from 1 on"),
        (lambda: SourceText(characters=100), r"characters=100 must be at least 650 for windows of 64"),
        (lambda: Parity(seed=-1), r"seed=-1 must be a whole number from 0"),
        (lambda: Parity(dtype=torch.int64), r"dtype=torch.int64 must be a floating-point type"),
    ],
)
def test_a_bad_knob_is_one_line_that_names_it(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(TaskError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["digits", "imbalanced"])
def test_training_inputs_are_standardised_over_the_training_part(name: str) -> None:
    data = tasks()[name]
    assert isinstance(data, Dataset)
    assert float(data.train.inputs.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(data.train.inputs.std(correction=0)) == pytest.approx(1.0, abs=1e-5)
    raw = dataclasses.replace(data, standardize=False)
    assert float(raw.train.inputs.min()) == 0.0 and float(raw.train.inputs.max()) == 1.0
    slope = raw.train.inputs.std(correction=0)
    torch.testing.assert_close(
        data.test.inputs * slope + raw.train.inputs.mean(), raw.test.inputs, rtol=1e-5, atol=1e-5
    )


def test_digits_are_split_by_class_without_overlap() -> None:
    data = Digits(standardize=False)
    assert len(data.train.targets) + len(data.test.targets) == 1797
    assert data.classes == 10
    shares = torch.bincount(data.test.targets) / (
        torch.bincount(data.test.targets) + torch.bincount(data.train.targets)
    )
    torch.testing.assert_close(shares, torch.full((10,), 0.2), rtol=0, atol=0.01)
    assert torch.equal(
        torch.cat([data.train.inputs, data.test.inputs]).sum(0),
        torch.cat([Digits(seed=1, standardize=False).load()[k].inputs for k in (0, 1)]).sum(0).to(torch.float32),
    )


@pytest.mark.parametrize(("profile", "ratio"), [("step", 10.0), ("exponential", 20.0)])
def test_imbalance_meets_its_ratio_up_to_rounding(profile: str, ratio: float) -> None:
    data = Imbalanced(ratio=ratio, profile=profile)
    counts = data.counts
    assert max(counts) / min(counts) == pytest.approx(ratio, rel=0.5 / min(counts) + 0.5 / max(counts))
    if profile == "step":
        assert len(set(counts[:5])) == len(set(counts[5:])) == 1
    else:
        assert np.diff(np.log(counts)) == pytest.approx([-np.log(ratio) / 9] * 9, abs=0.1)
    available = torch.bincount(Digits().train.targets)
    assert all(kept <= there for kept, there in zip(counts, available.tolist(), strict=True))
    assert any(kept == there for kept, there in zip(counts, available.tolist(), strict=True))
    assert torch.equal(data.test.targets, Digits().test.targets)


def test_imbalance_ten_to_one_between_two_classes_keeps_their_images() -> None:
    data, base = Imbalanced(keep=(3, 8), standardize=False), Digits(standardize=False)
    large, small = data.counts
    assert large == int((base.train.targets == 3).sum()) and small == round(large / 10)
    threes = base.train.inputs[base.train.targets == 3]
    assert torch.equal(data.train.inputs[data.train.targets == 0], threes)
    eights = {image.numpy().tobytes() for image in base.train.inputs[base.train.targets == 8]}
    kept = [image.numpy().tobytes() for image in data.train.inputs[data.train.targets == 1]]
    assert set(kept) <= eights and len(set(kept)) == small
    assert torch.equal(data.test.inputs[data.test.targets == 1], base.test.inputs[base.test.targets == 8])


def test_parity_labels_by_the_product_of_its_support() -> None:
    problem = Parity(dimension=12, order=4, dtype=torch.float64)
    batch = problem.sample(500, 0)
    assert set(batch.inputs.unique().tolist()) == {-1.0, 1.0}
    product = np.prod(batch.inputs.numpy()[:, problem.support], axis=1)
    assert np.array_equal(batch.targets.numpy(), (product < 0).astype(int))
    assert len({Parity(dimension=12, order=4, seed=seed).support for seed in range(20)}) > 10


def test_parity_flips_as_many_labels_as_asked() -> None:
    noisy = Parity(flip=0.2)
    batch = noisy.sample(20_000, 1)
    flipped = (batch.targets != noisy.label(batch.inputs)).double()
    assert float(flipped.mean()) == pytest.approx(noisy.bayes_error, abs=4 * (0.2 * 0.8 / 20_000) ** 0.5)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_parity_of_some_order_is_invisible_to_lower_moments(order: int) -> None:
    """Over all inputs, the label correlates with one product of coordinates only: that of the support."""
    problem = Parity(dimension=6, order=order)
    everything = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 6)
    signs = 1.0 - 2.0 * problem.label(everything)
    for size in (1, 2, 3):
        for columns in torch.combinations(torch.arange(6), size).reshape(-1, size).tolist():
            correlation = float((everything[:, columns].prod(1) * signs).mean())
            assert correlation == (1.0 if tuple(columns) == problem.support else 0.0)


def test_labels_and_batches_are_plain_tensors_for_the_ensemble_engine() -> None:
    batch = GaussianMixture().sample(12, 0).stacked(4)
    assert isinstance(batch, Batch)
    inputs, targets = batch
    assert inputs.shape == (4, 3, 20) and targets.shape == (4, 3)
