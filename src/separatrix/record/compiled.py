"""Sees a model being called where something is compiled and global hooks on modules must stay away.

Around caught steps only, the ways into a module are covered: `OptimizedModule.__call__`, of modules wrapped by
`torch.compile`, and `_compiled_call_impl`, which `nn.Module.__call__` prefers where it is set: on the module by
`Module.compile`, or else on its class by us. Dynamo guards none of them and skips the frames of what covers them, so
that no graph is broken or made anew.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch._C._dynamo.eval_frame import get_eval_frame_callback

from separatrix.record.isolation import Aside
from separatrix.record.ownership import Model, unwrapped
from separatrix.record.patches import passed_over
from separatrix.record.snapshots import Snapshots

_CALL = "_compiled_call_impl"


class CompiledCalls:
    """Armed for one step at a time: shows the outermost calls of models to `snapshots`."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._models: dict[int, Model] = {}
        self._undo: list[Callable[[], None]] = []
        self._thread: int | None = None
        self._inside = False

    def arm(self, models: Iterable[Model]) -> None:
        """Catch calls of `models` by this thread until disarmed."""
        self.disarm()
        self._thread = threading.get_ident()
        self._models = {id(model.module): model for model in models}
        modules = [model.module for model in self._models.values()]
        for module in modules:
            own = vars(module).get(_CALL)
            if own is not None:
                self._cover(module, _CALL, _bound(self._around(_without_module(own)), module))
        for kind in {type(module) for module in modules}:
            self._cover(kind, _CALL, self._around(torch.nn.Module._call_impl))
        dynamo = _dynamo()
        if dynamo is not None:
            self._cover(dynamo.OptimizedModule, "__call__", self._around(dynamo.OptimizedModule.__call__))

    def disarm(self) -> None:
        """Put everything back."""
        while self._undo:
            self._undo.pop()()
        self._models = {}
        self._inside = False

    def _cover(self, owner: Any, name: str, cover: Any) -> None:
        own = vars(owner).get(name)

        def undo() -> None:
            if vars(owner).get(name) is not cover:
                return
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)

        setattr(owner, name, cover)
        self._undo.append(undo)

    def _around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(module: torch.nn.Module, *arguments: Any, **keywords: Any) -> Any:
            if get_eval_frame_callback() is not None:
                return original(module, *arguments, **keywords)
            with self._call(module, arguments, keywords) as ended:
                result = original(module, *arguments, **keywords)
                ended(result)
            return result

        return _left_alone(call)

    @contextlib.contextmanager
    def _call(self, module: torch.nn.Module, arguments: Any, keywords: Any) -> Iterator[Callable[[Any], None]]:
        """Around a call; what it yields is to be given the result."""
        model = self._models.get(id(unwrapped(module)))
        if model is None or not self._catches():
            yield lambda result: None
            return
        self._inside = True
        try:
            yield self._begun(model, arguments, keywords)
        finally:
            self._inside = False

    def _begun(self, model: Model, arguments: Any, keywords: Any) -> Callable[[Any], None]:
        snapshots = self._snapshots
        try:
            with Aside():
                snapshots.forward_begins(model, arguments)
        except Exception as error:
            snapshots.give_up(error)

        def ended(result: Any) -> None:
            try:
                with Aside():
                    snapshots.forward_ended(keywords, result)
            except Exception as error:
                snapshots.give_up(error)

        return ended

    def _catches(self) -> bool:
        return (
            not self._inside
            and self._snapshots.catches
            and torch.is_grad_enabled()
            and threading.get_ident() == self._thread
            and torch._C._current_graph_task_id() == -1
            and not torch.compiler.is_compiling()
        )


def _without_module(function: Callable[..., Any]) -> Callable[..., Any]:
    return _left_alone(lambda module, *arguments, **keywords: function(*arguments, **keywords))


def _bound(function: Callable[..., Any], module: torch.nn.Module) -> Callable[..., Any]:
    return _left_alone(lambda *arguments, **keywords: function(module, *arguments, **keywords))


def _left_alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose frames dynamo is to run as they are, looking at what they call as ever."""
    own: Callable[..., Any] = passed_over(function)
    dynamo = _dynamo()
    if dynamo is not None:
        dynamo.skip_code(own.__code__)
    return own


def _dynamo() -> Any:
    """The module of torch that puts dynamo in force; None where nothing was compiled yet."""
    return sys.modules.get("torch._dynamo.eval_frame")
