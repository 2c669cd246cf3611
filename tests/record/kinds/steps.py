"""Kinds that differ in what a step is: closures, no optimizer, accumulation, several optimizers."""

from __future__ import annotations

import gc

import torch
from tests.record.kinds._data import classes
from tests.record.kinds.kind import kind
from tests.record.kinds.losses import CLASSES, mlp
from tests.record.kinds.truth import Truth, named
from torch import nn
from torch.nn import functional


@kind("closure (LBFGS)", "LBFGS", "rectifier", *CLASSES)
def lbfgs(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.3, max_iter=3)
    for _ in range(3):
        values: list[float] = []

        def closure(values: list[float] = values) -> torch.Tensor:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            values.append(loss.item())
            return loss

        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        leftover = {name: 0.0 for name in before}
        optimizer.step(closure)
        truth.step += 1
        truth.note(step=truth.step, loss=values[0], closure_calls=len(values), learning_rate=0.3)
        for name, p in model.named_parameters():
            change = (p.detach() - before[name]).double().pow(2).mean().sqrt()
            gradient = p.grad.double().pow(2).mean().sqrt()
            truth.note(name, truth.step, update_rms=change, gradient_rms=gradient, gradient_carryover=leftover[name])


@kind("closure (SGD)", "SGD", "closure", "rectifier", *CLASSES)
def closure_of_sgd(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):

        def closure() -> torch.Tensor:
            loss = functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            return loss

        with torch.no_grad():
            scores = model(x)
        truth.classes(scores, y)
        value = optimizer.step(closure)
        truth.step += 1
        truth.note(step=truth.step, loss=value, closure_calls=1, learning_rate=0.1)
        for name, p in model.named_parameters():
            truth.note(name, truth.step, gradient_rms=p.grad.double().pow(2).mean().sqrt(), gradient_carryover=0)


def _without_optimizer(truth: Truth, in_place: bool, steps: int = 4) -> None:
    x, y = classes()
    model = mlp()
    # The model is only known from its first backward pass on.
    truth.late = frozenset({"batch_size", "training_mode", "input_mean", "input_std", "input_feature_std_ratio"})
    truth.late |= {"activation_rms", "activation_mean", "zero_share"}
    for i in range(steps):
        batch, labels = x[i * 6 : i * 6 + 6], y[i * 6 : i * 6 + 6]
        scores = model(batch)
        loss = functional.cross_entropy(scores, labels)
        truth.classes(scores, labels)
        truth.inputs(batch)
        with torch.no_grad():
            truth.output("0", model[0](batch))
        for p in model.parameters():
            p.grad = None
        loss.backward()
        for name, _ in model.named_parameters():
            truth.note(name, gradient_carryover=0)
        with truth.stepping(model, loss=loss):
            for p in model.parameters():
                if in_place:
                    with torch.no_grad():
                        p -= 0.1 * p.grad
                else:
                    p.data = p.data - 0.1 * p.grad


@kind(
    "no optimizer, parameters changed under no_grad",
    "",
    "rectifier",
    "log-probabilities",
    *CLASSES,
    without=("distribution_share",),
)
def in_place(truth: Truth) -> None:
    _without_optimizer(truth, in_place=True)


@kind(
    "no optimizer, parameters changed through .data",
    "",
    "rectifier",
    "log-probabilities",
    *CLASSES,
    without=("distribution_share",),
)
def through_data(truth: Truth) -> None:
    _without_optimizer(truth, in_place=False)


_MODULES = (
    "batch_variance_share",
    "batch_size",
    "training_mode",
    "input_mean",
    "input_std",
    "input_feature_std_ratio",
    "activation_rms",
    "activation_mean",
    "activation_nonfinite_share",
    "zero_share",
    "dead_unit_share",
    "saturation_share",
)


@kind(
    "no optimizer, parameters in no module",
    "",
    "classes",
    "log-probabilities",
    impossible={"no module owns the parameters": _MODULES},
    without=("distribution_share",),
    no_snapshot="the model was not called as a whole",
)
def bare_tensors(truth: Truth) -> None:
    x, y = classes()
    weight = torch.zeros(6, 3, requires_grad=True)
    bias = torch.zeros(3, requires_grad=True)
    parameters = {"weight": weight, "bias": bias}
    for _ in range(4):
        scores = x @ weight + bias
        loss = functional.cross_entropy(scores, y)
        loss.backward()
        truth.classes(scores, y)
        with truth.stepping(parameters, loss=loss), torch.no_grad():
            for p in parameters.values():
                p -= 0.5 * p.grad
        for p in parameters.values():
            p.grad.zero_()


@kind(
    "no optimizer, two backward passes a step",
    "",
    "terms",
    "rectifier",
    "log-probabilities",
    *CLASSES,
    without=("distribution_share",),
)
def bare_accumulation(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    for _ in range(3):
        losses = []
        for part in (slice(0, 12), slice(12, 24)):
            loss = functional.cross_entropy(model(x[part]), y[part]) / 2
            loss.backward()
            losses.append(loss.item())
        with truth.stepping(model, loss=sum(losses)), torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
        model.zero_grad()


@kind("gradient accumulation", "SGD", "terms", "rectifier", *CLASSES)
def accumulation(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        losses, right = [], 0.0
        for part in (slice(0, 12), slice(12, 24)):
            scores = model(x[part])
            loss = functional.cross_entropy(scores, y[part]) / 2
            loss.backward()
            losses.append(loss.item())
            right += float((scores.argmax(1) == y[part]).float().mean()) / 2
        for index, value in enumerate(losses):
            truth.note(str(index), loss_terms=value)
        for name, _ in model.named_parameters():
            truth.note(name, gradient_carryover=0)
        with truth.stepping(model, loss=sum(losses), accuracy=right, batch_size=12):
            optimizer.step()
        optimizer.zero_grad()


def _gan(truth: Truth, critic_steps: int) -> None:
    real, _ = classes(16, 4)
    generator, critic = mlp(4, nn.Tanh), nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(), nn.Linear(8, 1))
    opt_g = torch.optim.Adam(generator.parameters(), lr=1e-3)
    opt_d = torch.optim.Adam(critic.parameters(), lr=2e-3)
    ones, zeros = torch.ones(16, 1), torch.zeros(16, 1)
    judge = nn.BCEWithLogitsLoss()
    for _ in range(3):
        for _ in range(critic_steps):
            fake = generator(torch.randn(16, 6))
            opt_d.zero_grad()
            of_real = judge(critic(real), ones)
            of_real.backward()
            of_fake = judge(critic(fake.detach()), zeros)
            of_fake.backward()
            truth.note("opt_d", loss=of_real.item() + of_fake.item(), learning_rate=2e-3)
            truth.note("opt_d", gradient_norm=truth.gradient_norm(critic))
            with truth.stepping(named(critic, "critic.")):
                opt_d.step()
        opt_g.zero_grad()
        loss = judge(critic(fake), ones)
        loss.backward()
        truth.note("opt_g", truth.step, loss=loss, learning_rate=1e-3, gradient_norm=truth.gradient_norm(generator))
        with truth.stepping(named(generator, "generator."), counts=False):
            opt_g.step()


@kind(
    "GAN with two optimizers",
    "Adam",
    "terms",
    "bounded",
    "numbers wanted",
    *CLASSES,
    without=("distribution_share",),
    no_snapshot="2 losses were backwarded in the step, and they are not the parts of one mean",
)
def gan(truth: Truth) -> None:
    _gan(truth, critic_steps=1)


@kind(
    "GAN with several critic steps a generator step",
    "Adam",
    "terms",
    "bounded",
    "numbers wanted",
    *CLASSES,
    without=("distribution_share",),
    no_snapshot="2 losses were backwarded in the step, and they are not the parts of one mean",
)
def gan_critic(truth: Truth) -> None:
    _gan(truth, critic_steps=2)


@kind("two optimizers, the second steps more often than the first", "SGD", "rectifier", *CLASSES)
def faster_second(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    slow = torch.optim.SGD(model[0].parameters(), lr=0.1)
    fast = torch.optim.SGD(model[2].parameters(), lr=0.2)
    collected: list[float] = []
    for i in range(9):
        slow.zero_grad()
        fast.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        if i % 3 == 0:
            slow.step()
        fast.step()
        collected.append(loss.item())
    # The fast one takes over the count at its second step in a row.
    for step, value in enumerate(collected, start=1):
        truth.note("fast", step, loss=value)


@kind("training with one optimizer after another", "SGD", "rectifier", *CLASSES)
def sequential(truth: Truth) -> None:
    x, y = classes()
    for rate in (0.1, 0.2):
        model = mlp()
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        for _ in range(3):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            with truth.stepping(model, loss=loss, learning_rate=rate):
                optimizer.step()
        del optimizer
        gc.collect()


@kind("stages with an optimizer each, both alive", "SGD", "rectifier", *CLASSES)
def staged(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    warm = torch.optim.SGD(model[2].parameters(), lr=0.1)
    full = torch.optim.SGD(model.parameters(), lr=0.2)
    for optimizer, name, steps in ((warm, "warm", 3), (full, "full", 4)):
        for i in range(steps):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            # The first step of the second stage may be one beside the clock's last; then it is the clock itself.
            step = truth.step if optimizer is full and i == 0 else truth.step + 1
            truth.note(name, step, loss=loss)
            optimizer.step()
            truth.step = step
