"""Trains many small networks, seeds times hyperparameters, as one batched computation.

    networks = ensemble.stack(lambda: MLP(width=64), seeds=range(64))
    training = ensemble.train(networks, F.cross_entropy, ensemble.Adam(rates), data, steps=1000)
    training.ensemble.module(3)

Every copy has its own data, loss, hyperparameters and optimizer state, and takes the path that it would take alone, up
to rounding. Nothing passes between copies: one that diverges leaves the others as they are.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
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
    template = copy.deepcopy(ensemble.template)  # forward may keep tensors of the trace as attributes
    shapes, names = ensemble.shapes, tuple(ensemble.fixed)
    buffers = tuple(name for name, _ in template.named_buffers())
    inputs_end = len(names) + len(as_tuple(inputs))

    def one(row: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        fixed = dict(zip(names, rest[: len(names)], strict=True))
        wanted = rest[inputs_end:] if isinstance(targets, tuple) else rest[inputs_end]

        def objective(row: Tensor) -> tuple[Tensor, list[Tensor]]:
            held = {**split(shapes, row), **fixed} | {name: fixed[name].clone() for name in buffers}
            outputs = functional_call(template, held, rest[len(names) : inputs_end])
            return loss(outputs, wanted), [held[name] for name in buffers]  # the call puts those it assigned here

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

    if not random and bool(expected.losses.isfinite().all()):
        gradient, once, *held = traced(*given)
        moved = dataclasses.replace(ensemble, fixed={**ensemble.fixed, **dict(zip(buffers, held, strict=True))})
        _, twice, *held = traced(*arguments(moved, inputs, targets))
        left = {name: values[-1] for name, values in zip(buffers, held, strict=True)}
        found = _TwoPasses(torch.stack([once[-1], twice[-1]]), split(shapes, gradient[-1]), left)
        _check_same(expected, found, type(template).__name__)
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


@dataclasses.dataclass(frozen=True)
class _TwoPasses:
    """What a network does in two passes on the same data: losses (2,), first gradient, and buffers left, by name."""

    losses: Float[Tensor, " 2"]
    gradient: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]


def _alone(ensemble: Ensemble, loss: Loss, inputs: Tensors, targets: Tensors) -> _TwoPasses:
    """Those of the last copy by itself, after a check that every parameter gets a gradient and every buffer fits."""
    module = ensemble.module(-1)
    wanted = tuple(target[-1] for target in targets) if isinstance(targets, tuple) else targets[-1]
    given = [tensor[-1] for tensor in as_tuple(inputs)]
    value = loss(module(*given), wanted)
    if value.dim() != 0:
        raise EnsembleError(f"the loss has shape {tuple(value.shape)}: give one that is a scalar, such as a mean")
    named = {name: values for name, values in module.named_parameters() if values.requires_grad}
    gradients = dict(zip(named, torch.autograd.grad(value, list(named.values()), allow_unused=True), strict=True))
    unused = [name for name, gradient in gradients.items() if gradient is None]
    if unused:
        raise EnsembleError(f"the loss does not depend on {unused[0]}: freeze it by requires_grad_(False)")
    with torch.no_grad():
        again = loss(module(*given), wanted)
    names = [name for name, _ in ensemble.template.named_buffers()]
    buffers = _buffers(module, names)
    _check_buffers(_buffers(ensemble.template, names), buffers)
    return _TwoPasses(torch.stack([value.detach(), again]), gradients, buffers)


def _buffers(module: nn.Module, names: Collection[str]) -> dict[str, Tensor]:
    """Buffers of these names, also where forward has made two the same, and any other that is none of them."""
    held = dict(module.named_buffers(remove_duplicate=False))
    known = {id(held[name]) for name in names if name in held}
    return {name: values for name, values in held.items() if name in names or id(values) not in known}


def _check_buffers(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    """Refuse a forward that makes, drops or reshapes buffers: the steps are traced for those of the start."""
    for name in (*before, *after):
        was, left = (_kind(held[name]) if name in held else "nothing" for held in (before, after))
        if was != left:
            raise EnsembleError(
                f"forward turns buffer {name} from {was} into {left}: register it in the shape and type that it keeps"
            )


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {tensor.dtype}"


def _check_same(alone: _TwoPasses, batched: _TwoPasses, network: str) -> None:
    tolerance = 10 * torch.finfo(alone.losses.dtype).eps ** 0.5

    def differ(one: Tensor, two: Tensor) -> bool:
        return not torch.allclose(one.double(), two.double(), rtol=tolerance, atol=tolerance, equal_nan=True)

    steepest = max(float(values.abs().max()) for values in alone.gradient.values())
    for name, values in alone.gradient.items():
        if not batched.gradient[name].any() and float(values.abs().max()) > tolerance * steepest:
            raise EnsembleError(
                f"{network} has a gradient in {name} alone and none in the ensemble: its forward must read the"
                " parameter as an attribute of its module"
            )
    if differ(alone.losses, batched.losses):
        raise EnsembleError(
            f"the last copy's losses in two passes on the same data are {alone.losses.tolist()} alone and"
            f" {batched.losses.tolist()} in the ensemble: {network} keeps a state that is no parameter or buffer;"
            " register it as one"
        )
    for name, values in alone.buffers.items():
        if differ(values, batched.buffers[name]):
            raise EnsembleError(
                f"forward leaves another buffer {name} alone than in the ensemble: {network} must compute it from"
                " inputs, parameters and buffers only"
            )
