"""The rule that carries an exponential average of weights, and the optimizer under it, to another batch size.

With a batch kappa times as large, and a learning rate scaled so that the optimizer follows the same stochastic
differential equation in examples seen, an average z <- m z + (1 - m) w keeps its own equation, dz = r (w - z) dt with
r = -log(m) / learning rate (under SGD, time being learning rate times steps), when its momentum is m^kappa: one step
then forgets what kappa steps forgot. Left as it is, the average becomes kappa times as long in examples.

Sources: Busbridge et al. 2023, How to Scale Your EMA, arXiv:2307.13813; for Adam and RMSprop Malladi et al. 2022,
On the SDEs and Scaling Rules for Adaptive Gradient Algorithms, arXiv:2205.10287.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from separatrix.steer.averaging.errors import AveragingError

_ADAPTIVE = (torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop)


def scaled_momentum(momentum: float, kappa: float) -> float:
    """The momentum of an average at a batch `kappa` times as large: momentum^kappa.

    Raises:
        AveragingError: the momentum is outside [0, 1), or kappa not positive and finite.
    """
    _check_kappa(kappa)
    if not 0.0 <= momentum < 1.0:
        raise AveragingError(f"momentum {momentum} is none of an average: choose one from 0 on and below 1")
    return float(momentum**kappa)


def averaging_rate(momentum: float, learning_rate: float) -> float:
    """Rate r in dz = r (w - z) dt, time being learning rate times steps: what the rule leaves unchanged under SGD.

    Raises:
        AveragingError: the momentum is outside (0, 1), or the learning rate not positive and finite.
    """
    if not 0.0 < momentum < 1.0 or not 0.0 < learning_rate < math.inf:
        raise AveragingError(
            f"momentum {momentum} at learning rate {learning_rate}: choose one between 0 and 1, and a positive rate"
        )
    return -math.log(momentum) / learning_rate


def rescale(optimizer: torch.optim.Optimizer, kappa: float) -> None:
    """Change an optimizer's options in place to those for a batch `kappa` times as large.

    SGD: the learning rate times kappa; its own momentum stays. Adam, AdamW and RMSprop: the learning rate times
    sqrt(kappa), decay rates b of their moments become 1 - kappa (1 - b), epsilon is divided by sqrt(kappa), and AdamW's
    weight decay is multiplied by sqrt(kappa), so that learning rate times decay is too by kappa. Of a scheduler only
    the rates from now on change; build it afterwards.

    Raises:
        AveragingError: kappa is not positive and finite, the optimizer is of another kind, or so large a batch leaves
            no moments to keep; nothing is changed then.
    """
    _check_kappa(kappa)
    scaled = [_scaled(optimizer, group, kappa) for group in optimizer.param_groups]
    for group, options in zip(optimizer.param_groups, scaled, strict=True):
        group.update(options)


def _scaled(optimizer: torch.optim.Optimizer, group: dict[str, Any], kappa: float) -> dict[str, Any]:
    if isinstance(optimizer, torch.optim.SGD):
        return {"lr": group["lr"] * kappa}
    if not isinstance(optimizer, _ADAPTIVE):
        raise AveragingError(
            f"{type(optimizer).__name__} has no known scaling rule: SGD, Adam, AdamW and RMSprop have one"
        )
    root = math.sqrt(kappa)
    options: dict[str, Any] = {"lr": group["lr"] * root, "eps": group["eps"] / root}
    if isinstance(optimizer, torch.optim.RMSprop):
        options["alpha"] = _scaled_decay(group["alpha"], kappa)
    else:
        options["betas"] = tuple(_scaled_decay(beta, kappa) for beta in group["betas"])
    if group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW)):
        options["weight_decay"] = group["weight_decay"] * root
    return options


def _scaled_decay(decay: float, kappa: float) -> float:
    scaled = 1.0 - kappa * (1.0 - decay)
    if not 0.0 <= scaled < 1.0:
        raise AveragingError(
            f"a decay rate of {decay} cannot be scaled by {kappa}: 1 - {kappa} (1 - {decay}) is below 0, lower kappa"
        )
    return scaled


def _check_kappa(kappa: float) -> None:
    if not 0.0 < kappa < math.inf:
        raise AveragingError(f"kappa {kappa} is no ratio of batch sizes: choose a positive one")
