"""The hierarchy's modes against a numerical decomposition, and its table against the tree."""

from __future__ import annotations

import pytest
import torch

from separatrix.tasks import SemanticHierarchy, TaskError

TREES = [(2, 1), (2, 4), (3, 2), (5, 2)]


def _tree(branching: int, levels: int, seed: int = 3) -> SemanticHierarchy:
    return SemanticHierarchy(branching=branching, levels=levels, seed=seed, dtype=torch.float64)


@pytest.mark.parametrize(("branching", "levels"), TREES)
def test_modes_are_the_singular_vectors_of_the_whole_distribution(branching: int, levels: int) -> None:
    tree = _tree(branching, levels)
    inputs, targets = tree.dataset
    correlation = targets.T @ inputs / len(inputs)
    modes = tree.modes
    torch.testing.assert_close(modes.left @ modes.values.diag() @ modes.right.T, correlation, rtol=0, atol=1e-14)
    unit = torch.eye(tree.items, dtype=torch.float64)
    torch.testing.assert_close(modes.left.T @ modes.left, unit, rtol=0, atol=1e-13)
    torch.testing.assert_close(modes.right.T @ modes.right, unit, rtol=0, atol=1e-13)
    torch.testing.assert_close(modes.values, torch.linalg.svdvals(correlation), rtol=1e-12, atol=0)
    broad = [float(modes.values[modes.level == level].max()) for level in range(-1, levels)]
    assert broad == sorted(broad, reverse=True) and len(set(broad)) == levels + 1


@pytest.mark.parametrize(("branching", "levels"), TREES)
def test_items_share_the_properties_of_their_common_ancestors(branching: int, levels: int) -> None:
    table = _tree(branching, levels).table
    assert (table.sum(1) == levels + 1).all()
    shared = table @ table.T
    # An ultrametric: of any three items two pairs share least, and equally much.
    least = torch.minimum(shared[:, :, None], shared[:, None, :])
    assert (shared[None] >= least).all()
    counts = torch.stack([(shared[0] >= level).sum() for level in range(1, levels + 2)])
    assert counts.tolist() == [branching ** (levels - level) for level in range(levels + 1)]


def test_samples_are_items_with_their_properties_and_the_seed_deals_them() -> None:
    tree = _tree(2, 3)
    inputs, targets = tree.sample(200, 0)
    torch.testing.assert_close(targets, tree.table[inputs.argmax(1)])
    assert set(inputs.argmax(1).tolist()) == set(range(8))
    assert not torch.equal(tree.table, _tree(2, 3, seed=4).table)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [({"branching": 1}, "branching=1 must be a whole number from 2"), ({"levels": 13}, "levels=13 must be at most 12")],
)
def test_a_bad_knob_is_one_line_that_names_it(knobs: dict[str, int], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        SemanticHierarchy(**knobs)  # type: ignore[arg-type]
