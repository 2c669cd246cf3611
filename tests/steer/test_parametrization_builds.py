"""What a parametrization learns from builds of a model: roles, layouts, and the laws of its initial values."""

from __future__ import annotations

import copy
import functools
import math
import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from tests.steer.nets import Residual, mlp
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


def test_draws_nothing_from_global_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    class FromAll(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer = nn.Linear(width, width)
            drawn = np.random.randn(width, width) * random.random()
            self.other = nn.Linear(width, 3)
            self.layer.weight.data = torch.tensor(drawn, dtype=torch.float32)

    def draw() -> tuple[float, ...]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    def states() -> None:
        torch.manual_seed(5)
        np.random.seed(6)
        random.seed(7)

    states()
    expected, model = draw(), FromAll(16)
    devices: list[Any] = []
    with monkeypatch.context() as patch:
        states()
        patch.setattr(torch.cuda, "manual_seed_all", devices.append)
        first = parametrize(copy.deepcopy(model), base=lambda: FromAll(8), delta=lambda: FromAll(12))
        assert draw() == expected
    assert not devices  # generators of other devices are not seeded either
    again = parametrize(copy.deepcopy(model), base=lambda: FromAll(8), delta=lambda: FromAll(12))
    assert torch.equal(again.model.layer.weight, first.model.layer.weight)


def test_generators_are_put_back_where_a_constructor_fails() -> None:
    def fail() -> nn.Module:
        torch.rand(3), np.random.rand(3), random.random()
        raise RuntimeError("no such size")

    state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    with pytest.raises(RuntimeError, match="no such size"):
        parametrize(mlp(16), base=fail, delta=functools.partial(mlp, 24))
    assert torch.equal(state[0], torch.get_rng_state())
    assert (state[1] == np.random.get_state()[1]).all()
    assert state[2] == random.getstate()


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


class Listed(nn.Module):
    """First, hidden and last layers in one list."""

    def __init__(self, width: int, depth: int, inputs: int = 20, outputs: int = 3) -> None:
        super().__init__()
        hidden = [nn.Linear(width, width) for _ in range(depth)]
        self.layers = nn.ModuleList([nn.Linear(inputs, width), *hidden, nn.Linear(width, outputs)])


@pytest.mark.parametrize("inputs", [20, 32, 64], ids=["apart", "as wide as delta", "as wide as the model"])
@pytest.mark.parametrize(("depth", "few", "many"), [(4, 1, 3), (4, 2, 3), (3, 1, 4), (1, 1, 2), (6, 2, 5)])
def test_first_and_last_layers_of_one_list_stay_such_at_any_depth(depth: int, few: int, many: int, inputs: int) -> None:
    """Table 3 of Yang et al. 2022 at a ratio of 4 by hand, and what builds of the model's own depth give."""
    torch.manual_seed(0)
    model, alone = Listed(64, depth, inputs), Listed(64, depth, inputs)
    before = [float(layer.weight.detach().std()) for layer in model.layers]
    sizes: Any = {"base": lambda: Listed(16, few, inputs), "delta": lambda: Listed(32, many, inputs)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = parametrize(model, **sizes).factors()
    sizes = {"base": lambda: Listed(16, depth, inputs), "delta": lambda: Listed(32, depth, inputs)}
    by_width = parametrize(alone, **sizes).factors()
    for index, layer in enumerate(model.layers):
        role = "input" if index == 0 else "output" if index == depth + 1 else "hidden"
        factor = found[f"layers.{index}.weight"]
        assert (factor.tensor.role, factor.rate) == (role, {"input": 1.0}.get(role, 0.25))
        # torch draws at 1 / sqrt(fan-in), so that only the readout's values are to change.
        assert float(layer.weight.detach().std()) == pytest.approx(
            before[index] * {"output": 0.5}.get(role, 1.0), rel=1e-5
        )
        for name in (f"layers.{index}.weight", f"layers.{index}.bias"):
            assert (found[name].tensor.role, found[name].rate) == (by_width[name].tensor.role, by_width[name].rate)
            assert found[name].initial == by_width[name].initial


def test_first_and_last_layers_of_one_list_do_not_count_as_its_depth() -> None:
    sizes: Any = {"base": lambda: Listed(16, 2), "delta": lambda: Listed(24, 3)}
    found = parametrize(Listed(64, 8), **sizes, rule="depth-maximal-update", branches=["layers.[1-8]"]).factors()
    assert [found[f"layers.{index}.bias"].rate for index in (0, 9)] == [1.0, 1.0]
    # The branch's multiplier of 1/2 and the rate's own, by hand.
    assert found["layers.5.weight"].rate == pytest.approx(1 / 4 / 2 / 2)


class Stages(nn.Module):
    """Two stages of blocks, the second twice as wide, whose first block has another input and a projection."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.narrow = nn.Sequential(*(nn.ModuleDict({"conv": nn.Conv2d(width, width, 3)}) for _ in range(depth)))
        wide = [nn.ModuleDict({"conv": nn.Conv2d(2 * width, 2 * width, 3)}) for _ in range(depth - 1)]
        first = nn.ModuleDict({"conv": nn.Conv2d(width, 2 * width, 3), "skip": nn.Conv2d(width, 2 * width, 1)})
        self.wide = nn.Sequential(first, *wide)
        self.head = nn.Linear(2 * width, 5)


def test_the_first_block_of_a_stage_is_compared_with_the_first_only() -> None:
    sizes: Any = {"base": lambda: Stages(16, 2), "delta": lambda: Stages(32, 3)}
    found = parametrize(Stages(64, 5), **sizes, rule="standard")
    assert not found.notes
    for name, factor in found.factors().items():
        if name.endswith("weight") and name not in ("stem.weight", "head.weight"):
            assert (factor.tensor.role, factor.tensor.fan_in_ratio, factor.tensor.fan_out_ratio) == ("hidden", 4, 4)
            assert (factor.tensor.depth, factor.tensor.depth_ratio) == (5, 2.5)


def test_layers_that_alternate_are_compared_in_turn() -> None:
    class Alternating(nn.Module):
        def __init__(self, width: int, depth: int) -> None:
            super().__init__()
            kinds = (lambda: nn.Linear(width, width), lambda: nn.Linear(width, 7), lambda: nn.LayerNorm(width))
            self.layers = nn.ModuleList(kinds[index % 3]() for index in range(depth))

    sizes: Any = {"base": lambda: Alternating(16, 3), "delta": lambda: Alternating(24, 6)}
    found = parametrize(Alternating(64, 8), **sizes).factors()
    roles = [found[f"layers.{index}.weight"].tensor.role for index in range(8)]
    assert roles == ["hidden", "output", "vector", "hidden", "output", "vector", "hidden", "output"]


def test_a_stack_whose_layers_cannot_be_compared_is_refused() -> None:
    class Growing(nn.Module):
        def __init__(self, width: int, depth: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(width * 2**index, width * 2 ** (index + 1)) for index in range(depth))

    with pytest.raises(
        ParametrizationError,
        match=r"the layers of layers are not alike.*give base and delta at least one layer of each",
    ):
        parametrize(Growing(16, 4), base=lambda: Growing(8, 2), delta=lambda: Growing(12, 3))
    with pytest.raises(ParametrizationError, match=r"the layers of wide are not alike"):
        parametrize(Stages(64, 5), base=lambda: Stages(16, 1), delta=lambda: Stages(32, 2))
    found = parametrize(Growing(16, 3), base=lambda: Growing(8, 3), delta=lambda: Growing(12, 3)).factors()
    assert {found[f"layers.{index}.weight"].tensor.fan_in_ratio for index in range(3)} == {2.0}
    with pytest.raises(ParametrizationError, match="cannot be told from sizes that coincide: give delta another width"):
        parametrize(Listed(32, 4, 32), base=lambda: Listed(16, 1, 32), delta=lambda: Listed(32, 2, 32))


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


class Damped(nn.Module):
    """Residual blocks whose last layers are drawn with a deviation that falls with the depth."""

    def __init__(self, width: int, depth: int, power: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(width, 2 * width), "down": nn.Linear(2 * width, width)})
            for _ in range(depth)
        )
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            nn.init.normal_(block["down"].weight, std=0.02 * depth**-power)


@pytest.mark.parametrize("rule", ["standard", "maximal-update", "depth-maximal-update"])
@pytest.mark.parametrize("power", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("width", [32, 64])
def test_a_law_of_the_depth_stays_where_the_rule_has_none(width: int, power: float, rule: str) -> None:
    """A deviation of 0.02 L^-power that is constant in the width: it becomes the rule's of the fan-in and keeps L."""
    torch.manual_seed(0)
    model = Damped(width, 32, power)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    branches = {"branches": ["blocks.*.down"]} if rule.startswith("depth") else {}
    sizes: Any = {"base": lambda: Damped(32, 2, power), "delta": lambda: Damped(64, 3, power)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parametrize(model, **sizes, rule=rule, **branches)
    # The rule of the depth has 1 / sqrt(16) in place of the constructor's power of 16.
    deep = 16 ** (power - 0.5) if branches else 1.0
    for name, value in model.state_dict().items():
        factor = (32 / width) ** 0.5 * deep if "down.weight" in name else 1.0
        if name.endswith("weight"):
            torch.testing.assert_close(value, before[name] * factor, rtol=1e-5, atol=0)


def test_a_law_of_width_or_depth_that_cannot_be_told_apart_is_said() -> None:
    torch.manual_seed(0)
    sizes: Any = {"base": lambda: Damped(16, 2, 0.5), "delta": lambda: Damped(32, 4, 0.5)}
    with pytest.warns(ParametrizationWarning, match="let the two grow by different factors") as caught:
        parametrize(Damped(64, 8, 0.5), **sizes, rule="standard")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parametrize(Damped(64, 8, 0.5), **sizes, rule="depth-maximal-update", branches=["blocks.*.down"])
        parametrize(Damped(64, 8, 0.5), **(sizes | {"delta": lambda: Damped(48, 4, 0.5)}), rule="standard")
