"""Small trainings of many kinds; each builds everything itself and yields after a step what must not change."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.checkpoint import checkpoint

Training = Callable[[], Iterator[object]]
STEPS = 6


def digits(count: int = 16, features: int = 6, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, features)
    return x, (x.sum(dim=1).abs() * 2).long() % classes


def images(count: int = 6, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 1, size, size), torch.arange(count) % 3


def tokens(rows: int = 4, length: int = 7, vocabulary: int = 11) -> torch.Tensor:
    return torch.randint(0, vocabulary, (rows, length))


def perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Dropout(0.2), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 3))


def mlp(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Iterator[object]:
    model = perceptron()
    optimizer = make(list(model.parameters()))
    held = np.random.default_rng(3)
    for step in range(STEPS):
        x, y = digits()
        x = x + torch.as_tensor(held.normal(size=x.shape), dtype=torch.float32)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        print(f"step {step}: {loss.item()}")
        yield model, optimizer, loss, held


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd-momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "sgd-fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "adam-amsgrad-for-loop": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True, foreach=False),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "adam-tensor-lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-2)),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.5, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "nadam": lambda p: torch.optim.NAdam(p),
    "radam": lambda p: torch.optim.RAdam(p),
    "adamax": lambda p: torch.optim.Adamax(p),
    "asgd": lambda p: torch.optim.ASGD(p),
    "rprop": lambda p: torch.optim.Rprop(p),
    "adafactor": lambda p: torch.optim.Adafactor(p),
    "groups": lambda p: torch.optim.SGD([{"params": p[:2], "lr": 0.3}, {"params": p[2:]}], lr=0.1),
}


def cnn_with_batchnorm() -> Iterator[object]:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.ReLU(inplace=True),
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(20, 3),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    for step in range(STEPS):
        model.train()
        x, y = images()
        optimizer.zero_grad(set_to_none=step % 2 == 0)
        loss = criterion(model(x), y)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
        model.eval()
        with torch.no_grad():
            held_out = criterion(model(x), y)
        yield model, optimizer, loss, norm, held_out, scheduler.state_dict()


class Attention(nn.Module):
    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        q, k, v = (part.view(rows, length, self.heads, -1).transpose(1, 2) for part in self.mix(x).split(width, dim=2))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1 if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).reshape(rows, length, width))


class LanguageModel(nn.Module):
    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.attention = Attention()
        self.norm = nn.LayerNorm(8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8, 11, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor, targets: torch.Tensor | None = None) -> tuple[torch.Tensor, Any]:
        x = self.embed(ids)
        scores = self.head(self.norm(x + self.drop(self.attention(x))))
        return scores, None if targets is None else F.cross_entropy(scores.flatten(0, 1), targets.flatten())


def transformer_tied() -> Iterator[object]:
    model = LanguageModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    for _ in range(STEPS):
        ids = tokens()
        for half in ids.chunk(2):
            _, loss = model(half[:, :-1], targets=half[:, 1:])
            assert loss is not None
            (loss / 2).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield model, optimizer, loss


def encoder_layer() -> Iterator[object]:
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True), nn.Linear(8, 1))
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    for _ in range(STEPS):
        x = torch.randn(3, 5, 8)
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), x.mean(dim=2, keepdim=True))
        loss.backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            fast = model(x)
        model.train()
        yield model, optimizer, loss, fast


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(4, 6, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(6, 1)

    def forward(self, x: torch.Tensor, state: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        out, state = self.cells(x, state)
        return self.head(out[:, -1]), state


def gru() -> Iterator[object]:
    model = Recurrent()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.05)
    state = None
    for _ in range(STEPS):
        x = torch.randn(3, 5, 4)
        optimizer.zero_grad()
        out, state = model(x, state)
        state = state.detach()
        loss = F.binary_cross_entropy_with_logits(out, (x.sum(dim=(1, 2)) > 0).float()[:, None])
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.1)
        optimizer.step()
        yield model, optimizer, loss, state


def gan() -> Iterator[object]:
    generator = nn.Sequential(nn.Linear(3, 6), nn.LeakyReLU(0.2), nn.Linear(6, 2))
    judge = nn.Sequential(nn.Linear(2, 6), nn.LeakyReLU(0.2), nn.Linear(6, 1))
    opt_g = torch.optim.Adam(generator.parameters(), betas=(0.5, 0.999))
    opt_d = torch.optim.Adam(judge.parameters(), betas=(0.5, 0.999))
    ones, zeros = torch.ones(8, 1), torch.zeros(8, 1)
    for _ in range(STEPS):
        real, fake = torch.randn(8, 2), generator(torch.randn(8, 3))
        opt_d.zero_grad()
        loss_d = F.binary_cross_entropy_with_logits(judge(real), ones)
        loss_d.backward()
        loss_f = F.binary_cross_entropy_with_logits(judge(fake.detach()), zeros)
        loss_f.backward()
        opt_d.step()
        opt_g.zero_grad()
        loss_g = F.binary_cross_entropy_with_logits(judge(fake), ones)
        loss_g.backward()
        opt_g.step()
        yield generator, judge, opt_g, opt_d, loss_d, loss_f, loss_g


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


def siamese() -> Iterator[object]:
    tower = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    optimizer = torch.optim.Adam(tower.parameters())
    for _ in range(STEPS):
        a, b = torch.randn(4, 6), torch.randn(4, 6)
        optimizer.zero_grad()
        loss = F.cosine_embedding_loss(tower(a), tower(b), torch.tensor([1, -1, 1, -1]))
        loss.backward()
        optimizer.step()
        yield tower, optimizer, loss


def sparse_embedding() -> Iterator[object]:
    table, head = nn.Embedding(11, 4, sparse=True), nn.Linear(4, 3)
    sparse, dense = torch.optim.SparseAdam(table.parameters()), torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(STEPS):
        ids = tokens()
        sparse.zero_grad()
        dense.zero_grad()
        loss = F.cross_entropy(head(table(ids).mean(dim=1)), ids[:, 0] % 3)
        loss.backward()
        sparse.step()
        dense.step()
        yield table, head, sparse, dense, loss


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


def user_hooks() -> Iterator[object]:
    """Hooks of every kind, each leaving a line in a log; some change what passes through."""
    log: list[object] = []
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    for index, module in enumerate(model):
        module.register_forward_pre_hook(lambda m, a, i=index: log.append(("pre", i, a[0].sum().item())))
        module.register_forward_hook(lambda m, a, out, i=index: log.append(("post", i, out.sum().item())))
        module.register_full_backward_hook(lambda m, gi, go, i=index: log.append(("backward", i, go[0].sum().item())))
    model[0].register_forward_hook(lambda m, a, out: out * 1.5)
    model[3].weight.register_hook(lambda g: log.append(("tensor", g.sum().item())))
    model[3].weight.register_post_accumulate_grad_hook(lambda p: log.append(("accumulated", p.grad.sum().item())))
    optimizer.register_step_pre_hook(lambda o, a, k: log.append(("before step", len(o.state))))
    optimizer.register_step_post_hook(lambda o, a, k: log.append(("after step", len(o.state))))
    everywhere = nn.modules.module.register_module_forward_hook(
        lambda m, a, out: log.append(("global", type(m).__name__, out.sum().item()))
    )
    any_step = register_optimizer_step_post_hook(lambda o, a, k: log.append("global step"))
    try:
        for _ in range(STEPS):
            x, y = digits()
            optimizer.zero_grad()
            scores = model(x)
            scores.register_hook(lambda g: g * 2)
            scores.retain_grad()
            loss = F.cross_entropy(scores, y)
            loss.backward()
            optimizer.step()
            yield model, optimizer, loss, scores.grad, log
    finally:
        everywhere.remove()
        any_step.remove()


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(torch.relu(self.inner(x)), y)


def scripted_and_traced() -> Iterator[object]:
    front = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    back = Scripted()
    optimizer = torch.optim.SGD([*front.parameters(), *back.parameters()], lr=0.1)
    graphs = []
    for step in range(STEPS):
        x, y = digits()
        if step == 2:
            back = torch.jit.script(back)
            front = torch.jit.trace(front, x)
            graphs = [back.code, front.code]
        optimizer.zero_grad()
        loss = back(front(x), y)
        loss.backward()
        optimizer.step()
        yield front.state_dict(), back.state_dict(), optimizer, loss, graphs


def traced_symbolically() -> Iterator[object]:
    model: nn.Module = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    code = ""
    for step in range(STEPS):
        x, y = digits()
        if step == 2:
            model = torch.fx.symbolic_trace(model)
            code = model.code
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        yield model, optimizer, loss, code


def averaged_and_saved() -> Iterator[object]:
    """An average of the weights, a copy made midway, a round trip through a file, a pickled loss function."""
    model = perceptron()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    schedule = torch.optim.swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=3)
    criterion = functools.partial(F.cross_entropy, label_smoothing=0.1)
    shadow = None
    for step in range(STEPS):
        x, y = digits()
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
        schedule.step()
        if step == 2:
            shadow = copy.deepcopy(model)
            file = io.BytesIO()
            torch.save({"model": model, "state": optimizer.state_dict(), "optimizer": optimizer}, file)
            file.seek(0)
            loaded = torch.load(file, weights_only=False)
            model.load_state_dict(loaded["model"].state_dict())
            optimizer.load_state_dict(loaded["optimizer"].state_dict())
            criterion = pickle.loads(pickle.dumps(criterion))
        yield model, optimizer, average, shadow, loss, F.cross_entropy is criterion.func


def patched_by_user() -> Iterator[object]:
    calls: list[str] = []
    original = F.cross_entropy

    def counted(*args: object, **kwargs: object) -> torch.Tensor:
        calls.append("cross_entropy")
        return original(*args, **kwargs)

    F.cross_entropy = counted
    try:
        for shown in mlp(OPTIMIZERS["adam"]):
            yield shown, calls
    finally:
        F.cross_entropy = original


def saved_tensors_hooks() -> Iterator[object]:
    counts = {"pack": 0, "unpack": 0}

    def pack(t: torch.Tensor) -> torch.Tensor:
        counts["pack"] += 1
        return t.clone()

    def unpack(t: torch.Tensor) -> torch.Tensor:
        counts["unpack"] += 1
        return t

    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(STEPS):
        x, y = digits()
        optimizer.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        yield model, optimizer, loss, counts


def anomaly_profiled_deterministic() -> Iterator[object]:
    torch.use_deterministic_algorithms(True)
    try:
        with torch.autograd.detect_anomaly(check_nan=True), torch.profiler.profile(with_stack=False):
            yield from mlp(OPTIMIZERS["adamw-foreach"])
    finally:
        torch.use_deterministic_algorithms(False)


class Counting(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls.append(str(func))
        return func(*args, **(kwargs or {}))


class CountingFunctions(torch.overrides.TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls.append(torch.overrides.resolve_name(func) or str(func))
        return func(*args, **(kwargs or {}))


def counted_operations(mode: Callable[[], Counting | CountingFunctions]) -> Iterator[object]:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(STEPS):
        x, y = digits()
        with mode() as counting:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        yield model, optimizer, loss, counting.calls


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


def fake_and_exported() -> Iterator[object]:
    """Shapes worked out on fake tensors and a graph exported, in the middle of a training."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    graphs = []
    for step in range(STEPS):
        x, y = digits()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        if step == 2:
            graphs.append(make_fx(lambda x, y: F.cross_entropy(model(x), y))(x, y).code)
            with FakeTensorMode() as mode:
                twin = nn.Linear(6, 3)
                out = F.cross_entropy(twin(mode.from_tensor(x)), mode.from_tensor(y))
                out.backward()
                graphs.append(str(tuple(twin.weight.grad.shape)))
        loss.backward()
        optimizer.step()
        yield model, optimizer, loss, graphs


KINDS: dict[str, Training] = {
    "cnn-batchnorm": cnn_with_batchnorm,
    "transformer-tied-fused-attention": transformer_tied,
    "encoder-layer": encoder_layer,
    "gru": gru,
    "gan": gan,
    "checkpoint": functools.partial(checkpointed, False),
    "checkpoint-reentrant": functools.partial(checkpointed, True),
    "autocast-scaled": autocast_scaled,
    "lbfgs": lbfgs,
    "siamese": siamese,
    "sparse-embedding": sparse_embedding,
    "loader-workers": loader_workers,
    "per-example-gradients": per_example_gradients,
    "user-hooks": user_hooks,
    "scripted-traced": scripted_and_traced,
    "symbolic-trace": traced_symbolically,
    "averaged-saved": averaged_and_saved,
    "patched-by-user": patched_by_user,
    "saved-tensors-hooks": saved_tensors_hooks,
    "anomaly-profiler-deterministic": anomaly_profiled_deterministic,
    "dispatch-mode": functools.partial(counted_operations, Counting),
    "function-mode": functools.partial(counted_operations, CountingFunctions),
    "no-optimizer": without_optimizer,
    "warning-loss": warning_loss,
    "frozen-released": frozen_then_released,
    "fake-and-exported": fake_and_exported,
    **{f"mlp-{name}": functools.partial(mlp, make) for name, make in OPTIMIZERS.items()},
}
"""Trainings that take a fraction of a second each."""

COMPILED: dict[str, Training] = {
    "compiled": functools.partial(compiled, "aot_eager"),
    "compiled-loss-and-step": compiled_step,
}
