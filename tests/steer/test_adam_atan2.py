"""Adam-atan2 against a literal version in numpy, Adam where the two agree, and scales that it must not see."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from separatrix.steer.optim import AdamAtan2, OptimizerError


def _path(optimizer: str, scale: float = 1.0, dtype: torch.dtype = torch.float64, **options: Any) -> Tensor:
    """Parameters after 20 steps down a quartic bowl whose loss is multiplied by `scale`."""
    parameter = nn.Parameter(torch.linspace(-1.0, 2.0, 7, dtype=dtype))
    made = (
        AdamAtan2([parameter], lr=0.05, **options) if optimizer == "atan2" else torch.optim.Adam([parameter], lr=0.05)
    )
    for step in range(20):
        made.zero_grad()
        (scale * ((parameter - 0.1 * step) ** 4).sum()).backward()
        made.step()
    return parameter.detach()


@pytest.mark.parametrize("options", [{}, {"a": 1.27, "b": 0.5, "weight_decay": 0.3, "betas": (0.8, 0.95)}])
def test_it_is_the_formula(options: dict[str, Any]) -> None:
    values = np.linspace(-1.0, 2.0, 7)
    slow, slower = options.get("betas", (0.9, 0.999))
    first, second = np.zeros(7), np.zeros(7)
    for step in range(20):
        gradient = 4 * (values - 0.1 * step) ** 3
        first = slow * first + (1 - slow) * gradient
        second = slower * second + (1 - slower) * gradient**2
        mean, square = first / (1 - slow ** (step + 1)), second / (1 - slower ** (step + 1))
        values = values * (1 - 0.05 * options.get("weight_decay", 0.0))
        values = values - 0.05 * options.get("a", 1.0) * np.arctan2(mean, options.get("b", 1.0) * np.sqrt(square))
    np.testing.assert_allclose(_path("atan2", **options).numpy(), values, rtol=1e-12)


def test_for_small_quotients_it_is_adam_without_epsilon() -> None:
    # atan2(m, b s) a = (a / b) m / s (1 - (m / b s)^2 / 3 + ...), and |m / s| is at most about 1 here.
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(30, 50, dtype=torch.float64, generator=generator)
    ours, theirs = (nn.Parameter(torch.zeros(50, dtype=torch.float64)) for _ in range(2))
    pair = AdamAtan2([ours], a=1e4, b=1e4), torch.optim.Adam([theirs], eps=0.0)
    for gradient in gradients:
        for parameter, optimizer in zip((ours, theirs), pair, strict=True):
            parameter.grad = gradient
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("power", [-100, -40, 40, 100])
def test_powers_of_two_change_no_bit(power: int) -> None:
    assert torch.equal(_path("atan2", 2.0**power), _path("atan2"))


def test_other_scales_change_rounding_only() -> None:
    torch.testing.assert_close(_path("atan2", 1e-12), _path("atan2"), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(_path("atan2", 2.0**-20, torch.float32), _path("atan2", 1.0, torch.float32))


def test_adam_stalls_where_epsilon_dwarfs_the_gradients() -> None:
    start = torch.linspace(-1.0, 2.0, 7, dtype=torch.float64)
    assert float((_path("adam", 1e-12) - start).abs().max()) < 0.05 * float((_path("adam") - start).abs().max())


def test_parameters_whose_gradients_are_zero_stay() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = AdamAtan2([parameter])
    for _ in range(3):
        parameter.grad = torch.tensor([0.0, 1.0, -1.0])
        optimizer.step()
    assert parameter[0] == 1.0
    assert float(parameter[1].detach()) == pytest.approx(1.0 - 3e-3 * math.pi / 4)
    assert float(parameter[2].detach()) == pytest.approx(1.0 + 3e-3 * math.pi / 4)


@pytest.mark.parametrize(
    ("options", "part"),
    [({"a": 0.0}, "a=0.0"), ({"b": -1.0}, "b=-1.0"), ({"lr": math.nan}, "lr=nan"), ({"betas": (-0.1, 0.9)}, "betas=")],
)
def test_bad_options_are_refused(options: dict[str, Any], part: str) -> None:
    with pytest.raises(OptimizerError, match=part):
        AdamAtan2([nn.Parameter(torch.ones(2))], **options)
    with pytest.raises(OptimizerError, match=part):
        AdamAtan2([nn.Parameter(torch.ones(2))]).add_param_group({"params": [nn.Parameter(torch.ones(2))], **options})
