"""The ensemble engine against copies trained one by one with torch's own optimizers."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import separatrix
from separatrix.runs.errors import RunExistsError
from separatrix.tasks import Digits, ensemble
from separatrix.tasks.errors import EnsembleError, EnsembleWarning

COPIES, BATCH, STEPS = 3, 5, 50
RATES = [0.3, 0.01, 0.1]


@pytest.fixture(autouse=True)
def double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def mlp(activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 4))


class Transformer(nn.Module):
    """One pre-norm block over (a, b, =) tokens; the read-out shares its weights with the embedding.

    A bias of the keys has no gradient but rounding noise, which Adam would blow up: there is none.
    """

    def __init__(self, symbols: int = 7, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.tokens = nn.Embedding(symbols + 1, width)
        self.places = nn.Parameter(0.1 * torch.randn(3, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.read = nn.Linear(width, symbols + 1, bias=False)
        self.read.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.read(x[:, -1])


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 4)
    )


def vectors(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return (
        torch.randn(COPIES, BATCH, 6, generator=generator),
        torch.randint(0, 4, (COPIES, BATCH), generator=generator),
    )


def images(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return (
        torch.randn(COPIES, BATCH, 1, 4, 4, generator=generator),
        torch.randint(0, 4, (COPIES, BATCH), generator=generator),
    )


def sums(step: int) -> tuple[Tensor, Tensor]:
    terms = torch.randint(0, 7, (COPIES, BATCH, 2), generator=torch.Generator().manual_seed(step))
    equals = torch.full((COPIES, BATCH, 1), 7)
    return torch.cat([terms, equals], dim=2), terms.sum(2) % 7


def one_by_one(
    networks: ensemble.Ensemble,
    optimizer: Callable[[int, Any], torch.optim.Optimizer],
    data: Callable[[int], tuple[Tensor, Tensor]],
    loss: Callable[..., Tensor] = F.cross_entropy,
    factor: Callable[[int], float] | None = None,
    clip: list[float] | None = None,
) -> tuple[list[nn.Module], Tensor]:
    """The oracle: each copy in an eager loop of its own."""
    modules, losses = [], []
    for index in range(networks.copies):
        module = networks.module(index)
        steps = optimizer(index, [p for p in module.parameters() if p.requires_grad])
        rate = steps.param_groups[0]["lr"]
        mine = []
        for step in range(1, STEPS + 1):
            inputs, targets = data(step)
            steps.zero_grad()
            value = loss(module(inputs[index]), targets[index])
            value.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), clip[index])
            steps.param_groups[0]["lr"] = rate * (1.0 if factor is None else factor(step))
            steps.step()
            mine.append(value.detach())
        modules.append(module)
        losses.append(torch.stack(mine))
    return modules, torch.stack(losses, dim=1)


def assert_same(training: ensemble.Training, modules: list[nn.Module], losses: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(training.loss, losses, rtol=tolerance, atol=tolerance)
    for index, module in enumerate(modules):
        found = training.ensemble.module(index).state_dict()
        for name, values in module.state_dict().items():
            torch.testing.assert_close(found[name], values, rtol=tolerance, atol=tolerance, msg=f"copy {index}: {name}")


OPTIMIZERS: dict[str, tuple[ensemble.Optimizer, Callable[[int, Any], torch.optim.Optimizer]]] = {
    "sgd": (ensemble.SGD(RATES), lambda i, p: torch.optim.SGD(p, lr=RATES[i])),
    "momentum": (
        ensemble.SGD(0.1, momentum=[0.9, 0.0, 0.5], dampening=[0.1, 0.3, 0.0], weight_decay=[0.0, 0.1, 0.01]),
        lambda i, p: torch.optim.SGD(
            p, lr=0.1, momentum=[0.9, 0.0, 0.5][i], dampening=[0.1, 0.3, 0.0][i], weight_decay=[0.0, 0.1, 0.01][i]
        ),
    ),
    "nesterov": (
        ensemble.SGD(RATES, momentum=0.8, nesterov=True),
        lambda i, p: torch.optim.SGD(p, lr=RATES[i], momentum=0.8, nesterov=True),
    ),
    "adam": (
        ensemble.Adam([0.01, 0.003, 0.1], weight_decay=0.01, beta1=[0.9, 0.0, 0.5], epsilon=[1e-8, 1e-3, 1e-6]),
        lambda i, p: torch.optim.Adam(
            p,
            lr=[0.01, 0.003, 0.1][i],
            weight_decay=0.01,
            betas=([0.9, 0.0, 0.5][i], 0.999),
            eps=[1e-8, 1e-3, 1e-6][i],
        ),
    ),
    "adamw": (
        ensemble.adamw([0.01, 0.003, 0.1], weight_decay=[0.1, 0.01, 0.0], beta2=[0.99, 0.95, 0.999]),
        lambda i, p: torch.optim.AdamW(
            p, lr=[0.01, 0.003, 0.1][i], weight_decay=[0.1, 0.01, 0.0][i], betas=(0.9, [0.99, 0.95, 0.999][i])
        ),
    ),
}


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


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y if y.sum().item() > 0 else -y


class Remembering(nn.Module):
    """Holds a random tensor that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.randn(6, 6)
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x @ self.features)


class Hiding(nn.Module):
    """The same, in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = {"features": [torch.randn(6, 6)]}
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x @ self.hidden["features"][0])


class Counting(nn.Module):
    """Its output depends on how often any copy was called."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        Counting.calls += 1
        return self.linear(x) * Counting.calls


class Changing(nn.Module):
    """Its buffer is what `change` makes of it."""

    def __init__(self, start: Tensor | None, change: Callable[[Tensor | None, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.change = nn.Linear(6, 4), change
        self.register_buffer("held", start)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        self.held = self.change(self.held, y.detach())
        return y - self.held.mean()


class Ageing(nn.Module):
    """Counts its calls in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(6, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x) / self.calls


class Drawing(nn.Module):
    """Fills its buffer with numbers that come from nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.numbers = nn.Linear(6, 4), itertools.count()
        self.register_buffer("held", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.held = torch.full((), float(next(self.numbers)))
        return self.linear(x)


class Listing(nn.Module):
    """Reads its weight from a list, where no ensemble can put that of each copy."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 4))
        self.weights = [self.weight]

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weights[0]


class Idle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(6, 4), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (Branching, "Branching cannot be batched over copies .*item"),
        (Remembering, "copies 0 and 1 differ in features, a tensor that is no buffer"),
        (Hiding, r"differ in hidden\['features'\]\[0\], a tensor that is no buffer"),
        (Counting, "keeps a state that is no parameter or buffer"),
        (Ageing, "keeps a state that is no parameter or buffer"),
        (Drawing, "leaves another buffer held alone than in the ensemble"),
        (Listing, "has a gradient in weight alone and none in the ensemble: its forward must read"),
        (lambda: Changing(None, lambda held, y: y), r"turns buffer held from nothing into \(5, 4\) of torch.float64"),
        (lambda: Changing(torch.ones(4), lambda held, y: y), r"turns buffer held from \(4,\) of"),
        (lambda: Changing(torch.tensor(1), lambda held, y: held + 0.5), r"into \(\) of torch.float64: register it"),
        (Idle, "the loss does not depend on unused.weight: freeze it"),
        (nn.Identity, "trainable parameters of types none"),
    ],
)
def test_networks_that_cannot_be_batched_are_refused(build: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(EnsembleError, match=words):
        ensemble.train(ensemble.stack(build, range(COPIES)), F.cross_entropy, ensemble.SGD(0.1), vectors, 1)


def test_networks_of_different_architectures_are_refused() -> None:
    with pytest.raises(EnsembleError, match=r"differ in the shape of weight"):
        ensemble.from_modules([nn.Linear(2, 3), nn.Linear(3, 3)])
    with pytest.raises(EnsembleError, match=r"differ in 1.negative_slope \(0.01, 0.2\)"):
        ensemble.from_modules([nn.Sequential(nn.Linear(2, 3), nn.LeakyReLU(slope)) for slope in (0.01, 0.2)])
    with pytest.raises(EnsembleError, match="an ensemble of no networks"):
        ensemble.stack(mlp, [])


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (ensemble.SGD([0.1, 0.2]), "learning_rate has 2 values for 3 copies"),
        (ensemble.SGD(-0.1), "learning_rate is negative or not finite"),
        (ensemble.Adam([0.1, float("nan"), 0.1]), "learning_rate is negative or not finite"),
        (ensemble.Adam(beta2=1.0), "beta2 is 1 or more"),
        (ensemble.SGD(0.1, nesterov=True), "nesterov is on with dampening or without momentum"),
    ],
)
def test_bad_hyperparameters_are_refused(optimizer: ensemble.Optimizer, words: str) -> None:
    with pytest.raises(EnsembleError, match=words):
        ensemble.train(ensemble.stack(mlp, range(COPIES)), F.cross_entropy, optimizer, vectors, 1)


def test_bad_data_losses_and_measurements_are_refused() -> None:
    networks = ensemble.stack(mlp, range(COPIES))
    inputs, targets = vectors(0)
    with pytest.raises(EnsembleError, match=r"inputs of shape \(2, 5, 6\) for 3 copies"):
        ensemble.train(networks, F.cross_entropy, ensemble.SGD(0.1), lambda step: (inputs[:2], targets), 1)
    with pytest.raises(EnsembleError, match=r"the loss has shape \(5,\)"):
        ensemble.train(networks, lambda o, t: F.cross_entropy(o, t, reduction="none"), ensemble.SGD(0.1), vectors, 1)
    with pytest.raises(EnsembleError, match=r"'mean' gave shape \(\)"):
        ensemble.train(
            networks, F.cross_entropy, ensemble.SGD(0.1), vectors, 1, measure={"mean": lambda e: e.parameters.mean()}
        )
    with pytest.raises(EnsembleError, match="resume with the same kind of optimizer"):
        first = ensemble.train(networks, F.cross_entropy, ensemble.SGD(0.1), vectors, 1)
        ensemble.train(networks, F.cross_entropy, ensemble.Adam(0.1), vectors, 1, resume=first)
    with pytest.raises(EnsembleError, match="the training to resume is of other networks"):
        others = ensemble.stack(mlp, range(COPIES))
        ensemble.train(others, F.cross_entropy, ensemble.SGD(0.1), vectors, 1, resume=first)


def test_what_cannot_be_traced_still_trains_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("not traceable")

    networks = ensemble.stack(Transformer, range(COPIES))
    traced = ensemble.train(networks, F.cross_entropy, ensemble.Adam(0.01), sums, 5)
    monkeypatch.setattr("separatrix.tasks._ensemble_program.make_fx", refuse)
    with pytest.warns(EnsembleWarning, match="Transformer runs under torch.func.vmap at every step"):
        slow = ensemble.train(networks, F.cross_entropy, ensemble.Adam(0.01), sums, 5)
    torch.testing.assert_close(slow.ensemble.parameters, traced.ensemble.parameters, rtol=1e-10, atol=1e-10)


def test_ordinary_networks_are_traced_without_a_warning() -> None:
    for build, data in ((mlp, vectors), (Transformer, sums), (cnn, images)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ensemble.train(ensemble.stack(build, range(COPIES)), F.cross_entropy, ensemble.Adam(0.01), data, 2)
