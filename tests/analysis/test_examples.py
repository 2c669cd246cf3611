"""Per-example dynamics against literal loops over the papers' definitions, closed cases and planted groups."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from separatrix.analysis.examples import (
    ExamplesError,
    agreement_of_seeds,
    agreement_with_the_end,
    alternation,
    area_under_margin,
    below_threshold,
    confusion,
    data_map,
    error_norms,
    forgetting,
    kinds,
    margins,
    mean_over_seeds,
    most_important,
    opposing_groups,
    rank_correlation,
    sharp_rows,
    threshold_examples,
    typical_and_atypical,
)

NAN = math.nan


def _with_gaps(values: np.ndarray, generator: np.random.Generator, share: float = 0.2) -> np.ndarray:
    return np.where(generator.random(values.shape) < share, NAN, values)


def _forgetting_one(history: list[float]) -> tuple[int, float, bool, bool]:
    """Toneva et al., literally, for the presentations of one example."""
    events, first, before = 0, math.inf, None
    for row, now in enumerate(history):
        if math.isnan(now):
            continue
        if before == 1.0 and now == 0.0:
            events += 1
        if now == 1.0 and first == math.inf:
            first = row
        before = now
    if before is None:
        first = NAN
    return events, first, first < math.inf and events == 0, first == math.inf


@pytest.mark.parametrize("seed", range(3))
def test_forgetting_follows_the_definition(seed: int) -> None:
    generator = np.random.default_rng(seed)
    correct = _with_gaps((generator.random((9, 200)) < 0.6).astype(float), generator, 0.3)
    correct[:, 0], correct[:, 1], correct[:, 2] = NAN, 0.0, 1.0
    found = forgetting(correct)
    for example in range(200):
        expected = _forgetting_one(list(correct[:, example]))
        got = found.events[example], found.first_learnt[example]
        np.testing.assert_equal(got, expected[:2])
        assert (found.unforgettable[example], found.never_learnt[example]) == expected[2:]
    np.testing.assert_equal(found.ranking[:3], [NAN, math.inf, 0.0])


def test_margins_are_those_of_a_loop_and_their_area_is_the_mean_of_what_was_seen() -> None:
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(6, 40, 5)), generator.integers(5, size=40)
    found = margins(logits, labels)
    expected = [
        [row[label] - max(row[k] for k in range(5) if k != label) for row, label in zip(epoch, labels, strict=True)]
        for epoch in logits
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    gaps = _with_gaps(found, generator)
    gaps[:, 0] = NAN
    means = [np.mean([v for v in gaps[:, i] if not math.isnan(v)]) for i in range(1, 40)]
    np.testing.assert_allclose(area_under_margin(gaps), [NAN, *means], rtol=1e-12)


def test_two_threshold_runs_judge_every_example() -> None:
    examples, classes = 230, 9
    chosen = threshold_examples(examples, classes, 2, seed=3)
    assert [len(part) for part in chosen] == [23, 23]
    assert not set(chosen[0]) & set(chosen[1])
    generator = np.random.default_rng(1)
    areas = [generator.normal(size=examples) for _ in chosen]
    verdict = below_threshold(areas, chosen)
    for example in range(examples):
        run = 1 if example in chosen[0] else 0
        cut = np.percentile(areas[run][chosen[run]], 99)
        assert verdict.judged_by[example] == run
        assert verdict.suspected[example] == (areas[run][example] <= cut)
    alone = below_threshold(areas[:1], chosen[:1])
    assert (alone.judged_by[chosen[0]] == -1).all()
    assert not alone.suspected[chosen[0]].any()


def test_a_data_map_follows_its_definition() -> None:
    generator = np.random.default_rng(2)
    chances = _with_gaps(generator.random((7, 50)), generator)
    correct = np.where(np.isnan(chances), NAN, chances > 0.5)
    found = data_map(chances, correct)
    for example in range(50):
        seen = [v for v in chances[:, example] if not math.isnan(v)]
        mean = sum(seen) / len(seen)
        spread = math.sqrt(sum((v - mean) ** 2 for v in seen) / len(seen))
        share = sum(v > 0.5 for v in seen) / len(seen)
        measured = found.confidence[example], found.variability[example], found.correctness[example]
        np.testing.assert_allclose(measured, (mean, spread, share), rtol=1e-12)


def test_regions_hold_what_they_are_named_after() -> None:
    easy, wavering, hard = np.full(4, 0.9), np.array([0.1, 0.9, 0.1, 0.9]), np.full(4, 0.1)
    chances = np.stack([easy, wavering, hard, np.full(4, NAN)], axis=1)
    found = data_map(chances, np.where(np.isnan(chances), NAN, chances > 0.5))
    regions = [found.region(name, 0.33).tolist() for name in ("easy-to-learn", "ambiguous", "hard-to-learn")]
    assert regions == [[0], [1], [2]]
    np.testing.assert_equal(found.correctness, [1.0, 0.5, 0.0, NAN])
    assert sorted(found.region("ambiguous", 1.0)) == [0, 1, 2]


def test_error_norms_are_gradients_of_the_loss_in_the_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(30, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    labels = torch.randint(4, (30,), generator=generator)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, logits)
    chances = torch.softmax(logits, 1).detach().numpy()
    np.testing.assert_allclose(error_norms(chances, labels.numpy()), gradient.norm(dim=1).numpy(), rtol=1e-12)
    np.testing.assert_allclose(error_norms(np.eye(3), np.arange(3)), 0.0)
    np.testing.assert_allclose(error_norms(np.eye(3), np.array([1, 2, 0])), math.sqrt(2))


def test_what_is_kept_are_the_highest_scores_after_those_skipped() -> None:
    scores = np.array([0.3, 0.9, 0.1, NAN, 0.5, 0.7, 0.2, 0.8, 0.4, 0.6])
    assert most_important(scores, 0.3).tolist() == [1, 5, 7]
    assert most_important(scores, 0.3, skip=0.1).tolist() == [5, 7, 9]
    assert most_important(scores, 0.9).tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    np.testing.assert_allclose(mean_over_seeds([scores, 3 * scores]), 2 * scores)


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlation_is_spearmans(seed: int) -> None:
    from scipy.stats import spearmanr

    generator = np.random.default_rng(seed)
    first = generator.integers(6, size=80).astype(float)
    second = first + generator.integers(6, size=80)
    expected = spearmanr(first, second).statistic
    assert rank_correlation(first, second) == pytest.approx(expected, rel=1e-12)
    with_gap = np.append(first, NAN), np.append(second, 1.0)
    assert rank_correlation(*with_gap) == pytest.approx(expected, rel=1e-12)
    assert rank_correlation(np.exp(first), -second) == pytest.approx(-expected, rel=1e-12)
    infinite = np.where(second == second.max(), np.inf, second)
    assert rank_correlation(infinite, second) == pytest.approx(1.0)
    assert math.isnan(rank_correlation(first, np.ones(80)))
    both = np.stack([first, second, first])
    assert agreement_of_seeds(both) == pytest.approx((1 + 2 * expected) / 3, rel=1e-12)
    np.testing.assert_allclose(agreement_with_the_end(both), [1.0, expected, 1.0], rtol=1e-12)


def _kinds_by_hand(losses: np.ndarray, suites: dict[str, np.ndarray], neighbours: int) -> np.ndarray:
    owner = {int(p): number for number, part in enumerate(suites.values()) for p in part}
    shares = np.zeros((losses.shape[1], len(suites)))
    for example in range(losses.shape[1]):
        others = [p for p in owner if p != example]
        distances = [math.dist(losses[:, p], losses[:, example]) for p in others]
        for index in np.argsort(distances)[:neighbours]:
            shares[example, owner[others[index]]] += 1 / neighbours
    return shares


def test_kinds_are_those_of_the_nearest_probes_but_itself() -> None:
    generator = np.random.default_rng(4)
    losses = generator.normal(size=(5, 90))
    suites = {"typical": np.arange(0, 20), "atypical": np.arange(30, 45), "corrupted": np.arange(60, 80)}
    found = kinds(losses, suites, 7)
    np.testing.assert_allclose(found.probabilities, _kinds_by_hand(losses, suites, 7), rtol=1e-12)
    table = confusion(found, suites)
    np.testing.assert_allclose(table.sum(axis=1), 1.0)
    expected = np.mean([found.likeliest[p] == "atypical" for p in suites["atypical"]])
    assert table[1, 1] == pytest.approx(expected)


def test_planted_kinds_are_told_apart_and_gaps_are_bridged() -> None:
    generator = np.random.default_rng(5)
    shapes = np.stack([np.linspace(2, 0, 8), np.full(8, 2.0), np.linspace(2, 1, 8)])
    truth = np.arange(300) % 3
    losses = shapes[truth].T + 0.05 * generator.normal(size=(8, 300))
    losses[2, 100:] = NAN
    losses[:, 299] = NAN
    suites = {str(kind): np.flatnonzero(truth[:90] == kind) for kind in range(3)}
    found = kinds(losses, suites, 10)
    assert [int(name) for name in found.likeliest[:299]] == truth[:299].tolist()
    assert np.isnan(found.probabilities[299]).all()
    np.testing.assert_allclose(confusion(found, suites), np.eye(3))
    np.testing.assert_array_equal(found.probability("1"), found.probabilities[:, 1])
    typical, atypical = typical_and_atypical(losses[:, :99], 33)
    assert (set(truth[typical]), set(truth[atypical])) == ({0}, {1})


def _swinging(generator: np.random.Generator) -> np.ndarray:
    """200 losses that fall slowly; examples 3, 7 swing against 11, 19, ever more until a step where it is largest."""
    rows = np.arange(30)
    losses = 1.0 - 0.01 * rows[:, None] + 0.002 * generator.normal(size=(30, 200))
    swing = np.where(rows == 21, 1.0, 0.2) * (-1.0) ** rows
    losses[:, [3, 7]] += swing[:, None]
    losses[:, [11, 19]] -= swing[:, None]
    return losses


def test_planted_opposing_groups_are_found() -> None:
    losses = _swinging(np.random.default_rng(6))
    assert set(sharp_rows(losses, 2)) == {20, 21}
    found = opposing_groups(losses, 2)
    groups = {frozenset(found.rising.tolist()), frozenset(found.falling.tolist())}
    assert groups == {frozenset((3, 7)), frozenset((11, 19))}
    assert found.rise == pytest.approx(1.2, abs=0.05)
    assert found.fall == pytest.approx(-1.2, abs=0.05)
    assert found.correlation < -0.99
    assert found.share > 0.5
    other = opposing_groups(losses, 2, row=found.row + 1)
    assert set(other.rising) == set(found.falling)


def test_what_cancels_at_a_step_is_counted_as_opposition() -> None:
    found = opposing_groups(np.array([[0.0, 0.0, 0.0], [3.0, -1.0, 0.5]]), 1)
    assert (found.rising.tolist(), found.falling.tolist()) == ([0], [1])
    assert found.opposition == pytest.approx(1 - 2.5 / 4.5)
    assert found.share == pytest.approx(4 / 4.5)
    assert math.isnan(found.correlation)


def test_alternation_tells_swings_from_slopes() -> None:
    assert alternation(np.array([1.0, -1.0, 1.0, -1.0])) == pytest.approx(-1.0)
    assert alternation(np.array([-1.0, -1.0, -1.0])) == pytest.approx(1.0)
    assert abs(alternation(np.random.default_rng(0).normal(size=4000))) < 0.05
    assert math.isnan(alternation(np.zeros(5)))


ROWS = np.zeros((3, 4))


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        (lambda: forgetting(np.zeros(4)), "give (epochs, examples)"),
        (lambda: area_under_margin(np.zeros((0, 4))), "at least 1 epochs"),
        (lambda: margins(ROWS, np.zeros(4, dtype=int)), "one label a row"),
        (lambda: margins(ROWS, np.array([0, 1, 4])), "number classes from 0"),
        (lambda: threshold_examples(10, 10, 2, 0), "disjoint threshold sets"),
        (lambda: below_threshold([np.zeros(3)], []), "one of each"),
        (lambda: data_map(ROWS + 2, ROWS), "probabilities in [0, 1]"),
        (lambda: data_map(ROWS, ROWS[:2]), "two equal shapes"),
        (lambda: data_map(ROWS, ROWS).region("easy", 0.3), "choose from easy-to-learn"),  # type: ignore[arg-type]
        (lambda: data_map(ROWS, ROWS).region("ambiguous", 0.0), "a share in (0, 1]"),
        (lambda: error_norms(ROWS, np.array([0, 1])), "one label a row"),
        (lambda: error_norms(ROWS, np.array([0, 1, 4])), "number classes from 0"),
        (lambda: most_important(np.zeros(4), 0.8, 0.3), "give a share"),
        (lambda: mean_over_seeds([]), "one of the same length"),
        (lambda: agreement_of_seeds(ROWS[:1]), "at least 2 epochs"),
        (lambda: kinds(ROWS, {"a": np.array([0]), "b": np.array([0])}, 1), "share no example"),
        (lambda: kinds(ROWS, {"a": np.array([0]), "b": np.array([9])}, 1), "positions below 4"),
        (lambda: kinds(ROWS, {"a": np.array([0]), "b": np.array([1])}, 2), "ask for fewer"),
        (lambda: kinds(ROWS * NAN, {"a": np.array([0]), "b": np.array([1])}, 1), "never seen"),
        (lambda: typical_and_atypical(ROWS, 3), "at most 2"),
        (lambda: opposing_groups(ROWS, 1), "only 0 examples"),
        (lambda: opposing_groups(ROWS, 1, row=2), "which has a next"),
        (lambda: sharp_rows(ROWS[:1]), "at least 2 epochs"),
    ],
)
def test_what_cannot_be_computed_is_refused_in_one_line(wrong: Callable[[], object], part: str) -> None:
    with pytest.raises(ExamplesError) as caught:
        wrong()
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
