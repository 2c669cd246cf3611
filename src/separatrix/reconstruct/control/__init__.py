"""Model-based control: systems with an input, surrogates found in their data, policies searched there and distilled."""

from separatrix.reconstruct.control.environments import gymnasium_environment
from separatrix.reconstruct.control.plants import CART_POLE, PENDULUM, Plant
from separatrix.reconstruct.control.policies import (
    Family,
    Networks,
    NeuralPolicy,
    OddPolynomials,
    Policy,
    PolynomialPolicy,
    RandomPolicy,
    distilled,
)
from separatrix.reconstruct.control.rollouts import Transitions, collect, returns, visited
from separatrix.reconstruct.control.search import Search, SearchStep, search
from separatrix.reconstruct.control.surrogate import Surrogate, learn_surrogate
from separatrix.reconstruct.control.thinning import thinned

__all__ = [
    "CART_POLE",
    "PENDULUM",
    "Family",
    "Networks",
    "NeuralPolicy",
    "OddPolynomials",
    "Plant",
    "Policy",
    "PolynomialPolicy",
    "RandomPolicy",
    "Search",
    "SearchStep",
    "Surrogate",
    "Transitions",
    "collect",
    "distilled",
    "gymnasium_environment",
    "learn_surrogate",
    "returns",
    "search",
    "thinned",
    "visited",
]
