"""Small real trainings, healthy ones and ones with a planted fault, each an ordinary loop.

`record(model, {"name": optimizer})` is the only door to a recorder; `HEALTHY` and `FAULTY` list the trainings.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

import torch
from sklearn.datasets import load_digits, load_wine
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer

Record = Callable[[nn.Module, Mapping[str, Optimizer]], AbstractContextManager[object]]
Training = Callable[[Record], None]

HEALTHY: dict[str, Training] = {}
FAULTY: dict[str, tuple[str, Training]] = {}


def healthy(training: Training) -> Training:
    HEALTHY[training.__name__] = training
    return training


def faulty(code: str) -> Callable[[Training], Training]:
    def add(training: Training) -> Training:
        FAULTY[training.__name__] = (code, training)
        return training

    return add


@functools.cache
def digits(images: bool = False) -> tuple[Tensor, Tensor]:
    data = load_digits()
    inputs = torch.tensor(data.data, dtype=torch.float32) / 16
    inputs = (inputs - inputs.mean()) / inputs.std()
    return (inputs.reshape(-1, 1, 8, 8) if images else inputs), torch.tensor(data.target)


def batches(inputs: Tensor, targets: Tensor, steps: int, size: int = 32) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(inputs), (size,), generator=generator)
        yield inputs[chosen], targets[chosen]


def mlp(*sizes: int, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.Linear(wide, narrow), act()]
    return nn.Sequential(*layers[:-1])


def fit(
    record: Record,
    model: nn.Module,
    optimizer: Optimizer,
    steps: int = 100,
    size: int = 32,
    data: tuple[Tensor, Tensor] | None = None,
    loss_of: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    clear: bool = True,
    clip: float | None = None,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> None:
    inputs, targets = data if data is not None else digits()
    with record(model, {"optimizer": optimizer}):
        for x, y in batches(inputs, targets, steps, size):
            if clear:
                optimizer.zero_grad()
            loss_of(model(x), y).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if schedule is not None:
                schedule.step()


class Residual(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, width), nn.Linear(width, 10)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + F.relu(block(norm(x)))
        return self.last(x)


class Rows(nn.Module):
    """A recurrent classifier that reads an image row by row, several times over."""

    def __init__(self, cell: Callable[..., nn.Module], width: int = 32, passes: int = 1) -> None:
        super().__init__()
        self.rnn, self.head, self.passes = cell(8, width, batch_first=True), nn.Linear(width, 10), passes

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, 8, 8).repeat(1, self.passes, 1)
        return self.head(self.rnn(rows)[0][:, -1])


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(17, 32), nn.Linear(32, 17)
        self.position = nn.Parameter(0.02 * torch.randn(16, 32))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, norm_first=True) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position
        for layer in self.layers:
            x = layer(x)
        return self.head(x).transpose(1, 2)


class Halves(nn.Module):
    """A backbone and a head; `cut` detaches between them, `unused` adds a layer that forward never calls."""

    def __init__(self, cut: bool = False, unused: bool = False) -> None:
        super().__init__()
        self.backbone, self.head, self.cut = mlp(64, 32, 32), nn.Linear(32, 10), cut
        if unused:
            self.spare = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = F.relu(self.backbone(x))
        return self.head(features.detach() if self.cut else features)


@healthy
def mlp_adam(record: Record) -> None:
    model = mlp(64, 64, 64, 10)
    fit(record, model, Adam(model.parameters(), 1e-3), 120)


@healthy
def warmup_and_cosine(record: Record) -> None:
    model = mlp(64, 64, 10)
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    warm = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(step / 20, 1.0))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], [20])
    fit(record, model, optimizer, 120, schedule=schedule)


@healthy
def convolutions_batchnorm(record: Record) -> None:
    conv = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16)]
    model = nn.Sequential(*conv, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(144, 10))
    fit(record, model, SGD(model.parameters(), 0.05, momentum=0.9), 80, data=digits(images=True))


@healthy
def frozen_backbone(record: Record) -> None:
    model = Halves()
    model.backbone.requires_grad_(False)
    fit(record, model, Adam(model.head.parameters(), 1e-2))


@healthy
def backbone_without_gradient(record: Record) -> None:
    model = Halves(cut=True)
    fit(record, model, Adam(model.head.parameters(), 1e-2))


@healthy
def gan(record: Record) -> None:
    game = nn.ModuleDict({"g": mlp(4, 32, 32, 2), "d": mlp(2, 32, 32, 1, act=lambda: nn.LeakyReLU(0.2))})
    opt_g, opt_d = (Adam(game[name].parameters(), 2e-3, betas=(0.5, 0.999)) for name in "gd")
    with record(game, {"opt_d": opt_d, "opt_g": opt_g}):
        for _ in range(120):
            real = torch.randn(64, 2) * 0.3 + torch.tensor([1.0, -1.0])
            fake = game["g"](torch.randn(64, 4))
            opt_d.zero_grad()
            lost = F.softplus(-game["d"](real)).mean() + F.softplus(game["d"](fake.detach())).mean()
            lost.backward()
            opt_d.step()
            opt_g.zero_grad()
            F.softplus(-game["d"](fake)).mean().backward()
            opt_g.step()


@healthy
def accumulation(record: Record) -> None:
    model = mlp(64, 64, 10)
    optimizer = AdamW(model.parameters(), 2e-3)
    with record(model, {"optimizer": optimizer}):
        for index, (x, y) in enumerate(batches(*digits(), 240, 16)):
            (F.cross_entropy(model(x), y) / 4).backward()
            if index % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()


@healthy
def recurrent_clipped(record: Record) -> None:
    model = Rows(nn.GRU)
    fit(record, model, Adam(model.parameters(), 3e-3), 80, clip=1.0)


@healthy
def dropout_and_validation(record: Record) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))
    optimizer = SGD(model.parameters(), 0.1)
    x_eval, y_eval = digits()
    with record(model, {"optimizer": optimizer}):
        for index, (x, y) in enumerate(batches(*digits(), 150)):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            if index % 30 == 29:
                model.eval()
                with torch.no_grad():
                    F.cross_entropy(model(x_eval), y_eval)
                model.train()


@healthy
def high_learning_rate(record: Record) -> None:
    model = mlp(64, 128, 10)
    fit(record, model, SGD(model.parameters(), 0.7), 150)


@healthy
def full_batch_at_the_edge(record: Record) -> None:
    model = mlp(64, 64, 10, act=nn.Tanh)
    inputs, targets = digits()
    fit(record, model, SGD(model.parameters(), 0.8), 150, size=400, data=(inputs[:400], targets[:400]))


@healthy
def weighted_imbalance(record: Record) -> None:
    inputs, targets = digits()
    keep = (targets == 0) | (torch.arange(len(targets)) % 10 == 0)
    weight = torch.where(torch.arange(10) == 0, 0.1, 1.0)
    model = mlp(64, 64, 10)
    loss_of = functools.partial(F.cross_entropy, weight=weight)
    fit(record, model, Adam(model.parameters(), 2e-3), 150, data=(inputs[keep], targets[keep]), loss_of=loss_of)


@healthy
def lbfgs(record: Record) -> None:
    model = mlp(64, 32, 10, act=nn.Tanh)
    optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe", max_iter=5)
    inputs, targets = digits()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs[:300]), targets[:300])
        loss.backward()
        return loss

    with record(model, {"optimizer": optimizer}):
        for _ in range(12):
            optimizer.step(closure)


@healthy
def autocast_bfloat16(record: Record) -> None:
    model = mlp(64, 64, 10)
    optimizer = Adam(model.parameters(), 2e-3)
    with record(model, {"optimizer": optimizer}):
        for x, y in batches(*digits(), 100):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()


@healthy
def transformer(record: Record) -> None:
    torch.manual_seed(1)
    start = torch.randint(17, (400, 1))
    text = (start + 3 * torch.arange(17)) % 17
    model = Tokens()
    fit(record, model, AdamW(model.parameters(), 3e-3), 40, size=16, data=(text[:, :-1], text[:, 1:]))


@healthy
def residual_deep(record: Record) -> None:
    model = Residual(32, 8)
    fit(record, model, AdamW(model.parameters(), 1e-3), 40)


@healthy
def batch_of_one(record: Record) -> None:
    model = mlp(64, 64, 10)
    fit(record, model, SGD(model.parameters(), 0.01), 300, size=1)


@healthy
def batch_of_one_label_noise(record: Record) -> None:
    inputs, targets = digits()
    generator = torch.Generator().manual_seed(1)
    wrong = torch.rand(len(targets), generator=generator) < 0.05
    noisy = torch.where(wrong, torch.randint(10, targets.shape, generator=generator), targets)
    model = mlp(64, 64, 10)
    fit(record, model, SGD(model.parameters(), 0.01), 300, size=1, data=(inputs, noisy))


@healthy
def regression_to_zero(record: Record) -> None:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(256, 8, generator=generator)
    targets = inputs @ torch.randn(8, 1, generator=generator)
    model = nn.Linear(8, 1)
    fit(record, model, SGD(model.parameters(), 0.1), 200, data=(inputs, targets), loss_of=F.mse_loss)


@healthy
def negative_likelihood(record: Record) -> None:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(512, 4, generator=generator)
    targets = torch.cat([inputs[:, :1].sin(), inputs[:, :1]], 1) + 0.02 * torch.randn(512, 2, generator=generator)
    model = mlp(4, 32, 4)

    def loss_of(out: Tensor, y: Tensor) -> Tensor:
        return F.gaussian_nll_loss(out[:, :2], y, F.softplus(out[:, 2:]) + 1e-3)

    fit(record, model, Adam(model.parameters(), 3e-3), 200, data=(inputs, targets), loss_of=loss_of)


@healthy
def wide_and_long(record: Record) -> None:
    model = mlp(64, 256, 256, 10)
    fit(record, model, Adam(model.parameters(), 3e-3), 200)


@healthy
def ten_steps(record: Record) -> None:
    model = mlp(64, 64, 10)
    fit(record, model, SGD(model.parameters(), 0.1), 10)


@healthy
def sigmoid_shallow(record: Record) -> None:
    model = mlp(64, 32, 32, 10, act=nn.Sigmoid)
    fit(record, model, Adam(model.parameters(), 1e-2), 150)


@healthy
def raw_pixels_behind_batchnorm(record: Record) -> None:
    inputs, targets = digits()
    model = nn.Sequential(nn.BatchNorm1d(64), *mlp(64, 64, 10))
    fit(record, model, Adam(model.parameters(), 1e-3), 100, data=(inputs * 80 + 100, targets))


@healthy
def raw_pixels_divided_in_forward(record: Record) -> None:
    class Divided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(64, 64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x / 255)

    inputs, targets = digits()
    model = Divided()
    fit(record, model, Adam(model.parameters(), 3e-3), 100, data=(inputs * 80 + 100, targets))


@healthy
def low_rank_adapter(record: Record) -> None:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = mlp(64, 64, 10).requires_grad_(False)
            self.down, self.up = nn.Linear(64, 4, bias=False), nn.Linear(4, 10, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.base(x) + self.up(self.down(x))

    model = Adapted()
    fit(record, model, Adam([p for p in model.parameters() if p.requires_grad], 1e-2), 80)


@faulty("dead-units")
def biases_far_below_zero(record: Record) -> None:
    model = mlp(64, 64, 64, 10)
    nn.init.constant_(model[0].bias, -30.0)
    fit(record, model, SGD(model.parameters(), 0.05), 60)


@faulty("dead-units")
def one_huge_step_kills(record: Record) -> None:
    model = mlp(64, 64, 64, 10)
    optimizer = SGD(model.parameters(), 0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 2000.0 if step == 40 else 1.0)
    fit(record, model, optimizer, 120, schedule=schedule)


@faulty("frozen-parameters")
def backbone_left_out(record: Record) -> None:
    model = Halves()
    fit(record, model, Adam(model.head.parameters(), 1e-2))


@faulty("frozen-parameters")
def backbone_detached(record: Record) -> None:
    model = Halves(cut=True)
    fit(record, model, Adam(model.parameters(), 1e-2))


@faulty("frozen-parameters")
def layer_never_called(record: Record) -> None:
    model = Halves(unused=True)
    fit(record, model, Adam(model.parameters(), 1e-2))


@faulty("frozen-parameters")
def head_replaced_after_optimizer(record: Record) -> None:
    model = Halves()
    optimizer = Adam(model.parameters(), 1e-3)
    model.head = nn.Linear(32, 10)
    fit(record, model, optimizer)


@faulty("frozen-parameters")
def group_with_learning_rate_zero(record: Record) -> None:
    model = Halves()
    groups = [{"params": model.backbone.parameters(), "lr": 0.0}, {"params": model.head.parameters()}]
    fit(record, model, SGD(groups, 0.1))


@faulty("missing-zero-grad")
def never_cleared_sgd(record: Record) -> None:
    model = mlp(64, 64, 10)
    fit(record, model, SGD(model.parameters(), 0.01), 60, clear=False)


@faulty("missing-zero-grad")
def never_cleared_adam(record: Record) -> None:
    model = mlp(64, 64, 10)
    fit(record, model, Adam(model.parameters(), 1e-3), 60, clear=False)


@faulty("vanishing-gradient")
def deep_sigmoid(record: Record) -> None:
    model = mlp(64, *[32] * 9, 10, act=nn.Sigmoid)
    fit(record, model, SGD(model.parameters(), 0.1), 60)


@faulty("vanishing-gradient")
def deep_relu_tiny_weights(record: Record) -> None:
    model = mlp(64, *[32] * 8, 10)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.01)
    fit(record, model, SGD(model.parameters(), 0.1), 60)


@faulty("exploding-gradient")
def deep_relu_large_weights(record: Record) -> None:
    model = mlp(64, *[32] * 8, 10)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=1.0)
    fit(record, model, SGD(model.parameters(), 1e-3), 40)


@faulty("bad-init")
def recurrent_large_weights(record: Record) -> None:
    model = Rows(functools.partial(nn.RNN, nonlinearity="relu"), passes=4)
    nn.init.normal_(model.rnn.weight_hh_l0, std=0.35)
    fit(record, model, SGD(model.parameters(), 1e-3), 40)


@faulty("unnormalized-inputs")
def pixels_of_255(record: Record) -> None:
    inputs, targets = load_digits(return_X_y=True)
    model = mlp(64, 64, 10)
    data = torch.tensor(inputs * 255 / 16, dtype=torch.float32), torch.tensor(targets)
    fit(record, model, Adam(model.parameters(), 1e-3), 60, data=data)


@faulty("unnormalized-inputs")
def columns_in_different_units(record: Record) -> None:
    inputs, targets = load_wine(return_X_y=True)
    model = mlp(13, 32, 3)
    data = torch.tensor(inputs, dtype=torch.float32), torch.tensor(targets)
    fit(record, model, SGD(model.parameters(), 0.01), 60, data=data)


@faulty("diverging")
def squared_error_too_fast(record: Record) -> None:
    inputs, targets = digits()
    model = mlp(64, 32, 1)
    data = inputs, targets[:, None].float()
    fit(record, model, SGD(model.parameters(), 0.5), 60, data=data, loss_of=F.mse_loss)


@faulty("diverging")
def linear_too_fast(record: Record) -> None:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(256, 8, generator=generator)
    model = nn.Linear(8, 1)
    data = inputs, inputs.sum(1, keepdim=True)
    fit(record, model, SGD(model.parameters(), 1.4), 60, size=256, data=data, loss_of=F.mse_loss)


@faulty("diverging")
def classifier_too_fast(record: Record) -> None:
    model = mlp(64, 128, 128, 10)
    fit(record, model, SGD(model.parameters(), 30.0), 100)


@faulty("diverging")
def adam_too_fast(record: Record) -> None:
    model = mlp(64, 128, 128, 10)
    fit(record, model, Adam(model.parameters(), 3.0), 100)


@faulty("nonfinite")
def logarithm_of_zero(record: Record) -> None:
    class Shares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(64, 64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.net(x))

    def loss_of(out: Tensor, y: Tensor) -> Tensor:
        return -(out.gather(1, y[:, None]) / out.sum(1, keepdim=True)).log().mean()

    model = Shares()
    fit(record, model, Adam(model.parameters(), 1e-3), 40, loss_of=loss_of)


@faulty("nonfinite")
def bad_input(record: Record) -> None:
    inputs, targets = digits()
    inputs = inputs.clone()
    inputs[::50, 3] = float("nan")
    model = mlp(64, 64, 10)
    fit(record, model, SGD(model.parameters(), 0.1), 40, data=(inputs, targets))


@faulty("nonfinite")
def root_of_zero(record: Record) -> None:
    def loss_of(out: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(out, y) + 1e-3 * (out[0] - out[0].detach()).pow(2).sum().sqrt()

    model = mlp(64, 64, 10)
    fit(record, model, SGD(model.parameters(), 0.1), 40, loss_of=loss_of)


@faulty("loss-spike")
def one_broken_batch(record: Record) -> None:
    model = mlp(64, 64, 10)
    optimizer = SGD(model.parameters(), 0.1)
    with record(model, {"optimizer": optimizer}):
        for index, (x, y) in enumerate(batches(*digits(), 200)):
            optimizer.zero_grad()
            F.cross_entropy(model(x * 40 if index == 120 else x), y).backward()
            optimizer.step()


@faulty("loss-spike")
def learning_rate_jumps(record: Record) -> None:
    model = mlp(64, 64, 10)
    optimizer = Adam(model.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 100.0 if 120 <= step < 124 else 1.0)
    fit(record, model, optimizer, 250, schedule=schedule)


@faulty("lr-too-low")
def hardly_a_step(record: Record) -> None:
    model = mlp(64, 64, 10)
    fit(record, model, Adam(model.parameters(), 1e-6), 100)


@faulty("lr-too-high")
def steps_larger_than_the_weights(record: Record) -> None:
    model = mlp(64, 64, 64, 10)
    fit(record, model, Adam(model.parameters(), 0.3), 100)


@faulty("scheduler-misuse")
def schedule_in_epochs_stepped_in_batches(record: Record) -> None:
    model = mlp(64, 64, 10)
    optimizer = SGD(model.parameters(), 0.05)
    fit(record, model, optimizer, 120, schedule=torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.1))


@faulty("clipping-always-active")
def clipped_to_a_hundredth(record: Record) -> None:
    model = mlp(64, 64, 10)
    fit(record, model, SGD(model.parameters(), 0.1), 80, clip=0.01)


@faulty("epsilon-underflow")
def loss_scaled_to_nothing(record: Record) -> None:
    model = mlp(64, 64, 10)
    fit(record, model, Adam(model.parameters(), 1e-3), 80, loss_of=lambda out, y: 1e-10 * F.cross_entropy(out, y))


@faulty("weight-decay-dominates")
def decay_of_one(record: Record) -> None:
    model = mlp(64, 64, 64, 10)
    fit(record, model, SGD(model.parameters(), 0.1, weight_decay=1.0), 100)


@faulty("saturated-units")
def tanh_of_large_weights(record: Record) -> None:
    model = mlp(64, 64, 64, 10, act=nn.Tanh)
    nn.init.normal_(model[0].weight, std=2.0)
    nn.init.normal_(model[2].weight, std=2.0)
    fit(record, model, SGD(model.parameters(), 0.05), 60)


@faulty("bad-init")
def constant_weights(record: Record) -> None:
    model = mlp(64, 64, 64, 10)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.02)
    fit(record, model, Adam(model.parameters(), 1e-3), 60)


@faulty("bad-init")
def logits_of_fifty(record: Record) -> None:
    model = mlp(64, 64, 10)
    nn.init.normal_(model[2].weight, std=10.0)
    fit(record, model, Adam(model.parameters(), 1e-3), 60)


@faulty("plateau")
def line_through_parity(record: Record) -> None:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randint(2, (512, 8), generator=generator).float() * 2 - 1
    targets = (inputs[:, :4].prod(1) > 0).long()
    model = nn.Linear(8, 2)
    fit(record, model, SGD(model.parameters(), 0.05), 150, size=64, data=(inputs, targets))


@faulty("batch-too-small")
def batch_of_one_at_a_high_rate(record: Record) -> None:
    model = mlp(64, 64, 10)
    fit(record, model, SGD(model.parameters(), 0.25), 300, size=1)


@faulty("batch-too-large")
def everything_in_every_step(record: Record) -> None:
    model = mlp(64, 64, 10)
    fit(record, model, SGD(model.parameters(), 0.05), 50, size=1797)
