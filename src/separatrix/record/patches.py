"""The few places of torch that a recording listens at, each restored when it ends."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional
import torch.nn.utils.clip_grad
from torch import is_grad_enabled
from torch.amp.grad_scaler import GradScaler
from torch.compiler import is_compiling
from torch.nn.modules import module as nn_module
from torch.optim import lr_scheduler
from torch.optim import optimizer as optim_module

from separatrix.record.losses import WATCHED

if TYPE_CHECKING:
    from separatrix.record.examples import Examples
    from separatrix.record.session import Session

_MISSING = object()

_PASSED_OVER = "<separatrix, passed over like importlib._bootstrap>"
"""A name of a source file whose frames `warnings` passes over, so that a warning still names the user's line."""

_TRAMPOLINE = """
def {name}(*args, **kwargs):
    import sys
    return sys.modules[{home!r}].rerouted[{name!r}](*args, **kwargs)
"""

rerouted: dict[str, Callable[..., Any]] = {}
"""What the functions whose code was exchanged call instead, by name."""

_originals: dict[str, types.FunctionType] = {}


def original(name: str) -> Callable[..., Any]:
    """A watched function of torch.nn.functional as torch defines it, whatever it was replaced by since."""
    return _originals.get(name) or getattr(torch.nn.functional, name)


def passed_over(wrapper: Any) -> Any:
    """The same function, whose frames `warnings` passes over."""
    wrapper.__code__ = wrapper.__code__.replace(co_filename=_PASSED_OVER)
    return wrapper


class Patches:
    """Attributes replaced by wrappers and hooks registered; `remove` undoes all of it."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        self._exchanged: list[tuple[types.FunctionType, types.CodeType, types.CodeType]] = []
        self._handles: list[Any] = []

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
        if not isinstance(function, types.FunctionType) or function.__closure__ is not None:
            self.wrap(owner, name, make)
            return
        code = function.__code__
        if code.co_filename != _PASSED_OVER:
            twin = types.FunctionType(code, function.__globals__, name, function.__defaults__)
            twin.__kwdefaults__ = function.__kwdefaults__
            _originals[name] = twin
        original = _originals[name]
        rerouted[name] = passed_over(make(original))
        made: dict[str, Any] = {}
        exec(compile(_TRAMPOLINE.format(name=name, home=__name__), _PASSED_OVER, "exec"), made)
        trampoline = made[name].__code__
        function.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
        function.__code__ = trampoline
        self._exchanged.append((function, original.__code__, trampoline))

    def add(self, handle: Any) -> None:
        """Keep the handle of a registered hook."""
        self._handles.append(handle)

    def remove(self) -> None:
        """Put back every original that is still covered by our wrapper and remove every hook."""
        for owner, name, original, wrapper in reversed(self._replaced):
            if vars(owner).get(name) is wrapper:
                setattr(owner, name, original)
        self._replaced.clear()
        for function, original_code, trampoline in self._exchanged:
            if function.__code__ is trampoline:
                function.__code__ = original_code
                del function.__signature__  # type: ignore[attr-defined]
            # Another thread may be on its way through the trampoline.
            rerouted[function.__name__] = _originals[function.__name__]
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


def _kept(tensors: Any) -> Any:
    """A tensor, or the tuple of an iterable that may be read only once."""
    return tensors if isinstance(tensors, torch.Tensor) else tuple(tensors)


def _backward(session: Session) -> Callable[..., Any]:
    training, clock, hears = session.training, session.clock, session.lane.backward

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
            if is_compiling() or clock.resting or hears(tensors) or not training.listens():
                return original(tensors, *args, **kwargs)
            tensors = _kept(tensors)
            marks = session.backwards.before_backward(tensors, args[0] if args else kwargs.get("grad_tensors"))
            result = original(tensors, *args, **kwargs)
            session.backwards.after_backward(marks)
            return result

        return backward

    return make


def _grad(session: Session) -> Callable[..., Any]:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def grad(outputs: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if not is_compiling() and session.training.listens() and not session.training.resting:
                outputs, inputs = _kept(outputs), _kept(inputs)
                session.backwards.on_grad(outputs, inputs)
                result = original(outputs, inputs, *args, **kwargs)
                session.backwards.after_grad(inputs, result)
                return result
            return original(outputs, inputs, *args, **kwargs)

        return grad

    return make


def _zero_grad(session: Session) -> Callable[..., Any]:
    lane, clock = session.lane, session.clock

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def zero_grad(owner: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(owner, *args, **kwargs)
            if not (is_compiling() or lane.idle or clock.resting):
                session.on_zero_grad(owner)
            return result

        return zero_grad

    return make


def _loss(session: Session, kind: str) -> Callable[..., Any]:
    lane, clock, evaluations, examples = session.lane, session.clock, session.training.evaluations, session.examples

    def make(original: Callable[..., Any]) -> Any:
        def loss(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if is_compiling():
                return result
            training = is_grad_enabled()
            if examples is not None and training:
                examples.on_loss(kind, args, kwargs, result)
            if training and (clock.resting or lane.open):
                if args:
                    evaluations.note_outputs(args[0])
            elif session.calls.hears_losses():
                session.calls.on_loss(kind, args, kwargs, result)
            elif args and session.active:
                evaluations.note_outputs(args[0])
            return result

        return loss

    return make


def _after(listener: Callable[..., None]) -> Callable[..., Any]:
    """A wrapper that calls `listener(result, *args, **kwargs)` after the original."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if not is_compiling():
                listener(result, *args, **kwargs)
            return result

        return wrapped

    return make


def _before(listener: Callable[..., None]) -> Callable[..., Any]:
    """A wrapper that calls `listener(*args, **kwargs)` before the original."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not is_compiling():
                listener(*args, **kwargs)
            return original(*args, **kwargs)

        return wrapped

    return make


def _scaler_step(session: Session) -> Callable[..., Any]:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(scaler: GradScaler, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> Any:
            if is_compiling():
                return original(scaler, optimizer, *args, **kwargs)
            done = session.steps_of(optimizer)
            result = original(scaler, optimizer, *args, **kwargs)
            session.calls.after_scaler_step(optimizer, done)
            return result

        return step

    return make


def _next_index(examples: Examples) -> Callable[..., Any]:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def next_index(iterator: Any) -> Any:
            indices = original(iterator)
            examples.on_indices(iterator, indices)
            return indices

        return next_index

    return make


def _next_batch(examples: Examples) -> Callable[..., Any]:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def next_batch(iterator: Any) -> Any:
            try:
                with examples.loading():
                    batch = original(iterator)
            except StopIteration:
                examples.on_end(iterator)
                raise
            examples.on_batch(iterator, batch)
            return batch

        return next_batch

    return make


def _script(patches: Patches) -> Callable[..., Any]:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def script(*args: Any, **kwargs: Any) -> Any:
            # The script compiler reads the source of what it calls and cannot read a wrapper's; it looks up names in
            # the frame of its caller, from which this one sets it apart.
            if len(args) < 3:
                kwargs["_frames_up"] = kwargs.get("_frames_up", 0) + 1
            with patches.lifted():
                return original(*args, **kwargs)

        return script

    return make


def install(session: Session) -> Patches:
    """Listen: backward passes, optimizers, losses, clipping, loss scaling, compilation."""
    patches = Patches()
    try:
        _listen(patches, session)
    except BaseException:
        patches.remove()
        raise
    return patches


def _listen(patches: Patches, session: Session) -> None:
    patches.wrap(torch.autograd, "backward", _backward(session))
    patches.wrap(torch.autograd, "grad", _grad(session))
    for kind in WATCHED:
        patches.reroute(torch.nn.functional, kind, _loss(session, kind))
    patches.wrap(optim_module.Optimizer, "__init__", _after(session.on_optimizer))
    patches.wrap(optim_module.Optimizer, "zero_grad", _zero_grad(session))
    patches.wrap(lr_scheduler.LRScheduler, "step", _after(session.schedules.on_step))
    patches.wrap(nn_module.Module, "zero_grad", _zero_grad(session))
    patches.wrap(torch.nn.utils.clip_grad, "_clip_grads_with_norm_", _before(session.calls.on_clip))
    patches.wrap(GradScaler, "scale", _after(session.calls.on_scale))
    patches.wrap(GradScaler, "unscale_", _after(session.calls.on_unscale))
    patches.wrap(GradScaler, "step", _scaler_step(session))
    patches.wrap(GradScaler, "update", _after(session.calls.on_scaler_update))
    patches.wrap(torch.autograd.graph.saved_tensors_hooks, "__enter__", _before(session.calls.on_saved_tensors_hooks))
    patches.wrap(torch, "compile", _before(session.calls.on_compile))
    if session.examples is not None:
        from torch.utils.data.dataloader import _BaseDataLoaderIter

        patches.wrap(_BaseDataLoaderIter, "_next_index", _next_index(session.examples))
        patches.wrap(_BaseDataLoaderIter, "__next__", _next_batch(session.examples))
    # What `script` calls is wrapped where it exists, for the sake of those who imported `script` by name.
    home, name = (
        (torch.jit._script, "_script_impl") if hasattr(torch.jit._script, "_script_impl") else (torch.jit, "script")
    )
    patches.wrap(home, name, _script(patches))
    patches.add(optim_module.register_optimizer_step_pre_hook(session.before_step))
    patches.add(optim_module.register_optimizer_step_post_hook(session.after_step))
