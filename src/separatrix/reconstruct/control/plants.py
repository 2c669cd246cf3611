"""Systems with an input: equations of motion in bounded coordinates, rewards, and where episodes begin.

Angles appear as cosine and sine, in which the equations have no jump and are polynomials where the body allows. They
are 0 upright. The input is held constant over a sampling interval.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

States = Float[np.ndarray, "*batch state"]
Inputs = Float[np.ndarray, "*batch input"]

Field = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Derivatives (state, ...) at states (state, ...) under inputs (input, ...): variables lead, so that each is in one
piece. It is called four times a step of each episode, hence by no signature that is checked while it runs."""


@dataclasses.dataclass(frozen=True)
class Plant:
    """A system x' = field(x, u) that is sampled every `dt` and judged by `reward(x, u)` at each sample.

    `circles` are the pairs of positions in `names` that are cosine and sine of an angle; they are kept on the circle.
    `mirrored` are the positions of the variables whose sign turns, with that of the inputs, in a mirror that changes
    nothing else. `accelerated` are those of the velocities of bodies that push each other: an equation of motion may
    hold the accelerations of the others. Inputs are within `limit`. `begin(generator, n)` draws n states at which
    episodes of `steps` samples begin; beyond `bounds` (per variable, infinite where there is none) states are clipped.
    An episode ends early where a variable of `ends` comes to its bound, and brings no more.
    """

    name: str
    names: tuple[str, ...]
    inputs: tuple[str, ...]
    field: Field
    reward: Callable[[np.ndarray, np.ndarray], np.ndarray]
    begin: Callable[[np.random.Generator, int], Float[np.ndarray, "n state"]]
    dt: float
    steps: int
    limit: float
    bounds: tuple[float, ...]
    circles: tuple[tuple[int, int], ...] = ()
    mirrored: tuple[int, ...] = ()
    accelerated: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()

    @property
    def scales(self) -> Float[np.ndarray, " state"]:
        """The size of each variable as far as the bounds say: half of them, and one where there is none."""
        bounds = np.array(self.bounds)
        return np.where(np.isfinite(bounds), bounds / 2.0, 1.0)

    def step(self, states: States, inputs: Inputs, *, substeps: int = 2) -> States:
        """The states one sampling interval later, by the classical Runge-Kutta method."""
        forced = np.clip(inputs, -self.limit, self.limit)
        return advance(self.field, states, forced, self, substeps)

    def ended(self, states: States) -> Bool[np.ndarray, "*batch"]:
        """Whether a variable at whose bound an episode ends is there."""
        found = np.zeros(states.shape[:-1], dtype=bool)
        for index in self.ends:
            found |= np.abs(states[..., index]) >= self.bounds[index]
        return found


def advance(field: Field, states: np.ndarray, inputs: np.ndarray, plant: Plant, substeps: int) -> np.ndarray:
    """One sampling interval of a field from states (..., state): inputs (..., input) held, circles and bounds kept."""
    width = plant.dt / substeps
    now, held = np.ascontiguousarray(states.T), np.ascontiguousarray(inputs.T)
    for _ in range(substeps):
        first = field(now, held)
        second = field(now + 0.5 * width * first, held)
        third = field(now + 0.5 * width * second, held)
        fourth = field(now + width * third, held)
        now = now + width / 6.0 * (first + 2.0 * (second + third) + fourth)
    if not np.isfinite(now).all():
        now = np.nan_to_num(now)
    for index, bound in enumerate(plant.bounds):
        if np.isfinite(bound):
            now[index] = np.clip(now[index], -bound, bound)
    for cosine, sine in plant.circles:
        radius = np.maximum(np.hypot(now[cosine], now[sine]), 1e-12)
        now[cosine] /= radius
        now[sine] /= radius
    return now.T


_GRAVITY, _MASS, _LENGTH = 10.0, 1.0, 1.0


def _pendulum(states: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    cosine, sine, speed = states
    turn = 1.5 * _GRAVITY / _LENGTH * sine + 3.0 / (_MASS * _LENGTH**2) * inputs[0]
    return np.array([-sine * speed, cosine * speed, turn])


def _upright(states: np.ndarray, inputs: np.ndarray) -> np.ndarray:
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
    mirrored=(1, 2),
)
"""A rod of uniform mass, too heavy for its motor to lift at once; constants and reward of Gymnasium's Pendulum-v1."""

_CART, _POLE, _HALF = 1.0, 0.1, 0.5
_EARTH = 9.8
_RAIL = 2.4


def _cart_pole(states: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    _, velocity, cosine, sine, speed = states
    whole = _CART + _POLE
    push = (inputs[0] + _POLE * _HALF * speed * speed * sine) / whole
    turn = (_EARTH * sine - cosine * push) / (_HALF * (4.0 / 3.0 - _POLE / whole * cosine * cosine))
    pull = push - _POLE * _HALF / whole * turn * cosine
    return np.array([velocity, pull, -sine * speed, cosine * speed, turn])


def _up_in_the_middle(states: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    position, _, cosine, _, speed = (states[..., index] for index in range(5))
    centred = 0.5 * (1.0 + np.exp(_TENTH * (position / 2.0) ** 2))
    slow = 0.5 * (1.0 + np.exp(_TENTH * (speed / 5.0) ** 2))
    gentle = 1.0 - 0.2 * (inputs[..., 0] / 10.0) ** 2
    return np.asarray(0.5 * (1.0 + cosine) * centred * slow * gentle)


_TENTH = float(np.log(0.1))


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
    mirrored=(0, 1, 3, 4),
    accelerated=(1, 4),
    ends=(0,),
)
"""Cart and pole without friction (Barto, Sutton & Anderson 1983, with a uniform pole), to be swung up from below.

Reward as in the swing-up of Tassa et al. 2018 (arXiv:1801.00690): pole up, times cart in the middle, slow turning and
little force. An episode ends where the rail does.
"""
