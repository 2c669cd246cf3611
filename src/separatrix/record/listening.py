"""The few places of torch that a recording listens at."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import ref

import torch
import torch.nn.functional
import torch.nn.utils.clip_grad
from torch import Tensor, is_grad_enabled
from torch.amp.grad_scaler import GradScaler
from torch.compiler import is_compiling, is_dynamo_compiling
from torch.nn.modules import module as nn_module
from torch.optim import lr_scheduler
from torch.optim import optimizer as optim_module

from separatrix.record.losses import WATCHED
from separatrix.record.patches import Patches

if TYPE_CHECKING:
    from separatrix.record.examples import Examples
    from separatrix.record.session import Session


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
            if is_dynamo_compiling():
                return result
            training = is_grad_enabled()
            if training and examples is None and (clock.resting or lane.open):
                # The short way of most steps calls as little as it can: see the lane.
                if args and type(args[0]) is Tensor:
                    evaluations.outputs = ref(args[0])
                return result
            if is_compiling():
                return result
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
    patches.wrap_recorded_steps(torch.autograd, "backward", _backward(session))
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
    patches.before_recorded_steps(session.before_step)
    patches.add(optim_module.register_optimizer_step_post_hook(session.after_step))
