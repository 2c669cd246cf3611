"""The state of adaptive optimizers: second moments and where epsilon takes over."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from separatrix.probes._tensors import local
from separatrix.runs.probe import Moment, Probe, Reading, UpdateView
from separatrix.runs.types import SeriesSpec


def measure_second_moments(view: UpdateView, state: dict[str, Any]) -> Iterator[Reading]:
    """For parameters of Adam-like optimizers: RMS of the bias-corrected second moment's root, share below epsilon.

    The denominator of Adam is sqrt(v / (1 - beta2^t)) + epsilon (Kingma and Ba 2015, algorithm 1); epsilon dominates an
    entry where the root is below it, that is where v < epsilon^2 (1 - beta2^t).
    """
    positions, roots, shares = [], [], []
    for i, (own, group) in enumerate(zip(view.states, view.groups, strict=True)):
        if not {"exp_avg_sq", "step"} <= own.keys() or "betas" not in group or "eps" not in group:
            continue
        second = local(own["exp_avg_sq"])
        if second.is_complex():
            # Adam treats real and imaginary parts as entries of their own.
            second = torch.view_as_real(second)
        if not second.numel():
            continue
        correction = 1.0 - float(group["betas"][1]) ** float(own["step"])
        positions.append(i)
        roots.append((second.mean(dtype=torch.float32) / correction).sqrt())
        threshold = float(group["eps"]) ** 2 * correction
        if 0.0 < threshold < torch.finfo(second.dtype).tiny:
            # epsilon squared is below the number format: compare roots, as Adam does.
            below = second.sqrt() < float(group["eps"]) * math.sqrt(correction)
        else:
            below = second < threshold
        shares.append(below.sum() / second.numel())
    if positions:
        yield Reading("adam_second_moment_rms", torch.stack(roots), positions)
        yield Reading("epsilon_share", torch.stack(shares), positions)


second_moments = Probe(
    name="second-moments",
    moment=Moment.UPDATE,
    series=(
        SeriesSpec(
            "adam_second_moment_rms",
            ("parameter",),
            description="root of the mean of Adam's bias-corrected second moment",
        ),
        SeriesSpec(
            "epsilon_share",
            ("parameter",),
            description="share of entries where Adam's epsilon exceeds the root of the second moment",
        ),
    ),
    measure=measure_second_moments,
    description="Adam's second moments and where epsilon dominates them",
    priority=60,
    source="Kingma and Ba 2015, Adam: a method for stochastic optimization",
)
