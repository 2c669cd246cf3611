"""Control by sparse equations: a rod, and a pole on a cart, are swung up by policies found in equations found in data.

A few hundred transitions under random inputs give a system's equations of motion (an ensemble of sparse regressions); a
policy is searched in these with nothing but returns, and a sparse polynomial is made of it, which costs no step of the
system either. Beside it, the same search runs in the system itself. Returns are taken there, from 64 starts that no
search sees, and counted from that of random inputs (0) to that of the search in the system (1).

The pendulum's policy is a small network, of which a polynomial is distilled. That of the cart-pole is a cubic of 28
terms, of which 11, 11 and 13 are left (seeds 0 to 2), chosen in the equations while the search goes on. In sixty
generations of 128 the cubic brings 213 to 221 of 250 in the cart-pole itself. It needs the covariance of what it
searches: with variances alone, as in the cross-entropy method, it stays at 144 to 155 and the pole turns without end.
Networks with the same mirror symmetry come to 211 and 220 after eighty generations at two seeds of three, others not.

The cart-pole's equations are quotients of polynomials. With the other acceleration among the terms they are of two and
three terms each, and hold where no data were. Without it policies found in quadratic equations bring 139 and in cubic
ones 204, after a hundred generations at one seed; with it 214 after forty. The system itself asks for 2,560 to 8,500
times as many steps (seeds 0 to 2), and for the steps that the equations took, three episodes, it gives a policy at 0.00
to 0.02 of the return.

The reward is known to the search, as it is to whoever states a task; the paper also learns it. The search in the
system wastes steps, as every method does that learns from returns only: policy gradients need fewer of them, of the
order of a hundred thousand on the pendulum, which is still over a hundred times as many as the equations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from separatrix.reconstruct.control import (
    CART_POLE,
    PENDULUM,
    Family,
    Networks,
    OddPolynomials,
    Plant,
    Policy,
    PolynomialPolicy,
    RandomPolicy,
    Search,
    Surrogate,
    Transitions,
    collect,
    distilled,
    learn_surrogate,
    returns,
    search,
    thinned,
    visited,
)
from separatrix.studies.study import (
    Control,
    Outcome,
    Paper,
    Plan,
    Progress,
    Setting,
    Settings,
    Statement,
    Study,
)

_LEVEL = 0.9
_LOOKS = 5
_STARTS = 64
_IMAGINED = 16
_ROUNDS = 5
_THINNED = (23, 19, 16, 13, 11)
_KEPT = 0.95
"""Share of the return in the equations that leaving out terms may not cost: more than the claim asks of the plant."""


@dataclasses.dataclass(frozen=True)
class _Scale:
    """Returns from chance (0) to the best that the search in the plant found (1)."""

    plant: Plant
    seed: int
    chance: float = 0.0
    best: float = 1.0

    def raw(self, policy: Policy) -> float:
        begin = self.plant.begin(np.random.default_rng([self.seed, 7]), _STARTS)
        return float(returns(self.plant, policy, begin).mean())

    def __call__(self, policy: Policy) -> float:
        return (self.raw(policy) - self.chance) / (self.best - self.chance)


Sparse = tuple[PolynomialPolicy, PolynomialPolicy]
"""A sparse polynomial, and one of the same form that has learnt the wrong thing."""


@dataclasses.dataclass(frozen=True)
class _System:
    """What differs between the systems: the true terms, the regression's degree, the policies, and their sparse form.

    `sparse(search, surrogate, settings, sizes, seed)` has the sizes of the search's generations.
    """

    plant: Plant
    terms: Mapping[str, Mapping[str, float]]
    degree: int
    family: Family
    starts: int
    sparse: Callable[[Search, Surrogate, Settings, Mapping[str, int], int], Sparse]

    def off(self, surrogate: Surrogate) -> float:
        """Largest error of a coefficient, over the largest true one of its equation; of terms not there too."""
        worst = 0.0
        for name, found in surrogate.terms().items():
            true = self.terms[name]
            errors = [abs(found.get(term, 0.0) - true.get(term, 0.0)) for term in {*found, *true}]
            worst = max(worst, max(errors) / max(map(abs, true.values())))
        return worst


def _shuffled(seen: Transitions, generator: np.random.Generator) -> Transitions:
    return dataclasses.replace(seen, inputs=generator.permutation(seen.inputs))


def _distilled(policy: Policy, surrogate: Surrogate, degree: int, seed: int) -> PolynomialPolicy:
    """The best polynomial, in the surrogate, of some: each learns what the policy does where all before it went.

    No step of the plant is taken. A polynomial goes where the policy would not, and must know what to do there
    (Ross, Gordon & Bagnell 2011).
    """
    draw, plant = np.random.default_rng([seed, 8]), surrogate.plant

    def met_by(one: Policy, exploration: float) -> np.ndarray:
        starts = plant.begin(draw, _IMAGINED)
        return visited(plant, one, starts, draw, exploration=exploration, step=surrogate.step)

    begin = plant.begin(np.random.default_rng([seed, 9]), _STARTS)
    met = met_by(policy, 0.3)
    found = []
    for _ in range(_ROUNDS):
        sparse = distilled(policy, met, plant, degree=degree, seed=seed)
        found.append((float(returns(plant, sparse, begin, step=surrogate.step).mean()), sparse))
        met = np.concatenate([met, met_by(sparse, 0.1)])
    return max(found, key=lambda pair: pair[0])[1]


def _of_networks(
    found: Search, surrogate: Surrogate, settings: Settings, sizes: Mapping[str, int], seed: int
) -> Sparse:
    """Distilled from the network, and from its answers shuffled."""
    del sizes
    policy, draw = found.policy, np.random.default_rng([seed, 6])
    sparse = _distilled(policy, surrogate, settings["degree"], seed)
    return sparse, _distilled(lambda states: draw.permutation(policy(states)), surrogate, settings["degree"], seed)


def _of_polynomials(
    found: Search, surrogate: Surrogate, settings: Settings, sizes: Mapping[str, int], seed: int
) -> Sparse:
    """With as few terms as keep the return in the equations, and with the coefficients of these shuffled."""
    plant, draw = surrogate.plant, np.random.default_rng([seed, 8])
    begin = plant.begin(np.random.default_rng([seed, 9]), _STARTS)

    def gained(one: Search) -> float:
        return float(returns(plant, one.policy, begin, step=surrogate.step).mean())

    dense, generations = gained(found), settings["generations"] // 6
    for terms in _THINNED:
        fewer = thinned(plant, found, terms, generations, draw, step=surrogate.step, **sizes)
        if gained(fewer) < _KEPT * dense:
            break
        found = fewer
    family = found.family
    assert isinstance(family, OddPolynomials)
    return family.polynomial(found.mean), family.polynomial(draw.permutation(found.mean))


_SYSTEMS = {
    "pendulum": _System(
        plant=PENDULUM,
        terms={"cos": {"sin speed": -1.0}, "sin": {"cos speed": 1.0}, "speed": {"sin": 15.0, "torque": 3.0}},
        degree=2,
        family=Networks(PENDULUM),
        starts=8,
        sparse=_of_networks,
    ),
    "cart-pole": _System(
        plant=CART_POLE,
        terms={
            "position": {"velocity": 1.0},
            "velocity": {"force": 1.0 / 1.1, "sin speed speed": 0.05 / 1.1, "speed' cos": -0.05 / 1.1},
            "cos": {"sin speed": -1.0},
            "sin": {"cos speed": 1.0},
            "speed": {"sin": 9.8 * 1.5, "velocity' cos": -1.5},
        },
        degree=3,
        family=OddPolynomials(CART_POLE),
        starts=4,
        sparse=_of_polynomials,
    ),
}


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    system = _SYSTEMS[settings["system"]]
    generations = settings["generations"] * (1 if quick else 3)
    unscaled = _Scale(system.plant, seed)
    random = RandomPolicy(system.plant.limit, np.random.default_rng([seed, 1]))
    chance = unscaled.raw(random)

    plant = dataclasses.replace(system.plant, steps=settings["episode"])
    start = Search.begin(system.family)
    sizes = {"candidates": settings["candidates"], "elite": settings["candidates"] // 8, "starts": system.starts}
    steps, course = 0, []
    found = search(plant, start, generations, np.random.default_rng([seed, 2]), **sizes)
    for index, each in enumerate(found, 1):
        steps += each.steps
        if index % _LOOKS == 0 or index == generations:
            course.append((steps, unscaled.raw(each.search.policy)))
    scale = _Scale(system.plant, seed, chance, max(value for _, value in course))
    first = next(taken for taken, value in course if value >= chance + _LEVEL * (scale.best - chance))
    few = {"candidates": max(settings["transitions"] // settings["episode"], 1), "elite": 1, "starts": 1}
    hasty = search(plant, start, 1, np.random.default_rng([seed, 2]), **few)[0].search
    progress()

    random = RandomPolicy(plant.limit, np.random.default_rng([seed, 3]))
    seen = collect(system.plant, random, settings["transitions"], np.random.default_rng([seed, 4]), exploration=1.0)
    mixed = _shuffled(seen, np.random.default_rng([seed, 5]))
    surrogate, blind = (learn_surrogate(each, plant, degree=system.degree, seed=seed) for each in (seen, mixed))
    # Searches in the two surrogates draw the same numbers, so that they differ by where they search alone.
    there, lost = (
        search(plant, start, generations, np.random.default_rng([seed, 6]), step=each.step, **sizes)[-1].search
        for each in (surrogate, blind)
    )
    progress()
    sparse, wrong = system.sparse(there, surrogate, settings, sizes, seed)
    progress()
    gained = scale(there.policy)
    measured = {
        "equations_are_the_plants": system.off(surrogate),
        "the_policy_found_in_them_works": gained,
        "fewer_steps_of_the_plant": first / len(seen) if gained >= _LEVEL else 0.0,
        "a_polynomial_keeps_the_return": scale(sparse) / gained,
    }
    controls = {
        "shuffled_inputs_in_the_equations": system.off(blind),
        "shuffled_inputs": scale(lost.policy),
        "as_few_steps_of_the_plant": scale(hasty.policy),
        "as_many_steps_of_search": first / (settings["transitions"] + steps),
        "shuffled_policy": scale(wrong) / gained,
    }
    series = {
        "plant_steps": [float(taken) for taken, _ in course],
        "plant_return": [value for _, value in course],
        "terms": [float(sparse.terms)],
    }
    return Outcome(measured, controls, series)


def _plan(settings: Settings, quick: bool) -> Plan:
    size = settings["generations"] * settings["candidates"] * settings["episode"]
    costly = 25e-6 if settings["system"] == "cart-pole" else 12e-6
    return Plan(runs=3, seconds=4.0 + costly * size * (1 if quick else 3))


study = Study(
    id="111",
    slug="sparse-control",
    paper=Paper(
        title="SINDy-RL: Interpretable and Efficient Model-Based Reinforcement Learning",
        authors=("Nicholas Zolman", "Christian Lagemann", "Urban Fasel", "J. Nathan Kutz", "Steven L. Brunton"),
        year=2024,
        url="https://arxiv.org/abs/2403.09110",
    ),
    summary="Equations found in a few hundred transitions are as good as the plant to find a policy in.",
    settings=(
        Setting("system", "str", "pendulum", "what is swung up", choices=tuple(_SYSTEMS)),
        Setting("transitions", "int", 600, "seen under random inputs", 300, 2400),
        Setting("generations", "int", 60, "of the search (three times in full); the cart-pole needs 60", 20, 200),
        Setting("candidates", "int", 128, "policies of a generation, an eighth kept; the cart-pole needs 128", 64, 256),
        Setting("episode", "int", 200, "samples that a policy is tried for", 100, 400),
        Setting(
            "degree",
            "int",
            5,
            "of what is distilled from a network",
            4,
            7,
            reason="of lower degree it cannot catch and pump",
        ),
    ),
    statements=(
        Statement(
            "equations_are_the_plants",
            "at_most",
            0.05,
            "Largest error of a coefficient over the largest true one of its equation.",
        ),
        Statement(
            "the_policy_found_in_them_works",
            "at_least",
            0.9,
            "Return of the policy found in the equations, from random (0) to found in the plant (1).",
        ),
        Statement(
            "fewer_steps_of_the_plant",
            "at_least",
            5.0,
            "Steps of the plant until the same search there has nine tenths of its return, over those seen.",
        ),
        Statement(
            "a_polynomial_keeps_the_return",
            "at_least",
            0.9,
            "Return of a sparse polynomial made of that policy, over the policy's.",
        ),
    ),
    controls=(
        Control("shuffled_inputs_in_the_equations", "equations_are_the_plants", "Learnt with the inputs shuffled."),
        Control("shuffled_inputs", "the_policy_found_in_them_works", "Found in equations of shuffled inputs."),
        Control("as_many_steps_of_search", "fewer_steps_of_the_plant", "If steps of the surrogate counted too."),
        Control(
            "as_few_steps_of_the_plant",
            "the_policy_found_in_them_works",
            "The best of the policies that can be tried in the plant in as many steps as the equations took.",
        ),
        Control(
            "shuffled_policy", "a_polynomial_keeps_the_return", "The network's answers, or coefficients, shuffled."
        ),
    ),
    plan=_plan,
    run=_run,
    smoke={"transitions": 400, "generations": 20, "candidates": 64, "episode": 100},
)
