"""Forwards of a user's model: what it does not take is said in one line, with the module that minds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType

import torch
from torch import nn

from separatrix.operators.errors import ForwardError, OperatorUsageError
from separatrix.runs.errors import SeparatrixError


@contextlib.contextmanager
def understood(model: nn.Module) -> Iterator[None]:
    """What is raised in a forward becomes a ForwardError that names the innermost module at work.

    Errors of a device's memory and of this package are let through.
    """
    try:
        yield
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, (torch.OutOfMemoryError, SeparatrixError)):
            raise
        name = _module_at_work(error.__traceback__, model)
        where = f"module {name!r} ({type(model.get_submodule(name)).__name__})" if name else type(model).__name__
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ForwardError(f"{where} does not take these inputs: {said}") from error


def _module_at_work(traceback: TracebackType | None, model: nn.Module) -> str:
    """Name of the innermost module of the model whose code was running; "" for the model itself."""
    names = {id(module): name for name, module in model.named_modules()}
    found = ""
    while traceback is not None:
        own = traceback.tb_frame.f_locals.get("self")
        found = names.get(id(own), found)
        traceback = traceback.tb_next
    return found


def whole(model: nn.Module) -> nn.Module:
    """The module itself where it was compiled.

    Raises:
        OperatorUsageError: a scripted module, whose parameters cannot be followed.
    """
    found: nn.Module = getattr(model, "_orig_mod", model)
    if isinstance(found, torch.jit.ScriptModule):
        raise OperatorUsageError("the model is scripted, so that its operations cannot be seen: pass the original")
    return found
