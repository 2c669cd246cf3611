"""Keeps what Separatrix computes apart from the training: out of sight of its modes, and its errors in words."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator

import torch
from torch._C import _pop_torch_function_stack, _push_on_torch_function_stack
from torch.utils._python_dispatch import _disable_current_modes

_LONGEST = 300
"""Characters of an error that are told: torch lists every backend in some."""


def in_words(error: BaseException) -> str:
    """Kind and text of an error in one line, cut where it is long; the kind alone where its text cannot be made."""
    try:
        return textwrap.shorten(f"{type(error).__name__}: {error}", _LONGEST, placeholder=" ...")
    except Exception:
        return type(error).__name__


class Aside:
    """Operations inside run as if no function mode, dispatch mode or tensor subclass override were in force."""

    __slots__ = ("_functions", "_modes")

    def __enter__(self) -> None:
        self._modes: contextlib.AbstractContextManager[object] | None = None
        if torch._C._len_torch_dispatch_stack():
            self._modes = _disable_current_modes()
            self._modes.__enter__()
        self._functions = torch._C.DisableTorchFunction()
        self._functions.__enter__()

    def __exit__(self, *exception: object) -> None:
        self._functions.__exit__(None, None, None)
        if self._modes is not None:
            self._modes.__exit__(None, None, None)


@contextlib.contextmanager
def overridable() -> Iterator[None]:
    """Within what runs aside, function modes entered from here on work again; those of before stay out of force."""
    before = [_pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())]
    try:
        with torch._C._EnableTorchFunction(), torch._C.DisableTorchFunctionSubclass():
            yield
    finally:
        for mode in reversed(before):
            _push_on_torch_function_stack(mode)
