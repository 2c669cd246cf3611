"""Averages of weights: profiles and reconstruction against quadrature and direct averages, the rule for batch sizes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.optim.swa_utils import AveragedModel

from separatrix.steer.averaging import (
    LONGEST,
    AverageSnapshots,
    AveragingError,
    averaging_rate,
    coefficients,
    decay,
    exponent,
    power_average,
    profile,
    reconstruct,
    relative_width,
    rescale,
    scaled_momentum,
)

# Exponents that the paper's own program finds for these widths.
PUBLISHED = {0.05: 16.972198602303447, 0.10: 6.937203937601809, 0.07: 11.244939447857924}


@pytest.mark.parametrize("width", [0.001, 0.01, 0.05, 0.07, 0.1, 0.2, 0.28])
def test_exponent_and_width_are_inverse_and_those_of_a_beta_distribution(width: float) -> None:
    power = exponent(width)
    assert relative_width(power) == pytest.approx(width, rel=1e-9)
    assert stats.beta(power + 1, 1).std() == pytest.approx(width, rel=1e-9)
    if width in PUBLISHED:
        assert power == pytest.approx(PUBLISHED[width], rel=1e-10)


def test_the_longest_width_is_that_of_the_plain_mean() -> None:
    assert relative_width(0.0) == pytest.approx(LONGEST, rel=1e-15)
    assert exponent(LONGEST - 1e-9) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("power", [0.0, 0.7, 6.94, 40.0])
def test_the_recursion_has_the_profile(power: float) -> None:
    steps = 50
    weights = np.zeros(steps)
    for step in range(1, steps + 1):
        kept = decay(power, step)
        weights *= kept
        weights[step - 1] = 1 - kept
    np.testing.assert_allclose(weights, profile(power, steps), rtol=1e-12, atol=1e-15)
    assert profile(power, steps).sum() == pytest.approx(1.0)
    one = integrate.quad(lambda s: (power + 1) * s**power / steps ** (power + 1), 9, 10)[0]
    assert profile(power, steps)[9] == pytest.approx(one, rel=1e-9)


def _quadrature(steps: list[float], widths: list[float], step: float, width: float) -> np.ndarray:
    """Coefficients by least squares over profiles sampled on a fine grid."""
    grid = (np.arange(200_000) + 0.5) / 200_000 * step

    def sampled(end: float, each: float) -> np.ndarray:
        power = exponent(each)
        return np.where(grid <= end, (power + 1) * (grid / end) ** power / end, 0.0)

    columns = np.stack([sampled(end, each) for end, each in zip(steps, widths, strict=True)], 1)
    found = np.linalg.lstsq(columns, sampled(step, width), rcond=None)[0]
    return found / found.sum()


def test_coefficients_are_the_least_squares_ones() -> None:
    steps, widths = [100.0, 100.0, 200.0, 200.0], [0.05, 0.1, 0.05, 0.1]
    found = coefficients(steps, widths, 200, 0.07)
    np.testing.assert_allclose(found, _quadrature(steps, widths, 200, 0.07), rtol=2e-3, atol=1e-4)
    assert found.sum() == pytest.approx(1.0)


def test_a_stored_average_is_made_of_itself() -> None:
    found = coefficients([50, 50, 100, 100], [0.05, 0.1, 0.05, 0.1], 100, 0.1)
    np.testing.assert_allclose(found, [0, 0, 0, 1], atol=1e-9)


@pytest.mark.parametrize(
    ("steps", "widths", "step", "width", "part"),
    [
        ([], [], 10, 0.1, "0 steps"),
        ([1, 2], [0.1], 10, 0.1, "2 steps and 1 widths"),
        ([11], [0.1], 10, 0.1, "cannot give"),
        ([0], [0.1], 10, 0.1, "cannot give"),
        ([5, 5], [0.1, 0.1], 10, 0.1, "twice"),
        ([5], [0.3], 10, 0.1, r"width 0\.3"),
        ([5], [0.1], 10, 0.0, "width 0"),
    ],
)
def test_bad_input_to_coefficients_is_refused(
    steps: list[float], widths: list[float], step: float, width: float, part: str
) -> None:
    with pytest.raises(AveragingError, match=part):
        coefficients(steps, widths, step, width)


def test_other_bad_input_is_refused() -> None:
    for call in (
        lambda: relative_width(-1.0),
        lambda: decay(1.0, 0),
        lambda: scaled_momentum(1.0, 2),
        lambda: scaled_momentum(0.9, 0),
        lambda: averaging_rate(0.0, 0.1),
    ):
        with pytest.raises(AveragingError):
            call()


def _walk(module: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for values in module.parameters():
            values.add_(0.1 * torch.randn(values.shape, generator=generator))


def test_torch_averages_a_model_with_the_profile() -> None:
    module = nn.Linear(3, 2)
    generator = torch.Generator().manual_seed(0)
    average = AveragedModel(module, multi_avg_fn=power_average(0.1))
    history = []
    for _ in range(40):
        _walk(module, generator)
        average.update_parameters(module)
        history.append(module.weight.detach().double().clone())
    weights = torch.from_numpy(profile(exponent(0.1), 40))
    expected = (weights[:, None, None] * torch.stack(history)).sum(0)
    torch.testing.assert_close(average.module.weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_snapshots_give_other_lengths(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    generator = torch.Generator().manual_seed(1)
    averages = AverageSnapshots(module, tmp_path / "averages")
    wanted = {
        width: AveragedModel(module, multi_avg_fn=power_average(width), use_buffers=True) for width in (0.06, 0.09)
    }
    for step in range(1, 401):
        _walk(module, generator)
        module[1].num_batches_tracked += 1
        averages.update()
        for average in wanted.values():
            average.update_parameters(module)
        if step % 50 == 0:
            averages.store()
    for width, average in wanted.items():
        found = reconstruct(tmp_path / "averages", width=width)
        direct = average.module.state_dict()
        assert found.keys() == direct.keys()
        for name, value in direct.items():
            assert found[name].dtype == value.dtype
            if value.is_floating_point() and "running" not in name:
                assert float((found[name] - value).norm() / value.norm()) < 1e-2
        assert found["1.num_batches_tracked"] == 400
    kept = reconstruct(tmp_path / "averages", width=0.05)
    torch.testing.assert_close(kept["0.weight"], averages.state_dict(0.05)["0.weight"], rtol=1e-4, atol=1e-5)
    early = reconstruct(tmp_path / "averages", width=0.1, step=200, dtype=torch.float64)
    assert early["0.weight"].dtype == torch.float64
    nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).load_state_dict(found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_averages_of_narrow_types_are_those_of_the_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    """Weights that rise from 0 to 1: late steps change the average by less than bfloat16 can tell."""
    steps = 3000
    module = nn.Sequential(nn.Linear(1, 1, bias=False).to(dtype), nn.Linear(1, 1))
    averages = AverageSnapshots(module, tmp_path / "averages")
    weights = torch.arange(steps).div(steps).to(dtype)
    for step in range(steps):
        module[0].weight.data.fill_(weights[step])
        averages.update()
        if (step + 1) % 500 == 0:
            averages.store()
    exact = {width: profile(exponent(width), steps) @ weights.double().numpy() for width in (0.1, 0.07)}
    assert float(averages.state_dict(0.1)["0.weight"]) == pytest.approx(exact[0.1], rel=1e-4)
    found = reconstruct(tmp_path / "averages", width=0.07)
    assert found["0.weight"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(found["0.weight"]) == pytest.approx(exact[0.07], rel=1e-3)
    module.load_state_dict(found)


def test_an_average_kept_in_a_narrow_type_is_refused() -> None:
    module = nn.Linear(1, 1).bfloat16()
    average = AveragedModel(module, multi_avg_fn=power_average(0.1))
    average.update_parameters(module)
    with pytest.raises(AveragingError, match=r"torch\.bfloat16 would stand still: use AverageSnapshots"):
        average.update_parameters(module)


def test_bad_snapshots_are_refused(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    with pytest.raises(AveragingError, match="each once"):
        AverageSnapshots(module, tmp_path, widths=(0.1, 0.1))
    with pytest.raises(AveragingError, match=r"width 0\.4"):
        AverageSnapshots(module, tmp_path, widths=(0.4,))
    averages = AverageSnapshots(module, tmp_path / "a")
    with pytest.raises(AveragingError, match="nothing was averaged"):
        averages.store()
    with pytest.raises(AveragingError, match="holds no averages"):
        reconstruct(tmp_path / "a", width=0.1)
    averages.update()
    averages.store()
    with pytest.raises(AveragingError, match="is not kept"):
        averages.state_dict(0.07)
    with pytest.raises(AveragingError, match=r"of steps 1 to 1, none of step 7: choose 1$"):
        reconstruct(tmp_path / "a", width=0.1, step=7)
    averages.update()
    averages.update()
    averages.store()
    with pytest.raises(AveragingError, match=r"none of step 2: choose 1 or 3$"):
        reconstruct(tmp_path / "a", width=0.1, step=2)
    with pytest.raises(AveragingError, match="another training"):
        AverageSnapshots(module, tmp_path / "a")
    other = AverageSnapshots(nn.Linear(3, 2), tmp_path / "b")
    for _ in range(2):
        other.update()
    other.store()
    for path in (tmp_path / "b").iterdir():
        path.rename(tmp_path / "a" / path.name)
    with pytest.raises(AveragingError, match="other tensors"):
        reconstruct(tmp_path / "a", width=0.1)


def test_kappa_steps_forget_what_one_scaled_step_forgets() -> None:
    momentum, kappa = 0.99, 8
    kept = 1.0
    for _ in range(kappa):
        kept *= momentum
    assert scaled_momentum(momentum, kappa) == pytest.approx(kept, rel=1e-12)
    assert averaging_rate(scaled_momentum(momentum, kappa), 0.1 * kappa) == pytest.approx(averaging_rate(momentum, 0.1))


def test_optimizers_are_rescaled() -> None:
    weight = [nn.Parameter(torch.ones(1))]
    sgd = torch.optim.SGD(weight, lr=0.1, momentum=0.9, weight_decay=1e-4)
    rescale(sgd, 4)
    assert (sgd.param_groups[0]["lr"], sgd.param_groups[0]["momentum"]) == (0.4, 0.9)
    adamw = torch.optim.AdamW(weight, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.02)
    rescale(adamw, 4)
    group = adamw.param_groups[0]
    assert group["lr"] * group["weight_decay"] == pytest.approx(4 * 0.1 * 0.02)
    assert group["lr"] == pytest.approx(0.2)
    assert group["eps"] == pytest.approx(5e-9)
    assert group["betas"] == pytest.approx((0.6, 0.996))
    adam = torch.optim.Adam(weight, lr=0.1, weight_decay=0.02)
    rescale(adam, 4)
    assert adam.param_groups[0]["weight_decay"] == 0.02
    rmsprop = torch.optim.RMSprop(weight, lr=0.1, alpha=0.99)
    rescale(rmsprop, 4)
    assert rmsprop.param_groups[0]["alpha"] == pytest.approx(0.96)
    before = dict(adam.param_groups[0])
    with pytest.raises(AveragingError, match="below 0"):
        rescale(adam, 16)
    assert adam.param_groups[0] == before
    with pytest.raises(AveragingError, match="no known scaling rule"):
        rescale(torch.optim.Adagrad(weight), 2)
    with pytest.raises(AveragingError, match="kappa"):
        rescale(sgd, math.inf)
