"""Images with channels last while a model is watched: the same norms, and nobody sees another layout."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from tests.operators.structured_models import EVERY, build, jacobian, relative
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from separatrix.operators import (
    JacobianFallbackWarning,
    ggn,
    hessian,
    hessian_of,
    per_example_gradient_norms,
    per_example_inner_products,
)
from separatrix.operators._channels_last import ChannelsLast
from separatrix.operators._patches import patches, strips


def squares(outputs, targets):
    return (outputs.flatten(1) - targets).square().sum(1)


class Residual(nn.Module):
    """Normalised convolutions and pooling with a sum around them; `end` makes vectors of the images."""

    def __init__(self, end):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.wide = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 9, (2, 3), padding=(0, 2), dilation=(1, 2))
        self.strided, self.head = nn.Conv2d(9, 8, 3, stride=2, groups=1), nn.Linear(32, 3)
        self.end = end

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        x = x + self.inner(x)
        x = F.max_pool2d(x, 2)
        x = F.max_pool2d(self.wide(x).tanh(), 3, 1, 1)
        return self.head(self.end(F.adaptive_avg_pool2d(F.silu(self.strided(x)), 2)))


def asking(x):
    assert x.is_contiguous() and x.stride()[1] == x.shape[2] * x.shape[3]
    return x.flatten(1)


def overwriting(x):
    flat = x.view(len(x), -1)
    flat.mul_(2)
    return x.view(len(x), -1) + flat


ENDS = {
    "flatten": lambda x: x.flatten(1),
    "view": lambda x: x.view(len(x), -1),
    "a view that is overwritten": overwriting,
    "asking for strides": asking,
    "as_strided": lambda x: x.as_strided((len(x), 32), (32, 1)),
    "unseen view": lambda x: torch.ops.aten.view.default(x, [len(x), 32]),
}


def problem(end, n=17, size=13):
    torch.manual_seed(0)
    model = Residual(end).double().eval()
    model.norm.running_mean.normal_(), model.norm.running_var.uniform_(1, 2)
    x, targets = torch.randn(n, 1, size, size, dtype=torch.float64), torch.randn(n, 3, dtype=torch.float64)
    return model, x, targets


@pytest.mark.parametrize("end", ENDS)
def test_norms_equal_those_of_explicit_gradients_whatever_the_model_asks_of_its_images(end):
    model, x, targets = problem(ENDS[end])
    gradients = jacobian(model, x, lambda outputs, i: squares(outputs, targets[i : i + 1]))[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", JacobianFallbackWarning)
        assert relative(per_example_gradient_norms(model, squares, x, targets), gradients.norm(dim=1)) < 1e-9
        several = per_example_gradient_norms(model, squares, x, targets, memory=1)
        assert relative(several, gradients.norm(dim=1)) < 1e-9
        products = per_example_inner_products(model, squares, x, targets)
    assert relative(products, gradients @ gradients.T) < 1e-9
    assert all(parameter.is_contiguous() and parameter.grad is None for parameter in model.parameters())


class Blind(nn.Module):
    """Reads memory in an order of its own, out of sight of every mode: with channels last, something else."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Conv2d(2, 3, 3), nn.Linear(3 * 16, 2)

    def forward(self, x):
        x = self.layer(x)
        with torch._C.DisableTorchFunction():
            x = x.as_strided((len(x), 48), (48, 1))
        return self.head(x)


def test_a_model_whose_outputs_change_with_the_layout_gets_the_plain_one():
    torch.manual_seed(0)
    model, x = Blind().double(), torch.randn(5, 2, 6, 6, dtype=torch.float64)
    plain = model(x).detach()
    with torch.no_grad(), ChannelsLast():
        changed = model(x)
    assert relative(changed, plain) > 1e-3
    targets = torch.randn(5, 2, dtype=torch.float64)
    gradients = jacobian(model, x, lambda outputs, i: squares(outputs, targets[i : i + 1]))[:, 0]
    assert relative(per_example_gradient_norms(model, squares, x, targets), gradients.norm(dim=1)) < 1e-9


def test_convolutions_and_pooling_keep_channels_last_until_another_function_gets_the_images():
    model, x, _ = problem(ENDS["flatten"])
    seen = []
    for layer in (model.stem, model.norm, model.inner, model.wide, model.strided):
        layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    with torch.no_grad(), ChannelsLast():
        fast = model(x)
    assert all(output.is_contiguous(memory_format=torch.channels_last) for _, output in seen)
    assert all(not output.is_contiguous() for _, output in seen)
    assert relative(fast, model(x).detach()) < 1e-12


@pytest.mark.parametrize("end", sorted(set(ENDS) - {"unseen view"}))
def test_every_other_function_gets_images_as_always(end):
    model, x, _ = problem(ENDS[end])
    with torch.no_grad(), ChannelsLast():
        fast = model(x)
    assert relative(fast, model(x).detach()) < 1e-12


@pytest.mark.parametrize("stride", [1, 2])
def test_ties_in_pooling_go_to_the_same_entry(stride):
    x = torch.randint(0, 3, (4, 8, 9, 9)).double().requires_grad_()
    kernel = torch.eye(8, dtype=torch.float64)[..., None, None]

    def gradient():
        pooled = F.max_pool2d(F.conv2d(x, kernel), 3, stride)
        weights = torch.arange(pooled.numel(), dtype=torch.float64).view_as(pooled)
        return torch.autograd.grad((pooled * weights).sum(), x)[0]

    plain = gradient()
    with ChannelsLast():
        assert torch.equal(gradient(), plain)


def test_hooks_of_the_user_get_images_as_always():
    model, x, targets = problem(ENDS["flatten"])
    kept = []
    model.stem.register_forward_hook(lambda _, inputs, output: kept.append(output))
    per_example_gradient_norms(model, squares, x, targets)
    assert kept and all(output.is_contiguous() for output in kept)


@pytest.mark.parametrize(("kernel", "padding", "dilation"), [((3, 3), (1, 1), (1, 1)), ((2, 3), (0, 2), (3, 2))])
def test_rows_of_the_kernel_hold_the_columns_of_the_patches(kernel, padding, dilation):
    image = torch.randn(3, 4, 8, 7, dtype=torch.float64)
    whole = patches(image, kernel, (1, 1), padding, dilation, 1).unflatten(-1, (4, *kernel))
    parts = torch.stack(list(strips(image, kernel, padding, dilation)), -2).unflatten(-1, (kernel[1], 4))
    assert torch.equal(parts.permute(0, 1, 2, 5, 3, 4), whole)


@pytest.mark.filterwarnings("ignore::separatrix.operators.JacobianFallbackWarning")
@pytest.mark.parametrize("name", EVERY)
def test_several_forwards_give_the_norms_of_one(name):
    model, sample = build(name)
    x = sample(19)
    targets = torch.randn_like(model(x).flatten(1)).detach()
    gradients = jacobian(model, x, lambda outputs, i: squares(outputs, targets[i : i + 1]))[:, 0]
    calls = []
    model.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    assert relative(per_example_gradient_norms(model, squares, x, targets, memory=1), gradients.norm(dim=1)) < 1e-9
    assert max(calls) == 7


def product(build, model, data, loss=F.mse_loss):
    """A Hessian product with a fixed vector, and whether any convolution saw channels last."""
    seen = []

    class Looking(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.convolution.default and len(args[0]) > 2:
                seen.append(args[0].is_contiguous(memory_format=torch.channels_last) and not args[0].is_contiguous())
            return func(*args, **(kwargs or {}))

    with Looking():
        operator = build(model, loss, data)
    vector = torch.randn(operator.size, generator=torch.Generator().manual_seed(0)).to(operator.dtype)
    return operator @ vector, any(seen)


def large(end=ENDS["flatten"]):
    model, x, targets = problem(end, 40, 25)
    model.head = nn.Linear(32, 3).double()
    return model, (torch.cat([x] * 8), torch.cat([targets] * 8))


@pytest.mark.parametrize("build", [hessian, ggn])
@pytest.mark.parametrize("end", sorted(set(ENDS) - {"unseen view", "a view that is overwritten"}))
def test_curvature_of_large_images_runs_with_channels_last_and_is_the_same(build, end):
    model, data = large(ENDS[end])
    found, fast = product(build, model, data)
    assert fast
    parameters = list(model.parameters())
    if build is hessian:
        plain = hessian_of(lambda: F.mse_loss(model(data[0]), data[1]), parameters)
        vector = torch.randn(plain.size, generator=torch.Generator().manual_seed(0)).double()
        assert relative(found, plain @ vector) < 1e-9
    model.stem.register_forward_hook(lambda *_: None)
    hooked, fast = product(build, model, data)
    assert not fast
    assert relative(found, hooked) < 1e-9


def test_curvature_of_a_model_whose_outputs_change_with_the_layout_is_that_of_the_plain_one():
    torch.manual_seed(0)
    model = Blind().double()
    data = torch.randn(600, 2, 6, 6, dtype=torch.float64), torch.randn(600, 2, dtype=torch.float64)
    found, fast = product(hessian, model, data)
    assert not fast
    plain = hessian_of(lambda: F.mse_loss(model(data[0]), data[1]), list(model.parameters()))
    vector = torch.randn(plain.size, generator=torch.Generator().manual_seed(0)).double()
    assert relative(found, plain @ vector) < 1e-9


def test_a_loss_of_images_gets_them_as_always():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 16, 3), nn.Tanh(), nn.Conv2d(16, 3, 3))
    x = torch.randn(200, 2, 14, 14)

    def loss(outputs, targets):
        assert outputs.is_contiguous()
        return (outputs.view(len(outputs), -1) - targets).square().mean()

    found, fast = product(hessian, model, (x, torch.zeros(200, 300)), loss)
    assert fast
    plain = hessian_of(lambda: model(x).square().mean(), list(model.parameters()))
    vector = torch.randn(plain.size, generator=torch.Generator().manual_seed(0))
    assert relative(found, plain @ vector) < 1e-5


def test_dropout_draws_the_mask_it_would_have_drawn():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16 * 144, 3)
    ).double()
    x, y = torch.randn(200, 1, 14, 14, dtype=torch.float64), torch.randn(200, 3, dtype=torch.float64)
    torch.manual_seed(5)
    found, _ = product(hessian, model, (x, y))
    torch.manual_seed(5)
    plain = hessian_of(lambda: F.mse_loss(model(x), y), list(model.parameters()))
    vector = torch.randn(plain.size, generator=torch.Generator().manual_seed(0)).double()
    assert relative(found, plain @ vector) < 1e-9
