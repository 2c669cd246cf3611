"""The depth-wise maximal-update parametrization (Depth-muP): residual branches over the root of the depth."""

from __future__ import annotations

import dataclasses
import math

from separatrix.steer.parametrization.rule import Descent, Rule, Scale
from separatrix.steer.parametrization.rulebook.maximal_update import maximal_update
from separatrix.steer.parametrization.tensors import TensorFacts


def _scale(tensor: TensorFacts, descent: Descent) -> Scale:
    """In a stack steps that are normalised fall with the root of its depth, so do gradients and epsilons."""
    wide = maximal_update(tensor, descent)
    root = tensor.depth_ratio**-0.5
    rate = wide.rate if descent == "sgd" else wide.rate * root
    return dataclasses.replace(wide, rate=rate, gradient=wide.gradient * root)


def _branch(depth: int, ratio: float) -> float:
    del depth
    return 1.0 / math.sqrt(ratio)


rule = Rule(
    name="depth-maximal-update",
    summary="The maximal update with branches and Adam's rates over sqrt(depth): what is tuned shallow transfers, too.",
    source="Yang et al. 2023, arXiv:2310.02244, table 1",
    scale=_scale,
    branch=_branch,
)
