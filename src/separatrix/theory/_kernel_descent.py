"""Outputs of a first-order expansion under gradient descent with momentum; derived in `tangent_kernel`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of outputs (n, c) and targets to a scalar, such as those of torch.nn.functional."""


@dataclasses.dataclass(frozen=True)
class TangentProblem:
    """A training in function space: what `tangent-kernel` needs to know of a net, its data, loss and optimizer.

    Outputs are flattened, classes fastest: `kernel` (nc, nc), `test_kernel` (tc, nc) between test and training
    outputs, `outputs` (n, c) and `test_outputs` (t, c) of the start. `curvature` is the second derivative of the loss
    by any output where the loss is a squared error, None elsewhere. `net` and `inputs` are for simulations.
    """

    kernel: Float[Tensor, "nc nc"]
    test_kernel: Float[Tensor, "tc nc"]
    outputs: Float[Tensor, "n c"]
    test_outputs: Float[Tensor, "t c"]
    targets: Tensor
    test_targets: Tensor
    loss: Loss
    learning_rate: float
    momentum: float = 0.0
    curvature: float | None = None
    net: nn.Module | None = None
    inputs: tuple[Tensor, Tensor] | None = None

    def spectrum(self) -> tuple[Float[Tensor, " nc"], Float[Tensor, "nc nc"]]:
        """Eigenvalues of the kernel, largest first, and eigenvectors in columns, along which the first push is >= 0."""
        values, vectors = torch.linalg.eigh(self.kernel)
        values, vectors = values.flip(0).clamp_min(0.0), vectors.flip(1)
        along = self.push(self.outputs).flatten() @ vectors
        return values, vectors * torch.where(along < 0.0, -1.0, 1.0)

    def push(self, outputs: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Derivative of the loss by the outputs."""
        held = outputs.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.loss(held, self.targets), held)
        return gradient


def mode_response(
    speed: Float[Tensor, " ..."], steps: Sequence[int], momentum: float = 0.0
) -> tuple[Float[Tensor, "steps ..."], Float[Tensor, "steps ..."]]:
    """What is left of a mode's residual after so many steps, and the sum of its momenta, both from a residual of 1.

    `speed` is rate times curvature times eigenvalue. The first is (1 - speed)^t without momentum; the second times
    minus the rate times a kernel is how far outputs have moved, and is finite where the speed is 0.
    """
    one, zero = torch.ones_like(speed), torch.zeros_like(speed)
    step = torch.stack(
        [one - speed, -momentum * speed, zero, one, momentum * one, zero, one, momentum * one, one], -1
    ).reshape(*speed.shape, 3, 3)
    powers = [torch.linalg.matrix_power(step, int(count)) for count in steps]
    stacked = torch.stack(powers) if powers else step.new_zeros(0, *step.shape)
    return stacked[..., 0, 0], stacked[..., 2, 0]


def linearised_changes(
    kernel: Float[Tensor, "*copies m n"],
    residual: Float[Tensor, "*copies n"],
    rate: Float[Tensor, "*copies"],
    steps: Sequence[int],
    momentum: float = 0.0,
) -> Float[Tensor, "steps *copies m"]:
    """Outputs less those of the start after so many steps on squared errors.

    `kernel` holds in its first n rows that of the training outputs, further rows are of outputs looked at only;
    `residual` is outputs less targets at the start, `rate` the learning rate times the curvature of the loss.
    """
    count = kernel.shape[-1]
    values, vectors = torch.linalg.eigh(kernel[..., :count, :])
    _, gain = mode_response(rate[..., None] * values, steps, momentum)
    along = (vectors.mT @ residual[..., None])[..., 0]
    pushed = (vectors @ (gain * along)[..., None])[..., 0]
    changes: Tensor = -rate[..., None] * (kernel @ pushed[..., None])[..., 0]
    return changes


def outputs_at(
    problem: TangentProblem, steps: Sequence[int]
) -> tuple[Float[Tensor, "steps n c"], Float[Tensor, "steps t c"]]:
    """Training and test outputs of the expanded model after so many steps of the optimizer."""
    start = torch.cat([problem.outputs, problem.test_outputs])
    both = torch.cat([problem.kernel, problem.test_kernel])
    if problem.curvature is None:
        changes = -problem.learning_rate * _pushes(problem, steps) @ both.T
    else:
        residual = (problem.outputs - problem.targets).flatten()
        rate = torch.tensor(problem.learning_rate * problem.curvature, dtype=both.dtype)
        changes = linearised_changes(both, residual, rate, steps, problem.momentum)
    moved = start + changes.reshape(-1, *start.shape)
    return moved[:, : len(problem.outputs)], moved[:, len(problem.outputs) :]


def _pushes(problem: TangentProblem, steps: Sequence[int]) -> Float[Tensor, "steps nc"]:
    """Sum of the momenta after so many steps, one step after another."""
    total = torch.zeros_like(problem.kernel[0])
    velocity, wanted, found = total, set(steps), {}
    for step in range(max(steps, default=0) + 1):
        if step in wanted:
            found[step] = total
        moved = (problem.kernel @ total).reshape(problem.outputs.shape)
        velocity = problem.momentum * velocity + problem.push(problem.outputs - problem.learning_rate * moved).flatten()
        total = total + velocity
    return torch.stack([found[step] for step in steps])
