"""Classes that are Gaussian clouds of one spherical covariance, with means a set distance apart."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.tasks.errors import TaskError
from separatrix.tasks.task import Batch, Seed, Task, check, choice, count, drawing, number, whole

_STEP, _REACH = 0.005, 40.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianMixture(Task):
    """Class c with probability `priors[c]`; inputs N(means[c], spread^2 I) of shape (n, dimension), targets (n,).

    Layouts: `simplex` and `orthogonal` put every two means `separation` apart, centred at the origin or as orthogonal
    vectors of one length, in directions drawn by `seed`; `random` draws each mean on the sphere of radius
    separation / sqrt(2), so that distances are near `separation` in high dimension only (blobs). The orthogonal layout
    with separation sqrt(2) and spread 1 / sqrt(lambda) is the mixture of Ben Arous et al. 2023 at signal-to-noise ratio
    lambda. The population optimum is linear with softmax: see `posterior`; its error is `bayes_error()`.
    """

    name: ClassVar[str] = "gaussian_mixture"
    source: ClassVar[str] = "Ben Arous et al. 2023, arXiv:2310.03010"

    classes: int = 3
    dimension: int = 20
    separation: float = 4.0
    spread: float = 1.0
    priors: tuple[float, ...] | None = None
    layout: Literal["simplex", "orthogonal", "random"] = "simplex"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "classes", 2)
        whole(self, "dimension", 1)
        number(self, "separation", 0.0)
        number(self, "spread", 0.0, above=True)
        choice(self, "layout", ("simplex", "orthogonal", "random"))
        needed = {"simplex": self.classes - 1, "orthogonal": self.classes, "random": 1}[self.layout]
        check(self, "dimension", self.dimension >= needed, f"at least {needed} for {self.classes} {self.layout} means")
        if self.priors is not None:
            sound = len(self.priors) == self.classes and all(p > 0 for p in self.priors)
            words = f"{self.classes} positive numbers with sum 1"
            check(self, "priors", sound and math.isclose(sum(self.priors), 1.0, abs_tol=1e-9), words)

    @functools.cached_property
    def means(self) -> Float[Tensor, " classes dimension"]:
        """The class means."""
        draws = torch.randn(self.dimension, self.classes, dtype=torch.float64, generator=self._structure())
        radius = self.separation / math.sqrt(2)
        if self.layout == "random":
            return (radius * torch.nn.functional.normalize(draws, dim=0)).T.to(self.dtype)
        # Corners of a simplex are orthogonal vectors less their mean, written in one dimension less.
        corners = torch.eye(self.classes, dtype=torch.float64)
        if self.layout == "simplex":
            centred = corners - 1 / self.classes
            corners = centred @ torch.linalg.eigh(centred).eigenvectors[:, 1:]
        frame: Tensor = torch.linalg.qr(draws[:, : corners.shape[1]]).Q
        return (radius * corners @ frame.T).to(self.dtype)

    @functools.cached_property
    def probabilities(self) -> Float[Tensor, " classes"]:
        """Prior probability of each class."""
        return torch.tensor(self.priors or (1 / self.classes,) * self.classes, dtype=self.dtype)

    def sample(self, n: int, generator: Seed) -> Batch:
        """Draw n examples."""
        draw = drawing(generator)
        labels = torch.multinomial(self.probabilities, count(n), replacement=True, generator=draw)
        noise = torch.randn(n, self.dimension, dtype=self.dtype, generator=draw)
        return Batch(self.means[labels] + self.spread * noise, labels)

    def posterior(self, inputs: Float[Tensor, " n dimension"]) -> Float[Tensor, " n classes"]:
        """Exact probability of each class given the input."""
        scores = inputs @ self.means.T - 0.5 * self.means.square().sum(1)
        return torch.softmax(scores / self.spread**2 + self.probabilities.log(), dim=1)

    def bayes_error(self) -> float:
        """The smallest error any classifier can have.

        Closed for two classes; for more with equal priors and distances it is one integral,
        E[1 - Phi(z + separation / (sqrt(2) spread))^(classes - 1)] over a standard normal z, taken to about 1e-12.

        Raises:
            TaskError: more than two classes with unequal priors or distances.
        """
        if self.classes == 2:
            return self._two_class_error()
        if self.layout == "random" or len(set(self.priors or (0,))) > 1:
            raise TaskError(
                f"{self.name}: the Bayes error of {self.classes} classes is closed only for equal priors and distances:"
                " average 1 - posterior(inputs).max() over a sample"
            )
        # The trapezoidal rule converges geometrically for an analytic function that decays like this one.
        z = torch.arange(-_REACH, _REACH, _STEP, dtype=torch.float64)
        margin = self.separation / (math.sqrt(2) * self.spread)
        wrong = -torch.expm1((self.classes - 1) * torch.special.log_ndtr(z + margin))
        return float((torch.exp(-0.5 * z.square()) * wrong).sum() * _STEP / math.sqrt(2 * math.pi))

    def _two_class_error(self) -> float:
        first, second = self.priors or (0.5, 0.5)
        random = self.layout == "random"
        distance = (float(torch.dist(*self.means)) if random else self.separation) / self.spread
        if distance == 0.0:
            return min(first, second)
        shift = math.log(first / second) / distance
        return first * _tail(distance / 2 + shift) + second * _tail(distance / 2 - shift)


def _tail(x: float) -> float:
    """Probability that a standard normal exceeds x."""
    return 0.5 * math.erfc(x / math.sqrt(2))


default = GaussianMixture()
