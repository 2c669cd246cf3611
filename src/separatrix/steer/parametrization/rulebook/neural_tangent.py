"""The neural-tangent parametrization: weights of variance 1 behind multipliers of 1 / sqrt(fan-in); kernel dynamics."""

from __future__ import annotations

from separatrix.steer.parametrization.rule import Descent, Rule, Scale
from separatrix.steer.parametrization.tensors import TensorFacts


def _scale(tensor: TensorFacts, descent: Descent) -> Scale:
    """SGD needs one rate for all; a step of Adam has entries of the rate, so rates fall with what adds up.

    The largest stable rates of Adam whose limit is of the kernel kind: with features moving by n^-1/2 in every layer,
    n^-1/2 for inputs, n^-1 for hidden weights behind n^-1/2, and n^-1/2 for outputs.
    """
    rates = {"input": tensor.fan_out_ratio**-0.5, "vector": tensor.fan_out_ratio**-0.5}
    rates |= {"hidden": tensor.fan_in_ratio**-1.0, "output": tensor.fan_in_ratio**-0.5}
    multiplier = tensor.fan_in_ratio**-0.5
    return Scale(
        multiplier=multiplier,
        rate=1.0 if descent == "sgd" else rates.get(tensor.role, 1.0),
        gradient=multiplier * tensor.fan_out_ratio**-0.5,
    )


rule = Rule(
    name="neural-tangent",
    summary="Variance 1 behind 1 / sqrt(fan-in): infinitely wide nets follow a fixed kernel and learn no features.",
    source="Jacot et al. 2018, arXiv:1806.07572; Yang and Littwin 2023, arXiv:2308.01814, for Adam",
    scale=_scale,
)
