"""Two classes of two Gaussian clouds each, placed crosswise: no linear classifier beats chance."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from separatrix.tasks.task import Batch, Seed, Task, count, drawing, number, whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class XorMixture(Task):
    """Inputs (n, dimension): N(+-m, I / snr) in class 1, N(+-v, I / snr) in class 0, with m and v orthonormal.

    The four clouds are equally likely; m and v are drawn by `seed`. The Bayes rule is |x.m| > |x.v|, which a two-layer
    network with four units represents; its error is `bayes_error`.
    """

    name: ClassVar[str] = "xor_mixture"
    source: ClassVar[str] = "Ben Arous et al. 2023, arXiv:2310.03010"

    dimension: int = 20
    snr: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "dimension", 2)
        number(self, "snr", 0.0, above=True)

    @functools.cached_property
    def axes(self) -> Float[Tensor, " 2 dimension"]:
        """The unit vectors v, of class 0, and m, of class 1."""
        draws = torch.randn(self.dimension, 2, dtype=torch.float64, generator=self._structure())
        frame: Tensor = torch.linalg.qr(draws).Q
        return frame.T.to(self.dtype)

    @property
    def bayes_error(self) -> float:
        """2 p (1 - p) with p = Phi(-sqrt(snr / 2)).

        In the coordinates (x.m + x.v) / sqrt(2) and (x.m - x.v) / sqrt(2), independent with means +-1 / sqrt(2), the
        class is the sign of the product: the rule errs when exactly one of the two has the wrong sign.
        """
        wrong = 0.5 * math.erfc(math.sqrt(self.snr) / 2)
        return 2 * wrong * (1 - wrong)

    def sample(self, n: int, generator: Seed) -> Batch:
        """Draw n examples."""
        draw = drawing(generator)
        labels, signs = torch.randint(2, (2, count(n)), generator=draw)
        noise = torch.randn(n, self.dimension, dtype=self.dtype, generator=draw)
        return Batch((2 * signs - 1).unsqueeze(1) * self.axes[labels] + noise / math.sqrt(self.snr), labels)


default = XorMixture()
