"""Scripts that hook, patch, trace, script, copy and count what runs, as a recording does."""

from __future__ import annotations

import copy
import functools
import io
import pickle
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from tests.record.zoo._common import OPTIMIZERS, STEPS, Training, digits, mlp, perceptron
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook


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
    "user-hooks": user_hooks,
    "scripted-traced": scripted_and_traced,
    "symbolic-trace": traced_symbolically,
    "averaged-saved": averaged_and_saved,
    "patched-by-user": patched_by_user,
    "saved-tensors-hooks": saved_tensors_hooks,
    "anomaly-profiler-deterministic": anomaly_profiled_deterministic,
    "dispatch-mode": functools.partial(counted_operations, Counting),
    "function-mode": functools.partial(counted_operations, CountingFunctions),
    "fake-and-exported": fake_and_exported,
}
