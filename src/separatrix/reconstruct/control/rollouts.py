"""Episodes of many plants at once: what they bring, and what is seen in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from separatrix.reconstruct.control.plants import Inputs, Plant, States
from separatrix.reconstruct.control.policies import Policy

Step = Callable[[States, Inputs], States]

_HELD = 5


@dataclasses.dataclass(frozen=True)
class Transitions:
    """States before, inputs, and states a sampling interval later, one a row."""

    before: Float[np.ndarray, "row state"]
    inputs: Float[np.ndarray, "row input"]
    after: Float[np.ndarray, "row state"]

    def __len__(self) -> int:
        return len(self.before)

    def and_(self, other: Transitions) -> Transitions:
        """Both, one after the other."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Transitions(*(np.concatenate(pair) for pair in pairs))


def returns(plant: Plant, policy: Policy, begin: States, *, step: Step | None = None) -> Float[np.ndarray, "*batch"]:
    """Sum of rewards of episodes from these states, in the plant, or in another `step` over its coordinates."""
    step = plant.step if step is None else step
    states, total, going = begin, np.zeros(begin.shape[:-1]), np.ones(begin.shape[:-1])
    for _ in range(plant.steps):
        inputs = np.clip(policy(states), -plant.limit, plant.limit)
        total += going * plant.reward(states, inputs)
        states = step(states, inputs)
        if plant.ends:
            going *= ~plant.ended(states)
    return total


def visited(
    plant: Plant,
    policy: Policy,
    begin: Float[np.ndarray, "n state"],
    generator: np.random.Generator,
    *,
    exploration: float = 0.0,
    step: Step | None = None,
) -> Float[np.ndarray, "row state"]:
    """The states of episodes from these beginnings until they end, all in a row; `exploration` as in `collect`."""
    step = plant.step if step is None else step
    states, rows, going = begin, [], np.ones(len(begin), dtype=bool)
    held = np.zeros((len(begin), len(plant.inputs)))
    for t in range(plant.steps):
        if t % _HELD == 0:
            held = exploration * plant.limit * generator.standard_normal(held.shape)
        rows.append(states[going])
        states = step(states, np.clip(policy(states) + held, -plant.limit, plant.limit))
        going &= ~plant.ended(states)
    return np.concatenate(rows)


def collect(
    plant: Plant, policy: Policy, count: int, generator: np.random.Generator, *, exploration: float = 0.0
) -> Transitions:
    """`count` transitions of one episode after the other under a policy.

    `exploration` adds noise of that share of the limit, held for a few steps: noise that changes at each step averages
    out before it moves anything.
    """
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    state = plant.begin(generator, 1)
    held = np.zeros((1, len(plant.inputs)))
    chosen = policy(state)
    begun = 0
    for t in range(count):
        if t == begun + plant.steps or plant.ended(state)[0]:
            state, begun = plant.begin(generator, 1), t
        if t % _HELD == 0:
            held = exploration * plant.limit * generator.standard_normal(held.shape)
            chosen = policy(state)
        inputs = np.clip((policy(state) if exploration < 1.0 else chosen) + held, -plant.limit, plant.limit)
        after = plant.step(state, inputs)
        rows.append((state[0], inputs[0], after[0]))
        state = after
    return Transitions(*(np.array(column) for column in zip(*rows, strict=True)))
