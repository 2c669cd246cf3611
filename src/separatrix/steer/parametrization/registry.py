"""The rules by name, found by walking `rules`."""

from __future__ import annotations

import functools

from separatrix.runs.discovery import members
from separatrix.steer.errors import ParametrizationError
from separatrix.steer.parametrization.rule import Rule

ENTRY_POINTS = "separatrix.parametrizations"
"""The entry-point group under which other packages offer rules."""


@functools.cache
def rules() -> dict[str, Rule]:
    """Every known rule by name."""
    return members("separatrix.steer.parametrization.rulebook", Rule, ENTRY_POINTS)


def find_rule(rule: str | Rule) -> Rule:
    """The rule itself, or the one of that name.

    Raises:
        ParametrizationError: there is none.
    """
    if isinstance(rule, Rule):
        return rule
    if rule not in rules():
        raise ParametrizationError(f"there is no parametrization {rule!r}: choose from {', '.join(rules())}")
    return rules()[rule]
