"""Separatrix records, diagnoses, predicts and steers the training of neural networks, seen as dynamical systems."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from separatrix.analysis import Diagnosis, diagnose
    from separatrix.record import indexed, log, record
    from separatrix.runs import Run, SeparatrixError
    from separatrix.runs import open_run as open

__version__ = "0.1.0"

__all__ = ["Diagnosis", "Run", "SeparatrixError", "__version__", "diagnose", "indexed", "log", "open", "record"]

# Resolved on first use, so that recording never pays for analysis and reading never pays for torch.
_HOMES = {
    "Diagnosis": ("separatrix.analysis", "Diagnosis"),
    "Run": ("separatrix.runs", "Run"),
    "SeparatrixError": ("separatrix.runs", "SeparatrixError"),
    "diagnose": ("separatrix.analysis", "diagnose"),
    "indexed": ("separatrix.record", "indexed"),
    "log": ("separatrix.record", "log"),
    "open": ("separatrix.runs", "open_run"),
    "record": ("separatrix.record", "record"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'separatrix' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
