"""Global module hooks, in place only around sampled steps, that show leaf modules and the model's inputs to probes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.modules import module as nn_module
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from separatrix.record.compiled import CompiledCalls
from separatrix.record.isolation import Aside
from separatrix.record.losses import is_plain
from separatrix.record.ownership import Model, flattened_tensors, unwrapped, wholes
from separatrix.record.snapshots import Snapshots
from separatrix.record.subject import Subject
from separatrix.runs.probe import ModuleView


class LeafHooks:
    """Armed for one step at a time: `on_module(label, position, view)`, `on_inputs(tensors, training)` are called."""

    def __init__(
        self,
        on_module: Callable[[str, int, ModuleView], None],
        on_inputs: Callable[[Sequence[torch.Tensor], bool], None],
        on_error: Callable[[str, Exception], None],
        snapshots: Snapshots | None = None,
    ) -> None:
        self._snapshots = snapshots
        self._calls = None if snapshots is None else CompiledCalls(snapshots)
        self._caught: torch.nn.Module | None = None
        self._on_module = on_module
        self._on_inputs = on_inputs
        self._on_error = on_error
        self._handles: list[Any] = []
        self._depth = 0
        self._thread: int | None = None
        self._labels: frozenset[str] = frozenset()
        self._leaves: Any = {}
        self._inside: set[int] = set()
        self._models: dict[int, Model] = {}
        self._trains = True
        self._waiting: Any = None
        self._on_forward: Callable[[], None] | None = None

    def wait(self, on_forward: Callable[[], None]) -> None:
        """Call `on_forward` whenever a module is about to run, armed or not, until `wait_no_more`."""
        self._on_forward = on_forward
        if self._waiting is None:
            self._waiting = register_module_forward_pre_hook(self._arrive)

    def wait_no_more(self) -> None:
        """Remove the hook that `wait` left."""
        if self._waiting is not None:
            self._waiting.remove()
            self._waiting = None

    def _arrive(self, module: torch.nn.Module, arguments: Any) -> None:
        del module, arguments
        if self._on_forward is None or torch.compiler.is_compiling() or torch._C._current_graph_task_id() != -1:
            return
        depth, armed = self._depth, bool(self._handles)
        self._on_forward()
        if not depth:
            self._trains = torch.is_grad_enabled()
        # Hooks registered meanwhile hear this module's end, but not its beginning.
        self._depth = depth if armed else int(bool(self._handles))

    def arm(self, subject: Subject, labels: frozenset[str]) -> None:
        """Show the leaf modules of these labels, and inputs, until disarmed."""
        self._labels = labels
        catches = self._snapshots is not None and self._snapshots.catches
        self._models = {id(whole.module): whole for model in subject.models if catches for whole in wholes(model)}
        self._caught = None
        self._depth = 0
        self._thread = threading.get_ident()
        if self._leaves is not subject.leaves:
            self._leaves = subject.leaves
            self._inside = {id(part) for model in subject.models for part in model.module.modules()}
        if not self._handles:
            self._handles = [
                register_module_forward_pre_hook(self._enter),
                register_module_forward_hook(self._leave, with_kwargs=True, always_call=True),
            ]

    def arm_without_hooks(self, subject: Subject) -> None:
        """Only catch calls of the models, until disarmed, in a way that spares what is compiled."""
        self.disarm()
        if self._calls is not None:
            self._calls.arm(whole for model in subject.models for whole in wholes(model))

    def disarm(self) -> None:
        """Remove the hooks."""
        if self._calls is not None:
            self._calls.disarm()
        for handle in self._handles:
            handle.remove()
            # torch leaves this entry behind, and then takes a hook to be still there.
            nn_module._global_forward_hooks_with_kwargs.pop(handle.id, None)
        self._handles = []
        self._models, self._caught = {}, None

    def _ignores(self) -> bool:
        # Checkpointing runs forwards again inside backward and ends them by an exception.
        return (
            torch.compiler.is_compiling()
            or torch._C._current_graph_task_id() != -1
            or threading.get_ident() != self._thread
        )

    def _enter(self, module: torch.nn.Module, arguments: Any) -> None:
        if self._ignores():
            return
        if not self._depth:
            self._trains = torch.is_grad_enabled()
            if self._trains and self._snapshots is not None and self._snapshots.catches:
                self._catch(module, arguments)
        self._depth += 1

    def _catch(self, module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        model = self._models.get(id(unwrapped(module)))
        if model is None or self._snapshots is None or torch._C._get_tracing_state() is not None:
            return
        try:
            with Aside():
                # Inside a trace or vmap, a copy of an argument would become part of what is traced.
                if all(map(is_plain, flattened_tensors(arguments))):
                    self._snapshots.forward_begins(model, arguments)
                    self._caught = module
        except Exception as error:
            self._snapshots.give_up(error)

    def _leave(self, module: torch.nn.Module, arguments: Any, *rest: Any) -> None:
        if self._ignores():
            return
        self._depth = max(0, self._depth - 1)
        keywords, result = rest if len(rest) == 2 else ({}, rest[0])
        if module is self._caught and self._depth == 0 and self._snapshots is not None:
            self._caught = None
            with contextlib.suppress(Exception), Aside():
                self._snapshots.forward_ended(keywords, result)
        # Within a training forward, reentrant checkpointing and frozen parts run without gradients.
        if result is None or not self._trains:
            return
        try:
            with Aside():
                self._show(module, arguments, keywords, result)
        except Exception as error:
            with contextlib.suppress(Exception):
                self._on_error("leaf hooks", error)

    def _show(self, module: torch.nn.Module, arguments: Any, keywords: Any, result: Any) -> None:
        leaf = self._leaves.get(module)
        if leaf is not None and leaf[0] in self._labels:
            output = next(flattened_tensors(result), None)
            if output is not None and is_plain(output):
                first = next(flattened_tensors(arguments), None)
                self._on_module(leaf[0], leaf[1], ModuleView(leaf[0], module, first, output))
        if self._depth == 0 and id(unwrapped(module)) in self._inside:
            tensors = list(flattened_tensors((arguments, keywords)))
            if tensors and all(is_plain(t) for t in tensors):
                self._on_inputs(tensors, unwrapped(module).training)
