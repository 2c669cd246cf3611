"""The coordinate check, against a literal net, planted powers of the width, and the verdicts that theory gives."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.steer.nets import batches, mlp, residual
from torch import nn

from separatrix.steer import SteerError, coordinate_check, parametrize, parametrized_setup
from separatrix.steer.coordinates import slope_of

WIDTHS = (32, 96, 256)
DATA = batches(4)


def data(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    return DATA[step]


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).square().mean()


def build(width: int) -> nn.Module:
    layers = (nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3))
    return nn.Sequential(*layers).double()


def scaled(rule: str, optimizer: Any, **options: Any) -> Any:
    def make(model: nn.Module, width: int) -> Any:
        return parametrize(model, base=functools.partial(mlp, 32), delta=functools.partial(mlp, 64), rule=rule)

    return parametrized_setup(build, make, optimizer, **options)


def test_the_parts_are_those_of_a_literal_net() -> None:
    """Widths 8 and 16, one step: changes written out for the middle layer."""

    def setup(width: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = mlp(width)
        return model, torch.optim.SGD(model.parameters(), lr=0.3)

    found = coordinate_check(setup, (8, 16), data, loss, steps=1, seeds=(0,))
    for index, width in enumerate((8, 16)):
        old, new = mlp(width), mlp(width)
        optimizer = torch.optim.SGD(new.parameters(), lr=0.3)
        loss(new(DATA[0][0]), DATA[0][1]).backward()
        optimizer.step()
        with torch.no_grad():
            before, after = torch.tanh(old[0](DATA[0][0])), torch.tanh(new[0](DATA[0][0]))
            own = after @ (new[2].weight - old[2].weight).T + new[2].bias - old[2].bias
            passed = (after - before) @ old[2].weight.T
            changed = torch.cat(
                [(a - b).flatten() for a, b in zip(new[2].parameters(), old[2].parameters(), strict=True)]
            )
            expected = {
                "activation": new[2](after),
                "feature_change": own + passed,
                "own_effect": own,
                "passed_on": passed,
                "update": changed,
            }
        row = found.modules.index("2")
        for quantity, tensor in expected.items():
            measured = found.values[quantity][row, index, 0]  # type: ignore[index]
            assert measured == pytest.approx(float(tensor.square().mean().sqrt()), rel=1e-10), quantity
    activation = found.modules.index("1")
    assert np.isnan(found.values["own_effect"][activation]).all()


def test_hooks_that_hold_multipliers_are_counted_once() -> None:
    """The change of a readout behind 1 / ratio is that of the same readout with the multiplier absorbed."""
    changes = []
    for absorb in (True, False):

        def make(model: nn.Module, width: int, absorb: bool = absorb) -> Any:
            sizes: Any = {"base": functools.partial(mlp, 32), "delta": functools.partial(mlp, 64)}
            return parametrize(model, **sizes, absorb=absorb)

        setup = parametrized_setup(build, make, torch.optim.SGD, lr=0.1)
        found = coordinate_check(setup, (32, 128), data, loss, seeds=(0,))
        changes.append({name: found.values[name][found.modules.index("4")] for name in ("own_effect", "passed_on")})
    for name, values in changes[0].items():
        np.testing.assert_allclose(changes[1][name], values, rtol=1e-8)


@pytest.mark.parametrize(
    ("rule", "optimizer", "lr", "verdict"),
    [
        ("maximal-update", torch.optim.AdamW, 0.01, "same at every size"),
        ("maximal-update", torch.optim.SGD, 0.1, "same at every size"),
        ("mean-field", torch.optim.SGD, 0.1, "same at every size"),
        ("standard", torch.optim.AdamW, 0.01, "grows"),
        ("neural-tangent", torch.optim.SGD, 0.1, "vanishes"),
        ("neural-tangent", torch.optim.AdamW, 0.01, "vanishes"),
    ],
)
def test_verdicts_are_those_of_theory(rule: str, optimizer: Any, lr: float, verdict: str) -> None:
    found = coordinate_check(scaled(rule, optimizer, lr=lr), WIDTHS, data, loss)
    assert found.verdicts["2"] == verdict
    hidden = found.slope("feature_change", "2").value
    if verdict == "vanishes":
        assert hidden == pytest.approx(-0.5, abs=0.15)
    if verdict == "same at every size":
        assert found.verdict == verdict
        parts = [found.slope(quantity, "2").value for quantity in ("own_effect", "passed_on")]  # type: ignore[arg-type]
        assert [hidden, *parts] == pytest.approx([0.0] * 3, abs=0.15)


@pytest.mark.parametrize(
    ("optimizer", "lr", "own", "passed"), [(torch.optim.AdamW, 0.01, 1.0, 0.0), (torch.optim.SGD, 0.1, 0.5, -0.5)]
)
def test_the_refined_check_finds_the_layer_that_breaks(optimizer: Any, lr: float, own: float, passed: float) -> None:
    """The first step under the standard parametrization: a hidden layer's own update adds up over the width.

    With Adam as n, with SGD as n times the gradient's n^-1/2; what the layer below passes on does not.
    """
    found = coordinate_check(scaled("standard", optimizer, lr=lr), WIDTHS, data, loss, steps=1)
    assert found.slope("own_effect", "2").value == pytest.approx(own, abs=0.15)
    assert found.slope("passed_on", "2").value == pytest.approx(passed, abs=0.15)
    assert np.isnan(found.slope("passed_on", "0").value)  # what the first layer is given does not change


def test_epsilons_scale_with_gradients() -> None:
    """With an epsilon above all gradients Adam's steps would shrink with the width; scaled they do not."""
    found = coordinate_check(scaled("maximal-update", torch.optim.AdamW, lr=0.03, eps=1e-2), WIDTHS, data, loss)
    assert abs(found.slope("feature_change", "2").value) < 0.15

    def unscaled(width: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model, optimizer = scaled("maximal-update", torch.optim.AdamW, lr=0.03)(width)
        for group in optimizer.param_groups:
            group["eps"] = 1e-2
        return model, optimizer

    control = coordinate_check(unscaled, WIDTHS, data, loss)
    assert control.slope("feature_change", "2").value < -0.4


@pytest.mark.parametrize(
    ("rule", "verdict"), [("depth-maximal-update", "same at every size"), ("maximal-update", "grows")]
)
def test_depth_is_checked_alike(rule: str, verdict: str) -> None:
    """Without branches over sqrt(L) and rates to match every layer adds as much, and the output changes as L."""

    def make(model: nn.Module, depth: int) -> Any:
        branches = ["blocks.*.down"] if rule == "depth-maximal-update" else []
        sizes: Any = {"base": functools.partial(residual, 32, 4), "delta": functools.partial(residual, 64, 8)}
        return parametrize(model, **sizes, rule=rule, branches=branches)

    setup = parametrized_setup(lambda depth: residual(32, depth), make, torch.optim.AdamW, lr=0.0005)
    found = coordinate_check(setup, (4, 8, 16), data, loss, steps=2, seeds=(0, 1))
    assert found.modules == ("first", "blocks.*.up", "blocks.*.down", "last")
    assert found.verdicts["last"] == verdict


def test_slopes_of_planted_powers() -> None:
    sizes = (8, 32, 128)
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal((3, 50)))
    values = np.array([3.0 * size**0.7 for size in sizes])[:, None] * noise
    slope = slope_of(sizes, values)
    assert slope.value == pytest.approx(0.7, abs=0.002)
    # Of one seed: 0.01 over the root of the sum of squares of log sizes about their mean.
    assert slope.error == pytest.approx(0.01 / math.log(16) / math.sqrt(2) / math.sqrt(50) * math.sqrt(4), rel=0.5)
    assert math.isnan(slope_of(sizes, np.array([[1.0], [np.inf], [1.0]])).value)


def test_training_changes_neither_mode_nor_generator() -> None:
    seen = []

    def setup(width: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Linear(6, width), nn.Dropout(0.5), nn.Linear(width, 3)).double()
        seen.append(model)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)

    state = torch.get_rng_state()
    found = coordinate_check(setup, (8, 16), data, loss, modules=["2"], seeds=(0,))
    assert found.modules == ("2",)
    assert all(model.training and model[1].training and not model[0]._forward_hooks for model in seen)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_training_that_breaks_is_called_not_finite() -> None:
    def setup(width: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = mlp(width)
        return model, torch.optim.SGD(model.parameters(), lr=math.inf)

    assert coordinate_check(setup, (8, 16), data, loss, seeds=(0,)).verdict == "not finite"


def test_bad_input_is_refused() -> None:
    setup = scaled("maximal-update", torch.optim.SGD, lr=0.1)
    for change in ({"sizes": (32,)}, {"seeds": ()}, {"steps": 0}):
        given: dict[str, Any] = {"sizes": (32, 64), "seeds": (0,)} | change
        with pytest.raises(SteerError, match="needs two sizes or more, a seed and a step"):
            coordinate_check(setup, data=data, loss=loss, **given)
    found = coordinate_check(setup, (32, 64), data, loss, seeds=(0,))
    with pytest.raises(SteerError, match="no module '9' was watched: choose from 0, 1, 2, 3, 4"):
        found.slope("activation", "9")
