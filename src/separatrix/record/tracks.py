"""Bookkeeping for one optimizer: which losses its next step will use, and the options of its groups."""

from __future__ import annotations

import dataclasses
import operator
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch

OPTIONS = {"lr": "learning_rate", "momentum": "momentum", "weight_decay": "weight_decay", "eps": "epsilon"}
"""Group options that are recorded, and the series they go to; betas become beta1 and beta2."""

BARE = 0
"""Key of the track of a loop without an optimizer, among tracks keyed by the identity of theirs."""

_READ = (*OPTIONS, "betas")
_MOST_PENDING = 1000
_REPRESENTATIVES = 4


@dataclasses.dataclass(frozen=True)
class Term:
    """The value of one tensor that was backwarded; a tensor still on its device, or a number."""

    value: torch.Tensor | float
    provisional: bool = False
    """Only differentiated by torch.autograd.grad: the loss of a step unless something is backwarded in it."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """One call of gradient clipping: the norm found, the limit, and the factor that the gradients carried."""

    total_norm: torch.Tensor
    limit: float
    factor: float

    def norm(self) -> float:
        """Norm of the gradients as the optimizer uses them, before clipping."""
        return float(self.total_norm) / self.factor

    def coefficient(self) -> float:
        """What clipping multiplied by: torch's formula, in which a constant keeps the division finite."""
        coefficient = self.limit / (float(self.total_norm) + 1e-6)
        return coefficient if coefficient != coefficient else min(1.0, coefficient)


class Track:
    """An optimizer, or the bare parameters of a loop without one, and the losses waiting for its next step."""

    def __init__(self, optimizer: torch.optim.Optimizer | None, parameters: Sequence[torch.Tensor] = ()) -> None:
        self._optimizer = None if optimizer is None else weakref.ref(optimizer)
        self._bare = tuple(parameters)
        self.name = ""
        self.loss_series: int | None = None
        self.pending: list[Term] = []
        self.first_closure: list[Term] | None = None
        self.closures = 0
        self.in_step = False
        self.in_closure = False
        self.skipped = 0
        self.scaled = False
        self.unscaled = False
        self.clipped = False
        self.fused_skip = False
        self.steps = 0
        self.steps_since_clock = self.clock_step = 0
        """Steps while the clock has shown `clock_step`; if it shows another step by now, none since."""
        self.was_clock = False
        self.differentiated: dict[int, torch.Tensor] = {}
        self.clips: list[Clip] = []
        self._remembered: list[tuple[torch.Tensor, int, torch.Tensor]] = []
        self.options: dict[tuple[str, int], float] = {}
        self._snapshot: list[Any] = []
        self._changes_in_place = False
        self.refresh()

    @property
    def title(self) -> str:
        """The name, or the optimizer's class until it has one."""
        return self.name or type(self.optimizer).__name__

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer, while it lives."""
        return None if self._optimizer is None else self._optimizer()

    def refresh(self) -> None:
        """Read the optimizer's parameters again, after groups were added."""
        optimizer = self.optimizer
        if optimizer is not None:
            self.parameters: tuple[torch.Tensor, ...] = tuple(
                p for group in optimizer.param_groups for p in group["params"] if isinstance(p, torch.Tensor)
            )
            self.group_count = len(optimizer.param_groups)
        else:
            self.parameters, self.group_count = self._bare, 0
        trainable = [p for p in self.parameters if p.requires_grad] or list(self.parameters)
        stride = max(1, len(trainable) // _REPRESENTATIVES)
        self.representatives = tuple(trainable[::stride])
        self.identities = frozenset(id(p) for p in self.parameters)

    def gradients(self, parameters: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
        """Gradients of `parameters`: those in `.grad`, or what torch.autograd.grad gave a loop without an optimizer."""
        return [self.differentiated.get(id(p), p.grad) for p in parameters]

    def gradient_marks(self) -> tuple[tuple[int, int] | None, ...]:
        """A fingerprint of some parameters' gradients that any accumulation changes."""
        return tuple(None if p.grad is None else (id(p.grad), p.grad._version) for p in self.representatives)

    def gradients_cleared(self) -> bool:
        """Whether the gradients seem to have been set to None or zero."""
        return all(p.grad is None or not bool(p.grad.any()) for p in self.representatives)

    def own_step_count(self) -> int | None:
        """Steps by the optimizer's own count, where its state keeps one."""
        optimizer = self.optimizer
        states = () if optimizer is None else optimizer.state.values()
        return next((int(state["step"]) for state in states if "step" in state), None)

    def remember(self) -> None:
        """Keep some parameters as they are now, to notice when they are changed without an optimizer."""
        self._remembered = [(p, p._version, p.detach().clone()) for p in self.representatives[:2]]

    def moved(self) -> bool:
        """Whether those parameters have been changed since; asked once it is true, it is false until the next time."""
        moved = any(p._version != version or not torch.equal(p, old) for p, version, old in self._remembered)
        if moved:
            self._remembered = []
        return moved

    def drop_losses(self) -> None:
        """Nothing gathered so far counts for the next step."""
        self.pending, self.clips, self.first_closure = [], [], None
        self.closures, self.in_step, self.in_closure = 0, False, False

    def drop_step(self) -> None:
        """A step was skipped: nothing gathered for it counts."""
        self.drop_losses()
        self.skipped += 1

    def forget(self) -> None:
        """The gradients were cleared: what was backwarded so far will not reach the next step."""
        if self.in_closure:
            self._end_closure()
        self.pending = []

    def add(self, term: Term) -> None:
        """A loss was backwarded into these parameters, before a step or inside it by a closure."""
        self.pending.append(term)
        if len(self.pending) > _MOST_PENDING:
            # A network that is never stepped may receive the gradients of others' losses for ever.
            self.pending = [Term(sum((t.value for t in self.pending[1:]), start=self.pending[0].value))]
        self.in_closure = self.in_step

    def _end_closure(self) -> None:
        if self.first_closure is None:
            self.first_closure = self.pending
        self.closures += 1
        self.in_closure = False

    def take_terms(self) -> tuple[list[Term], int]:
        """The losses that the step just done used (of the first closure, if any), and the number of closures."""
        if self.in_closure:
            self._end_closure()
        terms = self.first_closure if self.first_closure is not None else self.pending
        closures = self.closures
        if any(not term.provisional for term in terms):
            terms = [term for term in terms if not term.provisional]
        self.differentiated = {}
        self.pending, self.first_closure, self.closures = [], None, 0
        return terms, closures

    def changed_options(self) -> list[tuple[str, int, float]]:
        """(series, group, value) of every group option that differs from when this was last asked."""
        optimizer = self.optimizer
        if optimizer is None:
            return []
        now = [group.get(name) for group in optimizer.param_groups for name in _READ]
        same = len(now) == len(self._snapshot) and all(map(operator.is_, now, self._snapshot))
        # A learning rate held in a tensor changes in place.
        if same and not self._changes_in_place:
            return []
        self._snapshot = now
        self._changes_in_place = any(isinstance(value, torch.Tensor) for value in now)
        changed = []
        for index, group in enumerate(optimizer.param_groups):
            for name, value in _options(group):
                if self.options.get((name, index)) != value:
                    self.options[name, index] = value
                    changed.append((name, index, value))
        return changed


def _options(group: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for option, series in OPTIONS.items():
        value = group.get(option)
        if value is not None and not isinstance(value, tuple | list):
            yield series, float(value)
    betas = group.get("betas")
    if isinstance(betas, tuple | list) and len(betas) >= 2:
        yield "beta1", float(betas[0])
        yield "beta2", float(betas[1])
