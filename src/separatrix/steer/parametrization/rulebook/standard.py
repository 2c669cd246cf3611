"""The standard parametrization: initial variances of 1 / fan-in, and one learning rate for all."""

from __future__ import annotations

from separatrix.steer.parametrization.rule import Descent, Rule, Scale
from separatrix.steer.parametrization.tensors import TensorFacts


def _scale(tensor: TensorFacts, descent: Descent) -> Scale:
    """Rates and epsilons stay as they are, which is what makes the best rate drift with the width."""
    del descent
    return Scale(initial=tensor.fan_in_ratio**-0.5)


rule = Rule(
    name="standard",
    summary="Initial variance 1 / fan-in, the same rate everywhere: what frameworks do.",
    source="Yang et al. 2022, arXiv:2203.03466, table 3",
    scale=_scale,
)
