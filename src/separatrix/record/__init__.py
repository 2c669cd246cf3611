"""Recording a training: `record` around a loop, `separatrix watch` around a script, `log` for values of one's own."""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from separatrix.record.items import indexed
    from separatrix.record.recording import Recording, available_probes, log, record, start

__all__ = ["Recording", "available_probes", "indexed", "log", "record", "start"]


def __getattr__(name: str) -> Any:
    # Resolved on first use: `watch` comes through here in processes that must not import torch.
    if name not in __all__:
        raise AttributeError(f"module 'separatrix.record' has no attribute {name!r}")
    home = "items" if name == "indexed" else "recording"
    return getattr(importlib.import_module(f"separatrix.record.{home}"), name)


class _CallableRoom(types.ModuleType):
    """Lets `separatrix.record(...)` work once this room has been imported, which makes that name the room's."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return __getattr__("record")(*arguments, **options)


sys.modules[__name__].__class__ = _CallableRoom
