import contextlib
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from separatrix.operators import (
    NotTwiceDifferentiableError,
    StaleOperatorError,
    UnbatchedProductsWarning,
    _lean_functions,
    hessian,
    hessian_of,
)
from separatrix.operators._channels_last import ChannelsLast
from separatrix.operators._second_order import is_lean, lean_second_derivatives
from separatrix.operators.differentiation import nodes


class Grid(nn.Module):
    """Every argument of convolution and pooling that the replacements take, in three dimensions."""

    def __init__(self, dims):
        super().__init__()
        kinds = {1: (nn.Conv1d, nn.Tanh()), 2: (nn.Conv2d, nn.MaxPool2d(2, ceil_mode=True)), 3: (nn.Conv3d, nn.Tanh())}
        convolution, self.pool = kinds[dims]
        self.first = convolution(2, 4, 3, stride=2, padding=1)
        self.second = convolution(4, 6, 2, groups=2, dilation=2, padding="valid", bias=False)
        self.third = convolution(6, 2, 3, padding="same")
        self.head = nn.Linear(2, 3)

    def forward(self, x):
        x = self.second(F.relu(self.first(x))).relu()
        return self.head(self.third(self.pool(x)).flatten(2).sin().mean(2))


def problem(dims, n=5):
    torch.manual_seed(dims)
    model = Grid(dims).double()
    return model, torch.randn(n, 2, *(9,) * dims, dtype=torch.float64), torch.randint(0, 3, (n,))


def dense(model, loss):
    """The Hessian by torch's own derivatives, row by row, outside the replacements."""
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True) for entry in flat]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("batched", [False, True])
def test_products_equal_those_of_torchs_own_second_derivatives(dims, batched):
    model, x, y = problem(dims)
    operator = hessian(model, F.cross_entropy, (x, y))
    operator.batched = batched
    block = torch.randn(operator.size, 3, dtype=torch.float64)
    truth = dense(model, F.cross_entropy(model(x), y)) @ block
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnbatchedProductsWarning)
        assert torch.allclose(operator @ block, truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_without_anything_before_or_after_it(bias):
    model = nn.Conv2d(1, 2, 3, bias=bias).double()
    x = torch.randn(4, 1, 5, 5, dtype=torch.float64)

    def loss():
        return model(x).pow(3).mean()

    operator = hessian_of(loss, list(model.parameters()))
    identity = torch.eye(operator.size, dtype=torch.float64)
    assert torch.allclose(operator @ identity, dense(model, loss()), rtol=1e-10, atol=1e-12)


def test_gradients_inside_the_loss_take_a_third_derivative():
    model, x, y = problem(2)

    def loss():
        inputs = x.clone().requires_grad_()
        value = F.cross_entropy(model(inputs), y)
        (slope,) = torch.autograd.grad(value, inputs, create_graph=True)
        return value + slope.square().sum()

    vector = torch.randn(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    truth = dense(model, loss()) @ vector
    assert torch.allclose(hessian_of(loss, list(model.parameters())) @ vector, truth, rtol=1e-9, atol=1e-12)


def test_checkpointed_parts_are_left_alone():
    model, x, y = problem(2)

    def loss():
        hidden = checkpoint(lambda inputs: F.relu(model.first(inputs)), x, use_reentrant=False)
        return F.cross_entropy(model.head(model.third(model.pool(model.second(hidden).relu())).flatten(2).mean(2)), y)

    vector = torch.randn(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    truth = dense(model, loss()) @ vector
    assert torch.allclose(hessian_of(loss, list(model.parameters())) @ vector, truth, rtol=1e-10, atol=1e-12)


def test_only_what_is_covered_is_replaced():
    x = torch.randn(2, 1, 6, 6, requires_grad=True)
    weight = torch.randn(1, 1, 3, 3)
    with lean_second_derivatives():
        covered = [
            F.conv2d(x, weight),
            torch.relu(x),
            F.max_pool2d(x, 2),
            F.conv2d(x.detach(), weight.requires_grad_()),
        ]
        others = [F.relu(x + 1, inplace=True), F.max_pool2d(x[0], 2), F.conv2d(x, weight, padding="same")]
        values, places = F.max_pool2d(x, 2, return_indices=True)
        with torch.no_grad():
            assert not F.relu(x).requires_grad
    with lean_second_derivatives(wanted=False):
        others += [F.relu(x), values]
    assert all(any(map(is_lean, nodes(output))) for output in covered)
    assert not any(any(map(is_lean, nodes(output))) for output in others)
    assert places.dtype is torch.long


def test_layer_blocks_are_the_diagonal_blocks():
    model, x, y = problem(2)
    operator = hessian(model, F.cross_entropy, (x, y), blocks="layer")
    whole = dense(model, F.cross_entropy(model(x), y))
    mask = torch.zeros_like(whole)
    start = 0
    for module in (model.first, model.second, model.third, model.head):
        stop = start + sum(parameter.numel() for parameter in module.parameters())
        mask[start:stop, start:stop] = 1
        start = stop
    vector = torch.randn(operator.size, dtype=torch.float64)
    assert torch.allclose(operator @ vector, (whole * mask) @ vector, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "between",
    [
        lambda rectified: F.max_pool2d(rectified, 2),
        lambda rectified: F.max_pool2d(rectified, 3, 2, 1) + rectified[..., ::2, ::2].square(),
        lambda rectified: F.max_pool2d(rectified, 2) * F.max_pool2d(rectified, 2, ceil_mode=True),
    ],
    ids=["alone", "beside another use", "twice"],
)
@pytest.mark.parametrize("cached", [1, 400, 1 << 19])
@pytest.mark.parametrize("layout", [contextlib.nullcontext, ChannelsLast])
def test_pooling_after_relu(between, cached, layout, monkeypatch):
    monkeypatch.setattr(_lean_functions, "_CACHED", cached)
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 3, 3, padding=1).double(), nn.Conv2d(3, 2, 2).double()
    model = nn.ModuleList([first, second])
    x = torch.randn(6, 1, 8, 8, dtype=torch.float64)

    def loss():
        with layout():
            return second(between(F.relu(first(x)))).tanh().sum()

    operator = hessian_of(loss, list(model.parameters()))
    operator.batched = layout is not ChannelsLast
    identity = torch.eye(operator.size, dtype=torch.float64)
    assert torch.allclose(operator @ identity, dense(model, loss()), rtol=1e-10, atol=1e-12)


def test_pooling_of_what_was_changed_in_place_after_relu_is_refused_as_torch_does():
    convolution, x = nn.Conv2d(1, 3, 3), torch.randn(6, 1, 8, 8)
    with pytest.raises(StaleOperatorError, match="in place"):
        hessian_of(lambda: F.max_pool2d(F.relu(convolution(x)).add_(1), 2).sum(), list(convolution.parameters()))


class Normalised(nn.Module):
    """Weight normalisation by rows, by columns and of a whole tensor, of both of torch's kinds."""

    def __init__(self):
        super().__init__()
        self.first = parametrizations.weight_norm(nn.Linear(4, 5))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the older of the two
            self.second = nn.utils.weight_norm(nn.Linear(5, 4, bias=False), dim=1)
        self.third = parametrizations.weight_norm(nn.Conv1d(1, 2, 3), dim=None)
        self.scale = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        return self.third(self.second(self.first(x).tanh()).unsqueeze(1)).flatten(1) * self.scale.exp()


def test_weight_norm_and_scalars_have_the_hessian_of_finite_differences():
    """torch's own second derivative of weight normalisation is wrong by more than a tenth."""
    torch.manual_seed(0)
    model = Normalised().double()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randint(0, 4, (6,))
    parameters = list(model.parameters())

    def gradient():
        found = torch.autograd.grad(F.cross_entropy(model(x), y), parameters)
        return torch.cat([part.flatten() for part in found])

    columns, step = [], 1e-5
    for parameter in parameters:
        for flat in range(parameter.numel()):
            ends = []
            for shift in (step, -2 * step):
                with torch.no_grad():
                    parameter.view(-1)[flat] += shift
                ends.append(gradient())
            with torch.no_grad():
                parameter.view(-1)[flat] += step
            columns.append((ends[0] - ends[1]) / (2 * step))
    exact = torch.stack(columns, 1)
    identity = torch.eye(len(exact), dtype=torch.float64)
    for blocks in (None, [list(dict(model.named_parameters()))]):
        found = hessian(model, F.cross_entropy, (x, y), blocks=blocks) @ identity
        assert float((found - exact).norm() / exact.norm()) < 1e-7


def test_weight_norm_out_of_sight_is_refused():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)))
    loss = model(torch.randn(5, 4)).square().sum()
    with pytest.raises(NotTwiceDifferentiableError, match="second derivative of weight_norm is wrong"):
        hessian_of(lambda: loss, list(model.parameters()))
