"""Ways to compute and take a step: recomputed, compiled, scaled, by closures, by hand, with worker processes."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from tests.record.zoo._common import STEPS, Training, digits, perceptron
from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpointed(use_reentrant: bool) -> Iterator[object]:
    first = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3))
    second = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Dropout(0.3))
    model = nn.ModuleDict({"first": first, "second": second, "head": nn.Linear(6, 3)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(STEPS):
        x, y = digits()
        optimizer.zero_grad()
        hidden = checkpoint(first, x.requires_grad_(), use_reentrant=use_reentrant)
        hidden = checkpoint(second, hidden, use_reentrant=use_reentrant)
        loss = F.cross_entropy(model["head"](hidden), y)
        loss.backward()
        optimizer.step()
        yield model, optimizer, loss


def compiled(backend: str) -> Iterator[object]:
    torch._dynamo.reset()
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    model = nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.3))
    fast = torch.compile(model, backend=backend)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(STEPS):
        x, y = digits()
        optimizer.zero_grad()
        loss = F.cross_entropy(fast(x), y)
        loss.backward()
        optimizer.step()
        yield model, optimizer, loss, torch._dynamo.utils.counters["stats"]["unique_graphs"] - graphs
    torch._dynamo.reset()


def compiled_step() -> Iterator[object]:
    """The whole step compiled, loss and optimizer included."""
    torch._dynamo.reset()
    model = nn.Linear(6, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.1), foreach=False)

    @torch.compile(backend="aot_eager")
    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(x), y)

    advance = torch.compile(optimizer.step, backend="eager", fullgraph=False)
    for _ in range(STEPS):
        x, y = digits()
        loss = loss_of(x, y)
        loss.backward()
        advance()
        optimizer.zero_grad()
        yield model, optimizer, loss
    torch._dynamo.reset()


def autocast_scaled() -> Iterator[object]:
    model = perceptron()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    for step in range(STEPS):
        x, y = digits()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x), y)
        if step == 2:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        yield model, optimizer, loss, scaler.state_dict()


def lbfgs() -> Iterator[object]:
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.5, max_iter=4, line_search_fn="strong_wolfe")
    x, _ = digits()
    calls = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.smooth_l1_loss(model(x), x[:, :1])
        loss.backward()
        calls.append(loss.item())
        return loss

    for _ in range(3):
        loss = optimizer.step(closure)
        yield model, optimizer, loss, calls


class Squares(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.randn(6) + index, torch.tensor(index % 3)


def loader_workers() -> Iterator[object]:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = torch.utils.data.DataLoader(
        Squares(), batch_size=4, shuffle=True, num_workers=2, multiprocessing_context="fork"
    )
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        yield model, optimizer, loss, x, y


def per_example_gradients() -> Iterator[object]:
    """Clipped per-example gradients as in differentially private training."""
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_of(parameters: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(torch.func.functional_call(model, parameters, (x[None],)), y[None])

    for _ in range(STEPS):
        x, y = digits()
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        each = torch.func.vmap(torch.func.grad(loss_of), in_dims=(None, 0, 0))(parameters, x, y)
        optimizer.zero_grad()
        batch = F.cross_entropy(model(x), y)
        batch.backward()
        for name, p in model.named_parameters():
            p.grad = each[name].clamp(-0.1, 0.1).mean(dim=0)
        optimizer.step()
        yield model, optimizer, each, batch


def without_optimizer() -> Iterator[object]:
    model = perceptron()
    for _ in range(STEPS):
        x, y = digits()
        loss = F.cross_entropy(model(x), y)
        gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        penalty = sum(g.square().sum() for g in gradients)
        model.zero_grad()
        (loss + 0.01 * penalty).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
        yield model, loss, gradients


def warning_loss() -> Iterator[object]:
    """A loss function that warns about its caller's line."""
    model = nn.Linear(6, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(STEPS):
        x, _ = digits()
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), x.sum(dim=1))
        loss.backward()
        optimizer.step()
        yield model, optimizer, loss


def frozen_then_released() -> Iterator[object]:
    model = perceptron()
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam(model[3:].parameters())
    for step in range(STEPS):
        if step == 3:
            model[0].requires_grad_(True)
            optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 1e-4})
        x, y = digits()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        yield model, optimizer, loss


KINDS: dict[str, Training] = {
    "checkpoint": functools.partial(checkpointed, False),
    "checkpoint-reentrant": functools.partial(checkpointed, True),
    "autocast-scaled": autocast_scaled,
    "lbfgs": lbfgs,
    "loader-workers": loader_workers,
    "per-example-gradients": per_example_gradients,
    "no-optimizer": without_optimizer,
    "warning-loss": warning_loss,
    "frozen-released": frozen_then_released,
}
