"""Signatures against closed forms, Chen's identity, the shuffle product, and sums over ordered times."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from separatrix.reconstruct.signatures import signatures, with_time_and_start


def _increments(steps: int, seed: int = 0) -> Tensor:
    return torch.randn(steps, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_a_straight_path_has_the_exponential_of_its_increment() -> None:
    whole = _increments(1)
    for steps in (1, 4):
        levels = signatures(whole.expand(steps, -1, -1) / steps, 4)
        for level, found in enumerate(levels, start=1):
            for column, word in enumerate(itertools.product(range(2), repeat=level)):
                expected = whole[0][:, list(word)].prod(1) / math.factorial(level)
                torch.testing.assert_close(found[:, column], expected)


def test_levels_are_sums_over_ordered_times() -> None:
    # a corner path: along the first channel, then along the second: only words 0...01...1 are there
    increments = torch.tensor([[[2.0, 0.0]], [[0.0, 3.0]]], dtype=torch.float64)
    _, second, third = signatures(increments, 3)
    assert second[0].tolist() == [2.0, 6.0, 0.0, 4.5]
    assert third[0].tolist() == [8 / 6, 2.0 * 3.0, 0.0, 2.0 * 4.5, 0.0, 0.0, 0.0, 4.5]


def test_the_product_of_two_parts_is_the_whole() -> None:
    increments = _increments(7, 1)
    first, last, whole = (signatures(each, 3) for each in (increments[:3], increments[3:], increments))
    parts = [(torch.ones(3, 1, dtype=torch.float64), *each) for each in (first, last)]
    for level in (1, 2, 3):
        product = sum((parts[0][k][:, :, None] * parts[1][level - k][:, None]).flatten(1) for k in range(level + 1))
        torch.testing.assert_close(whole[level - 1], product)


def test_products_of_integrals_are_their_shuffles() -> None:
    first, second, _ = signatures(_increments(6, 2), 3)
    symmetric = second.unflatten(1, (2, 2)) + second.unflatten(1, (2, 2)).transpose(1, 2)
    torch.testing.assert_close(symmetric, first[:, :, None] * first[:, None])


def test_time_and_start_are_channels() -> None:
    paths = torch.tensor([[[4.0]], [[7.0]], [[5.0]]], dtype=torch.float64)
    increments = with_time_and_start(paths, 2.0)
    assert increments[:, 0].tolist() == [[0.0, 4.0], [1.0, 3.0], [1.0, -2.0]]
    total, second = signatures(increments, 2)
    assert total[0].tolist() == [2.0, 5.0]
    # the integral of x dt is that of the word (x, t), of pieces that are linear: (4 + 7) / 2 + (7 + 5) / 2
    assert float(second[0, 2]) == (4 + 7) / 2 + (7 + 5) / 2
