"""Model-based control: energies, Gymnasium's own equations, recovered coefficients, and policies by hand."""

from __future__ import annotations

import dataclasses
import math

import gymnasium
import numpy as np
import pytest
import scipy.integrate

from separatrix.reconstruct.control import (
    CART_POLE,
    PENDULUM,
    Networks,
    OddPolynomials,
    Plant,
    RandomPolicy,
    Search,
    collect,
    distilled,
    gymnasium_environment,
    learn_surrogate,
    returns,
    search,
    thinned,
    visited,
)
from separatrix.reconstruct.control.surrogate import _solved


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
        _, reward, ended, truncated, _ = environment.step(np.array([0.5]))
        total, done = total + reward, ended or truncated
    assert ended == (plant is CART_POLE)  # a constant force drives the cart off its rail
    by_hand = returns(plant, lambda states: np.full((*states.shape[:-1], 1), 0.5), first[None])
    assert math.isclose(total, float(by_hand[0]), rel_tol=1e-9)


def test_equations_of_the_pendulum_are_found_and_shuffled_torques_hide_them() -> None:
    random = RandomPolicy(2.0, np.random.default_rng(0))
    seen = collect(PENDULUM, random, 600, np.random.default_rng(1), exploration=1.0)
    found = learn_surrogate(seen, PENDULUM)
    expected = {"cos": {"sin speed": -1.0}, "sin": {"cos speed": 1.0}, "speed": {"sin": 15.0, "torque": 3.0}}
    assert {name: set(terms) for name, terms in found.terms().items()} == {
        name: set(terms) for name, terms in expected.items()
    }
    for name, terms in expected.items():
        for term, value in terms.items():
            assert math.isclose(found.terms()[name][term], value, rel_tol=0.03), (name, term)
    assert "torque" in found.equations()[2]
    states, inputs = seen.before[:50], seen.inputs[:50]
    assert np.abs(found.step(states, inputs) - seen.after[:50]).max() < 0.02


def test_equations_of_the_cart_pole_hold_where_no_data_were_only_if_accelerations_are_terms() -> None:
    random = RandomPolicy(10.0, np.random.default_rng(0))
    seen = collect(CART_POLE, random, 600, np.random.default_rng(1), exploration=1.0)
    assert not CART_POLE.ended(seen.before).any()
    assert CART_POLE.ended(seen.after).sum() > 5
    draw = np.random.default_rng(2)
    angle, rest = draw.uniform(-1.0, 1.0, 200), draw.uniform(-1.0, 1.0, (4, 200))
    states = np.array([2.0 * rest[0], 4.0 * rest[1], np.cos(angle), np.sin(angle), 12.0 * rest[2]])
    inputs = 10.0 * rest[3:]
    assert np.quantile(seen.before[:, 2], 0.99) < states[2].min()  # all are above where the pole has been
    true = CART_POLE.field(states, inputs)
    size = np.sqrt(np.mean(true**2, axis=1))
    off = {}
    for implicit in (True, False):
        found = learn_surrogate(seen, CART_POLE, degree=3, implicit=implicit)
        off[implicit] = np.sqrt(np.mean((found.field(states, inputs) - true) ** 2, axis=1)) / size
    assert off[True].max() < 0.03
    assert off[False][4] > 3.0 * off[True][4]
    terms = learn_surrogate(seen, CART_POLE, degree=3).terms()
    for name, term, value in (
        ("velocity", "force", 1.0 / 1.1),
        ("velocity", "speed' cos", -0.05 / 1.1),
        ("velocity", "sin speed speed", 0.05 / 1.1),
        ("speed", "sin", 14.7),
        ("speed", "velocity' cos", -1.5),
    ):
        assert math.isclose(terms[name][term], value, rel_tol=0.03), (name, term)


def test_coupled_accelerations_are_solved_for() -> None:
    draw = np.random.default_rng(0)
    matrix, right = np.eye(3)[:, :, None] + 0.3 * draw.normal(size=(3, 3, 20)), draw.normal(size=(3, 20))
    expected = np.linalg.solve(matrix.transpose(2, 0, 1), right.T[:, :, None])[:, :, 0].T
    assert np.allclose(_solved(matrix, right), expected)


@pytest.mark.parametrize("plant", [PENDULUM, CART_POLE])
def test_nothing_but_signs_changes_in_the_mirror(plant: Plant) -> None:
    draw = np.random.default_rng(0)
    signs = np.where(np.isin(np.arange(len(plant.names)), plant.mirrored), -1.0, 1.0)
    states, inputs = plant.begin(draw, 30), plant.limit * draw.uniform(-1.0, 1.0, (30, 1))
    assert np.allclose(plant.step(states * signs, -inputs), plant.step(states, inputs) * signs)
    assert np.allclose(plant.reward(states * signs, -inputs), plant.reward(states, inputs))
    for family in (Networks(plant), OddPolynomials(plant)):
        policy = family.policy(draw.normal(size=family.size))
        assert np.allclose(policy(states * signs), -policy(states))


def test_episodes_bring_nothing_after_they_end() -> None:
    def right(states: np.ndarray) -> np.ndarray:
        return np.full((*states.shape[:-1], 1), 10.0)

    state, total, steps = CART_POLE.begin(np.random.default_rng(0), 1), 0.0, 0
    begin = state
    while abs(state[0, 0]) < 2.4:
        total += float(CART_POLE.reward(state, right(state))[0])
        state, steps = CART_POLE.step(state, right(state)), steps + 1
    assert steps < 50
    assert math.isclose(float(returns(CART_POLE, right, begin)[0]), total, rel_tol=1e-12)
    assert len(visited(CART_POLE, right, begin, np.random.default_rng(0))) == steps


def test_a_polynomial_policy_is_distilled_exactly() -> None:
    def policy(states: np.ndarray) -> np.ndarray:
        return (0.5 * states[..., 1] - 0.2 * states[..., 0] * states[..., 2])[..., None]

    states = collect(PENDULUM, RandomPolicy(2.0, np.random.default_rng(0)), 400, np.random.default_rng(1)).before
    found = distilled(policy, states, PENDULUM, degree=2)
    assert found.terms == 2
    assert np.allclose(found(states), policy(states), atol=1e-6)
    assert "sin" in str(found) and "cos speed" in str(found)


def test_a_clipped_polynomial_is_distilled_exactly() -> None:
    def policy(states: np.ndarray) -> np.ndarray:
        return np.clip(6.0 * states[..., 1] + 0.7 * states[..., 0] * states[..., 2], -2.0, 2.0)[..., None]

    states = collect(PENDULUM, RandomPolicy(2.0, np.random.default_rng(0)), 800, np.random.default_rng(1)).before
    assert (np.abs(policy(states)) == 2.0).mean() > 0.4
    found = distilled(policy, states, PENDULUM, degree=2)
    values = dict(zip(found.monomials.named(PENDULUM.names), found.coefficients[:, 0], strict=True))
    assert math.isclose(values["sin"], 6.0, rel_tol=1e-4)
    assert math.isclose(values["cos speed"], 0.7, rel_tol=1e-4)
    assert np.abs(distilled(policy, states, PENDULUM, degree=2, rounds=1)(states) - policy(states)).max() > 0.5


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
    family = Networks(PENDULUM, units=4)
    weights, states = draw.normal(size=(5, family.size)), draw.normal(size=(5, 7, 3))
    together = family.policy(weights)(states)

    def answer(row: np.ndarray, state: np.ndarray) -> float:
        hidden = np.tanh(np.array([state[0], state[1], state[2] / 4.0]) @ row[:12].reshape(3, 4) + row[12:16])
        return float(hidden @ row[16:])

    for row, batch, found in zip(weights, states, together, strict=True):
        for state, value in zip(batch, found, strict=True):
            turned = answer(row, state) - answer(row, state * np.array([1.0, -1.0, -1.0]))
            assert math.isclose(value[0], 2.0 * math.tanh(turned / 2.0), rel_tol=1e-9, abs_tol=1e-12)


def test_a_batch_of_polynomials_is_each_polynomial() -> None:
    draw = np.random.default_rng(0)
    family = OddPolynomials(CART_POLE, degree=3)
    assert family.size == 28
    weights, states = 0.02 * draw.normal(size=(4, family.size)), draw.normal(size=(4, 6, 5))
    together = family.policy(weights)(states)
    assert (np.abs(together) < 10.0).any()
    for row, batch, found in zip(weights, states, together, strict=True):
        scaled = batch / CART_POLE.scales
        by_hand = sum(
            weight * np.prod(scaled[:, list(family.monomials.factors[index])], axis=1)
            for weight, index in zip(row, family.kept, strict=True)
        )
        assert np.allclose(found[:, 0], np.clip(10.0 * by_hand, -10.0, 10.0))
        assert np.allclose(family.polynomial(row)(batch), found)


def test_the_search_gets_better_and_repeats_itself() -> None:
    short = dataclasses.replace(PENDULUM, steps=40)
    start = Search.begin(Networks(short, units=4))
    found = search(short, start, 12, np.random.default_rng(0), candidates=32, elite=6, starts=8)
    again = search(short, start, 12, np.random.default_rng(0), candidates=32, elite=6, starts=8)
    assert np.array_equal(found[-1].search.mean, again[-1].search.mean)
    assert found[0].steps == 32 * 8 * 40
    begin = short.begin(np.random.default_rng(9), 100)
    before, after = (returns(short, each.search.policy, begin).mean() for each in (found[0], found[-1]))
    assert after > before


def test_a_thinned_search_has_the_terms_asked_for_and_loses_little() -> None:
    short = dataclasses.replace(PENDULUM, steps=60)
    start = Search.begin(OddPolynomials(short))
    size = {"candidates": 32, "elite": 8, "starts": 8}
    found = search(short, start, 10, np.random.default_rng(0), **size)[-1].search
    fewer = thinned(short, found, 4, 6, np.random.default_rng(1), **size)
    least = thinned(short, fewer, 3, 1, np.random.default_rng(1), **size)
    polynomials = [each.family.polynomial(each.mean) for each in (found, fewer, least)]
    assert [each.terms for each in polynomials] == [found.family.size, 4, 3]
    kept = [set(np.flatnonzero(each.coefficients[:, 0])) for each in polynomials]
    assert kept[2] < kept[1] < kept[0]
    begin = short.begin(np.random.default_rng(9), 100)
    chance = returns(short, RandomPolicy(2.0, np.random.default_rng(3)), begin).mean()
    dense, sparse = (returns(short, each, begin).mean() - chance for each in polynomials[:2])
    assert sparse > 0.9 * dense > 0.0
    with pytest.raises(TypeError, match="OddPolynomials"):
        thinned(short, Search.begin(Networks(short)), 3, 1, np.random.default_rng(1))
