"""The ensemble engine against copies trained one by one with torch's own optimizers."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.tasks.ensembles import (
    COPIES,
    OPTIMIZERS,
    RATES,
    STEPS,
    Transformer,
    assert_same,
    cnn,
    images,
    mlp,
    one_by_one,
    sums,
    vectors,
)
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import separatrix
from separatrix.runs.errors import RunExistsError
from separatrix.tasks import Digits, ensemble
from separatrix.tasks.errors import EnsembleError


@pytest.fixture(autouse=True)
def double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_takes_the_paths_of_copies_trained_alone(name: str) -> None:
    batched, alone = OPTIMIZERS[name]
    networks = ensemble.stack(mlp, range(COPIES))
    training = ensemble.train(networks, F.cross_entropy, batched, vectors, STEPS)
    assert_same(training, *one_by_one(networks, alone, vectors))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.LeakyReLU])
def test_every_activation_takes_the_paths_of_copies_trained_alone(activation: Callable[[], nn.Module]) -> None:
    networks = ensemble.stack(lambda: mlp(activation), range(COPIES))
    training = ensemble.train(networks, F.cross_entropy, ensemble.SGD(RATES, momentum=0.9), vectors, STEPS)
    alone = one_by_one(networks, lambda i, p: torch.optim.SGD(p, lr=RATES[i], momentum=0.9), vectors)
    assert_same(training, *alone)


@pytest.mark.parametrize("name", ["momentum", "adam", "adamw"])
def test_a_transformer_with_tied_weights_takes_the_paths_of_copies_trained_alone(name: str) -> None:
    batched, alone = OPTIMIZERS[name]
    networks = ensemble.stack(Transformer, range(COPIES))
    training = ensemble.train(networks, F.cross_entropy, batched, sums, STEPS, schedule=lambda step: 0.1)
    assert_same(training, *one_by_one(networks, alone, sums, factor=lambda step: 0.1))
    module = training.ensemble.module(1)
    assert module.read.weight is module.tokens.weight


def test_a_convolutional_network_keeps_the_running_statistics_of_each_copy() -> None:
    networks = ensemble.stack(cnn, range(COPIES))
    training = ensemble.train(networks, F.cross_entropy, ensemble.SGD(RATES, momentum=0.9), images, STEPS)
    alone = one_by_one(networks, lambda i, p: torch.optim.SGD(p, lr=RATES[i], momentum=0.9), images)
    assert_same(training, *alone)
    assert int(training.ensemble.module(0)[1].num_batches_tracked) == STEPS


class Averaging(nn.Module):
    """Assigns its buffers anew in every forward: a running mean, a count, and the last two means in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        for name in ("mean", "last", "before"):
            self.register_buffer(name, torch.zeros(4))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("seen", torch.zeros(6, dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        self.last, self.before = self.before, self.mean
        self.count = self.count + 1
        self.seen = self.seen | (x[0] > 0.5)
        return y - self.mean + 0.1 * self.last


class Leaving(nn.Module):
    """Leaves its activations behind as an attribute, for others to look at."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.activations = self.linear(x)
        return self.activations


@pytest.mark.parametrize("build", [Averaging, Leaving])
def test_what_forward_assigns_to_is_kept_for_each_copy(build: Callable[[], nn.Module]) -> None:
    networks = ensemble.stack(build, range(COPIES))
    training = ensemble.train(networks, F.cross_entropy, ensemble.SGD(RATES), vectors, STEPS)
    assert_same(training, *one_by_one(networks, lambda i, p: torch.optim.SGD(p, lr=RATES[i]), vectors))


class Recurrent(nn.Module):
    """Reads out the last state of a recurrent layer over three steps of two numbers."""

    def __init__(self, layer: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.layer = layer(2, 5, batch_first=True, **options)
        self.read = nn.Linear(10 if options.get("bidirectional") else 5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.layer(x.unflatten(1, (3, 2)))[0][:, -1])


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}])
@pytest.mark.parametrize("layer", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_layers_take_the_paths_of_copies_trained_alone(layer: Any, options: dict[str, Any]) -> None:
    networks = ensemble.stack(lambda: Recurrent(layer, **options), range(COPIES))
    training = ensemble.train(networks, F.cross_entropy, ensemble.SGD(RATES, momentum=0.9), vectors, STEPS)
    alone = one_by_one(networks, lambda i, p: torch.optim.SGD(p, lr=RATES[i], momentum=0.9), vectors)
    assert_same(training, *alone)


def _spectral_norm_at_rest(layer: nn.Module) -> nn.Module:
    return parametrizations.spectral_norm(layer).eval()


@pytest.mark.parametrize(
    "parametrized", [parametrizations.weight_norm, parametrizations.orthogonal, _spectral_norm_at_rest]
)
def test_parametrized_layers_take_the_paths_of_copies_trained_alone(parametrized: Any) -> None:
    networks = ensemble.stack(lambda: nn.Sequential(parametrized(nn.Linear(6, 5)), nn.Linear(5, 4)), range(COPIES))
    training = ensemble.train(networks, F.cross_entropy, ensemble.SGD(RATES), vectors, STEPS)
    assert_same(training, *one_by_one(networks, lambda i, p: torch.optim.SGD(p, lr=RATES[i]), vectors))
    with pytest.raises(EnsembleError, match="copies 0 and 1 differ"):
        ensemble.from_modules([parametrized(nn.Linear(6, 6)), nn.Linear(6, 6)])


def test_schedules_and_clipping_are_those_of_torch() -> None:
    networks, clip = ensemble.stack(mlp, range(COPIES)), [0.1, 1.0, 100.0]

    def factor(step: int) -> float:
        return 1.0 - step / (2 * STEPS)

    batched = ensemble.Adam(0.01, clip_norm=clip)
    training = ensemble.train(networks, F.cross_entropy, batched, vectors, STEPS, schedule=factor)
    alone = one_by_one(networks, lambda i, p: torch.optim.Adam(p, lr=0.01), vectors, factor=factor, clip=clip)
    assert_same(training, *alone)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_a_resumed_training_is_the_one_that_was_not_stopped(name: str) -> None:
    networks, optimizer = ensemble.stack(mlp, range(COPIES)), OPTIMIZERS[name][0]
    whole = ensemble.train(networks, F.cross_entropy, optimizer, vectors, 20)
    first = ensemble.train(networks, F.cross_entropy, optimizer, vectors, 8)
    kept = first.ensemble.parameters.clone()
    second = ensemble.train(networks, F.cross_entropy, optimizer, vectors, 12, resume=first)
    assert (second.first_step, second.steps) == (9, 20)
    assert torch.equal(torch.cat([first.loss, second.loss]), whole.loss)
    assert torch.equal(second.ensemble.parameters, whole.ensemble.parameters)
    assert torch.equal(first.ensemble.parameters, kept)


def test_batches_of_several_shapes_are_traced_apart() -> None:
    def data(step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = vectors(step)
        return (inputs, targets) if step % 3 else (inputs[:, :2], targets[:, :2])

    networks = ensemble.stack(mlp, range(COPIES))
    training = ensemble.train(networks, F.cross_entropy, ensemble.SGD(RATES), data, STEPS)
    assert_same(training, *one_by_one(networks, lambda i, p: torch.optim.SGD(p, lr=RATES[i]), data))


def test_long_and_short_softmax_rows_agree_with_torch() -> None:
    for classes, length in itertools.product((2, 15, 16, 40), (1, 3)):
        network = ensemble.stack(lambda classes=classes: nn.Linear(6, classes), range(COPIES))
        targets = torch.randint(0, classes, (COPIES, length), generator=torch.Generator().manual_seed(1))
        inputs = torch.randn(COPIES, length, 6, generator=torch.Generator().manual_seed(2))
        found = ensemble.train(
            network, F.cross_entropy, ensemble.SGD(1.0), lambda step, data=(inputs, targets): data, 1
        ).ensemble.parameters
        for index in range(COPIES):
            module = network.module(index)
            weight, bias = torch.autograd.grad(
                F.cross_entropy(module(inputs[index]), targets[index]), list(module.parameters())
            )
            expected = network.parameters[index] - torch.cat([weight.flatten(), bias])
            torch.testing.assert_close(found[index], expected, rtol=1e-12, atol=1e-12)


def test_real_images_are_learnt_at_the_rates_that_suit_them() -> None:
    digits = Digits(dtype=torch.float64)
    layers = nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    networks = ensemble.from_modules([nn.Sequential(*layers)] * 4)

    def accuracy(now: ensemble.Ensemble) -> Tensor:
        predicted = now.outputs(digits.test.inputs, shared=True).argmax(2)
        return (predicted == digits.test.targets).double().mean(1)

    training = ensemble.train(
        networks,
        F.cross_entropy,
        ensemble.SGD([0.0, 1e-4, 0.03, 0.1], momentum=0.9),
        lambda step: digits.sample(4 * 32, step).stacked(4),
        200,
        measure={"eval_accuracy": accuracy},
    )
    first, *_, last = training.measured["eval_accuracy"].values.tolist()
    assert len(set(first)) == 1
    assert last[0] == first[0]
    assert min(last[2:]) > 0.93 > last[1]


def test_a_diverging_copy_leaves_the_others_bit_for_bit_alone() -> None:
    networks = ensemble.stack(mlp, range(COPIES))
    calm = ensemble.train(networks, F.mse_loss, ensemble.SGD([0.1, 0.1, 0.1]), regression, STEPS)
    wild = ensemble.train(networks, F.mse_loss, ensemble.SGD([0.1, 1e4, 0.1]), regression, STEPS)
    assert not wild.loss[-1, 1].isfinite()
    assert not wild.ensemble.parameters[1].isfinite().all()
    for kept in (0, 2):
        assert torch.equal(wild.ensemble.parameters[kept], calm.ensemble.parameters[kept])
        assert torch.equal(wild.loss[:, kept], calm.loss[:, kept])
    assert calm.loss.isfinite().all()


def regression(step: int) -> tuple[Tensor, Tensor]:
    inputs, _ = vectors(step)
    return inputs, inputs[..., :4].square()


def test_training_changes_neither_the_ensemble_nor_the_generators() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    networks = ensemble.stack(lambda: nn.Sequential(mlp(), nn.Dropout(0.5), nn.Linear(4, 4)), range(COPIES))
    kept = networks.parameters.clone()
    ensemble.train(networks, F.cross_entropy, ensemble.SGD(0.1), vectors, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(networks.parameters, kept)


def test_dropout_follows_the_seed_and_differs_between_copies() -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 4))
    networks = ensemble.from_modules([copy.deepcopy(module) for _ in range(COPIES)])
    inputs, targets = vectors(0)
    same = inputs[:1].expand(COPIES, -1, -1), targets[:1].expand(COPIES, -1)
    trainings = [
        ensemble.train(networks, F.cross_entropy, ensemble.SGD(0.1), lambda step: same, 4, seed=seed).loss
        for seed in (1, 1, 2)
    ]
    assert torch.equal(trainings[0], trainings[1])
    assert not torch.isclose(trainings[0], trainings[2]).any()
    assert len(set(trainings[0][0].tolist())) == COPIES
    assert len(set(trainings[0][:, 0].tolist())) == 4


def test_frozen_parameters_stay_and_differ_between_copies() -> None:
    def build() -> nn.Module:
        network = mlp()
        network[0].weight.requires_grad_(False)
        return network

    networks = ensemble.stack(build, range(COPIES))
    training = ensemble.train(networks, F.cross_entropy, ensemble.SGD(RATES), vectors, STEPS)
    assert_same(training, *one_by_one(networks, lambda i, p: torch.optim.SGD(p, lr=RATES[i]), vectors))
    assert torch.equal(training.ensemble.module(2)[0].weight, networks.module(2)[0].weight)
    assert not torch.equal(networks.module(1)[0].weight, networks.module(2)[0].weight)


def test_a_copy_is_the_network_that_its_seed_builds() -> None:
    networks = ensemble.stack(cnn, [5, 9])
    torch.manual_seed(9)
    alone = cnn()
    for name, values in networks.module(1).state_dict().items():
        assert torch.equal(values, alone.state_dict()[name])
    with pytest.raises(IndexError, match="copy 2 of an ensemble of 2"):
        networks.module(2)


def test_outputs_are_those_of_the_modules_in_evaluation_mode() -> None:
    networks = ensemble.stack(cnn, range(COPIES))
    trained = ensemble.train(networks, F.cross_entropy, ensemble.SGD(0.1), images, 5).ensemble
    inputs, _ = images(9)
    own, shared = trained.outputs(inputs), trained.outputs(inputs[0], shared=True)
    for index in range(COPIES):
        module = trained.module(index).eval()
        torch.testing.assert_close(own[index], module(inputs[index]), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(shared[index], module(inputs[0]), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(trained.outputs(inputs, training=True), own)


def test_several_inputs_and_targets_come_as_tuples() -> None:
    def data(step: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        inputs, targets = vectors(step)
        return (inputs, inputs.flip(1)), (targets, torch.tensor([0.5, 1.0, 2.0]))

    def loss(outputs: Tensor, targets: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(outputs * targets[1], targets[0])

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 4)

        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return self.inner(one * other)

    networks = ensemble.stack(Pair, range(COPIES))
    training = ensemble.train(networks, loss, ensemble.SGD(0.1), data, 3)
    (one, other), (targets, scale) = data(1)
    expected = [loss(networks.module(i)(one[i], other[i]), (targets[i], scale[i])).item() for i in range(COPIES)]
    assert training.loss[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_a_training_measures_arrays_after_the_steps_that_are_asked_for() -> None:
    networks = ensemble.stack(mlp, range(COPIES))
    inputs, _ = vectors(0)
    asked: dict[str, Any] = {"measure": {"outputs": lambda now: now.outputs(inputs)}, "every": [0, 5, 2]}
    training = ensemble.train(networks, F.cross_entropy, ensemble.SGD(0.1), vectors, 7, **asked)
    measured = training.measured["outputs"]
    assert measured.steps == (0, 2, 5)
    for step, values in zip(measured.steps[1:], measured.values[1:], strict=True):
        alone = ensemble.train(networks, F.cross_entropy, ensemble.SGD(0.1), vectors, step).ensemble
        torch.testing.assert_close(values, alone.outputs(inputs), rtol=0, atol=0)
    torch.testing.assert_close(measured.values[0], networks.outputs(inputs), rtol=0, atol=0)
    with pytest.raises(EnsembleError, match="after step 9: give steps from 8 to 8"):
        again = {**asked, "every": [8, 9]}
        ensemble.train(networks, F.cross_entropy, ensemble.SGD(0.1), vectors, 1, resume=training, **again)


def test_copies_of_one_network_take_the_values_given() -> None:
    draw = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    weight, mean = torch.randn(COPIES, 4, 6, generator=draw), torch.randn(COPIES, 4, generator=draw)
    networks = ensemble.from_values(module, {"0.weight": weight, "1.running_mean": mean})
    for index in range(COPIES):
        state = module.state_dict() | {"0.weight": weight[index], "1.running_mean": mean[index]}
        torch.testing.assert_close(dict(networks.module(index).state_dict()), dict(state), rtol=0, atol=0)
    weight.zero_()
    assert networks.named()["0.weight"].all()
    for values, words in (
        ({}, "values of nothing: give some of 0.weight, 0.bias"),
        ({"weight": weight}, "values of weight: give some of"),
        ({"0.weight": weight, "0.bias": mean[:2]}, r"0.bias of shape \(2, 4\) .* for 3 copies"),
        ({"0.weight": weight.mT}, r"give \(3, 4, 6\)"),
        ({"0.weight": weight.half()}, "torch.float16"),
    ):
        with pytest.raises(EnsembleError, match=words):
            ensemble.from_values(module, values)


class Product(nn.Module):
    """Reads nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.values = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(3))

    def forward(self) -> Tensor:
        return self.scale * self.values


def test_a_network_without_inputs_descends_its_loss() -> None:
    start = {"scale": torch.tensor([2.0, 3.0]), "values": torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])}
    networks = ensemble.from_values(Product(), start)
    wanted = torch.zeros(2, 3)
    training = ensemble.train(
        networks, lambda made, goal: 0.5 * (made - goal).square().sum(), ensemble.SGD(0.1), lambda step: ((), wanted), 1
    )
    assert training.loss[0].tolist() == [2.0, 9.0]
    moved = training.ensemble.named()
    torch.testing.assert_close(moved["scale"], torch.tensor([2.0 - 0.1 * 2.0, 3.0 - 0.1 * 6.0]))
    torch.testing.assert_close(moved["values"], start["values"] * torch.tensor([[1.0 - 0.4], [1.0 - 0.9]]))


def test_a_run_holds_the_losses_and_measurements_of_every_copy(tmp_path: Path) -> None:
    networks = ensemble.stack(mlp, range(COPIES))
    inputs, _ = vectors(0)

    def spread(now: ensemble.Ensemble) -> Tensor:
        return now.outputs(inputs).std(dim=(1, 2))

    training = ensemble.train(
        networks,
        F.cross_entropy,
        ensemble.SGD(RATES),
        vectors,
        10,
        schedule=lambda step: 1.0 if step < 6 else 0.5,
        measure={"output_spread": spread},
        every=4,
        run=tmp_path / "run",
        labels=["a", "b", "c"],
    )
    run = separatrix.open(tmp_path / "run")
    assert run.status == "finished"
    assert run["loss"].dims == ("step", "copy")
    assert list(run["loss"]["copy"].values) == ["a", "b", "c"]
    assert run["loss"]["step"].values.tolist() == list(range(1, 11))
    np.testing.assert_array_equal(run["loss"].values, training.loss.numpy())
    assert training.measured["output_spread"].steps == (0, 4, 8, 10)
    np.testing.assert_array_equal(run["output_spread"].values, training.measured["output_spread"].values.numpy())
    np.testing.assert_array_equal(training.measured["output_spread"].values[0], spread(networks))
    np.testing.assert_array_equal(training.measured["output_spread"].values[-1], spread(training.ensemble))
    assert run["learning_rate"]["step"].values.tolist() == [1, 6]
    np.testing.assert_allclose(run["learning_rate"].values, [RATES, [rate / 2 for rate in RATES]])
    with pytest.raises(RunExistsError):
        ensemble.train(networks, F.cross_entropy, ensemble.SGD(0.1), vectors, 1, run=tmp_path / "run")


def test_a_training_that_fails_leaves_a_run_that_says_so(tmp_path: Path) -> None:
    def data(step: int) -> tuple[Tensor, Tensor]:
        if step == 4:
            raise ZeroDivisionError
        return vectors(step)

    with pytest.raises(ZeroDivisionError):
        ensemble.train(
            ensemble.stack(mlp, range(COPIES)), F.cross_entropy, ensemble.SGD(0.1), data, 9, run=tmp_path / "run"
        )
    run = separatrix.open(tmp_path / "run")
    assert run.status == "crashed"
    assert run["loss"]["step"].values.tolist() == [1, 2, 3]
