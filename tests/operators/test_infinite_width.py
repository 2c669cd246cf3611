import math

import numpy as np
import pytest
import torch
from torch import nn

from separatrix.operators.errors import OperatorUsageError
from separatrix.operators.infinite_width import DUALS, infinite_width_kernels
from separatrix.operators.tangent import tangent_kernel

FUNCTIONS = {
    "erf": (torch.erf, lambda u: 2 / math.sqrt(math.pi) * (-u.square()).exp()),
    "relu": (torch.relu, lambda u: (u > 0).double()),
    "gelu": (
        nn.functional.gelu,
        lambda u: torch.special.ndtr(u) + u * (-u.square() / 2).exp() / math.sqrt(2 * math.pi),
    ),
    "sin": (torch.sin, torch.cos),
}


def gaussian_expectation(f, p, q, r, radii=120, angles=256):
    """E f(u) f(v) by Gauss-Legendre in polar coordinates, split at the angles where u or v changes its sign."""
    nodes, weights = np.polynomial.legendre.leggauss(radii)
    radius = torch.tensor((nodes + 1) * 5.5)
    density = torch.tensor(weights * 5.5) * radius * (-radius.square() / 2).exp() / (2 * math.pi)
    split = math.atan2(math.sqrt(p * q - r * r), r)
    kinks = sorted(
        {angle % (2 * math.pi) for angle in (math.pi / 2, -math.pi / 2, split + math.pi / 2, split - math.pi / 2)}
    )
    gauss, share = np.polynomial.legendre.leggauss(angles)
    total = 0.0
    for start, stop in zip(kinks, [*kinks[1:], kinks[0] + 2 * math.pi], strict=True):
        angle = torch.tensor((gauss + 1) / 2 * (stop - start) + start)
        weight = torch.tensor(share / 2 * (stop - start))
        u = math.sqrt(p) * radius[:, None] * angle.cos()
        v = math.sqrt(q) * radius[:, None] * (angle - split).cos()
        total += float(density @ (f(u) * f(v)) @ weight)
    return total


@pytest.mark.parametrize("name", DUALS)
@pytest.mark.parametrize(("p", "q", "rho"), [(1.0, 1.0, 0.3), (0.4, 2.5, -0.8), (3.0, 0.2, 0.95), (1.7, 0.9, 0.0)])
def test_dual_is_the_gaussian_expectation(name, p, q, rho):
    r = rho * math.sqrt(p * q)
    moment, slope = DUALS[name](*(torch.tensor(value, dtype=torch.float64) for value in (p, q, r)))
    f, derivative = FUNCTIONS[name]
    assert float(moment) == pytest.approx(gaussian_expectation(f, p, q, r), abs=1e-8)
    assert float(slope) == pytest.approx(gaussian_expectation(derivative, p, q, r), abs=1e-8)


class NTKNet(nn.Module):
    def __init__(self, inputs, width, name, hidden, weight_variance, bias_variance, generator):
        super().__init__()
        sizes = [inputs, *[width] * hidden, 1]
        shapes = list(zip(sizes[1:], sizes, strict=False))
        self.weights = nn.ParameterList(torch.randn(shape, generator=generator) for shape in shapes)
        self.biases = nn.ParameterList(torch.randn(shape[0], generator=generator) for shape in shapes)
        self.function, self.scales = FUNCTIONS[name][0], (math.sqrt(weight_variance), math.sqrt(bias_variance))

    def forward(self, x):
        weight_scale, bias_scale = self.scales
        for depth, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = self.function(x) if depth else x
            x = bias_scale * (weight_scale / bias_scale / math.sqrt(weight.shape[1]) * (x @ weight.t()) + bias)
        return x


def networks(count, x, *arguments, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [NTKNet(x.shape[1], *arguments, generator).double() for _ in range(count)]


@pytest.mark.parametrize("name", DUALS)
def test_wide_networks_have_the_predicted_kernels_within_their_standard_error(name):
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    limit = infinite_width_kernels(x, nonlinearity=name, hidden_layers=2, weight_variance=1.5, bias_variance=0.2)
    nets = networks(60, x, 512, name, 2, 1.5, 0.2)
    with torch.no_grad():
        outputs = torch.stack([net(x)[:, 0] for net in nets])
    samples = outputs[:, :, None] * outputs[:, None, :]
    error = samples.std(0) / math.sqrt(len(samples))
    assert ((samples.mean(0) - limit.nngp).abs() < 4 * error).all()
    tangent = torch.stack([tangent_kernel(net, x) for net in nets[:12]])
    # beside the spread there is a bias of order 1/width
    allowed = 5 * tangent.std(0) / math.sqrt(len(tangent)) + 3 * limit.ntk.abs().max() / 512
    assert ((tangent.mean(0) - limit.ntk).abs() < allowed).all()


def test_the_tangent_kernel_converges_like_one_over_root_width():
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    limit = infinite_width_kernels(x, nonlinearity="erf", hidden_layers=2, weight_variance=2.0, bias_variance=0.1).ntk
    widths = [32, 64, 128, 256, 512]
    errors = [
        torch.stack(
            [(tangent_kernel(net, x) - limit).square().mean() for net in networks(24, x, width, "erf", 2, 2.0, 0.1)]
        )
        .mean()
        .sqrt()
        .item()
        for width in widths
    ]
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert -0.65 < slope < -0.35


def test_between_two_sets_it_is_a_block_of_the_kernel_of_both():
    x = torch.randn(6, 3, dtype=torch.float64)
    whole = infinite_width_kernels(x, nonlinearity="gelu", hidden_layers=3, bias_variance=0.3)
    part = infinite_width_kernels(x[:2], x[2:], nonlinearity="gelu", hidden_layers=3, bias_variance=0.3)
    assert torch.allclose(part.nngp, whole.nngp[:2, 2:], rtol=1e-12)
    assert torch.allclose(part.ntk, whole.ntk[:2, 2:], rtol=1e-12)


def test_relu_without_bias_is_homogeneous_and_silent_at_zero():
    x = torch.tensor([[1.0, 2.0], [0.0, 0.0], [-3.0, 1.0]], dtype=torch.float64)
    once, thrice = (infinite_width_kernels(scale * x, hidden_layers=2, weight_variance=2.0) for scale in (1, 3))
    assert torch.allclose(thrice.ntk, 9 * once.ntk)
    assert once.ntk[1].eq(0).all() and once.nngp[1].eq(0).all()
    # weight variance 2 keeps E phi(u)^2 * 2 = p, so each of 3 layers adds the input's second moment times 2
    assert torch.allclose(once.nngp.diagonal(), 2 * x.square().sum(1) / 2)
    assert torch.allclose(once.ntk.diagonal(), 3 * once.nngp.diagonal(), rtol=1e-7)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"nonlinearity": "tanh"}, "erf"),
        ({"hidden_layers": 0}, "at least 1"),
        ({"weight_variance": 0.0}, "Variances"),
        ({"bias_variance": -1.0}, "Variances"),
    ],
)
def test_bad_settings_are_refused(changes, word):
    with pytest.raises(OperatorUsageError, match=word):
        infinite_width_kernels(torch.ones(2, 3), **changes)


def test_bad_inputs_are_refused():
    with pytest.raises(OperatorUsageError, match="equal width"):
        infinite_width_kernels(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(OperatorUsageError, match="not finite"):
        infinite_width_kernels(torch.tensor([[1.0, float("nan")]]))
