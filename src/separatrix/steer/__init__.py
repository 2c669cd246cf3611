"""Acts on what recordings and theories say: parametrizations, schedules, optimizers, tuning."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from separatrix.steer.coordinates import CoordinateCheck, coordinate_check, parametrized_setup
    from separatrix.steer.errors import ParametrizationError, ParametrizationWarning, SteerError
    from separatrix.steer.parametrization import Parametrization, Rule, Scale, TensorFacts, parametrize, rules
    from separatrix.steer.regimes import Regime, classify, regime_of
    from separatrix.steer.transfer import TransferSweep, judge_transfer, transfer_sweep

__all__ = [
    "CoordinateCheck",
    "Parametrization",
    "ParametrizationError",
    "ParametrizationWarning",
    "Regime",
    "Rule",
    "Scale",
    "SteerError",
    "TensorFacts",
    "TransferSweep",
    "classify",
    "coordinate_check",
    "judge_transfer",
    "parametrize",
    "parametrized_setup",
    "regime_of",
    "rules",
    "transfer_sweep",
]

# Resolved on first use: a schedule needs no parametrization, and neither needs a tuner.
_NAMES = {
    "separatrix.steer.coordinates": ("CoordinateCheck", "coordinate_check", "parametrized_setup"),
    "separatrix.steer.errors": ("ParametrizationError", "ParametrizationWarning", "SteerError"),
    "separatrix.steer.parametrization": ("Parametrization", "Rule", "Scale", "TensorFacts", "parametrize", "rules"),
    "separatrix.steer.regimes": ("Regime", "classify", "regime_of"),
    "separatrix.steer.transfer": ("TransferSweep", "judge_transfer", "transfer_sweep"),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'separatrix.steer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
