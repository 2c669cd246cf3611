"""The nets of the studies of parametrizations against torch's own optimizers, finite differences and planted paths."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from separatrix.steer import parametrize
from separatrix.studies import _residual_nets, _unit_scaled, _wide_nets
from separatrix.studies.depth_transfer import _depth_mup


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("rule", ["standard", "standard-per-layer", "maximal-update"])
def test_wide_nets_train_as_torch_does_with_the_groups_of_the_rule(rule: str) -> None:
    width, base, rate, steps = 32, 8, 2e-2, 5
    data = _wide_nets.digits(0)
    scales = _wide_nets.factors(width, base, rule, torch.optim.Adam)
    generator = torch.Generator().manual_seed(0)
    start = _wide_nets.drawn(width, scales, 1, generator)
    end, losses = _wide_nets.train(
        start, torch.tensor([rate]), scales, data, steps=steps, batch=16, generator=torch.Generator().manual_seed(1)
    )
    model = _wide_nets.module(width).to_empty(device="cpu")
    scaled = parametrize(
        model, base=_wide_nets.module(base), delta=_wide_nets.module(2 * base), rule=rule, initialize=False
    )
    matrices = [layer for layer in model if isinstance(layer, nn.Linear)]
    for layer, weight in zip(matrices, start, strict=True):
        layer.weight.data.copy_(weight[0].T)
    groups = scaled.param_groups(torch.optim.Adam, lr=rate, eps=1e-30)
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    drawing = torch.Generator().manual_seed(1)
    for step in range(steps):
        rows = torch.randint(len(data.classes), (16,), generator=drawing)
        loss = functional.cross_entropy(model(data.inputs[rows]), data.classes[rows])
        assert float(loss.detach()) == pytest.approx(float(losses[step, 0]), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for layer, weight, before in zip(matrices, end, start, strict=True):
        # Entries whose gradient is nearly zero take steps whose sign is rounding's: compare as a whole.
        gap = (layer.weight.T - weight[0]).norm() / (weight[0] - before[0]).norm()
        assert float(gap.detach()) < 0.02


def test_the_best_rate_is_the_vertex_of_a_parabola() -> None:
    rates = 2.0 ** torch.arange(-5.0, 5.0)
    assert _wide_nets.best_rate(rates, ((rates.log2() - 1.3) ** 2).exp()) == pytest.approx(1.3, abs=1e-5)
    assert _wide_nets.best_rate(rates, rates) == -5.0
    losses = torch.where(rates > 2.0, torch.full_like(rates, math.nan), 1 / rates)
    assert _wide_nets.best_rate(rates, losses) <= 1.0


def test_depth_mup_divides_by_the_root_of_the_depth() -> None:
    assert _depth_mup(16, 32, 2) == pytest.approx((0.25, 0.25))
    assert _depth_mup(16, 2, 2) == (1.0, 1.0)


@pytest.mark.parametrize(("two_layers", "still"), [(False, False), (True, False), (False, True)])
def test_residual_nets_train_as_torch_does(two_layers: bool, still: bool) -> None:
    net = _residual_nets.ResidualNet(8, 3, 0.3, 0.5, nonlinearity=torch.abs, two_layers=two_layers, still=still)
    data, steps = _wide_nets.digits(0), 4
    start = net.drawn(1, torch.Generator().manual_seed(0))
    end, losses = net.train(start, torch.tensor([0.02]), data, steps, torch.Generator().manual_seed(1))
    weights = [nn.Parameter(weight[0].clone()) for weight in start]
    groups = [{"params": weights[1:-1], "lr": 0.01}, {"params": [weights[-1], *([] if still else weights[:1])]}]
    optimizer = torch.optim.Adam(groups, lr=0.02, betas=(0.9, 0.99), eps=1e-30)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    drawing = torch.Generator().manual_seed(1)
    for step in range(steps):
        rows = torch.randint(len(data.classes), (_residual_nets.BATCH,), generator=drawing)
        stream, inner = data.inputs[rows] @ weights[0], weights[1:-1]
        for index in range(3):
            if two_layers:
                branch = (stream @ inner[2 * index]).abs() @ inner[2 * index + 1]
            else:
                branch = (stream @ inner[index]).abs()
                branch = branch - branch.mean(1, keepdim=True)
            stream = stream + 0.3 * branch
        loss = functional.cross_entropy(stream @ weights[-1], data.classes[rows])
        assert float(loss.detach()) == pytest.approx(float(losses[step, 0]), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    assert torch.equal(end[0], start[0]) == still


def test_diversity_is_that_of_planted_paths() -> None:
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(65, 1, 16, 32, generator=generator)
    smooth = torch.linspace(0, 1, 65)[:, None, None, None] * steps[:1]
    assert _residual_nets.diversity_exponent(list(steps.cumsum(0))) == pytest.approx(0.5, abs=0.03)
    assert _residual_nets.diversity_exponent(list(smooth)) == pytest.approx(0.0, abs=1e-6)


def test_a_cast_rounds_to_the_numbers_of_the_format() -> None:
    # E4M3: three bits of fraction, least 2^-9, largest 448; E5M2: two bits, least 2^-16, largest 57344.
    given = torch.tensor([1.0, 1.06, 1.07, 2.0**-9, 2.0**-11, 1e6])
    assert _unit_scaled.cast(given, torch.float8_e4m3fn).tolist() == [1.0, 1.0, 1.125, 2.0**-9, 0.0, 448.0]
    given = torch.tensor([1.0, 1.12, 1.13, 2.0**-16, 2.0**-18, -1e9])
    assert _unit_scaled.cast(given, torch.float8_e5m2).tolist() == [1.0, 1.0, 1.25, 2.0**-16, 0.0, -57344.0]


@pytest.mark.parametrize("unit", [True, False])
def test_scaled_gradients_are_parallel_to_those_of_the_loss(unit: bool) -> None:
    model, generator = _unit_scaled.Transformer(16, unit), torch.Generator().manual_seed(0)
    weights = {name: weight.double() for name, weight in model.drawn(1, generator).items()}
    tokens = torch.randint(98, (2, _unit_scaled.BATCH, _unit_scaled.LENGTH), generator=generator)
    hyper = _unit_scaled.Hyper(*torch.tensor([[1.0], [0.7], [1.3], [0.9]], dtype=torch.float64))

    def loss(changed: dict[str, Tensor]) -> float:
        return float(model.losses(changed, tokens[0], tokens[1], hyper)[0])

    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    total = model.losses(leaves, tokens[0], tokens[1], hyper)[1]
    gradients = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    for name, gradient in gradients.items():
        ratios = []
        for _ in range(3):
            mixed = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
            mixed = mixed / mixed.norm() + gradient / gradient.norm()
            step = 1e-7 * weights[name].norm() * mixed / mixed.norm()
            ahead, back = (loss({**weights, name: weights[name] + sign * step}) for sign in (1, -1))
            ratios.append((ahead - back) / 2 / float((gradient * step).sum()))
        assert max(ratios) == pytest.approx(min(ratios), rel=1e-4), name
        assert min(ratios) > 0
        if not unit:
            assert ratios[0] == pytest.approx(1.0, rel=1e-4), name
