"""Paths of weights against dense linear algebra, planted modes and losses whose barriers are known."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

import separatrix
from separatrix.analysis.trajectory import (
    barrier,
    barrier_height,
    correlation_modes,
    filter_normalised,
    layer_barriers,
    load_trajectory,
    loss_slice,
    match,
    path_length,
    permuted,
    predicted_barrier,
    principal_components,
    random_direction,
    tortuosity,
)
from separatrix.runs import UsageError


def walk(seed: int = 0, points: int = 12, size: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((points, size)).cumsum(axis=0)


@pytest.mark.parametrize(("points", "size"), [(12, 40), (30, 5)])
def test_principal_components_are_those_of_a_full_decomposition(points: int, size: int) -> None:
    path = walk(points=points, size=size)
    kept = min(points - 1, size)
    found = principal_components(path, kept)
    _, singular, directions = np.linalg.svd(path - path.mean(axis=0), full_matrices=False)
    shares = singular**2 / (singular**2).sum()
    assert found.explained[: len(shares)] == pytest.approx(shares, abs=1e-12)
    assert found.explained.sum() == pytest.approx(1.0)
    assert np.abs((found.directions * directions[:kept]).sum(axis=1)) == pytest.approx(1.0, abs=1e-8)
    assert found.reconstructed() == pytest.approx(path, abs=1e-9)
    assert (found.coordinates[-1] >= 0).all()


def test_a_straight_path_has_one_component_and_no_tortuosity() -> None:
    line = np.linspace(0.0, 1.0, 7)[:, None] * np.arange(1.0, 6.0)
    found = principal_components(line, 2)
    assert found.explained[0] == pytest.approx(1.0)
    assert found.reconstructed() == pytest.approx(line)
    assert tortuosity(line) == pytest.approx(1.0)
    angles = np.linspace(0.0, np.pi, 2001)
    arc = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert path_length(arc) == pytest.approx(np.pi, rel=1e-5)
    assert tortuosity(arc) == pytest.approx(np.pi / 2, rel=1e-5)
    assert tortuosity(np.array([[0.0], [1.0], [0.0]])) == np.inf


@pytest.mark.parametrize("bad", [np.zeros((1, 3)), np.full((4, 3), np.nan), np.zeros(5)])
def test_what_is_no_path_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(UsageError, match="principal components"):
        principal_components(bad)
    with pytest.raises(UsageError, match="do not move"):
        tortuosity(np.zeros((4, 2)))
    with pytest.raises(UsageError, match="9 components of 5"):
        principal_components(walk(points=5), 9)


def planted_modes(seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """300 weights that follow one of three shapes, scaled with either sign, and the shape of each."""
    draw = np.random.default_rng(seed)
    t = np.linspace(0.0, 1.0, 50)
    shapes = np.stack([np.exp(-8 * t), np.sin(6 * t), (t > 0.6).astype(float)])
    shapes = (shapes - shapes.mean(axis=1, keepdims=True)) / shapes.std(axis=1, keepdims=True)
    truth = draw.integers(3, size=300)
    scale = draw.choice([-1.0, 1.0], 300) * draw.uniform(0.5, 2.0, 300)
    path = (scale * shapes[truth].T) + draw.standard_normal(300)
    return path + noise * draw.standard_normal(path.shape) * np.abs(scale), truth


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_planted_modes_are_recovered(seed: int, noise: float) -> None:
    path, truth = planted_modes(seed, noise)
    found = correlation_modes(path, 3, sampled=100, seed=seed)
    assert len(found.references) == 3
    for mode in range(3):
        members = truth[found.mode == mode]
        assert len(np.unique(members)) == 1
    assert np.array_equal(path[:, found.columns].T, found.references)
    residual = path - found.reconstructed()
    # A reference that is itself noisy adds its noise to that of the weight.
    assert np.sqrt((residual**2).mean()) <= 1e-9 + 2.2 * noise
    assert found.numbers == 3 * 50 + 2 * 300


def test_scale_and_offset_are_those_of_least_squares() -> None:
    path, _ = planted_modes(0, 0.3)
    found = correlation_modes(path, 3, seed=0)
    for weight in (0, 17, 299):
        design = np.stack([found.references[found.mode[weight]], np.ones(len(path))], axis=1)
        expected, *_ = np.linalg.lstsq(design, path[:, weight], rcond=None)
        assert (found.scale[weight], found.offset[weight]) == pytest.approx(tuple(expected), abs=1e-9)
        correlations = [abs(np.corrcoef(r, path[:, weight])[0, 1]) for r in found.references]
        assert abs(found.correlation[weight]) == pytest.approx(max(correlations))


def test_one_mode_is_never_better_than_the_best_rank_one_path() -> None:
    path = walk(points=20, size=30)
    modes = correlation_modes(path, 1).reconstructed()
    components = principal_components(path, 1).reconstructed()
    assert ((path - components) ** 2).sum() <= ((path - modes) ** 2).sum()


def test_weights_that_never_move_are_kept_as_they_are() -> None:
    path = walk(points=8, size=6)
    path[:, 2] = 3.5
    found = correlation_modes(path, 5)
    assert found.mode[2] == -1
    assert (found.scale[2], found.offset[2]) == (0.0, 3.5)
    assert found.reconstructed()[:, 2] == pytest.approx(3.5)
    with pytest.raises(UsageError, match="of 0 moving weights"):
        correlation_modes(np.ones((5, 3)), 2)


def network(seed: int, widths: tuple[int, ...] = (6, 16, 12, 3), bias: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    parts: list[nn.Module] = [nn.Flatten()]
    for a, b in itertools.pairwise(widths):
        parts += [nn.Linear(a, b, bias=bias, dtype=torch.float64), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def loss_of(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor):
    return lambda weights: functional.cross_entropy(functional_call(model, dict(weights), (inputs,)), targets)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bias", [True, False])
def test_a_planted_permutation_is_recovered_and_the_barrier_is_gone(seed: int, bias: bool) -> None:
    model = network(seed, bias=bias)
    with torch.no_grad():
        model[-1].weight.mul_(30.0)  # sure of its answers, so that a mean of unlike units costs much
    draw = np.random.default_rng(seed)
    orders = [draw.permutation(16), draw.permutation(12)]
    other = permuted(model, orders)
    inputs = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(other(inputs), model(inputs), atol=1e-12)
    assert not torch.allclose(other[1].weight, model[1].weight)
    found = match(model, other, seed=seed)
    for order, recovered in zip(orders, found.permutations, strict=True):
        assert (order[recovered] == np.arange(len(order))).all()
    assert all(torch.equal(p, q) for p, q in zip(found.network.parameters(), model.parameters(), strict=True))
    loss = loss_of(model, inputs, model(inputs).argmax(1))
    assert barrier(loss, model.state_dict(), other.state_dict()).height > 1e-3
    assert barrier(loss, model.state_dict(), found.network.state_dict()).height < 1e-12


@torch.no_grad()
def test_matching_keeps_the_function_and_raises_the_similarity() -> None:
    a, b = network(0), network(1)
    found = match(a, b)
    inputs = torch.randn(20, 6, dtype=torch.float64)
    assert torch.allclose(found.network(inputs), b(inputs), atol=1e-12)
    plain = sum(float((p * q).sum()) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert found.similarity > plain
    exact = sum(float((p * q).sum()) for p, q in zip(a.parameters(), found.network.parameters(), strict=True))
    assert found.similarity == pytest.approx(exact)


@torch.no_grad()
def test_one_hidden_layer_is_matched_optimally() -> None:
    """The best of all 120 permutations of five units."""
    a, b = network(0, (3, 5, 2)), network(1, (3, 5, 2))
    every = (permuted(b, [np.array(order)]) for order in itertools.permutations(range(5)))
    best = max(sum(float((p * q).sum()) for p, q in zip(a.parameters(), n.parameters(), strict=True)) for n in every)
    assert match(a, b).similarity == pytest.approx(best)


@pytest.mark.parametrize(
    ("model", "part"),
    [
        (nn.Linear(3, 3), "a Linear cannot be matched"),
        (nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3)), "with LayerNorm"),
        (nn.Sequential(nn.Linear(3, 3), nn.GLU(), nn.Linear(3, 3)), "with GLU"),
        (nn.Sequential(nn.Linear(3, 3)), "no hidden units"),
    ],
)
def test_other_networks_are_refused(model: nn.Module, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        match(model, model)
    with pytest.raises(UsageError, match="differ in their layers"):
        match(network(0), network(0, (6, 16, 11, 3)))
    with pytest.raises(UsageError, match="do not fit"):
        permuted(network(0), [np.arange(16), np.zeros(12, dtype=int)])


def double_well(weights) -> torch.Tensor:
    """Minima at -1 and 1 with a barrier of height 1 at 0; the second coordinate is quadratic."""
    x, y = weights["x"], weights["y"]
    return ((x**2 - 1) ** 2).sum() + (y**2).sum()


def test_the_barrier_of_a_double_well_is_known() -> None:
    ends = [{"x": torch.tensor([sign], dtype=torch.float64), "y": torch.zeros(1).double()} for sign in (-1.0, 1.0)]
    found = barrier(double_well, *ends, points=21)
    assert (found.height, found.place) == (pytest.approx(1.0), pytest.approx(0.5))
    x = 2 * found.places - 1
    assert found.losses == pytest.approx((x**2 - 1) ** 2)
    # In the middle the second derivative along x is -4; the distance is 2: -(1/8) * 4 * -4 = 2.
    assert predicted_barrier(double_well, *ends) == pytest.approx(2.0)
    # The loss is a polynomial of degree four: two nodes a half are exact.
    assert predicted_barrier(double_well, *ends, nodes=2) == pytest.approx(1.0)
    assert barrier(double_well, ends[0], ends[0]).height == 0.0


def test_convex_losses_have_no_barrier_and_a_negative_prediction() -> None:
    ends = [{"x": torch.full((3,), v, dtype=torch.float64)} for v in (-1.0, 2.0)]
    square = lambda weights: (weights["x"] ** 2).sum() / 2  # noqa: E731
    assert barrier(square, *ends).height == 0.0
    assert predicted_barrier(square, *ends) == pytest.approx(-27.0 / 8)
    assert predicted_barrier(lambda weights: 3 * weights["x"].sum(), *ends) == 0.0
    assert barrier_height(np.array([0.0, 1.0, 0.5])) == pytest.approx(0.75)


def test_more_nodes_reach_the_measured_height_of_a_network() -> None:
    a, b = network(0), network(1)
    model = nn.Sequential(*[nn.Tanh() if isinstance(part, nn.ReLU) else part for part in copy.deepcopy(a)])
    inputs = torch.randn(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = loss_of(model, inputs, torch.arange(40) % 3)
    ends = dict(a.named_parameters()), dict(b.named_parameters())
    measured = barrier(loss, *ends, points=3)
    halfway = measured.losses[1] - measured.losses[[0, 2]].mean()
    assert predicted_barrier(loss, *ends, nodes=8) == pytest.approx(halfway, abs=1e-6)


def test_layers_are_moved_one_at_a_time() -> None:
    ends = [{"a.x": torch.tensor([s]), "a.y": torch.tensor([0.0]), "b.z": torch.tensor([s])} for s in (-1.0, 1.0)]
    loss = lambda w: (w["a.x"] ** 2 - 1).square().sum() + w["a.y"].sum() + 3 * (w["b.z"] ** 2 - 1).square().sum()  # noqa: E731
    found = layer_barriers(loss, *ends)
    assert {name: each.height for name, each in found.items()} == {"a": pytest.approx(1.0), "b": pytest.approx(3.0)}
    both = layer_barriers(loss, *ends, {"all": ["a.x", "b.z"]})
    assert both["all"].height == pytest.approx(4.0)
    with pytest.raises(UsageError, match="no weight 'q'"):
        layer_barriers(loss, *ends, {"all": ["q"]})
    with pytest.raises(UsageError, match=r"only one of the networks has 'b\.z'"):
        barrier(loss, ends[0], {"a.x": ends[1]["a.x"], "a.y": ends[1]["a.y"]})


def test_filters_of_a_direction_are_as_long_as_those_of_the_weights() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    weights = {name: values.detach() for name, values in model.named_parameters()}
    weights["0.weight"][1] = 0.0
    direction = filter_normalised(random_direction(weights, 0), weights)
    for name in ("0.weight", "2.weight"):
        lengths, wanted = (values[name].flatten(1).norm(dim=1) for values in (direction, weights))
        assert torch.allclose(lengths, wanted)
    assert direction["0.bias"].abs().max() == 0.0
    again = random_direction(weights, 0)
    assert all(torch.equal(again[name], values) for name, values in random_direction(weights, 0).items())


def test_a_slice_of_a_quadratic_is_a_parabola() -> None:
    weights = {"x": torch.tensor([1.0, 2.0], dtype=torch.float64), "count": torch.tensor(3)}
    directions = [{"x": torch.tensor([1.0, 0.0]).double()}, {"x": torch.tensor([0.0, 1.0]).double()}]
    axis = np.linspace(-1.0, 1.0, 5)
    found = loss_slice(lambda w: (w["x"] ** 2).sum(), weights, directions, [axis, axis[:3]])
    assert found.losses == pytest.approx((1 + axis[:, None]) ** 2 + (2 + axis[None, :3]) ** 2)
    with pytest.raises(UsageError, match="give one for each"):
        loss_slice(lambda w: w["x"].sum(), weights, directions, [axis])
    with pytest.raises(UsageError, match="does not fit"):
        loss_slice(lambda w: w["x"].sum(), weights, [{"y": weights["x"]}], [axis])


def test_checkpoints_of_a_recording_become_a_path(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    kept = []
    with separatrix.record(model, optimizer, run=tmp_path / "run", checkpoints=2):
        for _ in range(6):
            optimizer.zero_grad()
            model(torch.randn(8, 3)).square().mean().backward()
            optimizer.step()
            kept.append({name: values.detach().double().numpy() for name, values in model.named_parameters()})
    with separatrix.open(tmp_path / "run") as run:
        path = load_trajectory(run)
        assert path.steps.tolist() == [2, 4, 6]
        assert set(path.shapes) == set(kept[0])
        for index, step in enumerate(path.steps):
            held = path.tensors(index)
            assert all(np.array_equal(held[name], values) for name, values in kept[step - 1].items())
        assert set(load_trajectory(run, ["2.weight"]).shapes) == {"2.weight"}
        with pytest.raises(UsageError, match="has no 'nonsense'"):
            load_trajectory(run, ["nonsense"])


def test_a_run_without_checkpoints_says_how_to_get_some(make_run) -> None:
    with (
        separatrix.open(make_run(scalars={"loss": [1.0]})) as run,
        pytest.raises(UsageError, match="--checkpoints log"),
    ):
        load_trajectory(run)
