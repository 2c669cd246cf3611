"""The maximal-update parametrization (muP): every layer learns features as fast as it can at any width."""

from __future__ import annotations

from separatrix.steer.parametrization.rule import Descent, Rule, Scale
from separatrix.steer.parametrization.tensors import TensorFacts


def maximal_update(tensor: TensorFacts, descent: Descent) -> Scale:
    """Table 8 of the source: the output is divided by its fan-in, which absorbed gives its table 3.

    Gradients of anything below the output have entries that fall with its fan-out; so do epsilons.
    """
    if tensor.role == "output":
        ratio = tensor.fan_in_ratio
        return Scale(multiplier=1.0 / ratio, rate=ratio if descent == "sgd" else 1.0, gradient=1.0 / ratio)
    rate = tensor.fan_out_ratio / tensor.fan_in_ratio if descent == "sgd" else 1.0 / tensor.fan_in_ratio
    return Scale(initial=tensor.fan_in_ratio**-0.5, rate=rate, gradient=1.0 / tensor.fan_out_ratio)


rule = Rule(
    name="maximal-update",
    summary="Every layer's features change by the same amount at every width, so that what is tuned small transfers.",
    source="Yang et al. 2022, arXiv:2203.03466, tables 3 and 8",
    scale=maximal_update,
)
