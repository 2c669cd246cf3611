"""Latent states, change points and detours against sequences whose truth was planted."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from tests.analysis.synthetic import run_of

from separatrix.analysis.phases import (
    LatentStates,
    bigram_shares,
    change_points,
    common_grid,
    detours,
    explained_held_out,
    latent_states,
    run_states,
    state_shares,
)
from separatrix.runs import UsageError
from separatrix.runs.errors import UnknownSeriesError

MEANS = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 5.0], [-3.0, 3.0]])


def simulated(seed: int, runs: int = 6, steps: int = 120, states: int = 3) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Sequences of a left-to-right chain that may fall back, and their states."""
    draw = np.random.default_rng(seed)
    stay = 0.95
    paths, values = [], []
    for _ in range(runs):
        path = [0]
        for _ in range(steps - 1):
            others = [s for s in range(states) if s != path[-1]]
            path.append(path[-1] if draw.random() < stay else int(draw.choice(others)))
        paths.append(np.array(path))
        values.append(MEANS[paths[-1]] + draw.standard_normal((steps, 2)))
    return values, paths


def agreement(found: list[np.ndarray], truth: list[np.ndarray], states: int) -> float:
    """Share of steps in the right state under the best renaming."""
    a, b = np.concatenate(found), np.concatenate(truth)
    return max(float(np.mean(np.array(order)[a] == b)) for order in itertools.permutations(range(states)))


@pytest.mark.parametrize(("states", "seed"), [(2, 1), (3, 0), (4, 1)])
def test_the_planted_states_and_their_number_are_recovered(states: int, seed: int) -> None:
    values, truth = simulated(seed, states=states)
    found = latent_states(values, ("x", "y"), states=range(1, 6), seed=seed)
    assert found.count == states == min(found.bic, key=lambda k: found.bic[k])
    assert agreement(list(found.paths), truth, states) > 0.95
    assert np.allclose(found.transitions.sum(axis=1), 1.0)
    assert found.transitions.diagonal() == pytest.approx(0.95, abs=0.04)
    recovered = found.means * found.scale + found.center
    distances = np.linalg.norm(recovered[:, None] - MEANS[None, :states], axis=-1)
    assert distances.min(axis=1).max() < 0.4


def test_noise_has_one_state() -> None:
    for seed in range(3):
        draw = np.random.default_rng(seed)
        assert latent_states([draw.standard_normal((200, 2))], states=range(1, 4), seed=seed).count == 1


def test_likelihood_and_bic_are_those_of_the_definition() -> None:
    """Summed over all paths of a short sequence by brute force in float64."""
    values, _ = simulated(0, runs=3, steps=7, states=2)
    found = latent_states(values, states=(2,), resolution=0.3)
    total = 0.0
    for sequence in values:
        z = (sequence - found.center) / found.scale
        logs = -0.5 * ((z[:, None] - found.means) ** 2 / found.variances + np.log(2 * np.pi * found.variances)).sum(-1)
        paths = itertools.product(range(2), repeat=len(z))
        density = 0.0
        for path in paths:
            p = found.initial[path[0]] * np.prod([found.transitions[a, b] for a, b in itertools.pairwise(path)])
            density += p * math.exp(sum(logs[t, s] for t, s in enumerate(path)))
        total += math.log(density)
    assert found.log_likelihood == pytest.approx(total, rel=1e-9)
    assert found.bic[2] == pytest.approx((1 + 2 + 8) * math.log(21) - 2 * total, rel=1e-9)


def test_states_are_numbered_by_time_and_transitions_name_what_changes() -> None:
    staged = [np.sort(np.array([0] * 40 + [1] * 40 + [2] * 40)) for _ in range(5)]
    draw = np.random.default_rng(0)
    values = [MEANS[path] + 0.5 * draw.standard_normal((120, 2)) for path in staged]
    found = latent_states(values, ("x", "y"), states=(3,))
    assert all(np.all(np.diff(path) >= 0) for path in found.paths)
    first, second = found.changes(most=1)
    assert (first.source, first.target, first.count) == (0, 1, 5)
    assert (second.source, second.target, second.count) == (1, 2, 5)
    assert (first.series[0][0], second.series[0][0]) == ("x", "y")
    assert first.series[0][1] == pytest.approx(4.0 / found.scale[0], rel=0.1)


def test_equal_seeds_give_equal_models_and_units_do_not_matter() -> None:
    values, _ = simulated(2)
    first, second = (latent_states(values, states=(2, 3), seed=5) for _ in range(2))
    assert np.array_equal(first.means, second.means)
    scaled = latent_states([1000.0 * v - 7.0 for v in values], states=(2, 3), seed=5)
    assert agreement(list(scaled.paths), list(first.paths), first.count) == 1.0


def test_stretches_of_equal_values_do_no_harm() -> None:
    path = np.repeat([0.0, 1.0, 1.0, 3.0], 30)[:, None]
    found = latent_states([path, path], states=(1, 2, 3))
    assert found.count == 3
    assert found.variances.min() == pytest.approx(0.05**2)


@pytest.mark.parametrize(
    ("sequences", "options", "part"),
    [
        ([], {}, "at least one sequence"),
        ([np.zeros((5, 1))], {"states": (1,)}, "never varies"),
        ([np.full((5, 1), np.nan)], {}, "not finite"),
        ([np.arange(5.0)[:, None]], {"states": (9,)}, "5 steps in all"),
        ([np.arange(5.0)[:, None]], {"names": ("a", "b"), "states": (1,)}, "2 names for 1"),
    ],
)
def test_what_cannot_be_fitted_is_refused(sequences: list[np.ndarray], options: dict, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        latent_states(sequences, **options)


def planted_runs(seed: int, runs: int = 24) -> tuple[LatentStates, np.ndarray, np.ndarray]:
    """Half of the runs go through state 1 and converge 300 steps later."""
    draw = np.random.default_rng(seed)
    detoured = np.arange(runs) % 2 == 0
    paths = [np.array([0] * 20 + ([1] * 15 if long else []) + [2] * 20) for long in detoured]
    values = [MEANS[path] + 0.5 * draw.standard_normal((len(path), 2)) for path in paths]
    times = 1000.0 + 300.0 * detoured + 30.0 * draw.standard_normal(runs)
    return latent_states(values, states=(3,), seed=seed), times, detoured


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_detour_is_found_with_its_delay(seed: int) -> None:
    states, times, detoured = planted_runs(seed)
    found = detours(states, times)
    assert len(found.states) == 1
    assert found.states[0].state == 1
    assert found.states[0].runs == 12
    assert found.states[0].delay == pytest.approx(300.0, abs=40.0)
    assert found.states[0].mean_delay == pytest.approx(float(times[detoured].mean() - times[~detoured].mean()))
    assert found.r2 > 0.9
    assert found.p_value < 0.01
    assert explained_held_out(state_shares(states), times) > 0.8
    assert explained_held_out(bigram_shares(states), times) > 0.8


def test_one_run_that_visits_neither_of_two_states_does_not_decide() -> None:
    """Late runs visit state 1, the others state 2, except the latest of all, which visits neither."""
    late = np.arange(24) % 2 == 0
    paths = [np.array([0, 1 if long else 2, 3]) for long in late]
    paths[1] = np.array([0, 0, 3])
    times = np.where(late, 1300.0, 1000.0)
    times[1] = 2500.0
    ones = np.ones((4, 1))
    states = LatentStates(
        ("x",), ones[0], ones[0], ones, ones, np.ones(4) / 4, np.full((4, 4), 0.25), tuple(paths), 0.0, {4: 0.0}
    )
    found = detours(states, times)
    assert found.optional == (1,)
    assert [each.state for each in found.states] == [1]


def test_times_that_have_nothing_to_do_with_states_show_no_detour() -> None:
    values = []
    states, given, _ = planted_runs(0)
    for seed in range(20):
        times = np.random.default_rng(seed + 100).permutation(given)
        values.append(detours(states, times, seed=seed, shuffles=200).p_value)
    assert sum(p < 0.05 for p in values) <= 3
    assert explained_held_out(state_shares(states), times) < 0.3


def test_shares_sum_to_one() -> None:
    states, times, _ = planted_runs(0)
    assert state_shares(states).sum(axis=1) == pytest.approx(1.0)
    assert bigram_shares(states).sum(axis=1) == pytest.approx(1.0)
    with pytest.raises(UsageError, match="3 times for 24 runs"):
        detours(states, times[:3])


@pytest.mark.parametrize("seed", range(5))
def test_change_points_are_found_within_two_steps(seed: int) -> None:
    draw = np.random.default_rng(seed)
    levels = np.repeat([0.0, 4.0, 1.0, 6.0], [100, 150, 80, 120])
    found = change_points(levels + draw.standard_normal(len(levels)))
    assert len(found) == 3
    assert np.abs(np.array(found) - [100, 250, 330]).max() <= 2
    again = change_points(1e6 * (levels + np.random.default_rng(seed).standard_normal(len(levels))) - 3.0)
    assert again == found


def test_noise_has_no_change_points() -> None:
    draws = [np.random.default_rng(seed).standard_normal(400) for seed in range(40)]
    assert sum(len(change_points(values)) > 0 for values in draws) <= 1
    assert change_points(np.full(50, 3.0)) == ()
    both = np.stack(draws[:2], axis=1)
    assert change_points(both) == ()


def test_levels_that_change_together_in_two_series_are_found() -> None:
    draw = np.random.default_rng(0)
    levels = np.repeat([0.0, 1.2], 100)[:, None] * np.array([1.0, -1.0])
    found = change_points(levels + draw.standard_normal((200, 2)))
    assert len(found) == 1
    assert abs(found[0] - 100) <= 8
    with pytest.raises(UsageError, match="at least 8 finite"):
        change_points(np.arange(5.0))


def test_a_grid_averages_interpolates_and_holds(tmp_path: Path) -> None:
    values = np.arange(50.0, 150.0)
    with run_of(tmp_path / "run", {"loss": values}, {}) as run:
        grid = common_grid(run, ("loss",), points=10)
    assert grid.steps.tolist() == [4, 14, 24, 34, 44, 54, 64, 74, 84, 94]
    assert grid.values[:, 0] == pytest.approx(np.arange(54.5, 150.0, 10.0))
    assert grid.logarithmic == ()


def test_series_with_steps_of_their_own_meet_on_the_grid(make_run) -> None:
    from separatrix.runs import open_run

    every = {step: 100.0 * 0.97**step for step in range(1, 201)}
    sparse = {step: float(step) for step in (20, 120, 180)}
    rate = {1: 0.1, 101: 0.005}
    scalars = {"loss": every, "sharpness": sparse, "learning_rate": rate, "constant": dict.fromkeys(every, 1.0)}
    with open_run(make_run(scalars=scalars)) as run:
        grid = common_grid(run, points=16)
        with pytest.raises(UnknownSeriesError, match="no series 'nonsense'"):
            common_grid(run, ("nonsense",))
    assert sorted(grid.names) == ["learning_rate", "loss", "sharpness"]
    assert (grid.steps.min(), grid.steps.max()) == (24, 175)
    column = dict(zip(grid.names, grid.values.T, strict=True))
    assert column["sharpness"] == pytest.approx(grid.steps, abs=6)
    assert np.exp(column["learning_rate"]) == pytest.approx(np.where(grid.steps < 101, 0.1, 0.005))
    assert set(grid.logarithmic) == {"loss", "learning_rate"}


def test_states_of_runs_on_disk(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    level = np.repeat([2.0, 1.0, 0.2], 50)
    runs = [
        run_of(tmp_path / str(i), {"loss": level + 0.05 * draw.standard_normal(150), "accuracy": 1 - level / 3})
        for i in range(3)
    ]
    found = run_states(runs, points=150, states=(1, 2, 3, 4), resolution=0.1)
    assert found.count == 3
    assert sorted(found.names) == ["accuracy", "loss"]
    assert all(np.flatnonzero(np.diff(path)).tolist() == [49, 99] for path in found.paths)
