"""Systems with an input: equations of motion in bounded coordinates, rewards, and where episodes begin.

Angles appear as cosine and sine, in which the equations have no jump and are polynomials where the body allows. They
are 0 upright. The input is held constant over a sampling interval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

States = Float[np.ndarray, "*batch state"]
Inputs = Float[np.ndarray, "*batch input"]


@dataclasses.dataclass(frozen=True)
class Plant:
    """A system x' = field(x, u) that is sampled every `dt` and judged by `reward(x, u)` at each sample.

    `circles` are the pairs of positions in `names` that are cosine and sine of an angle; they are kept on the circle.
    Inputs are within `limit`. `begin(generator, n)` draws n states at which episodes of `steps` samples begin; beyond
    `bounds` (per variable, infinite where there is none) states are clipped, as at the stops of a rail.
    """

    name: str
    names: tuple[str, ...]
    inputs: tuple[str, ...]
    field: Callable[[States, Inputs], States]
    reward: Callable[[States, Inputs], Float[np.ndarray, "*batch"]]
    begin: Callable[[np.random.Generator, int], Float[np.ndarray, "n state"]]
    dt: float
    steps: int
    limit: float
    bounds: tuple[float, ...]
    circles: tuple[tuple[int, int], ...] = ()

    def step(self, states: States, inputs: Inputs, *, substeps: int = 2) -> States:
        """The states one sampling interval later, by the classical Runge-Kutta method."""
        forced = np.clip(inputs, -self.limit, self.limit)
        return advance(self.field, states, forced, self, substeps)


def advance(
    field: Callable[[States, Inputs], States], states: States, inputs: Inputs, plant: Plant, substeps: int
) -> States:
    """One sampling interval of a field over a plant's coordinates: inputs held, circles and bounds kept."""
    width = plant.dt / substeps
    for _ in range(substeps):
        first = field(states, inputs)
        second = field(states + 0.5 * width * first, inputs)
        third = field(states + 0.5 * width * second, inputs)
        fourth = field(states + width * third, inputs)
        states = states + width / 6.0 * (first + 2.0 * second + 2.0 * third + fourth)
    limits = np.array(plant.bounds)
    states = np.clip(np.nan_to_num(states), -limits, limits)
    for cosine, sine in plant.circles:
        radius = np.maximum(np.hypot(states[..., cosine], states[..., sine]), 1e-12)
        states[..., cosine] /= radius
        states[..., sine] /= radius
    return np.asarray(states)


_GRAVITY, _MASS, _LENGTH = 10.0, 1.0, 1.0


def _pendulum(states: States, inputs: Inputs) -> States:
    cosine, sine, speed = np.moveaxis(states, -1, 0)
    turn = 1.5 * _GRAVITY / _LENGTH * sine + 3.0 / (_MASS * _LENGTH**2) * inputs[..., 0]
    return np.stack([-sine * speed, cosine * speed, turn], axis=-1)


def _upright(states: States, inputs: Inputs) -> np.ndarray:
    angle = np.arctan2(states[..., 1], states[..., 0])
    return np.asarray(-(angle**2 + 0.1 * states[..., 2] ** 2 + 0.001 * inputs[..., 0] ** 2))


def _hanging_or_turning(generator: np.random.Generator, count: int) -> np.ndarray:
    angle = generator.uniform(-np.pi, np.pi, count)
    return np.stack([np.cos(angle), np.sin(angle), generator.uniform(-1.0, 1.0, count)], axis=1)


PENDULUM = Plant(
    name="pendulum",
    names=("cos", "sin", "speed"),
    inputs=("torque",),
    field=_pendulum,
    reward=_upright,
    begin=_hanging_or_turning,
    dt=0.05,
    steps=200,
    limit=2.0,
    bounds=(np.inf, np.inf, 8.0),
    circles=((0, 1),),
)
"""A rod of uniform mass, too heavy for its motor to lift at once; constants and reward of Gymnasium's Pendulum-v1."""

_CART, _POLE, _HALF = 1.0, 0.1, 0.5
_EARTH = 9.8
_RAIL = 2.4


def _cart_pole(states: States, inputs: Inputs) -> States:
    _, velocity, cosine, sine, speed = np.moveaxis(states, -1, 0)
    whole = _CART + _POLE
    push = (inputs[..., 0] + _POLE * _HALF * speed**2 * sine) / whole
    turn = (_EARTH * sine - cosine * push) / (_HALF * (4.0 / 3.0 - _POLE * cosine**2 / whole))
    pull = push - _POLE * _HALF * turn * cosine / whole
    return np.stack([velocity, pull, -sine * speed, cosine * speed, turn], axis=-1)


def _up_in_the_middle(states: States, inputs: Inputs) -> np.ndarray:
    centred = np.exp(-((states[..., 0] / 1.0) ** 2))
    return np.asarray(0.5 * (1.0 + states[..., 2]) * centred - 1e-3 * (inputs[..., 0] / 10.0) ** 2)


def _hanging(generator: np.random.Generator, count: int) -> np.ndarray:
    angle = np.pi + generator.uniform(-0.3, 0.3, count)
    rest = generator.uniform(-0.1, 0.1, (3, count))
    return np.stack([rest[0], rest[1], np.cos(angle), np.sin(angle), rest[2]], axis=1)


CART_POLE = Plant(
    name="cart-pole",
    names=("position", "velocity", "cos", "sin", "speed"),
    inputs=("force",),
    field=_cart_pole,
    reward=_up_in_the_middle,
    begin=_hanging,
    dt=0.04,
    steps=250,
    limit=10.0,
    bounds=(_RAIL, 10.0, np.inf, np.inf, 20.0),
    circles=((2, 3),),
)
"""Cart and pole without friction (Barto, Sutton & Anderson 1983, with a uniform pole), to be swung up from below."""
