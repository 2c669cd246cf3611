"""Model-based control: energies, Gymnasium's own equations, recovered coefficients, and policies by hand."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest
import scipy.integrate

from separatrix.reconstruct.control import (
    CART_POLE,
    PENDULUM,
    NeuralPolicy,
    Plant,
    RandomPolicy,
    Search,
    collect,
    distilled,
    gymnasium_environment,
    learn_surrogate,
    returns,
    search,
    visited,
)


def pendulum_energy(states: np.ndarray) -> np.ndarray:
    return states[..., 2] ** 2 / 6.0 + 10.0 * 0.5 * states[..., 0]


def cart_pole_energy(states: np.ndarray) -> np.ndarray:
    _, velocity, cosine, _, speed = np.moveaxis(states, -1, 0)
    body = 0.5 * 1.1 * velocity**2 + 0.1 * 0.5 * velocity * speed * cosine
    return body + 0.5 * (4.0 / 3.0) * 0.1 * 0.25 * speed**2 + 0.1 * 9.8 * 0.5 * cosine


@pytest.mark.parametrize(("plant", "energy"), [(PENDULUM, pendulum_energy), (CART_POLE, cart_pole_energy)])
def test_without_force_energy_is_conserved(plant: Plant, energy: object) -> None:
    states = plant.begin(np.random.default_rng(0), 50)
    inputs = np.zeros((50, 1))
    begin = energy(states)  # type: ignore[operator]
    for _ in range(20):
        states = plant.step(states, inputs, substeps=16)
    assert np.allclose(energy(states), begin, rtol=1e-6, atol=1e-6)  # type: ignore[operator]


def test_the_pendulum_is_gymnasiums() -> None:
    # Theirs takes one Euler step an interval, so that accelerations agree and positions follow to first order.
    theirs = gymnasium.make("Pendulum-v1").unwrapped
    for angle, speed, torque in ((0.3, 0.5, 1.0), (2.5, -1.0, -2.0), (-1.0, 2.0, 0.4)):
        theirs.reset(seed=0)
        theirs.state = np.array([angle, speed])
        _, reward, *_ = theirs.step(np.array([torque]))
        states = np.array([math.cos(angle), math.sin(angle), speed])
        own = PENDULUM.field(states, np.array([torque]))
        assert math.isclose((theirs.state[1] - speed) / 0.05, own[2], rel_tol=1e-5)
        assert math.isclose(reward, float(PENDULUM.reward(states, np.array([torque]))), rel_tol=1e-5)


def test_the_step_is_the_flow() -> None:
    states, inputs = PENDULUM.begin(np.random.default_rng(1), 1)[0], np.array([1.3])
    exact = scipy.integrate.solve_ivp(
        lambda t, x: PENDULUM.field(x, inputs), (0.0, PENDULUM.dt), states, rtol=1e-12, atol=1e-12
    ).y[:, -1]
    assert np.allclose(PENDULUM.step(states, inputs), exact, atol=1e-6)
    assert np.allclose(PENDULUM.step(states, inputs), PENDULUM.step(states, np.array([1.3])))
    assert np.array_equal(PENDULUM.step(states, np.array([9.0])), PENDULUM.step(states, np.array([2.0])))


@pytest.mark.parametrize("plant", [PENDULUM, CART_POLE])
def test_environments_keep_gymnasiums_contract(plant: Plant) -> None:
    from gymnasium.utils.env_checker import check_env

    environment = gymnasium_environment(plant)
    check_env(environment, skip_render_check=True)
    first, _ = environment.reset(seed=3)
    again, _ = environment.reset(seed=3)
    assert np.array_equal(first, again)
    total, done = 0.0, False
    while not done:
        _, reward, _, done, _ = environment.step(np.array([0.5]))
        total += reward
    by_hand = returns(plant, lambda states: np.full((*states.shape[:-1], 1), 0.5), first[None])
    assert math.isclose(total, float(by_hand[0]), rel_tol=1e-9)


def test_equations_of_the_pendulum_are_found_and_shuffled_torques_hide_them() -> None:
    random = RandomPolicy(2.0, np.random.default_rng(0))
    seen = collect(PENDULUM, random, 600, np.random.default_rng(1), exploration=1.0)
    found = learn_surrogate(seen, PENDULUM)
    terms = found.monomials.named((*PENDULUM.names, *PENDULUM.inputs))
    expected = {"cos": {"sin speed": -1.0}, "sin": {"cos speed": 1.0}, "speed": {"sin": 15.0, "torque": 3.0}}
    for name, column in zip(PENDULUM.names, found.coefficients.T, strict=True):
        truth = [expected[name].get(term, 0.0) for term in terms]
        assert np.allclose(column, truth, atol=0.03 * max(map(abs, truth))), name
    assert "torque" in found.equations()[2]
    states, inputs = seen.before[:50], seen.inputs[:50]
    assert np.abs(found.step(states, inputs) - seen.after[:50]).max() < 0.02


def test_a_polynomial_policy_is_distilled_exactly() -> None:
    def policy(states: np.ndarray) -> np.ndarray:
        return (0.5 * states[..., 1] - 0.2 * states[..., 0] * states[..., 2])[..., None]

    states = collect(PENDULUM, RandomPolicy(2.0, np.random.default_rng(0)), 400, np.random.default_rng(1)).before
    found = distilled(policy, states, PENDULUM, degree=2)
    assert found.terms == 2
    assert np.allclose(found(states), policy(states), atol=1e-6)
    assert "sin" in str(found) and "cos speed" in str(found)


def test_states_visited_are_those_of_single_episodes() -> None:
    def policy(states: np.ndarray) -> np.ndarray:
        return states[..., 1:2]

    begin = PENDULUM.begin(np.random.default_rng(4), 3)
    rows = visited(PENDULUM, policy, begin, np.random.default_rng(0)).reshape(PENDULUM.steps, 3, 3)
    state = begin[1]
    for t in range(30):
        assert np.allclose(rows[t, 1], state)
        state = PENDULUM.step(state, policy(state))


def test_a_batch_of_networks_is_each_network() -> None:
    draw = np.random.default_rng(0)
    size = NeuralPolicy.size(3, 4)
    weights, states = draw.normal(size=(5, size)), draw.normal(size=(5, 7, 3))
    together = NeuralPolicy(weights, 3, 4, 2.0)(states)
    for index in range(5):
        first = weights[index, :16].reshape(4, 4)
        last = weights[index, 16:].reshape(5, 1)
        hidden = np.tanh(states[index] @ first[:3] + first[3])
        assert np.allclose(together[index], 2.0 * np.tanh(hidden @ last[:4] + last[4]))


def test_the_search_gets_better_and_repeats_itself() -> None:
    short = Plant(**{**vars(PENDULUM), "steps": 40})
    found = search(short, Search.begin(short, 4), 12, np.random.default_rng(0), candidates=32, elite=6, starts=8)
    again = search(short, Search.begin(short, 4), 12, np.random.default_rng(0), candidates=32, elite=6, starts=8)
    assert np.array_equal(found[-1].search.mean, again[-1].search.mean)
    assert found[0].steps == 32 * 8 * 40
    begin = short.begin(np.random.default_rng(9), 100)
    before, after = (returns(short, each.search.policy(short), begin).mean() for each in (found[0], found[-1]))
    assert after > before
