import warnings

import pytest
import torch
import torch.nn.functional as F
from tests.operators.structured_models import EVERY, build, jacobian, relative
from torch import nn

from separatrix.operators import (
    CoupledExamplesError,
    JacobianFallbackWarning,
    OperatorUsageError,
    ParameterError,
    StructureError,
    group_mean_gradients,
    group_mean_gradients_of,
    per_example_gradient_norms,
    per_example_gradient_norms_of,
    per_example_inner_products,
    per_example_inner_products_of,
    per_example_losses,
)


def squares(outputs, targets):
    return (outputs.flatten(1) - targets).square().sum(1)


def problem(name, n=6):
    model, sample = build(name)
    inputs = sample(n)
    targets = torch.randn_like(model(inputs).flatten(1)).detach()
    gradients = jacobian(model, inputs, lambda outputs, i: squares(outputs, targets[i : i + 1]))[:, 0]
    return model, inputs, targets, gradients


@pytest.mark.filterwarnings("ignore::separatrix.operators.JacobianFallbackWarning")
@pytest.mark.parametrize("name", EVERY)
def test_norms_products_and_means_equal_those_of_explicit_gradients(name):
    model, inputs, targets, gradients = problem(name)
    arguments = model, squares, inputs, targets
    groups = torch.tensor([0, 2, 0, 2, 2, 0])
    means = torch.stack([gradients[groups == 0].mean(0), gradients[groups == 2].mean(0)])

    def losses():
        return squares(model(inputs), targets)

    assert relative(per_example_gradient_norms(*arguments), gradients.norm(dim=1)) < 1e-9
    assert relative(per_example_gradient_norms_of(losses, model), gradients.norm(dim=1)) < 1e-9
    assert relative(per_example_inner_products(*arguments), gradients @ gradients.T) < 1e-9
    assert relative(per_example_inner_products_of(losses, model), gradients @ gradients.T) < 1e-9
    for found in (group_mean_gradients(*arguments, groups), group_mean_gradients_of(losses, model, groups)):
        flat = torch.cat([mean.flatten(1) for mean in found], 1)
        assert relative(flat[[0, 2]], means) < 1e-9
        assert flat[1].isnan().all()
        assert [mean.shape[1:] for mean in found] == [parameter.shape for parameter in model.parameters()]


@pytest.mark.parametrize("name", ["cnn", "tied", "transformer"])
def test_layers_add_up_and_little_memory_changes_nothing(name):
    model, inputs, targets, gradients = problem(name)
    norms = per_example_gradient_norms(model, squares, inputs, targets, per_layer=True, memory=1)
    assert relative(sum(norm.square() for norm in norms.values()), gradients.square().sum(1)) < 1e-9
    products = per_example_inner_products(model, squares, inputs, targets, per_layer=True, memory=1)
    assert relative(sum(products.values()), gradients @ gradients.T) < 1e-9
    for layer, product in products.items():
        assert torch.allclose(product.diagonal().clamp(min=0).sqrt(), norms[layer], atol=1e-9)


def test_dropout_is_that_of_the_run_in_the_closure_form():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 2)).double().train()
    x = torch.randn(7, 5, dtype=torch.float64)
    state = torch.get_rng_state()
    norms = per_example_gradient_norms_of(lambda: model(x).square().sum(1), model)
    assert torch.equal(state, torch.get_rng_state())
    losses = model(x).square().sum(1)
    rows = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in losses]
    expected = torch.stack([torch.cat([gradient.flatten() for gradient in row]).norm() for row in rows])
    assert relative(norms, expected) < 1e-9
    with pytest.raises(CoupledExamplesError, match=r"model.eval\(\)"):
        per_example_gradient_norms(model, squares, x, torch.zeros(7, 2))


def test_coupled_examples_have_exact_gradients_within_their_batch_in_the_closure_form():
    model = nn.Linear(3, 2).double()
    x = torch.randn(5, 3, dtype=torch.float64)

    def losses():
        hidden = model(x)
        return (hidden - hidden.mean(0)).square().sum(1)

    rows = [torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for loss in losses()]
    expected = torch.stack([torch.cat([gradient.flatten() for gradient in row]).norm() for row in rows])
    with pytest.warns(JacobianFallbackWarning, match="separates the examples"):
        assert relative(per_example_gradient_norms_of(losses, model), expected) < 1e-9


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_of_torch_are_taken_unreduced(reduction):
    outputs, targets = torch.randn(4, 3, 5), torch.randint(0, 3, (4, 5))
    entries = F.cross_entropy(outputs, targets, reduction="none")
    expected = entries.sum(1) if reduction == "sum" else entries.mean(1)
    module = nn.CrossEntropyLoss(reduction=reduction)
    assert torch.equal(per_example_losses(module, outputs, targets), expected)
    assert module.reduction == reduction
    assert torch.equal(per_example_losses(F.cross_entropy, outputs, targets), entries.mean(1))


def test_what_has_no_per_example_gradient_is_refused():
    model, x, y = nn.Linear(3, 2), torch.randn(4, 3), torch.randn(4, 2)
    with pytest.raises(OperatorUsageError, match="reduction='none'"):
        per_example_gradient_norms(model, lambda outputs, targets: (outputs - targets).square().mean(), x, y)
    with pytest.raises(OperatorUsageError, match="4 inputs and 3 targets"):
        per_example_inner_products(model, F.mse_loss, x, y[:3])
    with pytest.raises(StructureError, match="reduction='none'"):
        per_example_gradient_norms_of(lambda: model(x).sum(), model)
    with pytest.raises(OperatorUsageError, match="integers from 0"):
        group_mean_gradients(model, F.mse_loss, x, y, torch.tensor([0, 1, -1, 0]))


def test_single_precision_stays_within_the_documented_figure():
    model, inputs, targets, gradients = problem("cnn-batchnorm")
    with warnings.catch_warnings():
        warnings.simplefilter("error", JacobianFallbackWarning)
        norms = per_example_gradient_norms(model.float(), squares, inputs.float(), targets.float())
    assert relative(norms.double(), gradients.norm(dim=1)) < 1e-5


class Tagger(nn.Module):
    """Scores of six classes at every position, classes second, as cross_entropy takes them."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 5), nn.Linear(5, 6)

    def forward(self, tokens):
        return self.head(self.embed(tokens).tanh()).mT


def batch_gradient(model, loss, x, y):
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss(model(x), y), list(model.parameters()))])


def test_gradients_of_examples_average_to_the_batch_s_where_a_sum_is_over_the_batch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(1)).double()
    x, y = torch.randn(6, 4).double(), torch.rand(6, 3).double().softmax(1)
    loss = nn.KLDivLoss(reduction="batchmean")
    (weight, bias) = group_mean_gradients(model, loss, x, y, torch.zeros(6, dtype=torch.long))
    torch.testing.assert_close(torch.cat([weight.flatten(), bias.flatten()]), batch_gradient(model, loss, x, y))


def test_ignored_positions_of_a_sequence_do_not_count():
    torch.manual_seed(0)
    model = Tagger().double()
    x, y = torch.randint(0, 7, (5, 8)), torch.randint(0, 6, (5, 8))
    for length, row in enumerate(y):
        row[length:] = -100  # of the first nothing is left
    norms = per_example_gradient_norms(model, F.cross_entropy, x, y)
    alone = [batch_gradient(model, F.cross_entropy, x[i : i + 1, :i], y[i : i + 1, :i]).norm() for i in range(1, 5)]
    torch.testing.assert_close(norms, torch.stack([torch.zeros(()).double(), *alone]))
    module = nn.CrossEntropyLoss(ignore_index=2)
    whole = y.clamp(min=0)
    losses = per_example_losses(module, model(x), whole)
    alone = [module(model(x[i : i + 1]), whole[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(losses, torch.stack(alone))


def test_parameters_and_inputs_are_given_by_name_and_autocast_is_off():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    x, y = torch.randn(6, 4), torch.randint(0, 3, (6,))
    plain = per_example_gradient_norms(model, F.cross_entropy, x, y, parameters=[model[0].weight])
    with torch.autocast("cpu", torch.bfloat16):
        named = per_example_gradient_norms(model, F.cross_entropy, {"input": x}, y, parameters=["0.weight"])
    assert torch.equal(named, plain)
    with pytest.raises(ParameterError, match=r"'0\.wieght' is no parameter of the model"):
        per_example_gradient_norms(model, F.cross_entropy, x, y, parameters=["0.wieght"])
    with pytest.raises(StructureError, match="Inputs hold str: give tensors"):
        per_example_gradient_norms(model, F.cross_entropy, ["a", "b"], y)
