"""Whether a loss, outputs and parameters can be differentiated twice at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from separatrix.operators.errors import NonFiniteError, OperatorUsageError, ParameterError


def check_loss(loss: Tensor) -> Tensor:
    """The loss, when it is a finite scalar with a graph."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise OperatorUsageError(f"the loss must be a scalar tensor, not {shape}: use reduction='mean'")
    if loss.grad_fn is None:
        raise OperatorUsageError(
            "the loss has no graph: compute it from the parameters without no_grad, detach or item()"
        )
    if not bool(torch.isfinite(loss.detach())):
        raise NonFiniteError(
            f"the loss is {float(loss.detach())}: curvature needs a finite one; check inputs and weights"
        )
    return loss.reshape(())


def check_outputs(outputs: Tensor) -> Tensor:
    """The outputs, when they are one floating tensor with a graph."""
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        raise OperatorUsageError(
            f"outputs of type {type(outputs).__name__}: Gauss-Newton and Fisher matrices need one floating tensor;"
            " wrap the model to return its logits"
        )
    if outputs.grad_fn is None:
        raise OperatorUsageError(
            "the outputs have no graph: compute them from the parameters without no_grad, detach or item()"
        )
    return outputs


def check_parameters(parameters: Sequence[Tensor], names: Sequence[str] | None = None) -> None:
    """Raises ParameterError unless there are parameters, all trainable, of float32 or float64, on one device."""
    if not parameters:
        raise ParameterError("no trainable parameters: unfreeze some (requires_grad_()) or name the ones to use")
    for position, parameter in enumerate(parameters):
        name = names[position] if names else f"{position} of shape {tuple(parameter.shape)}"
        if parameter.is_complex():
            raise ParameterError(
                f"parameter {name} is complex, of which no curvature is taken: leave it out, or hold its real and"
                " imaginary parts as one real parameter (torch.view_as_complex)"
            )
        if parameter.dtype not in (torch.float32, torch.float64):
            raise ParameterError(
                f"parameter {name} has dtype {parameter.dtype}, too coarse for curvature:"
                " use a float32 copy, copy.deepcopy(model).float()"
            )
        if not parameter.requires_grad:
            raise ParameterError(f"parameter {name} is frozen: call requires_grad_() on it or leave it out")
        if parameter.device != parameters[0].device:
            raise ParameterError(
                f"parameter {name} is on {parameter.device}, others on {parameters[0].device}: use one"
            )
    if len({id(parameter) for parameter in parameters}) < len(parameters):
        raise ParameterError("a parameter is listed twice: list tied parameters once")


def check_gradient(gradient: list[Tensor]) -> list[Tensor]:
    """The gradient, when it is finite."""
    for position, part in enumerate(gradient):
        if not bool(torch.isfinite(part).all()):
            raise NonFiniteError(
                f"the gradient of parameter {position} of shape {tuple(part.shape)} is not finite: curvature needs a"
                " smooth point; check the inputs for overflow, square roots and norms at 0"
            )
    return gradient
