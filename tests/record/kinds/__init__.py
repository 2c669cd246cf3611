"""Kinds of training, each a small ordinary one, and the matrix of what is recorded of them."""

from __future__ import annotations

import importlib
import pkgutil

from tests.record.kinds.kind import KINDS

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["KINDS"]
