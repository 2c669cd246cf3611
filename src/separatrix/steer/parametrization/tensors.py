"""What a parametrization knows of a tensor: the part it plays, its fans, and how they compare with the base model's."""

from __future__ import annotations

import dataclasses
from typing import Literal

Role = Literal["input", "hidden", "output", "vector", "scalar"]
"""The part a parameter plays as the width grows.

`input`: only the fan-out grows (first layers, embeddings, depthwise filters). `hidden`: both fans grow.
`output`: only the fan-in grows (readouts). `vector`: biases and gains with one entry for each unit of the width.
`scalar`: nothing grows (the readout's bias, a temperature).
"""

ROLES: tuple[Role, ...] = ("input", "hidden", "output", "vector", "scalar")


@dataclasses.dataclass(frozen=True)
class TensorFacts:
    """One parameter of a model beside its namesake in the base model.

    Fans count what one output adds up and what one input feeds, kernels included; vectors have a fan-in of 1. Grouped
    convolutions have the fan-out of all groups together, which is what grows with the width. Ratios are over the base
    model's: `fan_in_ratio` and `fan_out_ratio` of the dimensions that scale (1 for others), `depth_ratio` of the number
    of layers in the stack that holds the tensor (1 outside of stacks), `depth` that number.
    `lookup` says that it is an embedding, whose rows are picked rather than added up.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    fan_in_ratio: float = 1.0
    fan_out_ratio: float = 1.0
    depth: int = 1
    depth_ratio: float = 1.0
    lookup: bool = False

    @property
    def width_ratio(self) -> float:
        """The ratio of the dimension that scales: the fan-in's where that scales, else the fan-out's."""
        return self.fan_in_ratio if self.role in ("hidden", "output") else self.fan_out_ratio
