"""Groups of parametrized models for optimizers of every kind, beside those for torch's own."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from tests.steer.nets import mlp, train

from separatrix.steer import ParametrizationError, parametrize

SIZES: dict[str, Any] = {"base": functools.partial(mlp, 16), "delta": functools.partial(mlp, 24)}


class Passing(torch.optim.AdamW):
    """Passes on whatever it is given."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)


class Preset(Passing):
    """Names one option and leaves the rest to the class above, which leaves them to torch's."""

    def __init__(self, params: Any, *, weight_decay: float = 0.5, **options: Any) -> None:
        super().__init__(params, weight_decay=weight_decay, **options)


class Closed(torch.optim.AdamW):
    """Takes a rate only."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, lr=lr)


class Unnamed(torch.optim.Optimizer):
    """Takes any option, and no class says which."""

    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, options)


def settings_of(optimizer: Any, **options: Any) -> list[dict[str, Any]]:
    groups = parametrize(mlp(64), **SIZES).param_groups(optimizer, lr=0.1, **options)
    return [{name: value for name, value in group.items() if name != "params"} for group in groups]


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.3, "eps": 1e-3}, {"weight_decay": 0.0}])
@pytest.mark.parametrize("optimizer", [Passing, functools.partial(torch.optim.AdamW, betas=(0.9, 0.95))])
def test_groups_are_those_of_the_class_that_options_are_passed_to(optimizer: Any, options: dict[str, Any]) -> None:
    assert settings_of(optimizer, **options) == settings_of(torch.optim.AdamW, **options)


def test_defaults_are_those_of_the_first_class_that_names_them() -> None:
    expected = settings_of(torch.optim.AdamW, weight_decay=0.5)
    assert settings_of(Preset) == expected
    assert settings_of(functools.partial(torch.optim.AdamW, weight_decay=0.5)) == expected
    assert settings_of(functools.partial(Preset, weight_decay=0.1), weight_decay=0.5) == expected
    assert {tuple(group) for group in settings_of(Closed)} == {("lr",)}
    with pytest.raises(ParametrizationError, match="Closed takes no weight_decay: leave it out"):
        settings_of(Closed, weight_decay=0.5)


def test_an_option_that_no_class_names_is_given_to_the_groups_if_asked_for() -> None:
    assert {tuple(group) for group in settings_of(Unnamed, family="adam")} == {("lr",)}
    expected = settings_of(torch.optim.AdamW, weight_decay=0.5, eps=1e-4)
    assert settings_of(Unnamed, family="adam", weight_decay=0.5, eps=1e-4) == expected


def test_settings_of_a_partial_decide_how_steps_scale() -> None:
    adjusted = functools.partial(torch.optim.Muon, adjust_lr_fn="match_rms_adamw")
    chosen: Any = {"lr": 0.1, "roles": ["hidden"]}
    found = parametrize(mlp(256), **SIZES)
    (group,), (other,) = (
        found.param_groups(adjusted, **chosen),
        found.param_groups(torch.optim.Muon, adjust_lr_fn="match_rms_adamw", **chosen),
    )
    assert (group["lr"], group["weight_decay"]) == (other["lr"], other["weight_decay"])
    assert found.factors(adjusted)["2.weight"].rate == pytest.approx(group["lr"] / 0.1)
    decoupled = functools.partial(torch.optim.Adam, decoupled_weight_decay=True, weight_decay=0.5)
    assert settings_of(decoupled) == settings_of(torch.optim.AdamW, weight_decay=0.5)
    assert "AdamW" in str(found.table(functools.partial(torch.optim.AdamW)).title)


def test_a_class_that_passes_options_on_trains_like_torchs_own() -> None:
    outputs = []
    for optimizer in (torch.optim.AdamW, Passing):
        model = mlp(64)
        groups = parametrize(model, **SIZES).param_groups(optimizer, lr=0.01, weight_decay=0.3, eps=1e-2)
        outputs.append(train(model, optimizer(groups)))
    assert torch.equal(*outputs)


@pytest.mark.parametrize(
    ("optimizer", "options", "message"),
    [
        (torch.optim.LBFGS, {"family": "sgd", "weight_decay": 0.1}, "LBFGS takes no weight_decay: leave it out"),
        (torch.optim.SGD, {"eps": 1e-6}, "SGD takes no eps: leave it out"),
        ("AdamW", {}, "'AdamW' is no class of optimizers: give one, such as torch.optim.AdamW"),
        (torch.optim.AdamW(mlp(8).parameters()), {}, "is no class of optimizers"),
        (functools.partial(mlp, 8), {}, "is no class of optimizers"),
        (functools.partial(torch.optim.Adam, weight_decay=0.1), {}, "Adam normalises its weight decay"),
        (torch.optim.LBFGS, {}, "how steps of LBFGS scale is not known"),
        (torch.optim.AdamW, {"family": "adamw"}, "'adamw' is no family"),
        (torch.optim.Adam, {"weight_decay": 0.1}, "normalises its weight decay"),
        (torch.optim.Muon, {}, "Muon takes matrices, not 0.bias"),
        (torch.optim.AdamW, {"roles": ["head"]}, "'head' is no role"),
        (torch.optim.AdamW, {"model": mlp(8)[:3]}, "differ in"),
    ],
)
def test_optimizers_that_do_not_fit_are_refused(optimizer: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParametrizationError, match=message) as caught:
        parametrize(mlp(64), **SIZES).param_groups(optimizer, lr=0.1, **options)
    assert "\n" not in str(caught.value)


def test_a_rate_for_every_role_is_asked_for() -> None:
    with pytest.raises(ParametrizationError, match="lr has no value for tensors of the role 'vector'"):
        parametrize(mlp(64), **SIZES).param_groups(torch.optim.SGD, lr={"input": 0.1})


def test_adam_decoupled_by_an_option_is_taken() -> None:
    found = parametrize(mlp(64), **SIZES)
    groups = found.param_groups(torch.optim.Adam, lr=0.1, weight_decay=0.5, decoupled_weight_decay=True)
    assert {round(group["lr"] * group["weight_decay"], 12) for group in groups} == {0.05}
