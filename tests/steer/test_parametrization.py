"""Parametrizations: factors in closed form, and trainings that symmetries and the mup package's rules say are equal."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.steer.nets import Tied, mlp, residual, train
from torch import nn

from separatrix.steer import ParametrizationError, parametrize, rules
from separatrix.steer.parametrization.multipliers import InputMultiplier
from separatrix.steer.parametrization.rule import Rule, Scale
from separatrix.steer.parametrization.rulebook.standard_per_layer import standard_with_exponents

RATIO = 4
ROLE_OF = {"0.weight": "input", "0.bias": "vector", "2.weight": "hidden", "4.weight": "output", "4.bias": "scalar"}

# Exponents of the width by role in (initial values, Adam's rate, SGD's rate), multipliers absorbed. Standard: as is.
# Neural-tangent: Jacot et al. with g = w / sqrt(n): SGD moves W by rate / n; Adam so that W's step adds up to n^-1/2.
# The maximal update: Yang et al. 2022, table 3. Mean-field: the same by symmetry. Per layer: Everett et al., table 1.
EXPONENTS = {
    "standard": {
        "input": (0, 0, 0),
        "vector": (0, 0, 0),
        "hidden": (-0.5, 0, 0),
        "output": (-0.5, 0, 0),
        "scalar": (0, 0, 0),
    },
    "neural-tangent": {
        "input": (0, -0.5, 0),
        "vector": (0, -0.5, 0),
        "hidden": (-0.5, -1.5, -1),
        "output": (-0.5, -1, -1),
        "scalar": (0, 0, 0),
    },
    "maximal-update": {
        "input": (0, 0, 1),
        "vector": (0, 0, 1),
        "hidden": (-0.5, -1, 0),
        "output": (-1, -1, -1),
        "scalar": (0, 0, 0),
    },
    "standard-per-layer": {
        "input": (0, 0, 0.5),
        "vector": (0, 0, 0.5),
        "hidden": (-0.5, -1, -0.5),
        "output": (-0.5, -1, -1),
        "scalar": (0, 0, 0),
    },
}
EXPONENTS["mean-field"] = EXPONENTS["depth-maximal-update"] = EXPONENTS["maximal-update"]


def of_mlp(model: nn.Module, rule: str | Rule, **options: Any) -> Any:
    small = functools.partial(mlp, 16)
    return parametrize(model, base=small, delta=functools.partial(mlp, 24), rule=rule, **options)


@pytest.mark.parametrize("rule", EXPONENTS)
def test_factors_are_the_published_powers_of_the_width(rule: str) -> None:
    found = of_mlp(mlp(16 * RATIO), rule)
    adam, sgd = found.factors(torch.optim.AdamW), found.factors(torch.optim.SGD)
    for name, role in ROLE_OF.items():
        expected = [RATIO**power for power in EXPONENTS[rule][role]]
        assert adam[name].tensor.role == role
        assert [adam[name].initial, adam[name].rate, sgd[name].rate] == pytest.approx(expected, rel=1e-12), name
        assert adam[name].multiplier == 1.0
        assert [adam[name].decay, sgd[name].decay] == pytest.approx([1 / expected[1], 1 / expected[2]], rel=1e-12)


def test_every_rule_is_tested_for_its_powers() -> None:
    assert set(rules()) - set(EXPONENTS) == {"unit-scaled-maximal-update"}


@pytest.mark.parametrize("descent", ["sgd", "sign"])
def test_unit_scaling_takes_its_factors_from_the_fans(descent: str) -> None:
    """Blake et al. 2024, table 2, in absolute terms; for SGD the maximal update's effective steps."""
    found = of_mlp(mlp(64), "unit-scaled-maximal-update")
    optimizer: Any = torch.optim.SGD if descent == "sgd" else torch.optim.AdamW
    factors = found.factors(optimizer)
    assert [factors[name].initial for name in ("0.weight", "2.weight", "4.weight")] == [1.0, 1.0, 1.0]
    multipliers = [factors[name].multiplier for name in ("0.weight", "2.weight", "4.weight")]
    assert multipliers == pytest.approx([6**-0.5, 1 / 8, 1 / 64])
    rates = [factors[name].rate for name in ("0.weight", "2.weight", "4.weight", "2.bias", "4.bias")]
    if descent == "sgd":
        effective = [rate * multiplier**2 for rate, multiplier in zip(rates, multipliers, strict=False)]
        assert effective == pytest.approx([64, 1, 1 / 64])
    else:
        assert rates == pytest.approx([6**-0.5, 1 / 8, 1, 1, 1])


OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "eps": 1e-2, "weight_decay": 0.3}),
    "adam": (torch.optim.Adam, {"lr": 0.01, "eps": 1e-3}),
    "adafactor": (torch.optim.Adafactor, {"lr": 0.05, "eps": (1e-30, 0.5), "weight_decay": 0.1}),
}


def outputs_of(rule: str | Rule, optimizer: str, **options: Any) -> torch.Tensor:
    kind, settings = OPTIMIZERS[optimizer]
    model = mlp(64)
    found = of_mlp(model, rule, **options)
    return train(model, kind(found.param_groups(kind, **settings)))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("rule", sorted({*EXPONENTS, "unit-scaled-maximal-update"}))
def test_absorbed_and_held_multipliers_train_alike(rule: str, optimizer: str) -> None:
    """The symmetry of abc-parametrizations: equal outputs at every step in float64, up to rounding."""
    absorbed, held = (outputs_of(rule, optimizer, absorb=absorb) for absorb in (True, False))
    assert not torch.allclose(absorbed[0], absorbed[-1], rtol=1e-2)
    torch.testing.assert_close(held, absorbed, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_mean_field_is_the_maximal_update_in_other_coordinates(optimizer: str) -> None:
    first, second = outputs_of("maximal-update", optimizer), outputs_of("mean-field", optimizer, absorb=False)
    torch.testing.assert_close(second, first, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_forgetting_the_epsilon_or_the_decay_would_be_seen(optimizer: str) -> None:
    """The control of the two tests above: a symmetry that leaves one of them as it is trains otherwise."""
    kind, settings = OPTIMIZERS[optimizer]
    whole = outputs_of("mean-field", optimizer, absorb=False)
    for option in ("eps", "weight_decay"):
        model = mlp(64)
        groups = of_mlp(model, "mean-field", absorb=False).param_groups(kind, **settings)
        if option not in settings:
            continue
        for group in groups:
            group[option] = settings[option]
        assert not torch.allclose(train(model, kind(groups)), whole, rtol=1e-3)


def _mup_by_hand(model: nn.Sequential, optimizer: str) -> torch.optim.Optimizer:
    """The mup package's rules, spelt out for this net: a readout behind 1 / ratio, rates by number of wide dimensions.

    Facts of mup 1.0 (layer.py, optim.py): the readout's input is divided by the ratio, and its initial values grow by
    the root of it; MuAdam divides rates of matrices of two wide dimensions by the ratio, MuSGD multiplies those of one.
    Weight decay is scaled against the rate.
    """
    model[4].register_forward_pre_hook(lambda module, inputs: (inputs[0] / RATIO,))
    with torch.no_grad():
        for tensor in (model[4].weight, model[4].bias, model[2].bias):
            tensor *= RATIO**0.5
    matrix, vectors = [model[2].weight], [model[0].weight, model[0].bias, model[2].bias, model[4].weight]
    kind, settings = OPTIMIZERS[optimizer]
    lr, decay = settings["lr"], settings["weight_decay"]
    quick, slow = (RATIO, 1) if optimizer == "sgd" else (1, 1 / RATIO)
    groups = [(matrix, slow), (vectors, quick), ([model[4].bias], 1)]
    rest = {name: value for name, value in settings.items() if name not in ("lr", "weight_decay")}
    return kind([{"params": p, "lr": lr * f, "weight_decay": decay / f} for p, f in groups], **rest)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_trains_like_the_mup_package(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIMIZERS["adamw"][1], "eps", 1e-30)  # mup leaves epsilons as they are
    model = mlp(16 * RATIO)
    by_hand = train(model, _mup_by_hand(model, optimizer))
    torch.testing.assert_close(outputs_of("maximal-update", optimizer), by_hand, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("absorb", [True, False])
def test_muon_with_a_shape_of_its_own_is_scaled_to_the_maximal_update(absorb: bool) -> None:
    """Steps of Muon have singular values of their rate: sqrt(out / in) moves features by the same amount."""
    found = of_mlp(mlp(16 * 16), "maximal-update", absorb=absorb)
    for adjust, inside in (("original", 1.0), ("match_rms_adamw", 4.0)):
        groups = found.param_groups(torch.optim.Muon, lr=0.02, roles=["hidden"], adjust_lr_fn=adjust)
        assert [group["lr"] * inside for group in groups] == pytest.approx([0.02])
        assert [group["lr"] * group["weight_decay"] for group in groups] == pytest.approx([0.02 * 0.1])
    other = parametrize(
        model := nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 64), nn.Linear(64, 3)).double(),
        base=nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3)).double(),
        delta=nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 32), nn.Linear(32, 3)).double(),
    )
    assert model[1].weight.shape == (64, 16)
    # Only the fan-out grows, by 4: torch's Muon doubles the step on its own, as the spectral condition asks.
    assert other.factors(torch.optim.Muon)["1.weight"].rate == pytest.approx(1.0)


def test_at_the_size_of_the_base_nothing_changes() -> None:
    for rule in EXPONENTS:
        model, before = mlp(16), mlp(16).state_dict()
        found = of_mlp(model, rule)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        (group,) = found.param_groups(torch.optim.AdamW, lr=0.1)
        assert (group["lr"], group["weight_decay"], group["eps"]) == (0.1, 0.01, 1e-8)
        assert len(group["params"]) == 6


def test_at_the_size_of_the_base_unit_scaling_changes_what_the_fans_say() -> None:
    """Blake et al. 2024, table 2, for Adam: rates of 1 / sqrt(fan-in), multipliers of that or of 1 / fan-in."""
    factors = of_mlp(mlp(16), "unit-scaled-maximal-update").factors()
    weights = [factors[name] for name in ("0.weight", "2.weight", "4.weight")]
    assert [factor.multiplier for factor in weights] == pytest.approx([6**-0.5, 1 / 4, 1 / 16])
    assert [factor.rate for factor in weights] == pytest.approx([6**-0.5, 1 / 4, 1])


def test_a_second_call_replaces_hooks() -> None:
    model = Tied(64)
    parametrize(model, base=lambda: Tied(16), delta=lambda: Tied(24))
    parametrize(model, base=lambda: Tied(32), delta=lambda: Tied(48))
    (hook,) = model.readout._forward_pre_hooks.values()
    assert hook == InputMultiplier(0.5)


def test_a_tied_readout_is_divided_by_a_hook() -> None:
    model = Tied(64)
    reference = copy.deepcopy(model)
    found = parametrize(model, base=lambda: Tied(16), delta=lambda: Tied(24))
    tokens = torch.arange(5)
    features = torch.tanh(nn.functional.linear(reference.embedding(tokens), model.middle.weight, model.middle.bias))
    torch.testing.assert_close(model(tokens), features @ reference.embedding.weight.T / 4)
    groups = found.param_groups(torch.optim.AdamW, lr=1.0)
    (embedding,) = (group for group in groups if any(p is model.embedding.weight for p in group["params"]))
    assert embedding["lr"] == 1.0
    assert sum(len(group["params"]) for group in groups) == 3
    assert found.factors()["readout.weight"].multiplier == 0.25


def of_stack(model: nn.Module, rule: str, **options: Any) -> Any:
    sizes = {"base": functools.partial(residual, 16, 2), "delta": functools.partial(residual, 24, 3)}
    return parametrize(model, **sizes, rule=rule, **options)


def test_depth_scales_branches_and_rates() -> None:
    """Yang et al. 2023, table 1: branches over sqrt(L), Adam's rates in blocks over sqrt(L), SGD's as they are."""
    model = residual(64, 8)
    found = of_stack(model, "depth-maximal-update", branches=["blocks.*.down"])
    adam, sgd = found.factors(torch.optim.AdamW), found.factors(torch.optim.SGD)
    up, down = "blocks.5.up.weight", "blocks.5.down.weight"
    assert [adam[name].rate for name in (up, down)] == pytest.approx([1 / 4 / 2, 1 / 4 / 4])
    assert [sgd[name].rate for name in (up, down)] == pytest.approx([1, 1 / 4])
    assert [adam[name].initial for name in (up, down)] == pytest.approx([1 / 2, 1 / 4])
    assert adam["blocks.5.down.bias"].initial == pytest.approx(1 / 2)
    assert adam["first.weight"].rate == adam["last.bias"].rate == 1.0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_absorbed_and_held_branches_train_alike(optimizer: str) -> None:
    kind, settings = OPTIMIZERS[optimizer]
    found = []
    for absorb in (True, False):
        model = residual(32, 6)
        part = of_stack(model, "depth-maximal-update", branches=["blocks.*.down"], absorb=absorb)
        found.append(train(model, kind(part.param_groups(kind, **settings))))
        assert bool(model.blocks[3]["down"]._forward_hooks) != absorb
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)


def test_a_whole_block_can_be_the_branch() -> None:
    class Stack(nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(depth))

        def forward(self, stream: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                stream = stream + block(stream)
            return stream

    model = Stack(8)
    reference = copy.deepcopy(model)
    sizes = {"base": lambda: Stack(2), "delta": lambda: Stack(4)}
    parametrize(model, **sizes, rule="depth-maximal-update", branches=["blocks.*"])
    stream = inputs = torch.randn(3, 4)
    for block in reference.blocks:
        stream = stream + block(stream) / 2
    torch.testing.assert_close(model(inputs), stream)


def test_constants_of_ones_own_multiply_outputs() -> None:
    model = mlp(64)
    held = copy.deepcopy(model)
    plain = copy.deepcopy(model)
    of_mlp(plain, "maximal-update")
    of_mlp(model, "maximal-update", multipliers={"4": 3.0})
    of_mlp(held, "maximal-update", multipliers={"4": 3.0}, absorb=False)
    inputs = torch.randn(5, 6, dtype=torch.float64)
    torch.testing.assert_close(model(inputs), 3 * plain(inputs))
    torch.testing.assert_close(held(inputs), 3 * plain(inputs))


def test_rates_decays_and_tensors_can_be_given_by_role() -> None:
    found = of_mlp(mlp(64), "maximal-update")
    rates = {"input": 1.0, "hidden": 2.0, "output": 3.0, "vector": 4.0, "scalar": 5.0}
    decays = {**dict.fromkeys(rates, 0.1), "vector": 0.0, "scalar": 0.0}
    groups = found.param_groups(torch.optim.AdamW, lr=rates, weight_decay=decays, amsgrad=True)
    assert sorted(group["lr"] for group in groups) == [0.5, 0.75, 1.0, 4.0, 5.0]
    assert sorted(group["lr"] * group["weight_decay"] for group in groups) == pytest.approx([0.0, 0.0, 0.1, 0.2, 0.3])
    assert all(group["amsgrad"] for group in groups)
    (hidden,) = found.param_groups(torch.optim.SGD, lr=rates, roles=["hidden"])
    assert [tuple(parameter.shape) for parameter in hidden["params"]] == [(64, 64)]


def test_frozen_parameters_are_left_out() -> None:
    model = mlp(64)
    model[2].requires_grad_(False)
    groups = of_mlp(model, "maximal-update").param_groups(torch.optim.AdamW, lr=0.1)
    assert sum(len(group["params"]) for group in groups) == 4


def test_exponents_of_ones_own() -> None:
    rule = standard_with_exponents({"sign": {"hidden": 0.25}})
    factors = of_mlp(mlp(64), rule).factors()
    assert [factors[name].rate for name in ("0.weight", "2.weight", "4.weight")] == [1, 4**-0.25, 1]
    with pytest.raises(ParametrizationError, match="'middle' has no exponent"):
        standard_with_exponents({"sign": {"middle": 0.25}})
    with pytest.raises(ParametrizationError, match="'adam' has no exponent"):
        standard_with_exponents({"adam": {"hidden": 0.25}})  # type: ignore[dict-item]


def test_a_rule_of_ones_own_can_be_given() -> None:
    rule = Rule("mine", "", "", lambda tensor, descent: Scale(rate=tensor.width_ratio))
    assert of_mlp(mlp(64), rule).factors()["2.weight"].rate == 4


def test_prints_one_table() -> None:
    printed = str(of_mlp(mlp(64), "maximal-update"))
    row = next(line for line in printed.splitlines() if "hidden" in line)
    assert [cell.strip() for cell in row.strip("│ ").split("│")] == [
        "*.weight",
        "hidden",
        "64",
        "64",
        "x 0.5",
        "x 0.25",
        "x 4",
        "x 1",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "muq"}, "there is no parametrization 'muq': choose from "),
        ({"delta": functools.partial(mlp, 16)}, "delta has the shapes of base"),
        ({"base": 32}, "base is of the type int: give a module, or a function that makes one"),
        ({"delta": mlp}, "delta needs an argument 'width': give a function that takes none"),
        ({"model": 32}, "the model is of the type int: give a torch.nn.Module"),
        ({"base": lambda: 3}, "base builds a int: give a module"),
        ({"base": lambda: nn.Sequential(*mlp(16)[:3])}, "a parameter '4.weight' and the base model none"),
        ({"roles": {"9.weight": "input"}}, "role '9.weight' matches nothing"),
        ({"roles": {"0.weight": "first"}}, "'first' is no role"),
        ({"multipliers": {"9": 2.0}}, "multiplier '9' matches nothing"),
        ({"branches": ["4"]}, "scales no residual branches"),
        ({"delta": lambda: nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 16))}, "'4.bias' and delta none"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"base": functools.partial(mlp, 16), "delta": functools.partial(mlp, 24)} | change
    with pytest.raises(ParametrizationError, match=message) as caught:
        parametrize(**{"model": mlp(64)} | given)
    assert "\n" not in str(caught.value)


def test_depth_needs_branches_where_stacks_grow() -> None:
    with pytest.raises(ParametrizationError, match="name their ends"):
        of_stack(residual(64, 8), "depth-maximal-update")


def test_attention_of_torch_absorbs_what_no_hook_could_hold() -> None:
    class Block(nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(depth))

        def forward(self, stream: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                stream = stream + block(stream, stream, stream, need_weights=False)[0]
            return stream

    reference, sizes = Block(8), {"base": lambda: Block(2), "delta": lambda: Block(3)}
    inputs = torch.randn(2, 5, 8)
    outputs = []
    for absorb, branches in ((True, "blocks.*.out_proj"), (False, "blocks.*.out_proj"), (False, "blocks.?")):
        model = copy.deepcopy(reference)
        parametrize(model, **sizes, rule="depth-maximal-update", branches=[branches], absorb=absorb)
        outputs.append(model(inputs))
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(outputs[2], outputs[0])
    assert not torch.allclose(outputs[0], reference(inputs))
