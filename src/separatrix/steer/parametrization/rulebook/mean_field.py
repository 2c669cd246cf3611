"""The mean-field parametrization: weights of variance 1, hidden 1 / sqrt(fan-in), outputs averaged over 1 / fan-in."""

from __future__ import annotations

from separatrix.steer.parametrization.rule import Descent, Rule, Scale
from separatrix.steer.parametrization.tensors import TensorFacts


def _scale(tensor: TensorFacts, descent: Descent) -> Scale:
    """One rate that grows with the width for SGD, rates by layer for Adam: the same training as the maximal update.

    The two are related by the symmetry of abc-parametrizations with theta = 1/2; only what a tensor stores differs.
    """
    width = tensor.width_ratio
    multipliers = {"hidden": tensor.fan_in_ratio**-0.5, "output": 1.0 / tensor.fan_in_ratio}
    multiplier = multipliers.get(tensor.role, 1.0)
    if descent == "sgd":
        # Where the fans grow by different factors, the step of a hidden weight is that of its fan-out.
        rate = tensor.fan_out_ratio if tensor.role == "hidden" else width
    else:
        rate = tensor.fan_in_ratio**-0.5 if tensor.role == "hidden" else 1.0
    return Scale(multiplier=multiplier, rate=rate, gradient=multiplier / tensor.fan_out_ratio)


rule = Rule(
    name="mean-field",
    summary="Outputs are means over units; with rates to match, the maximal update in other coordinates.",
    source="Mei et al. 2018, arXiv:1804.06561; Everett et al. 2024, arXiv:2407.05872, table 1, for deep nets",
    scale=_scale,
)
