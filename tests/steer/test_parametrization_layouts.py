"""Which dimensions of a tensor are inputs and outputs: beside derivatives, and beside the same layers apart."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from separatrix.steer import ParametrizationError, parametrize


@pytest.mark.parametrize(
    ("layer", "role", "ratios"),
    [
        (lambda n: nn.Conv2d(3, n, 3), "input", (1, 2)),
        (lambda n: nn.Conv2d(n, n, 3), "hidden", (2, 2)),
        (lambda n: nn.Conv2d(n, n, 3, groups=n), "input", (1, 2)),
        (lambda n: nn.ConvTranspose2d(n, 3, 3), "output", (2, 1)),
        (lambda n: nn.ConvTranspose2d(n, n, 3), "hidden", (2, 2)),
        (lambda n: nn.ConvTranspose1d(n, n, 3, groups=n), "input", (1, 2)),
        (lambda n: nn.ConvTranspose2d(n, 2 * n, 3, groups=n // 4), "input", (1, 2)),
        (lambda n: nn.ConvTranspose2d(n, 2 * n, 3, groups=4), "hidden", (2, 2)),
        (lambda n: nn.ConvTranspose2d(n, 8, 3, groups=4), "output", (2, 1)),
        (lambda n: nn.ConvTranspose2d(n**2, n**2, 3, groups=n), "hidden", (2, 4)),
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


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("layer", [nn.Conv1d, nn.ConvTranspose1d])
def test_fans_of_convolutions_count_the_weights_that_an_output_depends_on(layer: Any, groups: int) -> None:
    """Beside non-zero derivatives of an output and, of what one channel of a group feeds, over all groups."""
    model = layer(8, 16, 3, groups=groups)
    found = parametrize(
        copy.deepcopy(model),
        base=lambda: layer(8, 16, 3, groups=groups),
        delta=lambda: layer(16, 32, 3, groups=2 * groups if groups == 8 else groups),
    ).factors()["weight"]
    inputs = torch.ones(1, 8, 9, requires_grad=True)
    outputs = model(inputs)
    (used,) = torch.autograd.grad(outputs[0, 0, 4], model.weight, retain_graph=True)
    assert found.tensor.fan_in == int((used != 0).sum())
    fed = sum(
        int(torch.autograd.grad(outputs[0, channel, place], inputs, retain_graph=True)[0][0, 0, 4] != 0)
        for channel in range(16)
        for place in range(outputs.shape[2])
    )
    assert found.tensor.fan_out == groups * fed
    assert found.tensor.shape == tuple(model.weight.shape)


EXPERTS = 4


class Apart(nn.Module):
    """Experts as layers of their own, of a hidden width and another one inside."""

    def __init__(self, width: int, inner: int, gates: int) -> None:
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(width, gates * inner) for _ in range(EXPERTS))
        self.down = nn.ModuleList(nn.Linear(inner, width) for _ in range(EXPERTS))


class Batched(nn.Module):
    """The same experts in one tensor for each projection, named and laid out as in transformers."""

    def __init__(self, width: int, inner: int, gates: int, turned: bool, up: str = "", experts: int = EXPERTS) -> None:
        super().__init__()
        up = up or ("gate_up_proj" if gates == 2 else "up_proj")
        if gates == 1:
            self.is_transposed = turned
        for name, (inputs, outputs) in {up: (width, gates * inner), "down_proj": (inner, width)}.items():
            shape = (inputs, outputs) if turned else (outputs, inputs)
            setattr(self, name, nn.Parameter(0.02 * torch.randn(experts, *shape)))
            setattr(self, f"{name}_bias", nn.Parameter(torch.zeros(experts, outputs)))


@pytest.mark.parametrize("rule", ["maximal-update", "unit-scaled-maximal-update"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("up", ["gate_up_proj", "up_proj", "mine"])
def test_experts_in_one_tensor_have_the_facts_of_experts_apart(up: str, turned: bool, rule: str) -> None:
    """Sizes grow by different factors, so that inputs and outputs cannot be taken for each other."""
    gates = 1 if up == "up_proj" else 2
    order = "in out" if turned else "out in"
    layouts = {"mine": f"each {order}", "down_proj": f"each {order}"} | dict.fromkeys(
        ("mine_bias", "down_proj_bias"), "each out"
    )
    sizes = {"base": (16, 32), "delta": (32, 192)}
    model = Batched(64, 256, gates, turned, up)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batched = parametrize(
            model,
            **{what: functools.partial(Batched, *size, gates, turned, up) for what, size in sizes.items()},
            rule=rule,
            layouts=layouts if up == "mine" else None,
        )
        apart = parametrize(
            Apart(64, 256, gates),
            **{what: functools.partial(Apart, *size, gates) for what, size in sizes.items()},
            rule=rule,
            absorb=True,
        )
    for optimizer in (torch.optim.AdamW, torch.optim.SGD):
        ours, theirs = batched.factors(optimizer), apart.factors(optimizer)
        for name, other in {up: "up.1.weight", f"{up}_bias": "up.1.bias", "down_proj": "down.1.weight"}.items():
            one, two = ours[name], theirs[other]
            assert (one.initial, one.rate, one.absolute) == (two.initial, two.rate, two.absolute), name
            for fact in ("role", "fan_in", "fan_out", "fan_in_ratio", "fan_out_ratio"):
                assert getattr(one.tensor, fact) == getattr(two.tensor, fact), (name, fact)


def test_the_number_of_experts_may_grow() -> None:
    sizes: Any = {"base": lambda: Batched(16, 32, 2, False), "delta": lambda: Batched(32, 64, 2, False, "", 6)}
    factors = parametrize(Batched(64, 128, 2, False, "", 8), **sizes).factors()
    assert (factors["gate_up_proj"].tensor.role, factors["gate_up_proj"].rate) == ("hidden", 0.25)
    assert factors["down_proj_bias"].tensor.fan_out_ratio == 4.0
    sizes = {"base": lambda: Batched(16, 32, 2, False, "mine"), "delta": lambda: Batched(32, 64, 2, False, "mine", 6)}
    with pytest.raises(ParametrizationError, match=r"scales in 3 dimensions and at most two can: .*'each out in'"):
        parametrize(Batched(64, 128, 2, False, "mine", 8), **sizes)


@pytest.mark.parametrize(
    ("layouts", "message"),
    [
        ({"mine": "out in"}, "'out in' is no layout of mine, which has 3 dimensions: give one word for each"),
        ({"mine": "each in in"}, "'each in in' is no layout of mine"),
        ({"mine": "expert out in"}, "'expert out in' is no layout of mine"),
        ({"mine": "out kernel in"}, "dimension 1 of mine scales: its layout cannot call it a kernel"),
        ({"yours": "each out in"}, "layout 'yours' matches nothing"),
    ],
)
def test_layouts_that_do_not_fit_are_refused(layouts: dict[str, str], message: str) -> None:
    sizes: Any = {"base": lambda: Batched(16, 32, 2, False, "mine"), "delta": lambda: Batched(32, 64, 2, False, "mine")}
    with pytest.raises(ParametrizationError, match=message):
        parametrize(Batched(64, 128, 2, False, "mine"), **sizes, layouts=layouts)


def test_a_kernel_of_ones_own_counts_and_other_dimensions_of_unknown_tensors_do_not() -> None:
    class Own(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.filters = nn.Parameter(torch.randn(5, width, width))

    found = []
    for layouts in ({"filters": "kernel in out"}, {"filters": "each in out"}, None):
        sizes: Any = {"base": lambda: Own(8), "delta": lambda: Own(12)}
        found.append(parametrize(Own(16), **sizes, layouts=layouts).factors()["filters"].tensor)
    assert [(tensor.fan_in, tensor.fan_out) for tensor in found] == [(80, 80), (16, 16), (16, 16)]
