"""Lengths of class outputs in deep linear nets that have collapsed, and the decay from which on there are none.

Features and layers decay alike; a class has a share of the examples; each layer carries the same length.

Source: Dang et al. 2023, arXiv:2301.00437.
"""

from __future__ import annotations

import math

import torch


def squared_length(decay: float, share: float, layers: int) -> float:
    """Length p of a class's output under squared loss, the stable one above 0; 0 where there is none."""
    power = (layers - 1) / (layers + 1)
    push = decay * share ** (-layers / (layers + 1))
    low, high = power / (1 + power), 1.0
    if (1 - low) * low**power <= push:
        return 0.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - middle) * middle**power > push else (low, middle)
    return low


def vanishing_decay(share: float, layers: int) -> float:
    """Decay from which on a class of that share has output 0, whatever the start."""
    power = (layers - 1) / (layers + 1)
    peak = power / (1 + power)
    return float((1 - peak) * peak**power * share ** (layers / (layers + 1)))


def _gained(length: torch.Tensor, classes: int) -> torch.Tensor:
    """By how much logits of that length lower the cross-entropy of `classes` classes."""
    return math.log(classes) - torch.log1p((classes - 1) * torch.exp(-length))


def _paid(length: torch.Tensor, classes: int, layers: int) -> torch.Tensor:
    """What decay 1 takes for them."""
    return (classes - 1) * (layers + 1) / 2 * (length.square() / classes) ** (1 / (layers + 1))


def simplex_cost(decay: float, classes: int, layers: int) -> float:
    """Cross-entropy and decay together where class means form a simplex of the best length."""
    lengths = torch.linspace(1e-3, 60.0, 60001, dtype=torch.float64)
    return float((math.log(classes) - _gained(lengths, classes) + decay * _paid(lengths, classes, layers)).min())


def pairs_cost(decay: float, classes: int, layers: int) -> float:
    """The same where an even number of classes are opposite in pairs, each pair orthogonal to the others."""
    lengths = torch.linspace(1e-3, 60.0, 60001, dtype=torch.float64)
    loss = torch.log1p(torch.exp(-lengths) + (classes - 2) * torch.exp(-lengths / 2))
    paid = classes / 2 * (layers + 1) / 2 * (lengths.square() / classes) ** (1 / (layers + 1))
    return float((loss + decay * paid).min())


def entropy_length(decay: float, classes: int, layers: int) -> float:
    """Length p of the logits' modes under cross-entropy on balanced classes, by search."""
    low, high = 1e-3, 40.0
    for _ in range(6):
        lengths = torch.linspace(low, high, 4001, dtype=torch.float64)
        best = int((_gained(lengths, classes) - decay * _paid(lengths, classes, layers)).argmax())
        low, high = float(lengths[max(best - 1, 0)]), float(lengths[min(best + 1, 4000)])
    return (low + high) / 2


def entropy_decay(classes: int, layers: int) -> float:
    """Decay from which on no logits pay for themselves."""
    lengths = torch.linspace(1e-3, 40.0, 40001, dtype=torch.float64)
    return float((_gained(lengths, classes) / _paid(lengths, classes, layers)).max())
