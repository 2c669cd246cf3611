"""A recorder for tests: the default series by plain, slow definitions, through hooks on an ordinary training loop."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.optim import Optimizer

from separatrix.runs import RunWriter, SeriesSpec

Recording = contextlib.AbstractContextManager[None]
WINDOW = 4


def sampled(step: int) -> bool:
    return step < 3 or step % 10 == 0


class BruteForce:
    """Records a model and its named optimizers while a loop trains them."""

    def __init__(self, path: Path, model: nn.Module, optimizers: Mapping[str, Optimizer]) -> None:
        self.writer = RunWriter(path)
        self.model, self.optimizers = model, optimizers
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.leaves = {name: m for name, m in model.named_modules() if not list(m.children())}
        self.clock: str | None = None
        self.step = 0
        self.losses = dict.fromkeys(optimizers, 0.0)
        self.backwards = dict.fromkeys(optimizers, 0)
        self.carry: dict[str, dict[str, float]] = {name: {} for name in optimizers}
        self.before: dict[str, list[Tensor]] = {}
        self.rates: dict[str, float] = {}
        self.alive: dict[str, list[Tensor]] = defaultdict(list)
        self.acted = False
        self._facts()

    def _facts(self) -> None:
        owner = {id(p): n for n, o in self.optimizers.items() for g in o.param_groups for p in g["params"]}
        module_of = {id(p): name for name, m in self.model.named_modules() for p in m.parameters(recurse=False)}
        facts = [
            {
                "name": name,
                "shape": list(p.shape),
                "dtype": str(p.dtype).removeprefix("torch."),
                "numel": p.numel(),
                "requires_grad": p.requires_grad,
                "optimizer": owner.get(id(p)),
                "tied": [],
                "module": module_of[id(p)],
            }
            for name, p in self.model.named_parameters()
        ]
        self.writer.meta("parameters", facts)
        self.writer.meta("modules", [{"name": n, "kind": type(m).__name__} for n, m in self.leaves.items()])

    def scalar(self, name: str, value: float, **labels: str) -> None:
        self.writer.scalar(self.writer.series(SeriesSpec(name, labels=labels)), self.step, float(value))

    def vector(self, name: str, dim: str, values: Mapping[str, float]) -> None:
        if values:
            series = self.writer.series(SeriesSpec(name, (dim,)))
            positions = np.array(self.writer.positions(dim, list(values)), dtype=np.int32)
            self.writer.vector(series, self.step, np.array(list(values.values()), np.float32), positions=positions)

    def label(self, optimizer: str) -> dict[str, str]:
        return {"optimizer": optimizer} if len(self.optimizers) > 1 else {}

    def parameters(self, optimizer: str) -> list[nn.Parameter]:
        return [p for g in self.optimizers[optimizer].param_groups for p in g["params"]]

    def named(self, parameters: list[nn.Parameter]) -> list[tuple[str, nn.Parameter]]:
        return [(self.names[id(p)], p) for p in parameters if id(p) in self.names]

    def before_backward(self) -> None:
        for name in self.optimizers:
            parameters = self.parameters(name)
            clean = all(p.grad is None or not bool(p.grad.any()) for p in parameters)
            if clean:
                self.losses[name], self.backwards[name] = 0.0, 0
            if self.backwards[name] == 0:
                self.carry[name] = {n: 0.0 if p.grad is None else rms(p.grad) for n, p in self.named(parameters)}

    def after_backward(self, loss: Tensor) -> None:
        for name in self.optimizers:
            if any(p.grad is not None for p in self.parameters(name)):
                self.losses[name] += float(loss.detach())
                self.backwards[name] += 1

    def before_step(self, name: str) -> None:
        self.clock = self.clock or name
        if not sampled(self.step):
            return
        optimizer = self.parameters(name)
        self.before[name] = [p.detach().clone() for p in optimizer]
        everything = optimizer + [p for p in self.model.parameters() if p.requires_grad and not self.owned(p)]
        self.gradients(name, self.named(everything))

    def gradients(self, name: str, named: list[tuple[str, nn.Parameter]]) -> None:
        present = {n: p.grad for n, p in named if p.grad is not None}
        self.vector("gradient_absent", "parameter", {n: float(n not in present) for n, _ in named})
        self.vector("gradient_rms", "parameter", {n: rms(g) for n, g in present.items()})
        shares = {n: float((~torch.isfinite(g)).float().mean()) for n, g in present.items()}
        self.vector("nonfinite_share", "parameter", shares)
        self.vector("gradient_carryover", "parameter", self.carry[name])

    def owned(self, parameter: nn.Parameter) -> bool:
        return any(parameter is p for name in self.optimizers for p in self.parameters(name))

    def after_step(self, name: str) -> None:
        self.scalar("loss", self.losses[name], **self.label(name))
        rate = max(float(g["lr"]) for g in self.optimizers[name].param_groups)
        if self.rates.get(name) != rate:
            self.scalar("learning_rate", rate, **self.label(name))
            self.rates[name] = rate
        if sampled(self.step) and name in self.before:
            pairs = list(zip(self.named(self.parameters(name)), self.before.pop(name), strict=False))
            weights = {n: rms(old) for (n, _), old in pairs}
            updates = {n: rms(p.detach() - old) for (n, p), old in pairs}
            self.vector("weight_rms", "parameter", weights)
            self.vector("update_rms", "parameter", updates)
            self.vector("update_ratio", "parameter", {n: updates[n] / w for n, w in weights.items() if w > 0})
        self.losses[name], self.backwards[name] = 0.0, 0
        if name == self.clock:
            self.step += 1
            self.acted = False

    def after_leaf(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if not torch.is_grad_enabled() or not isinstance(output, Tensor) or not output.is_floating_point():
            return
        if not sampled(self.step):
            return
        values = output.detach().float()
        self.vector("activation_rms", "module", {name: rms(values)})
        self.vector("zero_share", "module", {name: float((values == 0).float().mean())})
        self.vector("activation_nonfinite_share", "module", {name: float((~torch.isfinite(values)).float().mean())})
        watched = inputs[0].detach() if list(module.parameters(recurse=False)) and rectified(inputs) else values
        per_unit = watched.movedim(1, -1) if watched.dim() == 4 else watched
        window = self.alive[name]
        window.append((per_unit != 0).reshape(-1, per_unit.shape[-1]).any(dim=0))
        del window[:-WINDOW]
        dead = 1.0 - float(torch.stack(window).any(dim=0).float().mean())
        self.vector("dead_unit_share", "module", {name: dead})

    def after_root(self, inputs: Any) -> None:
        if self.acted or not torch.is_grad_enabled() or not sampled(self.step):
            return
        self.acted = True
        first = next((x for x in inputs if isinstance(x, Tensor) and x.is_floating_point()), None)
        batch = next((x for x in inputs if isinstance(x, Tensor)), None)
        if batch is not None:
            self.scalar("batch_size", len(batch))
        if first is None:
            return
        values = first.detach().float()
        self.scalar("input_mean", float(values.mean()))
        self.scalar("input_std", float(values.std(unbiased=False)))
        if values.dim() == 2 and len(values) > 1:
            spreads = values.std(dim=0, unbiased=False)
            spreads = spreads[spreads > 0]
            if len(spreads):
                self.scalar("input_feature_std_ratio", float(spreads.max() / spreads.min()))


def rms(tensor: Tensor) -> float:
    return float(tensor.detach().double().pow(2).mean().sqrt())


def rectified(inputs: Any) -> bool:
    node = getattr(inputs[0], "grad_fn", None)
    return type(node).__name__ == type(relu(torch.ones(1, requires_grad=True)).grad_fn).__name__


@contextlib.contextmanager
def recording(path: Path, model: nn.Module, optimizers: Mapping[str, Optimizer]) -> Iterator[None]:
    """Record what a loop inside the block does to the model and its optimizers."""
    recorder = BruteForce(path, model, optimizers)
    backward, clip = Tensor.backward, nn.utils.clip_grad_norm_

    def watched_backward(self: Tensor, *args: Any, **kwargs: Any) -> None:
        recorder.before_backward()
        backward(self, *args, **kwargs)
        recorder.after_backward(self)

    def watched_clip(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Tensor:
        norm = clip(parameters, max_norm, *args, **kwargs)
        recorder.scalar("gradient_norm", float(norm))
        recorder.scalar("clip_coefficient", min(1.0, max_norm / (float(norm) + 1e-6)))
        return norm

    handles: list[Any] = [
        leaf.register_forward_hook(lambda m, i, o, name=name: recorder.after_leaf(name, m, i, o))
        for name, leaf in recorder.leaves.items()
    ]
    roots = [model] if type(model) is not nn.ModuleDict else list(model.children())
    handles += [root.register_forward_hook(lambda m, i, o: recorder.after_root(i)) for root in roots]
    for name, optimizer in optimizers.items():
        handles.append(optimizer.register_step_pre_hook(lambda o, a, k, name=name: recorder.before_step(name)))
        handles.append(optimizer.register_step_post_hook(lambda o, a, k, name=name: recorder.after_step(name)))
    patches = (
        mock.patch.object(Tensor, "backward", watched_backward),
        mock.patch.object(nn.utils, "clip_grad_norm_", watched_clip),
    )
    try:
        with patches[0], patches[1]:
            yield
    finally:
        for handle in handles:
            handle.remove()
        recorder.writer.close()
