"""GaLore: Adam on gradients projected to a low rank, whose moments need a fraction of the memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from separatrix.steer.optim._moments import check_group, decay, gradients_of, update_moments, use_foreach
from separatrix.steer.optim.errors import OptimizerError


@dataclasses.dataclass(frozen=True)
class Subspace:
    """What a projected parameter's last refresh saw.

    `group` and `index` say which parameter of which group; `step` is that of the refresh, counted from 1.
    `stable_rank` of its gradient is |G|_F^2 / |G|_2^2; `captured` is the share of |G|_F^2 inside the new subspace;
    `drift` is 1 - |P_old^T P_new|_F^2 / rank, from 0 (the same subspace) to 1 (an orthogonal one), None at first.
    """

    group: int
    index: int
    shape: tuple[int, int]
    rank: int
    step: int
    stable_rank: float
    captured: float
    drift: float | None


def projected_state_bytes(shape: tuple[int, int], rank: int, element_size: int = 4) -> int:
    """Bytes that GaLore keeps for a matrix: a projector and two moments, (r m + 2 r n) elements where m <= n.

    A rank that is not below the smaller side means plain Adam, 2 m n elements.

    Source: Zhao et al. 2024, arXiv:2403.03507, table 1.
    """
    small, large = sorted(shape)
    elements = 2 * small * large if rank >= small else rank * small + 2 * rank * large
    return elements * element_size


class GaLore(Optimizer):
    """Adam in the span of the gradient's leading singular vectors, found anew every `update_gap` steps.

    For a matrix W (m, n) with m <= n and gradient G: P holds the r leading left singular vectors of G, Adam's moments
    are those of P^T G, and W moves by -lr * scale * P (m / (sqrt(v) + eps)); a matrix with m > n is projected from the
    right. Moments are kept when the subspace changes, as the paper does. Parameters that are no matrices, or whose
    smaller side is at most `rank`, and groups with rank None are trained by plain Adam with the same lr, without
    `scale`. Convolution kernels and embeddings belong in a group with rank None.

    Args:
        params: parameters or groups of them, floating-point and dense.
        lr: learning rate.
        rank: of the projection; an option of groups.
        update_gap: steps between refreshes of the subspace, each a singular value decomposition a matrix.
        scale: multiplies the steps of projected parameters (alpha in the paper).
        betas: of the running moments.
        eps: added to sqrt(v).
        weight_decay: decoupled, as that of `torch.optim.AdamW`.
        maximize: ascend.
        foreach: use torch's multi-tensor functions; None for where they pay (CUDA).

    Raises:
        OptimizerError: a hyperparameter is out of range; in `step`, a gradient is sparse or complex, or one whose
            subspace is to be found is not finite.

    Source: Zhao et al. 2024, arXiv:2403.03507, algorithm 2.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        *,
        rank: int | None = 128,
        update_gap: int = 200,
        scale: float = 0.25,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        options = {"lr": lr, "rank": rank, "update_gap": update_gap, "scale": scale, "betas": betas, "eps": eps}
        options |= {"weight_decay": weight_decay, "maximize": maximize, "foreach": foreach}
        super().__init__(params, options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer.add_param_group`; options are checked."""
        group = {**self.defaults, **param_group}
        check_group(group, positive=("scale",))
        for name in ("update_gap",) if group["rank"] is None else ("rank", "update_gap"):
            if type(group[name]) is not int or group[name] < 1:
                raise OptimizerError(f"{name}={group[name]!r} is no whole number above 0: give one")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; the loss that `closure`, if given, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moving:
                continue
            kinds: dict[tuple[bool, int], list[Tensor]] = {}
            gradients = dict(zip(moving, gradients_of(moving, "GaLore"), strict=True))
            for parameter in moving:
                steps = self.state[parameter]["step"] + 1 if self.state[parameter] else 1
                kinds.setdefault((_is_projected(parameter, group["rank"]), steps), []).append(parameter)
            for (projected, steps), parameters in kinds.items():
                self._move(group, parameters, [gradients[p] for p in parameters], steps, projected)
        return loss

    def _move(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor], steps: int, projected: bool
    ) -> None:
        if group["maximize"]:
            gradients = [-gradient for gradient in gradients]
        states = [self.state[parameter] for parameter in parameters]
        if projected:
            if (steps - 1) % group["update_gap"] == 0:
                for state, gradient in zip(states, gradients, strict=True):
                    state.update(_refreshed(gradient, group["rank"], state.get("projector"), steps))
            gradients = [_project(g, state["projector"]) for g, state in zip(gradients, states, strict=True)]
        for state, gradient in zip(states, gradients, strict=True):
            if "exp_avg" not in state:
                state["exp_avg"] = torch.zeros_like(gradient, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(gradient, memory_format=torch.preserve_format)
            state["step"] = steps
        first = [state["exp_avg"] for state in states]
        second = [state["exp_avg_sq"] for state in states]
        foreach, (slow, slower) = use_foreach(group["foreach"], parameters), group["betas"]
        decay(parameters, group["lr"] * group["weight_decay"], foreach)
        update_moments(first, second, gradients, (slow, slower), foreach)
        directions = _adam_directions(first, second, 1.0 - slow**steps, 1.0 - slower**steps, group["eps"], foreach)
        if projected:
            bases = [state["projector"] for state in states]
            directions = [_back(*each) for each in zip(directions, bases, parameters, strict=True)]
        size = -group["lr"] * (group["scale"] if projected else 1.0)
        if foreach:
            torch._foreach_add_(parameters, directions, alpha=size)
            return
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.add_(direction, alpha=size)

    def state_bytes(self) -> int:
        """Bytes of all tensors in the optimizer's state: moments and projectors."""
        tensors = [value for state in self.state.values() for value in state.values() if torch.is_tensor(value)]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def subspaces(self) -> list[Subspace]:
        """What the last refresh of each projected parameter saw, those that took a step."""
        found = []
        for position, group in enumerate(self.param_groups):
            for index, parameter in enumerate(group["params"]):
                state = self.state.get(parameter, {})
                if "projector" in state:
                    rows, columns = parameter.shape
                    seen = (state[name] for name in ("refreshed", "stable_rank", "captured", "drift"))
                    found.append(Subspace(position, index, (rows, columns), state["projector"].shape[1], *seen))
        return found


def _is_projected(parameter: Tensor, rank: int | None) -> bool:
    return rank is not None and parameter.dim() == 2 and rank < min(parameter.shape)


def _refreshed(gradient: Tensor, rank: int, old: Tensor | None, steps: int) -> dict[str, Any]:
    """A projector (smaller side, rank) from the gradient's leading singular vectors, and what that tells.

    Raises:
        OptimizerError: the gradient is not finite.
    """
    if not bool(gradient.isfinite().all()):
        raise OptimizerError(
            f"GaLore got a gradient of shape {tuple(gradient.shape)} that is not finite at step {steps}: skip such"
            " steps, as GradScaler does"
        )
    matrix = gradient if gradient.dtype in (torch.float32, torch.float64) else gradient.float()
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    basis = left[:, :rank] if _from_left(gradient) else right[:rank].mT
    squares = values.double().square()
    total, largest = float(squares.sum()), float(squares[0])
    drift = None if old is None else 1.0 - float((old.to(basis.dtype).mT @ basis).double().square().sum()) / rank
    return {
        "projector": basis.to(gradient.dtype, copy=True).contiguous(),
        "refreshed": steps,
        "stable_rank": total / largest if largest > 0 else 0.0,
        "captured": float(squares[:rank].sum()) / total if total > 0 else 1.0,
        "drift": drift,
    }


def _from_left(matrix: Tensor) -> bool:
    return matrix.shape[0] <= matrix.shape[1]


def _project(gradient: Float[Tensor, "m n"], basis: Float[Tensor, "small rank"]) -> Float[Tensor, "a b"]:
    return basis.mT @ gradient if _from_left(gradient) else gradient @ basis


def _back(
    direction: Float[Tensor, "a b"], basis: Float[Tensor, "small rank"], parameter: Float[Tensor, "m n"]
) -> Float[Tensor, "m n"]:
    return basis @ direction if _from_left(parameter) else direction @ basis.mT


def _adam_directions(
    first: list[Tensor], second: list[Tensor], unbiased: float, unbiased_square: float, eps: float, foreach: bool
) -> list[Tensor]:
    """Adam's quotients m / (sqrt(v) + eps) of bias-corrected moments."""
    if foreach:
        spreads = torch._foreach_sqrt(second)
        torch._foreach_div_(spreads, unbiased_square**0.5)
        torch._foreach_add_(spreads, eps)
        quotients = torch._foreach_div(first, spreads)
        torch._foreach_div_(quotients, unbiased)
        return list(quotients)
    return [
        (mean / square.sqrt().div_(unbiased_square**0.5).add_(eps)).div_(unbiased)
        for mean, square in zip(first, second, strict=True)
    ]
