"""Hears calls of torch around the steps: loss functions, clipping, loss scaling, compilation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from separatrix.record.guard import guarded
from separatrix.record.losses import is_plain, view_of_call
from separatrix.record.tracks import BARE, Clip
from separatrix.record.training import Listener


class Calls(Listener):
    """Tells evaluations from training, and notes what is done to gradients between backward pass and step."""

    def hears_losses(self) -> bool:
        """Whether a loss computed now matters: in a sampled step, in an evaluation, or to learn which ones are used."""
        if not self.training.active or self.observer.snapshots.developing:
            return False
        if self.training.resting and torch.is_grad_enabled():
            return False
        if BARE in self.training.tracks:
            return True
        return not torch.is_grad_enabled() or self.observer.plan is not None or not self.training.evaluations.kinds

    @guarded
    def on_loss(self, kind: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> None:
        """A watched loss function was computed."""
        if not self.training.listens() or torch._C._current_graph_task_id() != -1 or not is_plain(result):
            return
        view = view_of_call(kind, args, kwargs)
        if view is None:
            return
        self.training.finish_bare_step()
        if not torch.is_grad_enabled():
            self.training.lane.close()
            subject = self.observer.subject
            training = subject is not None and any(model.module.training for model in subject.models)
            self.training.evaluations.hear(view, result, self.step, in_eval_mode=not training)
        elif result.requires_grad:
            self.training.evaluations.note_outputs(view.outputs)
            self.training.evaluations.note_training(kind)
            self.observer.look_at_loss(view)
            if self.observer.snapshots.exposed:
                self.observer.snapshots.loss_computed(view, result)

    @guarded
    def on_clip(self, parameters: Any, max_norm: float, total_norm: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients are about to be clipped to `max_norm`; `total_norm` is their norm."""
        del args, kwargs
        if not self.training.listens():
            return
        first = parameters[0] if isinstance(parameters, list | tuple) and parameters else None
        for track in self.training.tracks.values():
            if first is None or id(first) in track.identities:
                factor = self.training.scaling.factor if track.scaled and not track.unscaled else 1.0
                track.clips.append(Clip(total_norm.detach(), float(max_norm), factor))

    @guarded
    def on_scale(self, result: Any, scaler: Any, outputs: Any) -> None:
        """A loss was multiplied by a loss scale."""
        if not self.training.listens():
            return
        self.training.lane.close()
        self.training.scaling.scaled(result, scaler, outputs)
        for track in self.training.tracks.values():
            track.scaled, track.unscaled = True, False

    @guarded
    def on_unscale(self, result: Any, scaler: Any, optimizer: torch.optim.Optimizer) -> None:
        """Gradients were divided by the loss scale."""
        del result, scaler
        track = self.training.tracks.get(id(optimizer))
        if track is not None:
            track.unscaled = True

    @guarded
    def after_scaler_step(self, optimizer: torch.optim.Optimizer, done: int) -> None:
        """A loss scaler was asked to step: if the optimizer did not, the step was skipped."""
        track = self.training.tracks.get(id(optimizer))
        if track is not None and self.training.listens() and track.steps == done:
            self.training.skipped(track)

    @guarded
    def on_scaler_update(self, result: Any, scaler: Any, *args: Any, **kwargs: Any) -> None:
        """The loss scale may have changed; asking an accelerator for it is left to sampled steps."""
        del result, args, kwargs
        if self.training.listens() and (scaler._device == "cpu" or self.observer.plan is not None):
            factor = self.training.scaling.changed_factor()
            if factor is not None:
                self.journal.put("loss_scale", self.step, factor)

    def on_saved_tensors_hooks(self, *args: Any) -> None:
        """Saved tensors may be recomputed on access: graphs must not be read from now on."""
        del args
        self.training.saved_tensors_hooked = True

    @guarded
    def on_compile(self, *args: Any, **kwargs: Any) -> None:
        """Something is being compiled."""
        owner = getattr(args[0] if args else kwargs.get("model"), "__self__", None)
        if isinstance(owner, torch.optim.Optimizer):
            message = f"the step of {type(owner).__name__} is compiled and calls no hooks: it is not recorded"
            self.writer.event("unseen", message, step=self.step, severity="warning", data={"because": "torch.compile"})
        self.observer.hide_modules(self.step)
