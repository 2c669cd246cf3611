"""Hears backward passes: which loss they are of, which optimizers it reaches, and loops that step by hand."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

from separatrix.record.guard import guarded
from separatrix.record.losses import crossed_shapes, is_plain, views_from_graph
from separatrix.record.subject import graph_leaves
from separatrix.record.tracks import BARE, Term, Track
from separatrix.record.training import Listener

_MANY_BACKWARDS = 200


class Backwards(Listener):
    """Attributes each loss that is backwarded, or differentiated, to the optimizers whose gradients it changes.

    In a loop without an optimizer a step is a backward pass followed by a change of the parameters.
    """

    @guarded
    def before_backward(self, tensors: Any, gradients: Any) -> tuple[Term, list[tuple[Track, Any]]] | None:
        """A backward pass is about to run; returns what `after_backward` needs to attribute it."""
        loss = tensors if isinstance(tensors, torch.Tensor) else next(iter(tensors), None)
        if loss is None or not is_plain(loss) or torch._C._current_graph_task_id() != -1:
            return None
        self._prepare_backward(loss)
        term = Term(self._value_of(loss, gradients))
        self._see(term, loss)
        if self.observer.snapshots.exposed:
            self.observer.snapshots.backward_begins(loss, float(term.value))
        for track in self.training.tracks.values():
            if track.pending and all(p.grad is None for p in track.representatives):
                track.forget()
            self._look_at_carryover(track)
        self._look_for_loss(loss)
        single = len(self.training.tracks) == 1
        return term, [(t, None if single else t.gradient_marks()) for t in self.training.tracks.values()]

    def _prepare_backward(self, loss: torch.Tensor) -> None:
        self.budget.start()
        self.training.thread = threading.get_ident()
        self.training.evaluations.close()
        self.training.finish_bare_step()
        if not self.training.tracks:
            self._track_bare(graph_leaves(loss))
        if self.observer.subject is None:
            self.training.discover()
            if BARE in self.training.tracks:
                self.training.prepare()
                self.observer.snapshots.leave_out()
        self.training.look_behind(loss)

    def _track_bare(self, parameters: Sequence[torch.Tensor]) -> None:
        self.training.tracks[BARE] = Track(None, parameters)
        # That the parameters were changed, and so a step has ended, is to be noticed before the next forward.
        self.observer.hooks.wait(self.training.before_forward)

    def _look_at_carryover(self, track: Track) -> None:
        begun = track.pending or track.closures or track.first_closure is not None
        if self.observer.plan is not None and not begun:
            factor = self.training.scaling.factor if track.scaled else 1.0
            self.observer.look_at_carryover(track, self.clock.label(track), factor)

    def _look_for_loss(self, loss: torch.Tensor) -> None:
        if self.observer.wants_loss and not self.training.saved_tensors_hooked:
            views = views_from_graph(loss)
            for view in views:
                self.training.evaluations.note_training(view.kind)
                self.observer.look_at_loss(view)
            shapes = None if views else crossed_shapes(loss)
            if shapes is not None:
                self.observer.look_at_crossed(shapes)

    def after_backward(self, attribution: tuple[Term, list[tuple[Track, Any]]] | None) -> None:
        """The backward pass has run: note the loss with every optimizer whose gradients it changed."""
        if attribution is not None:
            self._after_backward(*attribution)

    @guarded
    def _after_backward(self, term: Term, marks: Sequence[tuple[Track, Any]]) -> None:
        for track, mark in marks:
            if mark is None or track.gradient_marks() != mark:
                track.add(term)
                if track.optimizer is None:
                    self._await_bare_step(track)
                elif len(track.pending) == _MANY_BACKWARDS and not track.steps:
                    self._say_unstepped(track)

    def _say_unstepped(self, track: Track) -> None:
        message = f"{len(track.pending)} losses were backwarded and no step of {track.title} was seen: is it compiled?"
        self.writer.event("unseen", message, step=self.step, severity="warning", data={"series": ["loss"]})

    @guarded
    def on_grad(self, outputs: Any, inputs: Any) -> None:
        """torch.autograd.grad is called: for a loss, if it asks for the gradient of trained parameters."""
        loss = outputs if isinstance(outputs, torch.Tensor) else next(iter(outputs), None)
        if loss is None or not is_plain(loss) or loss.numel() != 1 or torch._C._current_graph_task_id() != -1:
            return
        wanted = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
        leaves = [p for p in wanted if isinstance(p, torch.Tensor) and p.is_leaf and p.requires_grad]
        if not self.training.tracks and any(isinstance(p, torch.nn.Parameter) for p in leaves):
            self._track_bare(leaves)
        for track in list(self.training.tracks.values()):
            if any(id(p) in track.identities for p in leaves):
                self._prepare_backward(loss)
                self._look_at_carryover(track)
                self._look_for_loss(loss)
                term = Term(self._value_of(loss, None), provisional=True)
                self._see(term, loss)
                track.add(term)

    @guarded
    def after_grad(self, inputs: Any, gradients: Any) -> None:
        """torch.autograd.grad has given `gradients` of `inputs`: a loop without an optimizer steps by them."""
        track = self.training.tracks.get(BARE)
        if track is None or not track.pending or torch._C._current_graph_task_id() != -1:
            return
        wanted = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs)
        pairs = zip(wanted, gradients, strict=False)
        found = {
            id(p): g for p, g in pairs if isinstance(g, torch.Tensor) and id(p) in track.identities and is_plain(g)
        }
        if found:
            track.differentiated |= found
            self._await_bare_step(track)

    def _value_of(self, loss: torch.Tensor, gradients: Any) -> torch.Tensor | float:
        value = self.training.scaling.original(loss).detach()
        if value.numel() != 1:
            value = (value * gradients).sum() if isinstance(gradients, torch.Tensor) else value.sum()
        return float(value) if value.device.type == "cpu" else value

    def _see(self, term: Term, loss: torch.Tensor) -> None:
        if not isinstance(term.value, torch.Tensor):
            named = () if self.observer.subject is None else self.observer.subject.named
            self.training.nonfinite.see_loss(
                term.value, loss, self.step + 1, named, readable=not self.training.saved_tensors_hooked
            )

    def _await_bare_step(self, track: Track) -> None:
        if self.observer.plan is not None:
            self.observer.look_at_gradients(track, self.clock.label(track), 1.0)
            self.observer.keep_before(track)
        track.remember()
