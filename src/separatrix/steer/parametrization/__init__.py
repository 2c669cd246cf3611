"""Parametrizations: initial values, multipliers and learning rates that follow a model's size by a rule."""

from separatrix.steer.parametrization.parametrization import Factors, Parametrization, parametrize
from separatrix.steer.parametrization.registry import find_rule, rules
from separatrix.steer.parametrization.rule import Descent, Rule, Scale
from separatrix.steer.parametrization.tensors import ROLES, Role, TensorFacts

__all__ = [
    "ROLES",
    "Descent",
    "Factors",
    "Parametrization",
    "Role",
    "Rule",
    "Scale",
    "TensorFacts",
    "find_rule",
    "parametrize",
    "rules",
]
