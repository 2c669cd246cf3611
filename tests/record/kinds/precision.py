"""Mixed precision: autocast, and loss scaling with steps that are skipped."""

from __future__ import annotations

import torch
from tests.record.kinds._data import classes
from tests.record.kinds.kind import kind
from tests.record.kinds.losses import CLASSES, mlp
from tests.record.kinds.truth import Truth
from torch import nn
from torch.nn import functional

SCALER = ("rectifier", "scaler", "skips", *CLASSES)


@kind("autocast to bfloat16", "SGD", "rectifier", *CLASSES)
def autocast(truth: Truth) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores = model(x)
            loss = functional.cross_entropy(scores, y)
        loss.backward()
        truth.classes(scores, y)
        with truth.stepping(model, loss=loss):
            optimizer.step()


def _scaled(truth: Truth, fused: bool, unscale: bool, clip: float | None = None) -> None:
    x, y = classes()
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    skipped = 0
    for i in range(5):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        scale = scaler.get_scale()
        scaler.scale(loss).backward()
        if i in (0, 2):
            model[0].weight.grad[0, 0] = float("inf")
        if unscale:
            scaler.unscale_(optimizer)
        taken = i not in (0, 2)
        gradients = {n: p.grad.detach().clone() / (1.0 if unscale else scale) for n, p in model.named_parameters()}
        norm = sum(float(g.double().pow(2).sum()) for g in gradients.values()) ** 0.5
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip * (1.0 if unscale else scale))
            limited = min(1.0, clip / (norm + 1e-6 / (1.0 if unscale else scale)))
            gradients = {n: g * limited for n, g in gradients.items()}
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        scaler.step(optimizer)
        scaler.update()
        if not taken:
            skipped += 1
            truth.note(step=truth.step, skipped_steps=skipped, loss_scale=scaler.get_scale())
            continue
        truth.step += 1
        truth.note(step=truth.step, loss=loss, gradient_norm=norm)
        if clip is not None:
            truth.note(step=truth.step, clip_coefficient=limited)
        for name, p in model.named_parameters():
            rate = gradients[name].double().pow(2).mean().sqrt()
            change = (p.detach() - before[name]).double().pow(2).mean().sqrt()
            truth.note(name, truth.step, gradient_rms=rate, update_rms=change)


@kind("GradScaler with skipped steps", "SGD", *SCALER)
def scaled(truth: Truth) -> None:
    _scaled(truth, fused=False, unscale=False)


@kind("GradScaler with skipped steps, fused optimizer", "SGD", *SCALER)
def scaled_fused(truth: Truth) -> None:
    _scaled(truth, fused=True, unscale=False)


@kind("GradScaler, clipping after unscale_", "SGD", "clipping", *SCALER)
def scaled_clipped(truth: Truth) -> None:
    _scaled(truth, fused=False, unscale=True, clip=0.1)


@kind("GradScaler, clipping after unscale_, fused optimizer", "SGD", "clipping", *SCALER)
def scaled_clipped_fused(truth: Truth) -> None:
    _scaled(truth, fused=True, unscale=True, clip=0.1)


@kind("GradScaler, clipping before unscale_", "SGD", "clipping", *SCALER)
def scaled_clipped_before(truth: Truth) -> None:
    _scaled(truth, fused=False, unscale=False, clip=0.1)
