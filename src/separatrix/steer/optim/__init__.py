"""Optimizers that no well-kept library has in good form, each from its paper; they follow `torch.optim`."""

from __future__ import annotations

import importlib
import pkgutil

from torch.optim import Optimizer

from separatrix.steer.optim.adam_atan2 import AdamAtan2
from separatrix.steer.optim.errors import OptimizerError
from separatrix.steer.optim.galore import GaLore, Subspace, projected_state_bytes

__all__ = ["AdamAtan2", "GaLore", "OptimizerError", "Subspace", "optimizers", "projected_state_bytes"]


def optimizers() -> dict[str, type[Optimizer]]:
    """Every optimizer of this package by the name of its class, in the order of their files."""
    found = {}
    for info in pkgutil.iter_modules(__path__, f"{__name__}."):
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Optimizer) and value.__module__ == module.__name__:
                found[value.__name__] = value
    return found
