"""The last loss of a wide transformer, forecast from narrow ones that were trained at the rate carried over to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from separatrix.analysis.forecasting import Training, fit_scaling
from separatrix.studies._scaling import CharTransformer, Scaling, losses_by_rate, text_batches

NARROW, WIDE = (8, 16, 32), 128
SHARES = (0.25, 0.5, 1.0)
"""Of the steps, for which the narrow ones are trained."""
RATES = tuple(2.0**power for power in range(-9, -3))
RULES = {"maximal-update": "maximal update", "standard": "standard rates"}
BATCH, LENGTH, LAST = 8, 16, 0.05


def last_losses(rule: str, steps: int, seed: int) -> tuple[list[Training], Training]:
    """Narrow trainings at the rate that is best for the widest of them, and the wide one at that rate."""
    scaling, draw = Scaling(CharTransformer, rule, NARROW[0]), text_batches(seed, BATCH, LENGTH)

    def trained(width: int, updates: int, rates: tuple[float, ...]) -> np.ndarray:
        return losses_by_rate(scaling, width, rates, seed, draw, updates, last=LAST).double().numpy()

    def training(width: int, updates: int) -> Training:
        return Training(_size(width), updates * BATCH * LENGTH, float(trained(width, updates, (rate,))[0]))

    rate = RATES[int(np.nanargmin(trained(NARROW[-1], steps, RATES)))]
    narrow = [training(width, round(share * steps)) for width in NARROW for share in SHARES]
    return narrow, training(WIDE, steps)


def judged(narrow: list[Training], wide: Training) -> dict[str, float]:
    """Relative errors of the wide model's last loss: by the scaling law, a power of the size alone, the last value."""
    full = [training for training in narrow if training.data == wide.data]
    slope, level = np.polyfit(np.log([t.parameters for t in full]), np.log([t.loss for t in full]), 1)
    told = {
        "scaling": fit_scaling(narrow).loss(wide.parameters, wide.data),
        "power": math.exp(level + slope * math.log(wide.parameters)),
        "last": full[-1].loss,
    }
    return {law: abs(loss / wide.loss - 1) for law, loss in told.items()}


def rows(steps: int, seed: int, goals: Mapping[str, float]) -> list[dict[str, Any]]:
    """Lines of the table, of one seed, under the maximal update, which has goals, and the standard parametrization."""
    found = []
    for rule, name in RULES.items():
        narrow, wide = last_losses(rule, steps, seed)
        source = f"widths {NARROW[0]} to {NARROW[-1]}, {name}"
        losses = {"narrow": [training.loss for training in narrow], "wide": wide.loss}
        for law, error in judged(narrow, wide).items():
            goal = goals.get(law) if rule == "maximal-update" else None
            told = {"seed": seed, "source": source, "law": law, "goal": goal, "errors": {f"width {WIDE}": error}}
            found.append({**told, **losses})
    return found


def _size(width: int) -> int:
    """Parameters without the embeddings of characters and positions."""
    model = CharTransformer(width, length=LENGTH)
    inside = {id(part) for child in model.modules() if isinstance(child, nn.Embedding) for part in child.parameters()}
    return sum(part.numel() for part in model.parameters() if id(part) not in inside)
