"""Repeated rows against a comparison of every pair in float64, and what training makes of equal units."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from separatrix.probes.symmetry import RESOLUTION, measure_symmetry, repeated_rows
from separatrix.runs.probe import UpdateView


def by_pairs(weight: torch.Tensor) -> float:
    """Share of rows equal to another, by the largest difference of entries."""
    rows = weight.double().reshape(len(weight), -1)
    size = float(rows.norm(dim=1).max())
    equal = {
        index
        for pair in itertools.combinations(range(len(rows)), 2)
        if float((rows[pair[0]] - rows[pair[1]]).abs().max()) <= RESOLUTION * size / 10
        for index in pair
    }
    return len(equal) / len(rows)


@pytest.mark.parametrize("shape", [(2, 3), (16, 8), (65, 1), (12, 3, 5, 5), (40, 300)])
@pytest.mark.parametrize("seed", range(4))
def test_the_share_is_that_of_all_pairs(shape: tuple[int, ...], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(*shape, generator=generator)
    copies = torch.randint(shape[0], (shape[0] // 2,), generator=generator)
    weight[: len(copies)] = weight[copies].clone()
    assert float(repeated_rows(weight)) == pytest.approx(by_pairs(weight))
    assert float(repeated_rows(weight.double())) == pytest.approx(by_pairs(weight))


@pytest.mark.parametrize("value", [0.0, 1.0, 1e-20, -3e8])
def test_a_constant_weight_has_only_repeated_rows(value: float) -> None:
    assert float(repeated_rows(torch.full((32, 16), value))) == 1.0


def test_regular_rows_are_told_apart() -> None:
    assert float(repeated_rows(torch.eye(64))) == 0.0
    assert float(repeated_rows(torch.cat([torch.eye(64), -torch.eye(64)]))) == 0.0
    assert float(repeated_rows(torch.arange(64.0)[:, None].expand(64, 5))) == 0.0


def test_half_precision_and_biases() -> None:
    weights = [torch.ones(8, 4, dtype=torch.bfloat16), torch.zeros(8), torch.randn(1, 8), torch.randn(8, 4)]
    view = UpdateView(weights, weights, [{}] * 4, [{}] * 4)
    (reading,) = measure_symmetry(view, {})
    assert reading.positions == [0, 3]
    assert torch.equal(torch.as_tensor(reading.values), torch.tensor([1.0, 0.0]))


def test_each_parameter_is_looked_at_ever_more_rarely() -> None:
    first, second = torch.randn(8, 4), torch.randn(8, 4)
    state: dict[str, object] = {}
    views = {name: UpdateView([w], [w], [{}], [{}]) for name, w in (("first", first), ("second", second))}
    looked = {name: [k for k in range(1, 21) if list(measure_symmetry(view, state))] for name, view in views.items()}
    assert looked == {"first": [1, 2, 4, 8, 16], "second": [1, 2, 4, 8, 16]}
    assert list(measure_symmetry(UpdateView([], [], [], []), state)) == []


def test_units_that_start_equal_stay_equal_and_others_do_not() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(64, 10), torch.randint(3, (64,))
    shares = {}
    for constant in (True, False):
        net = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 3))
        if constant:
            for parameter in net.parameters():
                nn.init.constant_(parameter, 0.1)
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
        for _ in range(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        shares[constant] = [float(repeated_rows(net[index].weight)) for index in (0, 2)]
    assert shares == {True: [1.0, 0.0], False: [0.0, 0.0]}
