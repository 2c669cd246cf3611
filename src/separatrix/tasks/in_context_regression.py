"""Prompts of labelled examples of a regression of their own, and a query whose label is asked for."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.tasks.task import Batch, Seed, Task, check, choice, count, drawing, number, whole

Response = Literal["linear", "sign", "sine", "relu_network"]
RESPONSES: tuple[Response, ...] = ("linear", "sign", "sine", "relu_network")
Covariance = Literal["fixed", "exponential"]
COVARIANCES: tuple[Covariance, ...] = ("fixed", "exponential")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InContextRegression(Task):
    """In-context regression: each prompt has a function f of its own, and Gaussian covariates.

    A prompt is `length` tokens (x_i, y_i), y_i = f(x_i) + noise, and the token (x, 0) of the query; its target is f(x)
    + noise. Covariates are N(0, diag(spectrum)), those of the query further multiplied by `query_scale`. Where
    `covariance` is exponential, each prompt multiplies each variance by a draw of its own with mean 1.

    f(x) is u = w.x with w from N(0, diag(prior)); its sign; its sine; or a net of `units` ReLU units whose hidden
    weights are drawn like w, and whose readout is normal of variance 1 / units.
    """

    name: ClassVar[str] = "in_context_regression"
    source: ClassVar[str] = "Garg et al. 2022, arXiv:2208.01066; Zhang, Frei and Bartlett 2023, arXiv:2306.09927"

    dimension: int = 5
    length: int = 20
    decay: float = 0.0
    task_decay: float = 0.0
    noise: float = 0.0
    response: Response = "linear"
    units: int = 16
    covariance: Covariance = "fixed"
    covariate_scale: float = 1.0
    query_scale: float = 1.0
    task_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for knob in ("dimension", "length", "units"):
            whole(self, knob, 1)
        for knob in ("decay", "noise", "covariate_scale", "query_scale", "task_scale"):
            number(self, knob, 0.0)
        check(self, "task_decay", math.isfinite(self.task_decay), "a finite number")
        choice(self, "response", RESPONSES)
        choice(self, "covariance", COVARIANCES)

    @functools.cached_property
    def spectrum(self) -> Float[Tensor, " dimension"]:
        """Variance of each covariate, on average over prompts: covariate_scale^2 i^-decay."""
        return self.covariate_scale**2 * self._power(self.decay)

    @functools.cached_property
    def prior(self) -> Float[Tensor, " dimension"]:
        """Variance of each entry of w: task_scale^2 i^-task_decay."""
        return self.task_scale**2 * self._power(self.task_decay)

    def _power(self, decay: float) -> Tensor:
        return torch.arange(1, self.dimension + 1, dtype=self.dtype) ** -decay

    def sample(self, n: int, generator: Seed) -> Batch:
        """Draw n prompts: tokens (n, length + 1, dimension + 1), the query last, and targets (n,)."""
        draw = drawing(generator)
        last = self.dimension
        tokens = torch.randn(count(n), self.length + 1, last + 1, dtype=self.dtype, generator=draw)
        covariates = tokens[..., :last]
        covariates *= self.spectrum.sqrt()
        if self.covariance == "exponential":
            factors = torch.empty(n, 1, last, dtype=self.dtype).exponential_(generator=draw)
            covariates *= factors.sqrt()
        covariates[:, -1] *= self.query_scale
        labels = self._responses(covariates, draw) + self.noise * tokens[..., last]
        tokens[..., last] = labels
        tokens[:, -1, last] = 0.0
        return Batch(tokens, labels[:, -1])

    def _responses(self, covariates: Tensor, draw: torch.Generator) -> Tensor:
        units = self.units if self.response == "relu_network" else 1
        weights = torch.randn(len(covariates), self.dimension, units, dtype=self.dtype, generator=draw)
        fields = covariates @ (weights * self.prior.sqrt()[:, None])
        if self.response == "relu_network":
            readout = torch.randn(len(covariates), units, 1, dtype=self.dtype, generator=draw) / math.sqrt(units)
            sums: Tensor = (fields.relu() @ readout)[..., 0]
            return sums
        fields = fields[..., 0]
        return {"linear": fields, "sign": fields.sign(), "sine": fields.sin()}[self.response]

    def bayes(self, tokens: Float[Tensor, "n tokens features"]) -> Float[Tensor, " n"]:
        """The best prediction of any learner where f is linear: of the ridge regression that `prior` and noise make.

        It is the posterior mean of w at the query; without noise, the interpolant that is smallest by the prior.

        Raises:
            TaskError: f is not linear.
        """
        check(self, "response", self.response == "linear", "'linear' for an optimum in closed form")
        deviations = self.prior.sqrt().double()
        inputs, labels = tokens[:, :-1, :-1].double() * deviations, tokens[:, :-1, -1:].double()
        gram = inputs.mT @ inputs + self.noise**2 * torch.eye(self.dimension, dtype=torch.float64)
        weights = torch.linalg.pinv(gram, hermitian=True) @ inputs.mT @ labels
        query = tokens[:, -1, :-1].double() * deviations
        predicted: Tensor = (query[:, None] @ weights)[:, 0, 0].to(self.dtype)
        return predicted


in_context_regression = InContextRegression()
