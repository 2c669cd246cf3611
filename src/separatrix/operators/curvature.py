"""Hessian, Gauss-Newton, Fisher and gradient second moment of a module, a loss and data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from separatrix.operators._second_order import lean_second_derivatives
from separatrix.operators.checks import check_loss, check_outputs
from separatrix.operators.errors import OperatorUsageError
from separatrix.operators.likelihoods import sampler
from separatrix.operators.linear import seeded
from separatrix.operators.objective import Blocks, Data, Loss, Parameters, objective
from separatrix.operators.products import CurvatureOperator, Term, ggn_term, hessian_term, second_moment_term


def hessian(
    model: nn.Module, loss: Loss, data: Data, *, parameters: Parameters = None, blocks: Blocks = None
) -> CurvatureOperator:
    """Hessian of the mean loss over data in the parameters.

    `loss(outputs, targets)` is a scalar mean over examples. `data` is one batch (inputs, targets), or an iterable of
    batches that can be iterated again; batches are weighted by their number of examples, the length of the first
    input. Inputs are a tensor, a tuple (positional arguments) or a mapping (keyword arguments). `parameters` are names
    or tensors (default: all trainable, tied ones once). `blocks="layer"` keeps only the diagonal blocks of the modules
    that own parameters; groups of names or tensors give blocks of your own, each parameter in one.

    The model's mode counts: in training mode BatchNorm uses the batch's statistics and differentiates through them,
    and dropout draws one mask, the same for all products. Parameters, buffers, gradients, modes, flags and global
    random states are left as they were; a DataLoader's own generator advances. Parameters in float16 or bfloat16 are
    refused; autocast is off inside.

    Raises:
        ParameterError: the selection is empty, frozen, unknown or of an unsupported dtype.
        OperatorUsageError: data or loss are not of the form above.
        NonFiniteError: the loss or its gradient is not finite.
        NotTwiceDifferentiableError: a part of the model or loss has no second derivative, named where it can be.
    """
    target = objective(model, data, parameters)

    def term(inputs: Any, targets: Any, count: float, position: int) -> Term:
        with lean_second_derivatives(blocks is None):
            value = loss(target.outputs(inputs), targets)
        return hessian_term(value, target.parameters, count)

    return target.operator(term, blocks)


def ggn(
    model: nn.Module, loss: Loss, data: Data, *, parameters: Parameters = None, blocks: Blocks = None
) -> CurvatureOperator:
    """Generalized Gauss-Newton matrix J' H J of the mean loss: H its second derivative in the model's outputs.

    Outputs must be one floating tensor; arguments, assumptions and errors otherwise as `hessian`. H is taken by
    differentiating the loss twice, so any loss will do; the matrix is positive semidefinite where the loss is convex
    in the outputs. Source: Schraudolph 2002; Martens 2020, arXiv:1412.1193.
    """
    target = objective(model, data, parameters)

    def term(inputs: Any, targets: Any, count: float, position: int) -> Term:
        return ggn_term(target.outputs(inputs), lambda outputs: loss(outputs, targets), target.parameters, count)

    return target.operator(term, blocks)


def fisher(
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    kind: Literal["true", "empirical", "monte-carlo"] = "true",
    samples: int = 1,
    sample_targets: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    generator: torch.Generator | None = None,
    parameters: Parameters = None,
    blocks: Blocks = None,
) -> CurvatureOperator:
    """Fisher information of the model that takes the loss for a negative log-likelihood.

    `true` is the Gauss-Newton matrix, which the Fisher equals when the loss is -log p of an exponential family in its
    natural parameters (cross-entropy, mean squared error, BCE with logits). `monte-carlo` is the mean of g g' over
    gradients at `samples` targets an example, drawn from the model's own distribution; its expectation is the true
    one. For those three losses the m observations of an example (its output entries, or its positions) are independent
    and the loss is their mean, hence a factor m; `sample_targets(outputs, generator)` serves any loss that is itself
    -log p of an example. `empirical` takes the data's targets: it is `gradient_second_moment`. Other arguments as
    `hessian`; the targets drawn depend on the generator's state now and are the same for all products.

    Source: Kunstner, Balles, Hennig 2019, arXiv:1905.12558; Martens 2020, arXiv:1412.1193.

    Raises:
        OperatorUsageError: unknown kind, no sampler known for the loss, or a loss that is no mean over examples.
        As `hessian`.
    """
    if kind == "true":
        return ggn(model, loss, data, parameters=parameters, blocks=blocks)
    if kind == "empirical":
        return gradient_second_moment(model, loss, data, parameters=parameters, blocks=blocks)
    if kind != "monte-carlo" or samples < 1:
        raise OperatorUsageError(
            f"kind={kind!r} with samples={samples}: use 'true', 'empirical' or 'monte-carlo' with at least 1 sample"
        )
    draw = sample_targets or sampler(loss)
    target = objective(model, data, parameters)
    source = seeded(generator)
    seed = int(torch.randint(2**62, (), generator=source, device=source.device))

    def term(inputs: Any, targets: Any, count: float, position: int) -> Term:
        outputs = check_outputs(target.outputs(inputs))
        replayed = torch.Generator(outputs.device).manual_seed(seed + position)
        drawn = [draw(outputs.detach(), replayed) for _ in range(samples)]
        losses = torch.cat([_losses(loss, outputs, sampled) for sampled in drawn])
        observations = 1 if sample_targets else drawn[0][0].numel()
        return second_moment_term(losses, target.parameters, count, scale=observations, sampled=True)

    return target.operator(term, blocks)


def gradient_second_moment(
    model: nn.Module,
    loss: Loss,
    data: Data,
    *,
    centred: bool = False,
    parameters: Parameters = None,
    blocks: Blocks = None,
) -> CurvatureOperator:
    """Mean of g g' over per-example gradients g; `centred`, their covariance (over n, not n - 1).

    Per-example losses are `loss` on one example each, and their mean must be the loss of the batch. The trace is the
    mean squared norm of a gradient. Other arguments, assumptions and errors as `hessian`.

    Raises:
        OperatorUsageError: the loss is no plain mean over examples (class weights, ignored targets, a sum).
        As `hessian`.
    """
    target = objective(model, data, parameters)

    def term(inputs: Any, targets: Any, count: float, position: int) -> Term:
        outputs = check_outputs(target.outputs(inputs))
        return second_moment_term(_losses(loss, outputs, targets), target.parameters, count)

    return target.operator(term, blocks, centred=centred)


def _losses(loss: Loss, outputs: Tensor, targets: Any) -> Tensor:
    """Losses (m,) of single examples from outputs (m, ...) and targets (m, ...), whose mean is the batch's loss."""
    if not isinstance(targets, Tensor) or targets.ndim == 0 or len(targets) != len(outputs):
        raise OperatorUsageError("losses of single examples need targets as one tensor with an entry for each output")
    pairs = zip(torch.split(outputs, 1), torch.split(targets, 1), strict=True)
    losses = torch.stack([loss(output, target).reshape(()) for output, target in pairs])
    whole, mean = check_loss(loss(outputs, targets)).detach(), losses.detach().mean()
    spread = losses.detach().abs().mean() * torch.finfo(losses.dtype).eps * 100
    if not bool((whole - mean).abs() <= spread):
        raise OperatorUsageError(
            f"the loss of the batch is {float(whole):.6g}, the mean over its examples {float(mean):.6g}: use a loss"
            " that is a plain mean over examples, without class weights, ignored targets or a sum"
        )
    return losses
