"""Adam-atan2: Adam whose quotient of moments is an angle, which needs no epsilon and ignores the gradients' scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from separatrix.steer.optim._moments import check_group, decay, gradients_of, update_moments, use_foreach


class AdamAtan2(Optimizer):
    """Moves each parameter by -lr * a * atan2(m, b * sqrt(v)), m and v Adam's bias-corrected moments.

    For small m / sqrt(v) that is Adam's step times a / b; where m = sqrt(v) and b = 1 it is a * pi / 4. A parameter
    whose gradients were all zero stays. Gradients times a constant give the same steps, bit for bit if the constant is
    a power of two, as long as their squares neither underflow nor overflow: below 1e-19 in float32 they do.

    Args:
        params: parameters or groups of them, floating-point and dense.
        lr: learning rate, which is the size of steps.
        betas: of the running moments.
        a: multiplies the steps.
        b: multiplies sqrt(v).
        weight_decay: decoupled, as that of `torch.optim.AdamW`.
        maximize: ascend.
        foreach: use torch's multi-tensor functions; None for where they pay (CUDA).

    Raises:
        OptimizerError: a hyperparameter is out of range; in `step`, a gradient is sparse or complex.

    Source: Everett et al. 2024, arXiv:2407.05872, section on epsilon.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        a: float = 1.0,
        b: float = 1.0,
        weight_decay: float = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        options = {"lr": lr, "betas": betas, "a": a, "b": b, "weight_decay": weight_decay}
        super().__init__(params, {**options, "maximize": maximize, "foreach": foreach})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer.add_param_group`; options are checked."""
        check_group({**self.defaults, **param_group}, positive=("a", "b"))
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; the loss that `closure`, if given, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for steps, parameters in self._by_age(group).items():
                self._move(group, parameters, steps)
        return loss

    def _by_age(self, group: dict[str, Any]) -> dict[int, list[Tensor]]:
        """Parameters that have a gradient, by how many steps they will have taken."""
        found: dict[int, list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            found.setdefault(state["step"] + 1 if state else 1, []).append(parameter)
        return found

    def _move(self, group: dict[str, Any], parameters: list[Tensor], steps: int) -> None:
        gradients = gradients_of(parameters, "AdamAtan2")
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["step"] = steps
        if group["maximize"]:
            gradients = [-gradient for gradient in gradients]
        first = [self.state[parameter]["exp_avg"] for parameter in parameters]
        second = [self.state[parameter]["exp_avg_sq"] for parameter in parameters]
        foreach, (slow, slower) = use_foreach(group["foreach"], parameters), group["betas"]
        decay(parameters, group["lr"] * group["weight_decay"], foreach)
        update_moments(first, second, gradients, (slow, slower), foreach)
        unbiased = 1.0 - slow**steps
        stretch = group["b"] * unbiased / (1.0 - slower**steps) ** 0.5
        size = -group["lr"] * group["a"]
        if foreach:
            spreads = torch._foreach_sqrt(second)
            torch._foreach_mul_(spreads, stretch)
            angles = [torch.atan2(mean, spread) for mean, spread in zip(first, spreads, strict=True)]
            torch._foreach_add_(parameters, angles, alpha=size)
            return
        for parameter, mean, square in zip(parameters, first, second, strict=True):
            parameter.add_(torch.atan2(mean, square.sqrt().mul_(stretch)), alpha=size)
