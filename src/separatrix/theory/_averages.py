"""Means over trainings, with the standard errors that bands need."""

from __future__ import annotations

import math
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from separatrix.theory.theory import Simulation

Copies = Mapping[str, Float[Tensor, "steps copies *labels"]]
"""Series of several trainings by name."""


def averaged(values: Copies) -> Simulation:
    """Means over independent trainings."""
    return _averaged(values, 1)


def jackknifed(values: Copies) -> Simulation:
    """Means over trainings each of which leaves out its own share of all examples."""
    return _averaged(values, next(iter(values.values())).shape[1] - 1)


def _averaged(values: Copies, factor: int) -> Simulation:
    seen = {name: value.double() for name, value in values.items()}
    return Simulation(
        {name: value.mean(1).numpy() for name, value in seen.items()},
        {name: (value.std(1) * factor / math.sqrt(value.shape[1])).numpy() for name, value in seen.items()},
    )
