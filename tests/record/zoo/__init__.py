"""Small trainings of many kinds; each builds everything itself and yields after a step what must not change."""

from __future__ import annotations

import functools

from tests.record.zoo import architectures, meddling, steps
from tests.record.zoo._common import OPTIMIZERS, Training, digits, mlp, perceptron
from tests.record.zoo.steps import compiled, compiled_step

__all__ = ["KINDS", "OPTIMIZERS", "compiled", "compiled_step", "digits", "mlp", "perceptron"]

KINDS: dict[str, Training] = {
    **architectures.KINDS,
    **steps.KINDS,
    **meddling.KINDS,
    **{f"mlp-{name}": functools.partial(mlp, make) for name, make in OPTIMIZERS.items()},
}
"""Trainings that take a fraction of a second each."""
