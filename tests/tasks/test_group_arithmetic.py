"""Groups are groups, the split is a partition, and corruption is what was asked for."""

from __future__ import annotations

import itertools

import pytest
import torch

from separatrix.tasks import GroupArithmetic, TaskError


@pytest.mark.parametrize(("group", "order", "elements"), [("cyclic", 7, 7), ("dihedral", 5, 10), ("symmetric", 4, 24)])
def test_the_table_is_that_of_a_group(group: str, order: int, elements: int) -> None:
    task = GroupArithmetic(group=group, order=order)
    table, numbers = task.table, torch.arange(elements)
    assert table.shape == (elements, elements) and task.elements == elements
    assert torch.equal(table[0], numbers) and torch.equal(table[:, 0], numbers)
    assert all(torch.equal(line.sort().values, numbers) for line in (*table, *table.T))
    assert torch.equal(table[table[:, :, None], numbers], table[numbers[:, None, None], table])
    assert torch.equal(table, table.T) == (group == "cyclic")


def test_permutations_compose_right_to_left() -> None:
    table, every = GroupArithmetic(group="symmetric", order=3).table, list(itertools.permutations(range(3)))
    for a, b in itertools.product(range(6), repeat=2):
        assert every[table[a, b]] == tuple(every[a][every[b][i]] for i in range(3))


def test_train_and_test_part_the_pairs_and_corruption_is_counted() -> None:
    task = GroupArithmetic(order=11, share=0.4, corrupted=0.25)
    seen = torch.cat([task.train.inputs, task.test.inputs])
    assert len({tuple(pair) for pair in seen.tolist()}) == 121 == len(seen)
    assert len(task.train.targets) == 48
    differing = task.train.targets != task.train.inputs.sum(1) % 11
    assert torch.equal(differing, task.wrong) and int(differing.sum()) == 12
    assert torch.equal(task.test.targets, task.test.inputs.sum(1) % 11)


@pytest.mark.parametrize(
    "knobs", [{"group": "quaternion"}, {"order": 1}, {"share": 0.0}, {"group": "symmetric", "order": 7}]
)
def test_bad_knobs_are_refused(knobs: dict[str, object]) -> None:
    with pytest.raises(TaskError, match=next(iter(reversed(knobs)))):
        GroupArithmetic(**knobs)
