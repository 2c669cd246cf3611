"""A training at one step, held as a replay that reproduces its loss and in which probes may compute anything."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from separatrix.record.losses import class_rows
from separatrix.record.ownership import flattened_tensors
from separatrix.record.replay import Call, Link, ReplayError, copied, slot_of, tolerance
from separatrix.record.shadow import Shadow
from separatrix.runs.errors import SeparatrixError
from separatrix.runs.probe import LossView

_HALF = (torch.float16, torch.bfloat16)


class OutOfTimeError(SeparatrixError):
    """A probe has used up the time that it was given."""


class Batch:
    """What a step's loss was computed of: the call of the model and, where one was seen, the loss function's.

    `function` maps the loss function's input to its value, as torch's own function would with the step's targets;
    `link` leads to that input from the model's output. Without a function, tensor `slot` of the output is the loss.
    `scale` is the factor from there to what was backwarded, `value` the loss there. `weights`, if any, are those of the
    single losses in it. `kind` is torch's name of the function, `view` its input and targets.
    """

    def __init__(
        self,
        call: Call,
        *,
        view: LossView | None = None,
        link: Link | None = None,
        function: Callable[..., torch.Tensor] | None = None,
        slot: int | None = None,
        scale: float = 1.0,
        value: float | None = None,
        weights: torch.Tensor | None = None,
    ) -> None:
        self.call = call
        self.weights = weights
        self.view = view
        self.link = link
        self.function = function
        self.slot = slot
        self.scale = scale
        self.value = value

    def stand_for(self, passes: int) -> None:
        """Take this batch for all that were backwarded in its step: its loss then counts as often as there were passes.

        Raises:
            ReplayError: the losses of the step are not the parts of a mean, so they may be different ones.
        """
        share = self.scale if self.weights is None else self.scale * float(self.weights.sum())
        if passes > 1 and not 0.5 < share * passes < 2.0:
            raise ReplayError(f"{passes} losses were backwarded in the step, and they are not the parts of one mean")
        self.scale *= max(1, passes)


class Snapshot:
    """A step as a replay. Whatever is computed here leaves the training as it is.

    Of a step that accumulates the gradients of several batches, the first is replayed and stands for all of them:
    `loss` and `gradient` are then estimates of the step's. `model` is an eager copy with the parameters, buffers and
    modes of the step's beginning; `parameters` are those of its parameters that are trained, by their label in the run.
    `update` is what the optimizer then added to each, by label; `groups` and `states` hold its options and state for
    each. `initial` holds each parameter as it was at the first snapshot that trained it. `memory` is kept from one
    snapshot to the next, for warm starts; `cache` holds what several probes of this snapshot use. `generator` is for
    random probes; it is seeded by the step. `examples` are the positions along the dimension `example` of the rows of
    the loss, None where that is not known.
    """

    def __init__(
        self,
        step: int,
        shadow: Shadow,
        parameters: Mapping[str, torch.Tensor],
        batch: Batch,
        *,
        prefix: str = "",
        optimizer: torch.optim.Optimizer | None = None,
        update: Mapping[str, torch.Tensor] | None = None,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
        states: Mapping[str, Mapping[str, Any]] | None = None,
        initial: Mapping[str, torch.Tensor] | None = None,
        memory: dict[str, Any] | None = None,
        seconds: float | None = None,
        examples: Sequence[int] | None = None,
    ) -> None:
        self.step = step
        self.examples = examples
        self.model = shadow.module
        self.parameters = dict(parameters)
        self.prefix = prefix
        self.optimizer = optimizer
        self.update = update
        self.groups = groups or {}
        self.states = states or {}
        self.initial = initial
        self.memory = {} if memory is None else memory
        self.cache: dict[str, Any] = {}
        self.generator = torch.Generator().manual_seed(step)
        self.batch = batch
        self.unseen: list[str] = []
        self._buffers = [(b, b.clone(), b._version) for b in self.model.buffers()]
        self._deadline = None if seconds is None else time.perf_counter() + seconds

    # Replay

    def forward(self) -> Any:
        """The model's output on the step's inputs, with the random numbers that the step drew."""
        self._restore_buffers()
        call = self.batch.call
        call.random.restore()
        half = any(p.dtype in _HALF for p in self.model.parameters())
        arguments = call.arguments if half else _widened(call.arguments)
        keywords = call.keywords if half else _widened(dict(call.keywords))
        with torch.autocast(call.device, enabled=False):
            return self.model(*arguments, **keywords)

    def _restore_buffers(self) -> None:
        with torch.no_grad():
            for index, (buffer, kept, version) in enumerate(self._buffers):
                if buffer._version != version:
                    buffer.copy_(kept)
                    self._buffers[index] = (buffer, kept, buffer._version)

    def evaluate(self) -> tuple[torch.Tensor | None, torch.Tensor]:
        """(what the loss function is given, the loss), with their graph; the former None where it was not found."""
        result = self.forward()
        batch = self.batch
        outputs = None if batch.link is None else batch.link(result)
        if outputs is not None and batch.function is not None:
            return outputs, self.loss_of(outputs)
        assert batch.slot is not None
        return outputs, slot_of(result, batch.slot) * batch.scale

    def loss(self) -> torch.Tensor:
        """The loss, with its graph."""
        return self.evaluate()[1]

    def loss_of(self, outputs: torch.Tensor) -> torch.Tensor:
        """The loss for other inputs of the loss function.

        Raises:
            ReplayError: no loss function was seen.
        """
        weights = self.batch.weights
        if weights is None:
            return self._function(outputs).mean() * self.batch.scale
        losses = self._function(outputs, reduction="none")
        return (losses * weights.to(losses.dtype)).sum() * self.batch.scale

    def per_example_losses(self, outputs: torch.Tensor) -> torch.Tensor:
        """Loss of each row of the loss function's input, shape (rows,); their mean is the loss, but for its scale.

        Raises:
            ReplayError: no loss function was seen.
        """
        losses, weights = self._function(outputs, reduction="none"), self.batch.weights
        if weights is not None:
            losses = losses * weights.to(losses.dtype) * losses.numel()
        return losses.reshape(losses.shape[0], -1).mean(1) if losses.dim() > 1 else losses

    def _function(self, outputs: torch.Tensor, **options: Any) -> torch.Tensor:
        batch = self.batch
        if batch.function is None or batch.view is None:
            raise ReplayError("no loss function was seen: the model returns its loss")
        targets = batch.view.targets
        if targets.is_floating_point():
            targets = targets.to(outputs.dtype)
        return batch.function(outputs, targets, **{**batch.view.options, **options})

    def prove(self) -> None:
        """Replay once and compare with the recorded loss.

        Raises:
            ReplayError: they differ by more than rounding.
        """
        with torch.no_grad():
            replayed = float(self.loss())
        recorded = self.batch.value
        if recorded is None:
            return
        allowed = max(map(tolerance, self.batch.call.dtypes), default=0.0)
        if not abs(replayed - recorded) <= allowed * max(abs(recorded), 1e-3):
            raise ReplayError(f"the replayed loss is {replayed:.6g}, the recorded one {recorded:.6g}")

    # Quantities that several probes use, computed once

    @property
    def sees_outputs(self) -> bool:
        """Whether the loss can be differentiated by what the loss function is given."""
        return self.batch.link is not None and self.batch.function is not None

    @property
    def kind(self) -> str | None:
        """Name of the loss function in torch.nn.functional."""
        return None if self.batch.view is None else self.batch.view.kind

    @property
    def inputs(self) -> list[torch.Tensor]:
        """The tensors that the model was called with, in order."""
        return list(flattened_tensors((self.batch.call.arguments, dict(self.batch.call.keywords))))

    @property
    def targets(self) -> torch.Tensor | None:
        """What the loss function compares with."""
        return None if self.batch.view is None else self.batch.view.targets

    @functools.cached_property
    def classes(self) -> torch.Tensor | None:
        """Target class of each row, shape (rows,), ignored ones left out; None where the loss shows no classes."""
        rows = None if self.batch.view is None else class_rows(self.batch.view)
        return None if rows is None else rows[1]

    @functools.cached_property
    def gradient(self) -> list[torch.Tensor]:
        """Gradient of the loss by each of `parameters`; zeros where the loss does not depend on one."""
        self.tick()
        parameters = list(self.parameters.values())
        found = torch.autograd.grad(self.loss(), parameters, allow_unused=True)
        return dense(parameters, found)

    # Time

    def allow(self, seconds: float | None) -> None:
        """From now on `tick` raises after this time."""
        self._deadline = None if seconds is None else time.perf_counter() + seconds

    def tick(self) -> None:
        """To be called between pieces of work.

        Raises:
            OutOfTimeError: the time given is used up.
        """
        if self._deadline is not None and time.perf_counter() > self._deadline:
            raise OutOfTimeError("the time that the budget gives this probe is used up")


def dense(parameters: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
    """Gradients with all their entries: zeros where one is missing, or is sparse and leaves an entry out."""
    return [
        torch.zeros_like(p) if g is None else g.to_dense() if g.layout is not torch.strided else g
        for p, g in zip(parameters, gradients, strict=True)
    ]


def _widened(value: Any) -> Any:
    """Copies in which half-precision tensors are float32."""
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in _HALF else value
    return _mapped(_widened, value)


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return type(value)((key, change(item)) for key, item in value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(change, value))
    if isinstance(value, list | tuple):
        return type(value)(map(change, value))
    return value


def snapshot_of(
    model: torch.nn.Module,
    loss: str,
    inputs: torch.Tensor | Sequence[Any],
    targets: torch.Tensor,
    *,
    step: int = 0,
    optimizer: torch.optim.Optimizer | None = None,
    initial: Mapping[str, torch.Tensor] | None = None,
    memory: dict[str, Any] | None = None,
    **options: Any,
) -> Snapshot:
    """A snapshot of a model on a batch without any recording; `loss` is a name in torch.nn.functional.

    `model(*inputs)` must give what the loss function takes, or classes last for targets in one row. `options` go to the
    loss function.
    """
    from separatrix.record.shadow import RandomState, undisturbed

    arguments = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    shadow = Shadow(model)
    shadow.load()
    function = getattr(torch.nn.functional, loss)
    with undisturbed(), torch.no_grad():
        call = Call(copied(arguments), {}, RandomState.now(), (), targets.device.type)
        result = shadow.module(*arguments)
        output = next(flattened_tensors(result))
        rows = targets.shape[:1] if loss in ("cross_entropy", "nll_loss") and targets.dim() == 1 else None
        given = output.reshape(-1, output.shape[-1]) if rows and output.dim() > 2 else output
        link = Link(0, "output", lambda x: x.reshape(given.shape))
    shadow.load()
    named = {name: p for name, p in shadow.module.named_parameters() if p.requires_grad}
    live = {id(p): name for name, p in model.named_parameters()}
    groups: dict[str, Mapping[str, Any]] = {}
    states: dict[str, Mapping[str, Any]] = {}
    for group in () if optimizer is None else optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) in live and optimizer is not None:
                groups[live[id(parameter)]] = group
                states[live[id(parameter)]] = optimizer.state.get(parameter, {})
    view = LossView(loss, given, targets, options)
    batch = Batch(call, view=view, link=link, function=function)
    return Snapshot(
        step,
        shadow,
        named,
        batch,
        optimizer=optimizer,
        groups=groups,
        states=states,
        initial=initial,
        memory=memory,
    )
