"""The standard parametrization with a learning rate for each kind of layer that falls with a power of the width."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from separatrix.steer.errors import ParametrizationError
from separatrix.steer.parametrization.rule import Descent, Rule, Scale
from separatrix.steer.parametrization.tensors import ROLES, TensorFacts

FULL_ALIGNMENT: Mapping[Descent, Mapping[str, float]] = {
    "sign": {"input": 0.0, "hidden": 1.0, "output": 1.0, "vector": 0.0},
    "sgd": {"input": -0.5, "hidden": 0.5, "output": 1.0, "vector": -0.5},
}
"""Exponents of 1 / width for updates that are fully aligned with what they act on."""


@dataclasses.dataclass(frozen=True)
class _Scale:
    """The factors of a tensor by exponents for kinds of descent and roles; unlike a closure it can be pickled."""

    powers: tuple[tuple[tuple[Descent, str], float], ...]

    def __call__(self, tensor: TensorFacts, descent: Descent) -> Scale:
        """Initial values by fan-in, and a rate of 1 / width to the power of the tensor's role."""
        power = dict(self.powers).get((descent, tensor.role), 0.0)
        return Scale(
            initial=tensor.fan_in_ratio**-0.5,
            rate=tensor.width_ratio**-power,
            gradient=tensor.fan_out_ratio**-0.5,
        )


def standard_with_exponents(exponents: Mapping[Descent, Mapping[str, float]], name: str = "standard-per-layer") -> Rule:
    """The standard parametrization with rates that are 1 / width to the power given for a role, 0 where none is.

    Raises:
        ParametrizationError: a role or a kind of descent is unknown.
    """
    for descent, powers in exponents.items():
        if wrong := [role for role in powers if role not in ROLES] or [descent][: descent not in ("sgd", "sign")]:
            raise ParametrizationError(
                f"{wrong[0]!r} has no exponent: give them by descent (sgd, sign) and role ({', '.join(ROLES)})"
            )

    flat = {(descent, role): power for descent, by_role in exponents.items() for role, power in by_role.items()}
    return Rule(
        name=name,
        summary="Initial variance 1 / fan-in and rates by kind of layer, for updates aligned with what they act on.",
        source="Everett et al. 2024, arXiv:2407.05872, table 1",
        scale=_Scale(tuple(flat.items())),
    )


rule = standard_with_exponents(FULL_ALIGNMENT)
