"""Nonlinear least squares by damped Gauss-Newton steps (Levenberg 1944; Marquardt 1963)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

_DAMPING = 1e-3
_LEAST_DAMPING = 1e-9
_FLOOR = 1e-6  # least curvature that damping acts on, as a share of the mean
_TRIES = 12


@dataclasses.dataclass(frozen=True)
class NormalEquations:
    """Mean squared residual, half its gradient J'r / n, and J'J / n."""

    error: float
    gradient: Float[Tensor, " number"]
    gram: Float[Tensor, "number number"]


def damped_least_squares(
    numbers: Float[Tensor, " number"],
    equations: Callable[[Tensor, int], NormalEquations],
    error: Callable[[Tensor, int], float],
    steps: int,
) -> Float[Tensor, " number"]:
    """`numbers` after that many steps, each of which lowers the error of its own batch or is left out.

    `equations(numbers, step)` and `error(numbers, step)` are of the batch of that step. Curvatures are raised by a
    share of themselves that falls after a success and rises after a failure, so that directions in which nothing
    changes, of which recurrent networks have many, do no harm. An error that is not finite is a failure.
    """
    damping = _DAMPING
    for step in range(steps):
        found = equations(numbers, step)
        curvatures = found.gram.diagonal()
        raised = torch.diag(curvatures + _FLOOR * curvatures.mean())
        for _ in range(_TRIES):
            factor, failed = torch.linalg.cholesky_ex(found.gram + damping * raised)
            if not failed:
                trial = numbers - torch.cholesky_solve(found.gradient[:, None], factor)[:, 0]
                if error(trial, step) < found.error:
                    numbers, damping = trial, max(damping / 4, _LEAST_DAMPING)
                    break
            damping *= 5
        else:
            damping = _DAMPING
    return numbers
