"""The coordinate check: how activations, updates and features change with a model's size after a few steps.

The refined check splits a layer's change exactly: with W x the layer's map, W_t x_t - W_0 x_0 is what its own update
does, (W_t - W_0) x_t, plus what the change of its input does, W_0 (x_t - x_0).
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from separatrix.steer.errors import SteerError
from separatrix.steer.parametrization import Parametrization
from separatrix.steer.parametrization.families import OptimizerClass
from separatrix.steer.parametrization.multipliers import InputMultiplier

Quantity = Literal["activation", "feature_change", "update", "own_effect", "passed_on"]
QUANTITIES: tuple[Quantity, ...] = ("activation", "feature_change", "update", "own_effect", "passed_on")
Verdict = Literal["same at every size", "vanishes", "grows", "not finite"]

BOUND = 0.25
"""Half of the smallest exponent, 1/2, by which parametrizations of other regimes are off."""

Setup = Callable[[int], tuple[nn.Module, torch.optim.Optimizer]]
"""From a size to a fresh model of that size and the optimizer that trains it."""
Data = Callable[[int], tuple[Tensor, Tensor]]
"""From the number of a step to its inputs and targets."""


@dataclasses.dataclass(frozen=True)
class Slope:
    """Exponent of the size, and its standard error over seeds."""

    value: float
    error: float


@dataclasses.dataclass(frozen=True)
class CoordinateCheck:
    """Root mean squares by quantity, each (modules, sizes, seeds), nan where a quantity does not exist.

    `activation`: of a module's output after training. `feature_change`: of its change since the start. `update`: of the
    change of its parameters. `own_effect` and `passed_on`: of the two parts of its output's change.
    """

    sizes: tuple[int, ...]
    modules: tuple[str, ...]
    values: Mapping[Quantity, Float[np.ndarray, "modules sizes seeds"]]

    def slope(self, quantity: Quantity, module: str) -> Slope:
        """Least-squares slope of the logarithm over that of the size.

        Raises:
            SteerError: there is no such module.
        """
        if module not in self.modules:
            raise SteerError(f"no module {module!r} was watched: choose from {', '.join(self.modules)}")
        return slope_of(self.sizes, self.values[quantity][self.modules.index(module)])

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """For every module whether its features change by the same amount at every size."""
        return {module: _verdict(self.slope("feature_change", module)) for module in self.modules}

    @property
    def verdict(self) -> Verdict:
        """That of all modules together: the worst."""
        found = set(self.verdicts.values())
        order: tuple[Verdict, ...] = ("not finite", "grows", "vanishes", "same at every size")
        return next(verdict for verdict in order if verdict in found)


def slope_of(sizes: Sequence[int], values: Float[np.ndarray, "sizes seeds"]) -> Slope:
    """Exponent of values over sizes, each seed fitted alone; nan where one is not positive and finite."""
    if not (np.isfinite(values).all() and (values > 0).all()):
        return Slope(float("nan"), float("nan"))
    x = np.log(np.asarray(sizes, dtype=np.float64))
    x = x - x.mean()
    fitted = x @ np.log(values) / (x @ x)
    error = float(fitted.std(ddof=1) / np.sqrt(len(fitted))) if len(fitted) > 1 else float("nan")
    return Slope(float(fitted.mean()), error)


def _verdict(slope: Slope) -> Verdict:
    if np.isnan(slope.value):
        return "not finite"
    if abs(slope.value) <= BOUND:
        return "same at every size"
    return "grows" if slope.value > 0 else "vanishes"


def coordinate_check(
    setup: Setup,
    sizes: Sequence[int],
    data: Data,
    loss: Callable[[Any, Tensor], Tensor],
    *,
    steps: int = 4,
    seeds: Sequence[int] = (0, 1, 2),
    modules: Sequence[str] | None = None,
) -> CoordinateCheck:
    """Train models of several sizes for a few steps and compare what their modules do to the first batch.

    `setup(size)` and the training start from `torch.manual_seed(seed)`; the global generator is put back afterwards.
    A size is a width or a depth. `modules` are names of modules to watch, those without children by default; layers of
    stacks that exist at some sizes only are averaged into one row, and what one of many branches adds should fall with
    their number: in depth look at what comes after them. Models are watched in evaluation mode.

    Raises:
        SteerError: there are fewer than two sizes, no seeds, or nothing to watch.
    """
    if len(set(sizes)) < 2 or not seeds or steps < 1:
        raise SteerError("a coordinate check needs two sizes or more, a seed and a step: give them")
    found = [[_trained(setup, size, seed, data, loss, steps, modules) for seed in seeds] for size in sizes]
    rows = _common_rows([list(part[0]) for part in found])
    if not rows:
        raise SteerError("models of these sizes share no module to watch: name some in modules=")
    values: dict[Quantity, np.ndarray] = {}
    for quantity in QUANTITIES:
        cells = [
            [[_pooled(seed, names, quantity) for seed in of_size] for names, of_size in zip(named, found, strict=True)]
            for named in rows.values()
        ]
        values[quantity] = np.array(cells, dtype=np.float64)
    return CoordinateCheck(tuple(sizes), tuple(rows), values)


Watched = dict[str, dict[Quantity, float]]


def _common_rows(names: list[list[str]]) -> dict[str, list[list[str]]]:
    """Rows of the result and the modules of each size in them: names that all sizes share, else names with stars."""
    shared = set(names[0]).intersection(*names[1:])
    rows: dict[str, list[list[str]]] = {}
    if all(set(part) == shared for part in names):
        return {name: [[name] for _ in names] for name in names[0]}
    patterns = [{name: re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name) for name in part} for part in names]
    for pattern in dict.fromkeys(patterns[0].values()):
        members = [[name for name, other in part.items() if other == pattern] for part in patterns]
        if all(members):
            rows[pattern] = members
    return rows


def _pooled(seed: Watched, names: list[str], quantity: Quantity) -> float:
    return float(np.sqrt(np.mean([seed[name][quantity] ** 2 for name in names])))


def _trained(
    setup: Setup, size: int, seed: int, data: Data, loss: Callable[[Any, Tensor], Tensor], steps: int, modules: Any
) -> Watched:
    """Quantities of every watched module; whatever the model draws comes from the seed."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model, optimizer = setup(size)
        probe = data(0)[0]
        leaves = {name: module for name, module in model.named_modules() if name and not list(module.children())}
        watched = leaves if modules is None else {name: model.get_submodule(name) for name in modules}
        frozen = {name: _as_it_starts(module) for name, module in watched.items()}
        before = _seen(model, watched, probe)
        for step in range(steps):
            inputs, targets = data(step)
            optimizer.zero_grad()
            torch.autograd.backward(loss(model(inputs), targets))
            optimizer.step()
        after = _seen(model, watched, probe)
    return {
        name: _quantities(watched[name], frozen[name], before[name][1], *after[name])
        for name in watched
        if name in before and name in after
    }


def _as_it_starts(module: nn.Module) -> nn.Module:
    """A copy whose inputs are taken as they are: what it is called with was multiplied already."""
    copied = copy.deepcopy(module).eval()
    hooks = copied._forward_pre_hooks
    for key in [key for key, hook in hooks.items() if isinstance(hook, InputMultiplier)]:
        del hooks[key]
    return copied


def _seen(
    model: nn.Module, watched: Mapping[str, nn.Module], probe: Tensor
) -> dict[str, tuple[tuple[Any, dict[str, Any]], Tensor]]:
    """Arguments and output of every watched module that is called with the probe and gives one tensor."""
    found: dict[str, tuple[tuple[Any, dict[str, Any]], Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            del module
            first = output if isinstance(output, Tensor) else output[0]
            if first.is_floating_point():
                found[name] = ((args, kwargs), first.detach().clone())

        return hook

    handles = [module.register_forward_hook(keep(name), with_kwargs=True) for name, module in watched.items()]
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(probe)
    finally:
        for module, training in modes.items():
            module.training = training
        for handle in handles:
            handle.remove()
    return found


def _quantities(
    module: nn.Module, frozen: nn.Module, start: Tensor, call: tuple[Any, dict[str, Any]], end: Tensor
) -> dict[Quantity, float]:
    args, kwargs = call
    with torch.no_grad():
        output = frozen(*args, **kwargs)
    between = output if isinstance(output, Tensor) else output[0]
    old = dict(frozen.named_parameters())
    moved = [(value.detach() - old[name]).flatten() for name, value in module.named_parameters()]
    return {
        "activation": _rms(end),
        "feature_change": _rms(end - start),
        "update": _rms(torch.cat(moved)) if moved else float("nan"),
        "own_effect": _rms(end - between) if moved else float("nan"),
        "passed_on": _rms(between - start),
    }


def _rms(tensor: Tensor) -> float:
    return float(tensor.detach().double().square().mean().sqrt())


def parametrized_setup(
    build: Callable[[int], nn.Module],
    make: Callable[[nn.Module, int], Parametrization],
    optimizer: OptimizerClass,
    *,
    lr: float,
    **options: Any,
) -> Setup:
    """A setup that builds a model, parametrizes it by `make(model, size)`, and gives its groups to an optimizer."""

    def setup(size: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = build(size)
        groups = make(model, size).param_groups(optimizer, lr=lr, **options)
        return model, cast(Any, optimizer)(groups)

    return setup
