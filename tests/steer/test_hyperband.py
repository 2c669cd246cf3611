"""Hyperband: the plan against both published tables, the driver against a literal transcription."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import optuna
import pytest

from separatrix.steer.tuning import Job, Parameter, Search, Space, SweepError, brackets, hyperband

SPACE = Space((Parameter("x", 0.0, 1.0), Parameter("kind", choices=("a", "b"))))
optuna.logging.set_verbosity(optuna.logging.WARNING)


def _study(seed: int = 0, direction: str = "minimize") -> Any:
    return optuna.create_study(direction=direction, sampler=optuna.samplers.RandomSampler(seed=seed))


@pytest.mark.parametrize(("edition", "starts"), [("ceiling", [81, 34, 15, 8, 5]), ("floor", [81, 27, 9, 6, 5])])
def test_the_published_tables(edition: Any, starts: list[int]) -> None:
    plan = brackets(81, 3, edition=edition)
    assert [bracket.index for bracket in plan] == [4, 3, 2, 1, 0]
    assert [bracket.configurations for bracket in plan] == starts
    assert [rung.resource for rung in plan[0].rungs] == [1, 3, 9, 27, 81]
    assert [rung.configurations for rung in plan[0].rungs] == [81, 27, 9, 3, 1]


def test_rungs_of_the_first_editions_table() -> None:
    found = {b.index: [(r.configurations, int(r.resource)) for r in b.rungs] for b in brackets(81, edition="floor")}
    assert found == {
        4: [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)],
        3: [(27, 3), (9, 9), (3, 27), (1, 81)],
        2: [(9, 9), (3, 27), (1, 81)],
        1: [(6, 27), (2, 81)],
        0: [(5, 81)],
    }


@pytest.mark.parametrize("maximum", [1, 2, 9, 10, 80, 81, 100, 243, 1000])
@pytest.mark.parametrize("eta", [2, 3, 4])
def test_a_plan_is_what_the_algorithm_says(maximum: int, eta: int) -> None:
    """Algorithm 1 of the journal in floating point, with a nudge where its logarithm should be whole."""
    cuts = math.floor(math.log(maximum) / math.log(eta) + 1e-9)
    budget = (cuts + 1) * maximum
    expected = []
    for s in range(cuts, -1, -1):
        n = math.ceil(budget / maximum * eta**s / (s + 1) - 1e-9)
        r = maximum * eta**-s
        expected.append([(math.floor(n * eta**-i + 1e-9), pytest.approx(r * eta**i)) for i in range(s + 1)])
    assert [[(g.configurations, float(g.resource)) for g in b.rungs] for b in brackets(maximum, eta)] == expected
    assert all(b.rungs[-1].resource == maximum and b.rungs[-1].configurations >= 1 for b in brackets(maximum, eta))


def test_what_a_bracket_costs() -> None:
    bracket = brackets(9, 3)[0]
    assert bracket.cost(resumed=False) == 9 * 1 + 3 * 3 + 1 * 9
    assert bracket.cost(resumed=True) == 9 * 1 + 3 * 2 + 1 * 6


@pytest.mark.parametrize(("maximum", "eta", "edition"), [(0, 3, "ceiling"), (9, 1, "ceiling"), (9, 3, "round")])
def test_bad_plans_are_refused(maximum: int, eta: int, edition: Any) -> None:
    with pytest.raises(SweepError):
        brackets(maximum, eta, edition=edition)


def _loss(x: float, resource: float) -> float:
    return (x - 0.3) ** 2 + 1 / (1 + resource)


def _literal(seed: int, maximum: int, eta: int) -> tuple[list[tuple[float, float]], float]:
    """(spent, loss) of every incumbent and what was spent in all, by loops over lists."""
    study = _study(seed)
    spent, best, found = 0.0, math.inf, []
    for bracket in brackets(maximum, eta):
        configurations = [study.ask(SPACE.distributions()).params["x"] for _ in range(bracket.configurations)]
        before = 0.0
        for i, rung in enumerate(bracket.rungs):
            losses = []
            for x in configurations:
                losses.append(_loss(x, float(rung.resource)))
                spent += float(rung.resource) - before
                if losses[-1] < best:
                    best = losses[-1]
                    found.append((spent, best))
            before = float(rung.resource)
            if i + 1 < len(bracket.rungs):
                kept = sorted(sorted(range(len(losses)), key=losses.__getitem__)[: len(configurations) // eta])
                configurations = [configurations[k] for k in kept]
    return found, spent


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_driver_does_what_the_algorithm_says(seed: int) -> None:
    study = _study(seed)
    search = hyperband(
        study, SPACE, lambda jobs: [_loss(job.parameters["x"], float(job.resource)) for job in jobs], brackets(27)
    )
    expected, spent = _literal(seed, 27, 3)
    assert [(float(each.spent), each.loss) for each in search.incumbents] == [pytest.approx(pair) for pair in expected]
    assert float(search.spent) == pytest.approx(spent)
    assert search.spent == sum(bracket.cost(resumed=True) for bracket in brackets(27))
    assert search.best is not None and search.best.loss == study.best_value
    states = [trial.state.name for trial in study.trials]
    assert states.count("COMPLETE") == sum(bracket.rungs[-1].configurations for bracket in brackets(27))
    assert states.count("COMPLETE") + states.count("PRUNED") == len(states)


def test_jobs_go_on_from_rung_to_rung() -> None:
    seen: list[Sequence[Job]] = []

    def train(jobs: Sequence[Job]) -> list[float]:
        seen.append(jobs)
        return [job.parameters["x"] for job in jobs]

    search = hyperband(_study(), SPACE, train, brackets(9)[:1])
    assert [(len(jobs), jobs[0].trained, jobs[0].resource) for jobs in seen] == [(9, 0, 1), (3, 1, 3), (1, 3, 9)]
    best_three = sorted(job.parameters["x"] for job in seen[0])[:3]
    assert sorted(job.parameters["x"] for job in seen[1]) == best_three
    assert seen[2][0].parameters["x"] == best_three[0]
    assert [row.spent for row in search.ledger] == [9, 6, 6]


def test_losses_that_are_not_finite_rank_last() -> None:
    def train(jobs: Sequence[Job]) -> list[float]:
        return [math.nan if job.number % 3 else job.parameters["x"] for job in jobs]

    study = _study()
    search = hyperband(study, SPACE, train, brackets(9))
    assert search.best is not None and math.isfinite(search.best.loss)
    assert all(math.isfinite(trial.value) for trial in study.trials if trial.state.name == "COMPLETE")
    assert hyperband(_study(), SPACE, lambda jobs: [math.inf] * len(jobs), brackets(9)).best is None


def test_regret_and_the_cost_of_a_loss() -> None:
    rng = random.Random(0)
    search = hyperband(_study(), SPACE, lambda jobs: [rng.random() for _ in jobs], brackets(9))
    assert search.regret(0, 0.0) == math.inf
    curve = [search.regret(spent, 0.0) for spent in range(1, int(search.spent) + 1)]
    assert curve == sorted(curve, reverse=True)
    assert search.best is not None
    assert search.cost_of(search.best.loss) == search.best.spent
    assert search.cost_of(-1.0) == math.inf
    assert Search((), ()).spent == Fraction(0)


def test_bad_input_to_the_driver_is_refused() -> None:
    with pytest.raises(SweepError, match="maximises"):
        hyperband(_study(direction="maximize"), SPACE, lambda jobs: [0.0] * len(jobs), brackets(3))
    with pytest.raises(SweepError, match="1 losses"):
        hyperband(_study(), SPACE, lambda jobs: [0.0], brackets(3))
