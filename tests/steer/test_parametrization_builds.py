"""What a parametrization learns from builds of a model: roles, layouts, and the laws of its initial values."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.steer.nets import Residual, Tied, mlp
from torch import nn

from separatrix.steer import ParametrizationError, ParametrizationWarning, parametrize
from separatrix.steer.parametrization.quiet import quiet


def of_mlp(model: nn.Module, rule: str) -> Any:
    return parametrize(model, base=functools.partial(mlp, 16), delta=functools.partial(mlp, 24), rule=rule)


def test_unit_scaled_weights_have_unit_variance_whatever_the_constructor_draws() -> None:
    model = mlp(64)
    of_mlp(model, "unit-scaled-maximal-update")
    for index in (0, 2, 4):
        assert float(model[index].weight.detach().square().mean()) == pytest.approx(1.0, rel=1e-12)


class Drawn(nn.Module):
    """Layers with initial values of a deviation of one's own choice, a bias of zero and a gain of one."""

    def __init__(self, width: int, power: float) -> None:
        super().__init__()
        self.first = nn.Linear(50, width)
        self.norm = nn.LayerNorm(width)
        self.second = nn.Linear(width, width)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=0.1 * layer.in_features**power)
            nn.init.zeros_(layer.bias)


@pytest.mark.parametrize("power", [0.0, -0.5, -1.0])
def test_initial_values_follow_the_rule_whatever_law_the_constructor_has(power: float) -> None:
    torch.manual_seed(0)
    model = Drawn(128, power)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = parametrize(model, base=lambda: Drawn(32, power), delta=lambda: Drawn(48, power), rule="standard")
    after = model.state_dict()
    torch.testing.assert_close(
        after["second.weight"], before["second.weight"] * 4.0 ** (-0.5 - power), rtol=1e-6, atol=0
    )
    for name in ("first.weight", "first.bias", "norm.weight", "norm.bias", "second.bias"):
        assert torch.equal(after[name], before[name]), name
    assert not found.notes


def test_draws_nothing_from_the_global_generator() -> None:
    model = Tied(64)
    before = torch.get_rng_state()
    parametrize(model, base=lambda: Tied(16), delta=lambda: Tied(24))
    assert torch.equal(torch.get_rng_state(), before)


class Refusing(nn.Module):
    """A constructor that looks at its own values, which the meta device has none of."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, width)
        self.scale = float(self.layer.weight.std())


def test_a_constructor_that_needs_values_is_built_on_the_cpu_and_it_is_said() -> None:
    with pytest.warns(ParametrizationWarning, match="base was built on the CPU, because its constructor fails"):
        found = parametrize(Refusing(16), base=lambda: Refusing(8), delta=lambda: Refusing(12))
    assert found.factors(torch.optim.SGD)["layer.weight"].rate == 2.0
    assert len(found.notes) == 2
    assert "built on the CPU" in str(found)


def test_builds_on_the_meta_device() -> None:
    seen = []

    def build() -> nn.Module:
        model = nn.Linear(4, 8)
        seen.append(model.weight.device.type)
        return model

    parametrize(nn.Linear(4, 16), base=build, delta=lambda: nn.Linear(4, 12))
    assert seen == ["meta", "cpu", "cpu"]  # once for its shapes, twice for its initial values
    parametrize(nn.Linear(4, 16), base=build, delta=lambda: nn.Linear(4, 12), initialize=False)
    assert seen == ["meta", "cpu", "cpu", "meta"]


def test_a_base_without_values_is_taken_to_follow_the_fan_in() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 64))
    before = copy.deepcopy(model.state_dict())
    with torch.device("meta"):
        small, large = (nn.Sequential(nn.Linear(4, n), nn.Linear(n, n)) for n in (16, 32))
    with pytest.warns(ParametrizationWarning, match="base has no values"):
        parametrize(model, base=small, delta=large)
    torch.testing.assert_close(model.state_dict(), before)


def test_tensors_of_unknown_modules_are_guessed_and_it_is_said() -> None:
    class Positions(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(1, 7, width))
            self.weight = nn.Parameter(torch.randn(3, width))
            self.temperature = nn.Parameter(torch.ones(()))

    sizes = {"base": lambda: Positions(8), "delta": lambda: Positions(12)}
    with pytest.warns(ParametrizationWarning, match=r"weight of shape \(3, 16\) is taken as output"):
        found = parametrize(Positions(16), **sizes)
    roles = {name: factor.tensor.role for name, factor in found.factors().items()}
    assert roles == {"table": "input", "weight": "output", "temperature": "scalar"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = {"weight": "input", "table": "input"}
        found = parametrize(Positions(16), **sizes, roles=given)
    assert found.factors(torch.optim.SGD)["weight"].rate == 2.0


@pytest.mark.parametrize(
    ("layer", "role", "ratios"),
    [
        (lambda n: nn.Conv2d(3, n, 3), "input", (1, 2)),
        (lambda n: nn.Conv2d(n, n, 3), "hidden", (2, 2)),
        (lambda n: nn.Conv2d(n, n, 3, groups=n), "input", (1, 2)),
        (lambda n: nn.ConvTranspose2d(n, 3, 3), "output", (2, 1)),
        (lambda n: nn.Embedding(50, n), "input", (1, 2)),
        (lambda n: nn.Linear(n, 5), "output", (2, 1)),
        (lambda n: nn.LayerNorm(n), "vector", (1, 2)),
        (lambda n: nn.Bilinear(5, 5, n), "input", (1, 2)),
    ],
)
def test_layers_are_read_as_what_they_are(
    layer: Callable[[int], nn.Module], role: str, ratios: tuple[int, int]
) -> None:
    found = parametrize(layer(16), base=lambda: layer(8), delta=lambda: layer(12)).factors()["weight"].tensor
    assert (found.role, found.fan_in_ratio, found.fan_out_ratio) == (role, *ratios)


def test_a_size_that_delta_does_not_vary_is_named() -> None:
    def build(inputs: int, width: int) -> nn.Module:
        return nn.Linear(inputs, width)

    with pytest.raises(
        ParametrizationError, match=r"dimension 1 of weight is 9 and 4 in base, but delta does not vary it"
    ):
        parametrize(build(9, 32), base=lambda: build(4, 8), delta=lambda: build(4, 12))


def test_a_model_without_values_is_refused() -> None:
    with torch.device("meta"):
        model = nn.Linear(4, 32)
    sizes = {"base": lambda: nn.Linear(4, 8), "delta": lambda: nn.Linear(4, 12)}
    with pytest.raises(ParametrizationError, match="the model has no values yet"):
        parametrize(model, **sizes)
    assert parametrize(model, **sizes, initialize=False).factors(torch.optim.SGD)["weight"].rate == 4.0


def test_the_base_ratio_of_a_stack_counts_layers() -> None:
    sizes: Any = {"base": lambda: Residual(16, 2), "delta": lambda: Residual(24, 3)}
    found = parametrize(Residual(64, 8), **sizes, rule="standard")
    tensor = found.factors()["blocks.7.up.weight"].tensor
    assert (tensor.depth, tensor.depth_ratio) == (8, 4.0)
    assert math.isclose(found.factors()["first.weight"].tensor.depth_ratio, 1.0)


LAWS = {
    "constant": lambda tensor: nn.init.normal_(tensor, std=0.02),
    "truncated": lambda tensor: nn.init.trunc_normal_(tensor, std=0.02),
    "kaiming": nn.init.kaiming_uniform_,
    "xavier": nn.init.xavier_normal_,
    "orthogonal": nn.init.orthogonal_,
    "fan-in": lambda tensor: tensor.copy_(torch.randn(tensor.shape) / tensor.shape[1]),
    "uniform": lambda tensor: tensor.copy_(torch.rand(tensor.shape) - 0.5),
}


@pytest.mark.parametrize("law", LAWS)
def test_laws_of_initial_values_are_read_without_noise(law: str) -> None:
    """Root mean squares of quiet builds beside those of a large draw, and factors that no draw can move."""

    def build(width: int) -> nn.Module:
        layer = nn.Linear(width, width)
        with torch.no_grad():
            LAWS[law](layer.weight)
        return layer

    torch.manual_seed(0)
    drawn = float(build(256).weight.detach().square().mean().sqrt())
    state = torch.get_rng_state()
    calm = float(quiet(lambda: build(256)).weight.detach().square().mean().sqrt())
    assert torch.equal(torch.get_rng_state(), state)
    if law != "truncated":  # which goes on computing with what was drawn, so that only its scaling is exact
        assert calm == pytest.approx(drawn, rel=0.02)
    factors = set()
    for seed in range(5):
        torch.manual_seed(seed)
        model = build(32)
        before = model.weight.detach().clone()
        parametrize(model, base=lambda: build(8), delta=lambda: build(12))
        ratios = model.weight.detach() / before
        assert float(ratios.max() - ratios.min()) < 1e-5
        factors.add(round(float(ratios.mean()), 5))
    power = {"constant": 0, "truncated": 0, "uniform": 0, "fan-in": 1}.get(law, 0.5)
    assert factors == {round(4 ** (power - 0.5), 5)}


def test_a_bias_drawn_by_the_fan_in_of_its_layer_is_held_constant() -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(6, 64), nn.Linear(64, 2))
        before = model[1].bias.detach().clone()
        sizes = {"base": lambda: nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 2))}
        sizes["delta"] = lambda: nn.Sequential(nn.Linear(6, 24), nn.Linear(24, 2))
        parametrize(model, **sizes)
        torch.testing.assert_close(model[1].bias.detach(), 2 * before)
