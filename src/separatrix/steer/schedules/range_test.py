"""A learning-rate range test: the rate rises step by step until the loss does, beside the limit that curvature sets.

The rate grows by one factor a step from `low` to `high`. The loss falls, the faster the larger the rate, until steps
overshoot. Where the largest curvature stays as it is that happens at the optimizer's threshold over it: 2 / sharpness
for gradient descent. Networks move to where curvature is lower as the rate rises, so the limit is measured along the
way; where the rate first meets it is the prediction. A rate above the limit needs some steps to raise the loss, so a
short test that rises fast tolerates more than training would.

Sources: Smith 2017, arXiv:1506.01186, section 3.3, and 2018, arXiv:1803.09820, section 4, for the test; Cohen et al.
2021, arXiv:2103.00065, for the limit.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from torch.optim import Optimizer

from separatrix.operators import OperatorError, preconditioned_hessian, stability_threshold, top_eigenpairs
from separatrix.operators.objective import Loss
from separatrix.steer.schedules.errors import ScheduleError

_WINDOW = 5
_PRODUCTS = 60


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """What a range test saw.

    `rates` and `losses` (steps,) belong together, the loss before the step with that rate. `stable` is the rate up to
    which the smoothed loss fell. `diverged` is the rate at which the loss left for good, None where it did not.
    `limits` (measurements,) are the largest stable rates that curvature allowed at the rates `limit_rates`; `limit` is
    where the rate met them, None where it did not or nothing was measured, because of `unmeasured`.
    """

    rates: Float[np.ndarray, " steps"]
    losses: Float[np.ndarray, " steps"]
    stable: float
    diverged: float | None
    limit_rates: Float[np.ndarray, " measurements"]
    limits: Float[np.ndarray, " measurements"]
    limit: float | None
    unmeasured: str = ""


def range_test(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    batches: Iterable[tuple[Any, Any]],
    *,
    low: float = 1e-5,
    high: float = 10.0,
    steps: int = 100,
    stop: float = 4.0,
    measurements: int = 6,
    seed: int = 0,
) -> RangeTest:
    """Train a copy of the model at rising rates; model, optimizer and global random states stay as they are.

    `loss(outputs, targets)` is a scalar mean over examples and `batches` gives (inputs, targets), again from its start
    when it ends. Rates are those of the group with the largest one; other groups keep their ratio to it. The test ends
    when the loss is not finite or exceeds `stop` times its least smoothed value so far. `measurements` of curvature are
    spread evenly over the logarithm of the rate, each on its step's batch; Adam's first step has none. `seed` starts
    the random numbers of dropout and of shuffling. Run it outside a recording.

    Raises:
        ScheduleError: rates, steps or batches that cannot be used, an optimizer that holds none of the model's
            parameters or has learning rate 0, or a model that cannot be copied.
    """
    if not (0 < low < high < math.inf and steps >= 2 and stop > 1 and measurements >= 0):
        raise ScheduleError(
            f"range test from {low} to {high} in {steps} steps, stop={stop}, measurements={measurements}: give rising"
            " positive rates, two steps or more, and stop above 1"
        )
    with _own_random_state(model, seed):
        twin, moved = _copied(model, optimizer)
        rates = np.geomspace(low, high, steps)
        measured = set(np.linspace(0, steps - 1, measurements).round().astype(int).tolist())
        return _tested(twin, moved, loss, batches, rates, stop, measured)


def _tested(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Loss,
    batches: Iterable[tuple[Any, Any]],
    rates: Float[np.ndarray, " steps"],
    stop: float,
    measured: set[int],
) -> RangeTest:
    shares = [
        group["lr"] / max(float(group["lr"]) for group in optimizer.param_groups) for group in optimizer.param_groups
    ]
    losses: list[float] = []
    limits: list[tuple[float, float]] = []
    unmeasured, diverged, least = "", None, math.inf
    for rate, (inputs, targets) in zip(rates.tolist(), _again(batches), strict=False):
        for group, share in zip(optimizer.param_groups, shares, strict=True):
            group["lr"] = rate * share
        if len(losses) in measured and not unmeasured:
            try:
                if len(losses) or not _adapts(optimizer):
                    limits.append((rate, _limit(model, optimizer, loss, (inputs, targets))))
            except OperatorError as error:
                unmeasured = str(error)
        optimizer.zero_grad()
        value = loss(_outputs(model, inputs), targets)
        losses.append(float(value.detach()))
        smooth = float(np.mean(losses[-_WINDOW:]))
        if not math.isfinite(losses[-1]) or losses[-1] > stop * least:
            diverged = rate
            break
        least = min(least, smooth) if len(losses) >= _WINDOW else min(least, losses[-1])
        torch.autograd.backward(value)
        optimizer.step()
    kept = rates[: len(losses)]
    found = np.array(limits, dtype=np.float64).reshape(-1, 2)
    return RangeTest(
        rates=kept,
        losses=np.array(losses),
        stable=_stable(kept, np.array(losses)),
        diverged=diverged,
        limit_rates=found[:, 0],
        limits=found[:, 1],
        limit=_crossing(found[:, 0], found[:, 1], float(kept[-1])),
        unmeasured=unmeasured,
    )


def _limit(model: nn.Module, optimizer: Optimizer, loss: Loss, batch: tuple[Any, Any]) -> float:
    """The largest stable rate on a batch; infinite where no curvature is positive."""
    parameters = [
        parameter for group in optimizer.param_groups for parameter in group["params"] if parameter.requires_grad
    ]
    matrix = preconditioned_hessian(model, loss, batch, optimizer=optimizer, parameters=parameters)
    generator = torch.Generator(device=parameters[0].device).manual_seed(0)
    sharpness = float(top_eigenpairs(matrix, 1, max_products=_PRODUCTS, generator=generator).values[0])
    return stability_threshold(optimizer).value / sharpness if sharpness > 0 else math.inf


def _adapts(optimizer: Optimizer) -> bool:
    """Whether the optimizer scales gradients by what it has seen, and has seen nothing yet."""
    return not optimizer.state and stability_threshold(optimizer).matrix != "hessian"


def _stable(rates: Float[np.ndarray, " steps"], losses: Float[np.ndarray, " steps"]) -> float:
    """Rate at the least of a centred running mean of the finite losses."""
    finite = losses[np.isfinite(losses)]
    if not len(finite):
        return float(rates[0])
    half = min(_WINDOW, len(finite)) // 2
    sums = np.convolve(finite, np.ones(2 * half + 1), mode="same")
    counts = np.convolve(np.ones(len(finite)), np.ones(2 * half + 1), mode="same")
    return float(rates[int(np.argmin(sums / counts))])


def _crossing(rates: Float[np.ndarray, " n"], limits: Float[np.ndarray, " n"], last: float) -> float | None:
    """Where the rate first exceeds the limit, interpolated between logarithms; up to `last` the last limit holds."""
    if not len(limits):
        return None
    rates, limits = np.append(rates, last), np.append(limits, limits[-1])
    excess = np.log(rates) - np.log(limits)
    above = np.flatnonzero(excess >= 0)
    if not len(above):
        return None
    after = int(above[0])
    if after == 0:
        return float(limits[0])
    before = after - 1
    share = -excess[before] / (excess[after] - excess[before]) if math.isfinite(excess[before]) else 1.0
    return float(np.exp(np.log(rates[before]) + share * np.log(rates[after] / rates[before])))


def _outputs(model: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def _again(batches: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """The batches, from their start when they end."""
    while True:
        held = False
        for batch in batches:
            held = True
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise ScheduleError("a batch of the range test is no pair: give (inputs, targets)")
            yield batch[0], batch[1]
        if not held:
            raise ScheduleError(
                "the batches of the range test have ended: give a list, a DataLoader, or enough of them"
            )


def _copied(model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if not any(id(parameter) in held for parameter in model.parameters()):
        raise ScheduleError("the optimizer holds no parameter of the model: give the optimizer of this model")
    if not max(float(group["lr"]) for group in optimizer.param_groups) > 0:
        raise ScheduleError("the optimizer's learning rates are all 0: set the largest above 0, for their ratios count")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ScheduleError(
            "LBFGS needs a closure and searches its own rate: a range test is for first-order optimizers"
        )
    try:
        twin: tuple[nn.Module, Optimizer] = copy.deepcopy((model, optimizer))
    except Exception as error:
        raise ScheduleError(f"{type(model).__name__} cannot be copied for a range test: {error}") from error
    return twin


@contextlib.contextmanager
def _own_random_state(model: nn.Module, seed: int) -> Iterator[None]:
    """Global random states start from a seed inside, and are put back."""
    devices = sorted({parameter.device.index or 0 for parameter in model.parameters() if parameter.is_cuda})
    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)
