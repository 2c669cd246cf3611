"""A random estimate with its standard error and its cost."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclasses.dataclass(frozen=True)
class TraceEstimate:
    """An estimate, its standard error (0 where the value is exact, NaN where one sample gives none) and its cost."""

    value: float
    standard_error: float
    products: int


def summarise(samples: Float[Tensor, " m"], products: int) -> TraceEstimate:
    """Mean of independent or exchangeable samples with its standard error."""
    count = len(samples)
    error = float(samples.std()) / math.sqrt(count) if count > 1 else math.nan
    return TraceEstimate(float(samples.mean()), error, products)
