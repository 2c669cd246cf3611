"""Functions replaced and hooks registered, so that a recording hears them, and put back when it ends."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch.nn.functional
from torch.optim import optimizer as optim_module

_MISSING = object()

_PASSED_OVER = "<separatrix, passed over like importlib._bootstrap>"
"""A name of a source file whose frames `warnings` passes over, so that a warning still names the user's line."""

_TRAMPOLINE = """
def {name}(*args, _separatrix, **kwargs):
    return _separatrix(*args, **kwargs)
"""
"""The code that a function gets in exchange for its own. What it calls is the default of a keyword: that is found with
cold caches as fast as anything, leaves no name behind, and belongs to a call from its beginning."""

_originals: dict[str, types.FunctionType] = {}


def original(name: str) -> Callable[..., Any]:
    """A watched function of torch.nn.functional as torch defines it, whatever it was replaced by since."""
    return _originals.get(name) or getattr(torch.nn.functional, name)


def _can_be_exchanged(function: types.FunctionType) -> bool:
    """Whether its code was exchanged before, or needs nothing of the function but its globals and plain defaults."""
    code = function.__code__
    return code.co_filename == _PASSED_OVER or not (function.__closure__ or code.co_kwonlyargcount)


def passed_over(wrapper: Any) -> Any:
    """The same function, whose frames `warnings` passes over."""
    wrapper.__code__ = wrapper.__code__.replace(co_filename=_PASSED_OVER)
    return wrapper


class _Wrapped(NamedTuple):
    owner: Any
    name: str
    make: Callable[[Callable[..., Any]], Callable[..., Any]]
    original: Any
    wrapper: Any


class Patches:
    """Attributes replaced by wrappers and hooks registered; `remove` undoes all of it."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        self._exchanged: list[tuple[types.FunctionType, types.CodeType, types.CodeType]] = []
        self._handles: list[Any] = []
        self._of_recorded_steps: list[_Wrapped] = []
        self._taken_off: list[_Wrapped] = []
        self._before_step: Callable[..., None] | None = None
        self._before_step_handle: Any = None

    def wrap(self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Replace `owner.name` by `make(original)`, which keeps the original's name and documentation."""
        original = vars(owner).get(name, _MISSING)
        if original is _MISSING or not callable(original):
            return
        wrapper = functools.wraps(original)(passed_over(make(original)))
        setattr(owner, name, wrapper)
        self._replaced.append((owner, name, original, wrapper))

    def reroute(self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Any]) -> None:
        """Have the function `owner.name` do what `make(original)` does and stay the object that it is.

        Whoever holds the function already is heard too; it is pickled, compared and found in tables as ever.
        """
        function = vars(owner).get(name)
        if not isinstance(function, types.FunctionType) or not _can_be_exchanged(function):
            self.wrap(owner, name, make)
            return
        code = function.__code__
        if code.co_filename != _PASSED_OVER:
            _originals[name] = types.FunctionType(code, function.__globals__, name, function.__defaults__)
        original = _originals[name]
        function.__kwdefaults__ = {"_separatrix": passed_over(make(original))}
        made: dict[str, Any] = {}
        exec(compile(_TRAMPOLINE.format(name=name), _PASSED_OVER, "exec"), made)
        trampoline = made[name].__code__
        function.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
        function.__code__ = trampoline
        self._exchanged.append((function, original.__code__, trampoline))

    def add(self, handle: Any) -> None:
        """Keep the handle of a registered hook."""
        self._handles.append(handle)

    def wrap_recorded_steps(
        self, owner: types.ModuleType, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        """Replace `owner.name` as `wrap` does, but not in steps that are left out."""
        self.wrap(owner, name, make)
        if self._replaced and self._replaced[-1][:2] == (owner, name):
            self._of_recorded_steps.append(_Wrapped(owner, name, make, *self._replaced[-1][2:]))

    def before_recorded_steps(self, hook: Callable[..., None]) -> None:
        """Call a hook before each step of any optimizer, but not in steps that are left out."""
        self._before_step = hook
        self._before_step_handle = optim_module.register_optimizer_step_pre_hook(hook)

    def rest(self) -> None:
        """Take off what only recorded steps need: a call between two steps finds cold caches, so that each one counts.

        What others put on top of it, or next to it, stays where it is.
        """
        for wrapped in self._of_recorded_steps:
            if vars(wrapped.owner).get(wrapped.name) is wrapped.wrapper:
                setattr(wrapped.owner, wrapped.name, wrapped.original)
                self._taken_off.append(wrapped)
        if self._before_step_handle is not None and len(optim_module._global_optimizer_pre_hooks) == 1:
            self._before_step_handle.remove()
            self._before_step_handle = None

    def wake(self) -> None:
        """Put back what a rest took off, over whatever has come there since."""
        for wrapped in self._taken_off:
            if vars(wrapped.owner).get(wrapped.name) is wrapped.original:
                setattr(wrapped.owner, wrapped.name, wrapped.wrapper)
            else:
                self._of_recorded_steps.remove(wrapped)
                self.wrap_recorded_steps(wrapped.owner, wrapped.name, wrapped.make)
        self._taken_off.clear()
        if self._before_step is not None and self._before_step_handle is None:
            self.before_recorded_steps(self._before_step)

    def remove(self) -> None:
        """Put back every original that is still covered by our wrapper and remove every hook."""
        self._of_recorded_steps.clear()
        self._taken_off.clear()
        self._before_step = None
        if self._before_step_handle is not None:
            self._before_step_handle.remove()
        for owner, name, original, wrapper in reversed(self._replaced):
            if vars(owner).get(name) is wrapper:
                setattr(owner, name, original)
        self._replaced.clear()
        for function, original_code, trampoline in self._exchanged:
            if function.__code__ is trampoline:
                function.__code__ = original_code
                function.__kwdefaults__ = None
                del function.__signature__  # type: ignore[attr-defined]
        self._exchanged.clear()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """The functions whose code was exchanged with their own code for a while."""
        own = [row for row in self._exchanged if row[0].__code__ is row[2]]
        for function, original_code, _ in own:
            function.__code__ = original_code
        try:
            yield
        finally:
            for function, original_code, trampoline in own:
                if function.__code__ is original_code:
                    function.__code__ = trampoline
