"""Trains many small networks, seeds times hyperparameters, as one batched computation.

    networks = ensemble.stack(lambda: MLP(width=64), seeds=range(64))
    training = ensemble.train(networks, F.cross_entropy, ensemble.Adam(rates), data, steps=1000)
    training.ensemble.module(3)

Every copy has its own data, loss, hyperparameters and optimizer state, and takes the path that it would take alone, up
to rounding. Nothing passes between copies: one that diverges leaves the others as they are.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad_and_value

from separatrix.tasks._ensemble_networks import (
    Ensemble,
    Tensors,
    as_tuple,
    check_leading,
    from_modules,
    from_values,
    split,
    stack,
)
from separatrix.tasks._ensemble_optimizers import SGD, Adam, Hyper, Optimizer, State, Update, adamw
from separatrix.tasks._ensemble_program import Program, trace
from separatrix.tasks._ensemble_recording import Recording
from separatrix.tasks.errors import EnsembleError

__all__ = [
    "SGD",
    "Adam",
    "Ensemble",
    "Measured",
    "Optimizer",
    "Training",
    "adamw",
    "from_modules",
    "from_values",
    "stack",
    "train",
]

Loss = Callable[[Any, Any], Tensor]
Data = Callable[[int], tuple[Tensors, Tensors]]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Values of a function of the ensemble, (measurements, copies, ...), and after how many steps each was taken."""

    steps: tuple[int, ...]
    values: Float[Tensor, " measurements copies ..."]


@dataclasses.dataclass(frozen=True)
class Training:
    """What a training of an ensemble leaves behind.

    `loss[i]` was computed at step `first_step + i`, before the parameters moved. `state` and `steps`, the number of
    steps done in all, let another training go on where this one ended; `programs`, traced ones, let it start at once.
    """

    ensemble: Ensemble
    loss: Float[Tensor, " steps copies"]
    measured: Mapping[str, Measured]
    state: State
    first_step: int
    steps: int
    programs: dict[Any, Program] = dataclasses.field(default_factory=dict, repr=False, compare=False)


def train(
    ensemble: Ensemble,
    loss: Loss,
    optimizer: Optimizer,
    data: Data,
    steps: int,
    *,
    schedule: Callable[[int], Hyper] | None = None,
    measure: Mapping[str, Callable[[Ensemble], Tensor]] | None = None,
    every: int | Collection[int] = 100,
    resume: Training | None = None,
    seed: int = 0,
    run: str | Path | None = None,
    labels: Sequence[str] | None = None,
) -> Training:
    """Takes `steps` optimizer steps of every copy; the given ensemble stays as it is.

    Args:
        ensemble: the networks at the start, in the mode (training or evaluation) of the template.
        loss: of one copy, `loss(outputs, targets)`, a scalar; that of the ensemble never exists.
        optimizer: `SGD`, `Adam` or `adamw(...)`, each hyperparameter one number or one for each copy.
        data: `data(step)` gives inputs and targets (copies, batch, ...), or tuples of them; steps count from 1.
        steps: how many to take.
        schedule: `schedule(step)` multiplies the learning rates, by one number or by one for each copy.
        measure: functions of the ensemble to values (copies, ...), for a run (copies,), called before the first step,
            after every `every` steps and after the last; they must not change it.
        every: steps between measurements, or the very steps after which to measure, 0 before the first.
        resume: an earlier training of the same networks with the same kind of optimizer, to go on with.
        seed: of random layers such as dropout, whose draws differ from those of copies trained alone.
        run: a folder for a new run with `loss`, `learning_rate` and the measured series, of dimension `copy`.
        labels: names of the copies in the run; their numbers by default.

    A step costs memory for the activations of all copies at once. The program is traced for each shape of data: Python
    code in the network's forward runs only then.

    Raises:
        EnsembleError: the network cannot be batched, a parameter gets no gradient, hyperparameters or data do not fit
            the number of copies, or nothing is done at a step to measure after.
        RunExistsError: the run's folder holds something already.
    """
    if steps < 1 or (isinstance(every, int) and every < 1):
        raise EnsembleError(f"steps={steps}, every={every}: both must be at least 1")
    if resume is not None:
        if resume.ensemble.template is not ensemble.template:
            raise EnsembleError("the training to resume is of other networks: pass the ensemble that it started from")
        ensemble = resume.ensemble
    done = 0 if resume is None else resume.steps
    due = _due(every, 0 if resume is None else done + 1, done + steps)
    moving = _copied(ensemble)
    state = optimizer.start(moving.parameters) if resume is None else {k: v.clone() for k, v in resume.state.items()}
    update = _bound(optimizer, moving.parameters, state)
    programs = {} if resume is None else dict(resume.programs)
    losses: list[Tensor] = []
    functions = dict(measure or {})
    _keep_freed_memory()
    with Recording(run, labels, moving.copies, functions, optimizer) as recording:
        if 0 in due:
            recording.measure(0, moving)
        for step in range(done + 1, done + steps + 1):
            inputs, targets = (_contiguous(part) for part in data(step))
            key = loss, seed, _kinds(inputs), _kinds(targets)
            if key not in programs:
                programs[key] = _program(moving, loss, inputs, targets, seed)
            gradient, values = programs[key](moving, inputs, targets, step)
            factor = None if schedule is None else schedule(step)
            losses.append(values)
            recording.step(step, values, optimizer.learning_rate, factor)
            update(gradient, step, factor)
            if step in due:
                recording.measure(step, moving)
    measured = {name: Measured(tuple(at), torch.stack(taken)) for name, (at, taken) in recording.measured.items()}
    return Training(moving, torch.stack(losses), measured, state, done + 1, done + steps, programs)


def _due(every: int | Collection[int], first: int, last: int) -> frozenset[int]:
    """The steps to measure after, of those from `first` to `last`."""
    if not isinstance(every, int):
        if lost := sorted(step for step in every if not first <= step <= last):
            raise EnsembleError(f"a measurement after step {lost[0]}: give steps from {first} to {last}")
        return frozenset(every)
    return frozenset({step for step in range(first, last + 1) if step % every == 0} | {last})


def _keep_freed_memory() -> None:
    """Ask the C library, by freeing a large untouched block, not to give activations back to the system at every step.

    glibc raises its thresholds for that to the largest block freed so far, up to 32 MB; fetching the pages anew costs a
    tenth to a fifth of a step. Elsewhere this has no effect.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def _copied(ensemble: Ensemble) -> Ensemble:
    fixed = {name: values.clone() for name, values in ensemble.fixed.items()}
    return Ensemble(ensemble.template, ensemble.parameters.clone(), fixed)


def _bound(optimizer: Optimizer, parameters: Tensor, state: State) -> Update:
    expected = optimizer.start(parameters[:0])
    if expected.keys() != state.keys() or any(values.shape != parameters.shape for values in state.values()):
        raise EnsembleError(
            f"the earlier training's optimizer state does not fit {type(optimizer).__name__} over"
            f" {len(parameters)} copies: resume with the same kind of optimizer"
        )
    return optimizer.bind(parameters, state)


def _kinds(tensors: Tensors) -> tuple[Any, ...]:
    if isinstance(tensors, tuple):
        return tuple(_kinds(tensor) for tensor in tensors)
    return tensors.shape, tensors.dtype


def _contiguous(tensors: Tensors) -> Tensors:
    if isinstance(tensors, tuple):
        return tuple(tensor.contiguous() for tensor in tensors)
    return tensors.contiguous()


def _program(ensemble: Ensemble, loss: Loss, inputs: Tensors, targets: Tensors, seed: int) -> Program:
    """A function of (ensemble, inputs, targets, step) to gradient (copies, size) and loss (copies,)."""
    check_leading(as_tuple(inputs), ensemble.copies, "inputs")
    check_leading(as_tuple(targets), ensemble.copies, "targets")
    template, shapes, names = ensemble.template, ensemble.shapes, tuple(ensemble.fixed)
    buffers = tuple(name for name, _ in template.named_buffers())
    inputs_end = len(names) + len(as_tuple(inputs))

    def one(row: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        fixed = dict(zip(names, rest[: len(names)], strict=True))
        wanted = rest[inputs_end:] if isinstance(targets, tuple) else rest[inputs_end]

        def objective(row: Tensor) -> tuple[Tensor, list[Tensor]]:
            held = fixed | {name: fixed[name].clone() for name in buffers}
            outputs = functional_call(template, {**split(shapes, row), **held}, rest[len(names) : inputs_end])
            return loss(outputs, wanted), [held[name] for name in buffers]

        gradient, (value, held) = grad_and_value(objective, has_aux=True)(row)
        return gradient, value, *held

    def arguments(now: Ensemble, inputs: Tensors, targets: Tensors) -> tuple[Tensor, ...]:
        return now.parameters, *now.fixed.values(), *as_tuple(inputs), *as_tuple(targets)

    given = arguments(ensemble, inputs, targets)
    with _drawing(seed, ensemble.parameters.device):
        expected = _alone(ensemble, loss, inputs, targets)
        traced, random = trace(one, given, type(template).__name__)

    def program(now: Ensemble, inputs: Tensors, targets: Tensors, step: int) -> tuple[Tensor, Tensor]:
        with _drawing(seed + _STRIDE * step, now.parameters.device) if random else contextlib.nullcontext():
            gradient, value, *held = traced(*arguments(now, inputs, targets))
        for name, values in zip(buffers, held, strict=True):
            now.fixed[name].copy_(values)
        return gradient, value

    if not random and bool(expected.isfinite()):
        found = traced(*given)[1][-1]
        tolerance = 10 * torch.finfo(expected.dtype).eps ** 0.5
        if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True):
            raise EnsembleError(
                f"the last copy's loss is {float(expected)} alone and {float(found)} in the ensemble:"
                f" {type(template).__name__} keeps a state that is no parameter or buffer; register it as one"
            )
    return program


_STRIDE = 1_000_003
"""Between the seeds of successive steps, so that neighbouring seeds of trainings share none for long."""


@contextlib.contextmanager
def _drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Random layers draw from this seed inside; the generators are put back."""
    elsewhere = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=elsewhere, device_type="cuda" if not elsewhere else device.type):
        torch.default_generator.manual_seed(seed)
        if elsewhere:
            torch.get_device_module(device).manual_seed(seed)
        yield


def _alone(ensemble: Ensemble, loss: Loss, inputs: Tensors, targets: Tensors) -> Tensor:
    """Loss of the last copy computed by itself, after a check that every parameter gets a gradient."""
    module = ensemble.module(-1)
    wanted = tuple(target[-1] for target in targets) if isinstance(targets, tuple) else targets[-1]
    value = loss(module(*(tensor[-1] for tensor in as_tuple(inputs))), wanted)
    if value.dim() != 0:
        raise EnsembleError(f"the loss has shape {tuple(value.shape)}: give one that is a scalar, such as a mean")
    named = {name: values for name, values in module.named_parameters() if values.requires_grad}
    gradients = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    unused = [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]
    if unused:
        raise EnsembleError(f"the loss does not depend on {unused[0]}: freeze it by requires_grad_(False)")
    return value.detach()
