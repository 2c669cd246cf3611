"""Acts on what recordings and theories say: parametrizations, schedules, optimizers, tuning."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from separatrix.steer.errors import ParametrizationError, ParametrizationWarning, SteerError
    from separatrix.steer.parametrization import Parametrization, Rule, Scale, TensorFacts, parametrize, rules

__all__ = [
    "Parametrization",
    "ParametrizationError",
    "ParametrizationWarning",
    "Rule",
    "Scale",
    "SteerError",
    "TensorFacts",
    "parametrize",
    "rules",
]

# Resolved on first use: a schedule needs no parametrization, and neither needs a tuner.
_HOMES = {
    "Parametrization": "separatrix.steer.parametrization",
    "ParametrizationError": "separatrix.steer.errors",
    "ParametrizationWarning": "separatrix.steer.errors",
    "Rule": "separatrix.steer.parametrization",
    "Scale": "separatrix.steer.parametrization",
    "SteerError": "separatrix.steer.errors",
    "TensorFacts": "separatrix.steer.parametrization",
    "parametrize": "separatrix.steer.parametrization",
    "rules": "separatrix.steer.parametrization",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'separatrix.steer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
