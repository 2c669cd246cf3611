"""The unit-scaled maximal-update parametrization (u-muP): weights start at variance 1 and stay in easy ranges."""

from __future__ import annotations

import math

from separatrix.steer.parametrization.rule import Descent, Rule, Scale
from separatrix.steer.parametrization.tensors import TensorFacts


def _scale(tensor: TensorFacts, descent: Descent) -> Scale:
    """Multipliers and rates from fans themselves, not over those of a base model; epsilons keep to the base model's.

    Adam's rates are those of the source, where embeddings have 1 / sqrt(fan-out); SGD's are the maximal update's, moved
    to these coordinates by symmetry. First layers that take numbers instead of indices are treated as hidden ones.
    """
    if tensor.role in ("vector", "scalar"):
        rate = float(tensor.fan_out) if descent == "sgd" and tensor.role == "vector" else 1.0
        return Scale(rate=rate * _depth(tensor, descent), gradient=_depth_gradient(tensor) / tensor.fan_out_ratio)
    fan_in, fan_out = float(tensor.fan_in), float(tensor.fan_out)
    if tensor.role == "output":
        multiplier, rate = 1.0 / fan_in, fan_in if descent == "sgd" else 1.0
        gradient = 1.0 / tensor.fan_in_ratio
    elif tensor.lookup:
        multiplier, rate = 1.0, fan_out if descent == "sgd" else fan_out**-0.5
        gradient = 1.0 / tensor.fan_out_ratio
    else:
        multiplier = fan_in**-0.5
        dense = fan_out if tensor.role == "hidden" else fan_out * fan_in
        rate = dense if descent == "sgd" else fan_in**-0.5
        gradient = tensor.fan_in_ratio**-0.5 / tensor.fan_out_ratio
    return Scale(
        multiplier=multiplier,
        initial=1.0,
        rate=rate * _depth(tensor, descent),
        gradient=gradient * _depth_gradient(tensor),
        absolute=True,
    )


def _depth(tensor: TensorFacts, descent: Descent) -> float:
    return 1.0 if descent == "sgd" else 1.0 / math.sqrt(tensor.depth)


def _depth_gradient(tensor: TensorFacts) -> float:
    return 1.0 / math.sqrt(tensor.depth_ratio)


def _branch(depth: int, ratio: float) -> float:
    del ratio
    return 1.0 / math.sqrt(depth)


rule = Rule(
    name="unit-scaled-maximal-update",
    summary="Weights of variance 1 behind 1 / sqrt(fan-in), outputs 1 / fan-in: muP in ranges fit for low precision.",
    source="Blake et al. 2024, arXiv:2407.17465, table 2",
    scale=_scale,
    held=True,
    branch=_branch,
)
