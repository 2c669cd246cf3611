"""Control by sparse equations: a pendulum is swung up by a policy that was found in equations found in its data.

A few hundred transitions of a pendulum under random torques give its equations of motion (an ensemble of sparse
regressions); a small network is searched in these by the cross-entropy method, and a sparse polynomial is distilled
from it. Beside it, the same search runs in the pendulum itself. Returns are taken in the pendulum, from 64 starts that
no search sees, and counted from that of random torques (0) to that of the search in the pendulum (1).

The reward is known to the search, as it is to whoever states a task; the paper also learns it. The search in the
pendulum wastes steps, as every method does that learns from returns only: policy gradients need fewer of them, of the
order of a hundred thousand on this task, which is still over a hundred times as many as the equations.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from separatrix.reconstruct.control import (
    PENDULUM,
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

_TRUE = {"cos": {"sin speed": -1.0}, "sin": {"cos speed": 1.0}, "speed": {"sin": 15.0, "torque": 3.0}}
_LEVEL = 0.9
_LOOKS = 5
_STARTS = 64
_IMAGINED = 16
_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class _Scale:
    """Returns from chance (0) to the best that the search in the plant found (1)."""

    seed: int
    chance: float = 0.0
    best: float = 1.0

    def raw(self, policy: Policy) -> float:
        begin = PENDULUM.begin(np.random.default_rng([self.seed, 7]), _STARTS)
        return float(returns(PENDULUM, policy, begin).mean())

    def __call__(self, policy: Policy) -> float:
        return (self.raw(policy) - self.chance) / (self.best - self.chance)


def _off(surrogate: Surrogate) -> float:
    """Largest error of a coefficient, over the largest true one of its equation; of terms that are not there too."""
    terms = surrogate.monomials.named((*PENDULUM.names, *PENDULUM.inputs))
    worst = 0.0
    for name, column in zip(PENDULUM.names, surrogate.coefficients.T, strict=True):
        true = np.array([_TRUE[name].get(term, 0.0) for term in terms])
        worst = max(worst, float(np.abs(column - true).max() / np.abs(true).max()))
    return worst


def _shuffled(seen: Transitions, generator: np.random.Generator) -> Transitions:
    return dataclasses.replace(seen, inputs=generator.permutation(seen.inputs))


def _distilled(policy: Policy, surrogate: Surrogate, degree: int, seed: int) -> PolynomialPolicy:
    """The best polynomial, in the surrogate, of some: each learns what the policy does where all before it went.

    No step of the plant is taken. A polynomial goes where the policy would not, and must know what to do there
    (Ross, Gordon & Bagnell 2011).
    """
    draw = np.random.default_rng([seed, 8])

    def met_by(one: Policy, exploration: float) -> np.ndarray:
        starts = PENDULUM.begin(draw, _IMAGINED)
        return visited(PENDULUM, one, starts, draw, exploration=exploration, step=surrogate.step)

    begin = PENDULUM.begin(np.random.default_rng([seed, 9]), _STARTS)
    met = met_by(policy, 0.3)
    found = []
    for _ in range(_ROUNDS):
        sparse = distilled(policy, met, PENDULUM, degree=degree, seed=seed)
        found.append((float(returns(PENDULUM, sparse, begin, step=surrogate.step).mean()), sparse))
        met = np.concatenate([met, met_by(sparse, 0.1)])
    return max(found, key=lambda pair: pair[0])[1]


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    generations = settings["generations"] * (1 if quick else 3)
    limit = PENDULUM.limit
    unscaled = _Scale(seed)
    chance = unscaled.raw(RandomPolicy(limit, np.random.default_rng([seed, 1])))

    plant = dataclasses.replace(PENDULUM, steps=settings["episode"])
    size = {"candidates": settings["candidates"], "elite": settings["candidates"] // 8}
    steps, course = 0, []
    # Searches draw the same numbers, so that they differ by where they search alone.
    found = search(plant, Search.begin(plant), generations, np.random.default_rng([seed, 2]), **size)
    for index, each in enumerate(found, 1):
        steps += each.steps
        if index % _LOOKS == 0 or index == generations:
            course.append((steps, unscaled.raw(each.search.policy(PENDULUM))))
    scale = _Scale(seed, chance, max(value for _, value in course))
    first = next(taken for taken, value in course if value >= chance + _LEVEL * (scale.best - chance))
    progress()

    random = RandomPolicy(limit, np.random.default_rng([seed, 3]))
    seen = collect(PENDULUM, random, settings["transitions"], np.random.default_rng([seed, 4]), exploration=1.0)
    blind = learn_surrogate(_shuffled(seen, np.random.default_rng([seed, 5])), PENDULUM, seed=seed)
    surrogate = learn_surrogate(seen, PENDULUM, seed=seed)
    policy, lost = (
        search(plant, Search.begin(plant), generations, np.random.default_rng([seed, 6]), step=each.step, **size)[
            -1
        ].search.policy(PENDULUM)
        for each in (surrogate, blind)
    )
    progress()
    draw = np.random.default_rng([seed, 6])
    sparse = _distilled(policy, surrogate, settings["degree"], seed)
    mixed = _distilled(lambda states: draw.permutation(policy(states)), surrogate, settings["degree"], seed)
    progress()
    gained = scale(policy)
    measured = {
        "equations_are_the_pendulums": _off(surrogate),
        "the_policy_found_in_them_works": gained,
        "fewer_steps_of_the_plant": first / len(seen) if gained >= _LEVEL else 0.0,
        "a_polynomial_keeps_the_return": scale(sparse) / gained,
    }
    controls = {
        "shuffled_torques_in_the_equations": _off(blind),
        "shuffled_torques": scale(lost),
        "as_many_steps_of_search": first / (settings["transitions"] + steps),
        "shuffled_policy": scale(mixed) / gained,
    }
    series = {
        "plant_steps": [float(taken) for taken, _ in course],
        "plant_return": [value for _, value in course],
        "terms": [float(sparse.terms)],
    }
    return Outcome(measured, controls, series)


def _plan(settings: Settings, quick: bool) -> Plan:
    size = settings["generations"] * settings["candidates"] * settings["episode"]
    return Plan(runs=3, seconds=4.0 + 8e-6 * size * (1 if quick else 3))


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
        Setting("transitions", "int", 600, "seen under random torques", 300, 2400),
        Setting("generations", "int", 60, "of the search (three times as many in full)", 30, 200),
        Setting("candidates", "int", 128, "policies of a generation, of which an eighth is kept", 64, 256),
        Setting("episode", "int", 200, "samples, of a twentieth of a second, that a policy is tried for", 100, 400),
        Setting("degree", "int", 5, "of the distilled policy", 4, 7, reason="of lower degree it cannot catch and pump"),
    ),
    statements=(
        Statement(
            "equations_are_the_pendulums",
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
            "Return of the distilled sparse polynomial over that of the network.",
        ),
    ),
    controls=(
        Control(
            "shuffled_torques_in_the_equations", "equations_are_the_pendulums", "Learnt with the torques shuffled."
        ),
        Control("shuffled_torques", "the_policy_found_in_them_works", "Found in equations of shuffled torques."),
        Control("as_many_steps_of_search", "fewer_steps_of_the_plant", "If steps of the surrogate counted too."),
        Control("shuffled_policy", "a_polynomial_keeps_the_return", "Distilled from the network's answers shuffled."),
    ),
    plan=_plan,
    run=_run,
    smoke={"transitions": 400, "generations": 30, "candidates": 64, "episode": 100},
)
