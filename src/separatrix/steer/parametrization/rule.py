"""What a rule of parametrization says of a tensor: multiplier, initial scale and learning rate, as factors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from separatrix.steer.parametrization.tensors import TensorFacts

Descent = Literal["sgd", "sign"]
"""Whether steps are in units of the gradient (SGD), or normalised entry by entry (Adam and its like)."""


@dataclasses.dataclass(frozen=True)
class Scale:
    """Factors for one tensor w that acts as `multiplier` times w, over the base model's.

    `initial` on its initial root mean square, `rate` on its learning rate, `gradient` the size of its gradient's
    entries, which epsilons are held against. With `absolute` the initial root mean square is `initial` itself.
    """

    multiplier: float = 1.0
    initial: float = 1.0
    rate: float = 1.0
    gradient: float = 1.0
    absolute: bool = False

    def absorbed(self, share: float, descent: Descent) -> Scale:
        """The same training with `share` of the multiplier moved into the tensor itself.

        With W = share * w: initial values times share, gradients over it, rates times its square or itself (sign).

        Source: Yang and Hu 2020, arXiv:2011.14522, the symmetry of abc-parametrizations; Yang and Littwin 2023,
        arXiv:2308.01814, for entrywise optimizers.
        """
        return dataclasses.replace(
            self,
            multiplier=self.multiplier / share,
            initial=self.initial * share,
            rate=self.rate * (share**2 if descent == "sgd" else share),
            gradient=self.gradient / share,
        )


@dataclasses.dataclass(frozen=True)
class Rule:
    """A parametrization: from the facts of a tensor and the kind of descent to its factors.

    `multiplier` and `initial` may not depend on the descent. A `held` rule keeps its multipliers outside of the tensors
    unless told otherwise. `branch` gives the multiplier of a residual branch from the number of layers in its stack and
    that number over the base model's; a rule that has one wants the ends of the branches named.
    """

    name: str
    summary: str
    source: str
    scale: Callable[[TensorFacts, Descent], Scale]
    held: bool = False
    branch: Callable[[int, float], float] | None = None

    def has_depth(self, tensor: TensorFacts) -> bool:
        """Whether the rule says anything of the number of layers."""
        shallow = dataclasses.replace(tensor, depth=1, depth_ratio=1.0)
        return self.branch is not None or self.scale(tensor, "sign") != self.scale(shallow, "sign")
