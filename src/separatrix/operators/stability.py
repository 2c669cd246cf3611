"""How large a learning rate times curvature each optimizer bears before it diverges along an eigenvector.

On a quadratic with Hessian H, an optimizer with fixed preconditioner P moves along an eigenvector of P^-1 (H + w) with
a positive eigenvalue c as

    m' = b m + (1 - d) c x,     x' = (1 - r v) x - r (p c x + q m')

with momentum b, dampening d, learning rate r, coupled weight decay w (L2, part of the curvature) and decoupled weight
decay v (AdamW). Nesterov has p = 1, q = b; plain momentum p = 0, q = 1. A root of the characteristic polynomial leaves
the unit disk at -1 when

    r c = (1 + b) (2 - r v) / (p (1 + b) + q (1 - d)).

That gives 2 for gradient descent, 2 (1 + b) for heavy ball, 2 (1 + b) / (1 - d) with dampening, 2 (1 + b) / (1 + 2 b)
for Nesterov, 2 (1 + b1) / (1 - b1) for the Adam family. Adam's preconditioner holds both bias corrections and epsilon:
P = (1 - b1^t) (sqrt(v / (1 - b2^t)) + eps), frozen at its value now; while it still changes, the threshold is that of
an optimizer that would stop adapting.

Source: Cohen et al. 2021, arXiv:2103.00065; Cohen et al. 2022, arXiv:2207.14484.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from separatrix.operators.errors import OperatorUsageError, ParameterError, UnsupportedOptimizerError

if TYPE_CHECKING:
    from jaxtyping import Float

Options = Mapping[str, Any]

_ALIKE = 0.01


@dataclasses.dataclass(frozen=True)
class StabilityThreshold:
    """Largest stable value of learning rate times an eigenvalue of `matrix`.

    `matrix` is the Hessian or P^-1 times it; coupled `weight_decay` is added to the Hessian's eigenvalues first.
    """

    value: float
    matrix: Literal["hessian", "preconditioned hessian"]
    learning_rate: float
    weight_decay: float

    def ratio(self, sharpness: float) -> float:
        """Learning rate times an eigenvalue of `matrix`, weight decay included, over the threshold: 1 is the edge."""
        return self.learning_rate * sharpness / self.value


@dataclasses.dataclass(frozen=True)
class _Rule:
    """What an optimizer's options and state mean in the recursion above."""

    recursion: Callable[[Options], tuple[float, float, float, float]]
    """b, 1 - d, p and q."""
    options: tuple[str, ...]
    preconditioner: Callable[[Options, Mapping[str, Any]], Tensor] | None = None
    needs: tuple[str, ...] = ()


def _sgd(options: Options) -> tuple[float, float, float, float]:
    momentum = float(options["momentum"])
    if options["nesterov"]:
        return momentum, 1.0, 1.0, momentum
    return momentum, 1.0 - float(options["dampening"]) if momentum else 1.0, 0.0, 1.0


def _adam(options: Options) -> tuple[float, float, float, float]:
    momentum = float(options["betas"][0])
    return momentum, 1.0 - momentum, 0.0, 1.0


def _rmsprop(options: Options) -> tuple[float, float, float, float]:
    return float(options["momentum"]), 1.0, 0.0, 1.0


def _adagrad(options: Options) -> tuple[float, float, float, float]:
    return 0.0, 1.0, 0.0, 1.0


def _adam_preconditioner(options: Options, state: Mapping[str, Any]) -> Tensor:
    step = float(state["step"])
    first, second = (1 - float(beta) ** step for beta in options["betas"])
    moment: Tensor = state["max_exp_avg_sq"] if options["amsgrad"] else state["exp_avg_sq"]
    denominator: Tensor = first * ((moment / second).sqrt() + options["eps"])
    return denominator


def _rmsprop_preconditioner(options: Options, state: Mapping[str, Any]) -> Tensor:
    moment: Tensor = state["square_avg"]
    if options["centered"]:
        moment = moment - state["grad_avg"].square()
    denominator: Tensor = moment.sqrt() + options["eps"]
    return denominator


def _adagrad_preconditioner(options: Options, state: Mapping[str, Any]) -> Tensor:
    total: Tensor = state["sum"]
    slowed = 1 + (float(state["step"]) - 1) * float(options["lr_decay"])
    denominator: Tensor = slowed * (total.sqrt() + options["eps"])
    return denominator


_RULES: dict[type[Optimizer], _Rule] = {
    SGD: _Rule(_sgd, ("momentum", "dampening", "nesterov")),
    Adam: _Rule(_adam, ("betas",), _adam_preconditioner, ("step", "exp_avg_sq")),
    AdamW: _Rule(_adam, ("betas",), _adam_preconditioner, ("step", "exp_avg_sq")),
    RMSprop: _Rule(_rmsprop, ("momentum",), _rmsprop_preconditioner, ("square_avg",)),
    Adagrad: _Rule(_adagrad, (), _adagrad_preconditioner, ("step", "sum")),
}


def supported_optimizers() -> tuple[str, ...]:
    """Names of the optimizers whose threshold is known."""
    return tuple(kind.__name__ for kind in _RULES)


def group_threshold(kind: type[Optimizer] | str, options: Options) -> StabilityThreshold:
    """Threshold of one parameter group: the optimizer's class or its name in torch, and the group's options.

    Raises:
        UnsupportedOptimizerError: the threshold of this optimizer is not known.
        OperatorUsageError: the group maximizes, its options are incomplete or outside the range of stability.
    """
    base = _known(kind)
    if options.get("maximize"):
        raise OperatorUsageError("the group maximizes: a stability threshold concerns minimization only")
    missing = {"lr", "weight_decay", *_RULES[base].options} - set(options)
    if missing:
        raise OperatorUsageError(f"options {', '.join(sorted(missing))} of {base.__name__} are missing: pass the group")
    momentum, gain, direct, through = _RULES[base].recursion(options)
    if not 0 <= momentum < 1 or not gain > 0:
        raise OperatorUsageError(
            f"momentum {momentum} with dampening {1 - gain:g} has no stability threshold: they must be in [0, 1)"
        )
    rate, decay = float(options["lr"]), float(options["weight_decay"])
    decoupled = options.get("decoupled_weight_decay", base is AdamW)
    shrink = rate * decay if decoupled else 0.0
    if not shrink < 2:
        raise OperatorUsageError(f"decoupled weight decay {decay} at learning rate {rate} diverges by itself: lower it")
    return StabilityThreshold(
        value=(1 + momentum) * (2 - shrink) / (direct * (1 + momentum) + through * gain),
        matrix="hessian" if _RULES[base].preconditioner is None else "preconditioned hessian",
        learning_rate=rate,
        weight_decay=0.0 if decoupled else decay,
    )


def stability_threshold(optimizer: Optimizer) -> StabilityThreshold:
    """Threshold of an optimizer for the matrix that `preconditioned_hessian` builds with it.

    That matrix holds coupled weight decay, so the result's `weight_decay` is for the record. Where groups have
    different learning rates, the matrix is scaled to the largest one, which is the one given here. Decoupled weight
    decay that differs, in itself or times the learning rate, hardly changes thresholds: of those within a percent the
    least holds for all.

    Raises:
        UnsupportedOptimizerError: the threshold of this optimizer is not known.
        OperatorUsageError: groups whose thresholds differ by more have no common one.
    """
    groups = [group_threshold(type(optimizer), group) for group in optimizer.param_groups if group["params"]]
    if not groups:
        raise OperatorUsageError("the optimizer holds no parameters: add a parameter group")
    largest = max(groups, key=lambda group: group.learning_rate)
    least = min(group.value for group in groups)
    if max(group.value for group in groups) - least > _ALIKE * least:
        raise OperatorUsageError(
            "the optimizer's groups differ in momentum, or in learning rate times decoupled weight decay, and have no"
            " common threshold: ask group_threshold for each with the curvature of its parameters"
        )
    return dataclasses.replace(largest, value=least)


def stability_ratio(optimizer: Optimizer, sharpness: float) -> float:
    """Largest learning rate times sharpness over the threshold: 1 is the edge of stability.

    `sharpness` is the largest eigenvalue of `preconditioned_hessian` with this optimizer; for SGD with one learning
    rate, that of the Hessian plus its weight decay.

    Raises:
        As `stability_threshold`.
    """
    return stability_threshold(optimizer).ratio(sharpness)


def effective_preconditioner(
    optimizer: Optimizer, parameters: Sequence[Tensor]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Diagonal of P divided by each group's learning rate relative to the largest, and coupled weight decay, (n,) each.

    Raises:
        ParameterError: a parameter is not in the optimizer, has learning rate 0, or was never stepped.
        UnsupportedOptimizerError: the preconditioner of this optimizer is not known.
    """
    base = _known(type(optimizer))
    rule = _RULES[base]
    group_of = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    largest = max((float(group["lr"]) for group in optimizer.param_groups), default=0.0)
    scales, decays = [], []
    for position, parameter in enumerate(parameters):
        what = f"parameter {position} of shape {tuple(parameter.shape)}"
        group = group_of.get(id(parameter))
        if group is None:
            raise ParameterError(f"{what} is not in the optimizer: leave it out with parameters=")
        if not float(group["lr"]) > 0:
            raise ParameterError(f"{what} has learning rate {float(group['lr'])}: leave it out with parameters=")
        state = optimizer.state.get(parameter, {})
        if rule.preconditioner is None:
            scale = torch.ones_like(parameter)
        elif not all(key in state for key in rule.needs) or not float(state.get("step", 1)) > 0:
            raise ParameterError(f"{what} was never stepped by {base.__name__}, which adapts: measure after a step")
        else:
            scale = rule.preconditioner(group, state)
        if not bool((scale > 0).all()):
            raise ParameterError(f"{what} has a preconditioner of 0 (no gradient so far, eps=0): set eps above 0")
        threshold = group_threshold(base, group)
        scales.append((scale * (largest / threshold.learning_rate)).detach().reshape(-1))
        decays.append(torch.full_like(scales[-1], threshold.weight_decay))
    return torch.cat(scales), torch.cat(decays)


def _known(kind: type[Optimizer] | str) -> type[Optimizer]:
    """The supported optimizer that a class is, or inherits its step from."""
    for base in _RULES:
        if kind == base.__name__:
            return base
    if not isinstance(kind, str):
        for base in kind.__mro__:
            if base in _RULES and inspect.unwrap(kind.step) is inspect.unwrap(base.step):
                return base
    name = kind if isinstance(kind, str) else kind.__name__
    raise UnsupportedOptimizerError(
        f"no stability threshold is known for {name}: supported are {', '.join(supported_optimizers())}"
    )
