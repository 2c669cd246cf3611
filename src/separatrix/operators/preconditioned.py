"""The Hessian as an optimizer sees it: weight decay added, preconditioned, scaled by relative learning rates."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from separatrix.operators.curvature import hessian
from separatrix.operators.errors import OperatorUsageError
from separatrix.operators.linear import LinearOperator
from separatrix.operators.objective import Blocks, Data, Loss, Parameters
from separatrix.operators.stability import effective_preconditioner

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclasses.dataclass(frozen=True)
class ScaledOperator:
    """S (A + diag(shift)) S with S = diag(scale): `base` A, `scale` and `shift` (n,).

    With scale = P^-1/2 it has the eigenvalues of P^-1 (A + diag(shift)); an eigenvector v of it stands for scale * v.
    """

    base: LinearOperator
    scale: Tensor
    shift: Tensor

    @property
    def size(self) -> int:
        """Number of rows n."""
        return self.base.size

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the products."""
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        """Device of the products."""
        return self.base.device

    def __matmul__(self, other: Float[Tensor, " n *k"]) -> Float[Tensor, " n *k"]:
        scale, shift = (part if other.ndim == 1 else part[:, None] for part in (self.scale, self.shift))
        inner = scale * other.to(scale)
        return scale * (self.base @ inner + shift * inner)


def preconditioned_hessian(
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    optimizer: Optimizer,
    parameters: Parameters = None,
    blocks: Blocks = None,
) -> ScaledOperator:
    """P^-1/2 (H + w) P^-1/2 of an optimizer: largest learning rate times its eigenvalues meet `stability_threshold`.

    P is the diagonal preconditioner of the optimizer's state now (1 for SGD, momentum and Nesterov; Adam's with its
    bias corrections and epsilon), w the coupled weight decay, and every group's P is divided by its learning rate
    relative to the largest. The operator's `base` is the Hessian, in the arguments of `hessian`.

    Source: Cohen et al. 2022, arXiv:2207.14484.

    Raises:
        UnsupportedOptimizerError: the preconditioner of this optimizer is not known.
        ParameterError: a parameter is not in the optimizer, or was never stepped by one that adapts.
        As `hessian`.
    """
    return precondition(hessian(model, loss, data, parameters=parameters, blocks=blocks), optimizer)


def precondition(operator: LinearOperator, optimizer: Optimizer) -> ScaledOperator:
    """The same for a curvature operator at hand, whose `parameters` are the optimizer's own.

    Raises:
        OperatorUsageError: the operator has no parameters to look up.
        UnsupportedOptimizerError, ParameterError: as `preconditioned_hessian`.
    """
    parameters = getattr(operator, "parameters", None)
    if parameters is None:
        raise OperatorUsageError(f"{type(operator).__name__} has no parameters: precondition a hessian or ggn")
    scales, decays = effective_preconditioner(optimizer, parameters)
    return ScaledOperator(operator, scales.to(operator.device, operator.dtype).rsqrt(), decays.to(scales))
