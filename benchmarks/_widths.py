"""The last loss of a wide transformer, forecast from narrow ones that were trained at the rate carried over to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from separatrix.analysis.forecasting import Training, fit_sizes, size_interval
from separatrix.studies._scaling import CharTransformer, Scaling, losses_by_rate, losses_by_start, text_batches

NARROW, WIDE = (16, 24, 32, 48, 64), 256
STARTS = {"narrow": 6, "wide": 2}
RATES = tuple(2.0**power for power in range(-9, -3))
RULES = {"maximal-update": "maximal update", "standard": "standard rates"}
BATCH, LENGTH, LAST = 8, 16, 0.05


def last_losses(rule: str, steps: int, seed: int) -> tuple[list[Training], list[Training]]:
    """Narrow trainings at the rate that is best for the widest of them, and wide ones at that rate."""
    scaling, draw = Scaling(CharTransformer, rule, NARROW[0]), text_batches(seed, BATCH, LENGTH)
    by_rate = losses_by_rate(scaling, NARROW[-1], RATES, seed, draw, steps, last=LAST).double().numpy()
    rate = RATES[int(np.nanargmin(by_rate))]

    def trainings(width: int, count: int) -> list[Training]:
        seeds = [100 * seed + start for start in range(count)]
        losses = losses_by_start(scaling, width, rate, seeds, draw, steps, last=LAST).tolist()
        return [Training(_size(width), steps * BATCH * LENGTH, loss) for loss in losses]

    narrow = [training for width in NARROW for training in trainings(width, STARTS["narrow"])]
    return narrow, trainings(WIDE, STARTS["wide"])


def judged(narrow: list[Training], wide: list[Training]) -> dict[str, float]:
    """Relative errors of the wide model's last loss: by the law of sizes, a power without floor, the last value."""
    came, size = float(np.mean([training.loss for training in wide])), wide[0].parameters
    slope, level = np.polyfit(np.log([t.parameters for t in narrow]), np.log([t.loss for t in narrow]), 1)
    widest = [training.loss for training in narrow if training.parameters == narrow[-1].parameters]
    told = {
        "sizes": fit_sizes(narrow).loss(size),
        "power": math.exp(level + slope * math.log(size)),
        "last": float(np.mean(widest)),
    }
    return {law: abs(loss / came - 1) for law, loss in told.items()}


def rows(steps: int, seed: int, goals: Mapping[str, float]) -> list[dict[str, Any]]:
    """Lines of the table, of one seed, under the maximal update, which has goals, and the standard parametrization."""
    found = []
    for rule, name in RULES.items():
        narrow, wide = last_losses(rule, steps, seed)
        source = f"widths {NARROW[0]} to {NARROW[-1]}, {name}"
        losses = {"narrow": [training.loss for training in narrow], "wide": [training.loss for training in wide]}
        interval = size_interval(fit_sizes(narrow), narrow, wide[0].parameters)
        for law, error in judged(narrow, wide).items():
            goal = goals.get(law) if rule == "maximal-update" else None
            told = {"seed": seed, "source": source, "law": law, "goal": goal, "errors": {f"width {WIDE}": error}}
            found.append({**told, **losses, "interval": interval})
    return found


def _size(width: int) -> int:
    """Parameters without the embeddings of characters and positions."""
    model = CharTransformer(width, length=LENGTH)
    inside = {id(part) for child in model.modules() if isinstance(child, nn.Embedding) for part in child.parameters()}
    return sum(part.numel() for part in model.parameters() if id(part) not in inside)
