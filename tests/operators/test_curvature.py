from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.operators.curvature_models import (
    CASES,
    Case,
    dense_gradient,
    dense_hessian,
    jacobian,
    make,
    outputs_at,
    point,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from separatrix.operators import (
    CurvatureOperator,
    fisher,
    ggn,
    ggn_of,
    gradient_second_moment,
    hessian,
    hessian_of,
    preconditioned_hessian,
    second_moment_of,
)

SEED = 3
every_model = pytest.mark.parametrize("name", CASES)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(SEED)


def explicit(operator: CurvatureOperator) -> Tensor:
    return operator @ torch.eye(operator.size, dtype=operator.dtype)


def assert_equal(given: Tensor, wanted: Tensor, tolerance: float = 1e-10) -> None:
    assert given.shape == wanted.shape
    assert float((given - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


def per_example_gradients(case: Case, targets: Tensor | None = None) -> Tensor:
    """Gradients (m, n) of the loss of each example's outputs."""
    targets = case.targets if targets is None else targets
    rows = []
    for i in range(len(targets)):
        flat = point(case.model).requires_grad_()
        case.loss(outputs_at(case, flat, SEED)[i : i + 1], targets[i : i + 1]).backward()
        rows.append(flat.grad)
    return torch.stack(rows)


@every_model
@pytest.mark.parametrize("batched", [True, False])
def test_hessian_is_the_explicit_one(name: str, batched: bool) -> None:
    case = make(name)
    operator = hessian(case.model, case.loss, (case.inputs, case.targets))
    operator.batched = batched
    wanted = dense_hessian(case)
    assert operator.size == len(wanted)
    assert_equal(explicit(operator), wanted)
    assert_equal(operator @ wanted[0], wanted @ wanted[0])
    assert operator.batched == batched
    assert_equal(operator.gradient, dense_gradient(case, point(case.model)))


@every_model
def test_hessian_is_the_change_of_the_gradient(name: str) -> None:
    case = make(name)
    operator = hessian(case.model, case.loss, (case.inputs, case.targets))
    direction, at, step = torch.randn(operator.size).double(), point(case.model), 1e-5
    ahead, behind = (dense_gradient(case, at + sign * step * direction) for sign in (1, -1))
    assert_equal(operator @ direction, (ahead - behind) / (2 * step), 1e-6)


@every_model
@pytest.mark.parametrize("batched", [True, False])
def test_ggn_is_the_explicit_one(name: str, batched: bool) -> None:
    case = make(name)
    operator = ggn(case.model, case.loss, (case.inputs, case.targets))
    operator.batched = batched
    outputs = outputs_at(case, point(case.model), SEED)
    inner = torch.autograd.functional.hessian(lambda o: case.loss(o.view_as(outputs), case.targets), outputs.flatten())
    slopes = jacobian(case).flatten(0, 1)
    assert_equal(explicit(operator), slopes.T @ inner @ slopes)
    assert_equal(operator.gradient, dense_gradient(case, point(case.model)))


@every_model
def test_second_moment_and_covariance_are_the_explicit_ones(name: str) -> None:
    case = make(name)
    gradients = per_example_gradients(case)
    data = (case.inputs, case.targets)
    assert_equal(
        explicit(gradient_second_moment(case.model, case.loss, data)), gradients.T @ gradients / len(gradients)
    )
    assert_equal(
        explicit(fisher(case.model, case.loss, data, kind="empirical")), gradients.T @ gradients / len(gradients)
    )
    covariance = torch.cov(gradients.T, correction=0)
    assert_equal(explicit(gradient_second_moment(case.model, case.loss, data, centred=True)), covariance)


def test_true_fisher_of_cross_entropy_has_its_closed_form() -> None:
    case = make("mlp")
    slopes, p = jacobian(case), outputs_at(case, point(case.model), SEED).softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    wanted = torch.einsum("ican,iab,ibm->nm", slopes[:, None], inner, slopes) / len(p)
    assert_equal(explicit(fisher(case.model, case.loss, (case.inputs, case.targets))), wanted)


@pytest.mark.parametrize("name", ["mlp", "relu, LayerNorm", "tied"])
def test_monte_carlo_fisher_expects_the_true_one(name: str) -> None:
    case = make(name)
    data = (case.inputs, case.targets)
    true = explicit(fisher(case.model, case.loss, data))
    draws = torch.stack(
        [
            explicit(
                fisher(
                    case.model,
                    case.loss,
                    data,
                    kind="monte-carlo",
                    generator=torch.Generator().manual_seed(i),
                    samples=4,
                )
            )
            for i in range(60)
        ]
    )
    directions = torch.linalg.eigh(true)[1][:, -3:]
    forms = torch.einsum("na,snm,ma->sa", directions, draws, directions)
    wanted = torch.einsum("na,nm,ma->a", directions, true, directions)
    assert bool(((forms.mean(0) - wanted).abs() < 4 * forms.std(0) / 60**0.5).all())


def test_monte_carlo_fisher_is_the_second_moment_at_the_targets_drawn() -> None:
    case = make("mlp")
    drawn: list[Tensor] = []

    def sample(outputs: Tensor, generator: torch.Generator) -> Tensor:
        drawn.append(torch.multinomial(outputs.softmax(1), 1, generator=generator)[:, 0])
        return drawn[-1]

    data = (case.inputs, case.targets)
    operator = fisher(case.model, case.loss, data, kind="monte-carlo", sample_targets=sample, samples=2)
    gradients = torch.cat([per_example_gradients(case, targets) for targets in drawn])
    assert_equal(explicit(operator), gradients.T @ gradients / len(gradients))


@pytest.mark.parametrize("make_operator", [hessian, ggn, gradient_second_moment])
def test_a_loader_gives_what_its_concatenation_gives(make_operator) -> None:
    case = make("mlp")
    loader = DataLoader(TensorDataset(case.inputs, case.targets), batch_size=4, shuffle=True)
    whole = explicit(make_operator(case.model, case.loss, (case.inputs, case.targets)))
    split = make_operator(case.model, case.loss, loader)
    assert_equal(explicit(split), whole)
    assert_equal(explicit(split), whole)


def test_covariance_over_a_loader_is_that_of_all_examples() -> None:
    case = make("mlp")
    batches = [(case.inputs[:1], case.targets[:1]), (case.inputs[1:], case.targets[1:])]
    gradients = per_example_gradients(case)
    operator = gradient_second_moment(case.model, case.loss, batches, centred=True)
    assert_equal(explicit(operator), torch.cov(gradients.T, correction=0))


def test_dropout_and_sampled_targets_stay_the_same_over_a_loader() -> None:
    case = make("dropout")
    loader = DataLoader(TensorDataset(case.inputs, case.targets), batch_size=2, shuffle=True)
    for operator in (
        hessian(case.model, case.loss, loader),
        fisher(case.model, case.loss, loader, kind="monte-carlo"),
    ):
        first = explicit(operator)
        torch.rand(5)
        assert torch.equal(explicit(operator), first)
        assert_equal(first, first.T)


@pytest.mark.parametrize("make_operator", [hessian, ggn, gradient_second_moment])
def test_layer_blocks_are_the_diagonal_ones(make_operator) -> None:
    case = make("mlp")
    data = (case.inputs, case.targets)
    whole = explicit(make_operator(case.model, case.loss, data))
    first = 16
    wanted = torch.block_diag(whole[:first, :first], whole[first:, first:])
    assert_equal(explicit(make_operator(case.model, case.loss, data, blocks="layer")), wanted)
    groups = [["0.weight", "2.bias"], [case.model[0].bias, "2.weight"]]
    mask = torch.zeros_like(whole)
    rows = dict(
        zip(["0.weight", "0.bias", "2.weight", "2.bias"], torch.arange(len(whole)).split([12, 4, 12, 3]), strict=True)
    )
    for group in (["0.weight", "2.bias"], ["0.bias", "2.weight"]):
        inside = torch.cat([rows[name] for name in group])
        mask[inside[:, None], inside] = 1
    assert_equal(explicit(make_operator(case.model, case.loss, data, blocks=groups)), whole * mask)


def test_centred_blocks_are_those_of_the_covariance() -> None:
    case = make("mlp")
    data = (case.inputs, case.targets)
    whole = explicit(gradient_second_moment(case.model, case.loss, data, centred=True))
    blocks = explicit(gradient_second_moment(case.model, case.loss, data, centred=True, blocks="layer"))
    assert_equal(blocks, torch.block_diag(whole[:16, :16], whole[16:, 16:]))


def test_selected_parameters_give_their_rows_and_columns() -> None:
    case = make("mlp")
    whole = dense_hessian(case)
    data = (case.inputs, case.targets)
    by_name = hessian(case.model, case.loss, data, parameters=["2.bias", "0.weight"])
    assert [tuple(p.shape) for p in by_name.parameters] == [(3,), (4, 3)]
    rows = torch.cat([torch.arange(28, 31), torch.arange(12)])
    assert_equal(explicit(by_name), whole[rows[:, None], rows])
    case.model[0].requires_grad_(False)
    assert_equal(explicit(hessian(case.model, case.loss, data)), whole[16:, 16:])


def test_closures_give_what_modules_give() -> None:
    case = make("mlp")
    data = (case.inputs, case.targets)
    parameters = list(case.model.parameters())

    def loss_alone() -> Tensor:
        return case.loss(case.model(case.inputs), case.targets)

    def with_outputs() -> tuple[Tensor, Tensor]:
        outputs = case.model(case.inputs)
        return outputs, case.loss(outputs, case.targets)

    wanted = explicit(hessian(case.model, case.loss, data))
    assert_equal(explicit(hessian_of(loss_alone, parameters)), wanted)
    assert_equal(explicit(hessian_of(with_outputs, parameters)), wanted)
    outputs_and_loss = ggn_of(lambda: (case.model(case.inputs), lambda o: case.loss(o, case.targets)), parameters)
    assert_equal(explicit(outputs_and_loss), explicit(ggn(case.model, case.loss, data)))
    moment = second_moment_of(
        lambda: F.cross_entropy(case.model(case.inputs), case.targets, reduction="none"), parameters
    )
    assert_equal(explicit(moment), explicit(gradient_second_moment(case.model, case.loss, data)))


def test_a_model_of_several_inputs_and_outputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(2, 2), nn.Linear(3, 2)

        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            return {"logits": self.left(a) * self.right(b), "norm": self.left.weight.square().sum()}

    model = Two().double()
    a, b, y = torch.randn(5, 2).double(), torch.randn(5, 3).double(), torch.randint(2, (5,))

    def loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs["logits"], targets) + 0.1 * outputs["norm"]

    positional = explicit(hessian(model, loss, ((a, b), y)))
    assert_equal(explicit(hessian(model, loss, ({"b": b, "a": a}, y))), positional)
    assert_equal(positional, positional.T)
    plain = explicit(hessian(model, lambda o, t: F.cross_entropy(o["logits"], t), ((a, b), y)))
    assert_equal(positional - plain, torch.diag(torch.tensor([0.2] * 4 + [0.0] * 10, dtype=torch.float64)))


def test_piecewise_linear_losses_leave_the_curvature_of_the_network() -> None:
    linear = nn.Linear(3, 2).double()
    x, y = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    assert not explicit(hessian(linear, F.l1_loss, (x, y))).any()
    case = make("mlp")._replace(loss=F.l1_loss, targets=torch.randn(6, 3).double())
    assert_equal(explicit(hessian(case.model, case.loss, (case.inputs, case.targets))), dense_hessian(case))
    assert not explicit(ggn(case.model, case.loss, (case.inputs, case.targets))).any()


def test_a_batch_of_one() -> None:
    case = make("mlp")
    case = case._replace(inputs=case.inputs[:1], targets=case.targets[:1])
    data = (case.inputs, case.targets)
    assert_equal(explicit(hessian(case.model, case.loss, data)), dense_hessian(case))
    assert float(explicit(gradient_second_moment(case.model, case.loss, data, centred=True)).abs().max()) < 1e-15


def test_float32_products_agree_to_single_precision() -> None:
    case = make("cnn, BatchNorm in training")
    wanted = dense_hessian(case)
    operator = hessian(case.model.float(), case.loss, (case.inputs.float(), case.targets))
    assert operator.dtype == torch.float32
    assert_equal(explicit(operator).double(), wanted, 1e-5)


def test_mixed_dtypes_are_widened() -> None:
    model = nn.Sequential(nn.Linear(3, 3).double(), nn.Linear(3, 2))

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, x: Tensor) -> Tensor:
            return self.parts[1](self.parts[0](x).float())

    operator = hessian(Mixed(), F.mse_loss, (torch.randn(4, 3).double(), torch.randn(4, 2)))
    assert operator.dtype == torch.float64
    assert_equal(explicit(operator), explicit(operator).T, 1e-5)


@pytest.mark.parametrize("name", ["cnn, BatchNorm in training", "dropout", "attention"])
def test_nothing_is_changed(name: str) -> None:
    case = make(name)
    next(case.model.parameters()).grad = torch.ones_like(next(case.model.parameters()))
    calls: list[int] = []
    case.model.register_forward_hook(lambda *given: calls.append(1))
    before = {key: value.clone() for key, value in case.model.state_dict().items()}
    versions = [tensor._version for tensor in case.model.state_dict(keep_vars=True).values()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    flags = [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in case.model.parameters()]
    modes = [module.training for module in case.model.modules()]
    loader = DataLoader(TensorDataset(case.inputs, case.targets), batch_size=2, shuffle=True)
    for data in ((case.inputs, case.targets), loader):
        for operator in (
            hessian(case.model, case.loss, data),
            ggn(case.model, case.loss, data),
            fisher(case.model, case.loss, data, kind="monte-carlo"),
        ):
            _ = operator @ torch.ones(operator.size, 2).double()
    assert len(case.model._forward_hooks) == 1
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state()[1])
    assert all(torch.equal(before[key], value) for key, value in case.model.state_dict().items())
    assert versions == [tensor._version for tensor in case.model.state_dict(keep_vars=True).values()]
    assert modes == [module.training for module in case.model.modules()]
    for parameter, (flag, gradient) in zip(case.model.parameters(), flags, strict=True):
        assert parameter.requires_grad == flag
        assert parameter.grad is gradient if gradient is None else torch.equal(parameter.grad, gradient)


def test_curvature_is_computed_under_no_grad_inference_and_autocast() -> None:
    case = make("mlp")
    wanted = dense_hessian(case)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        operator = hessian(case.model, case.loss, (case.inputs, case.targets))
        assert_equal(explicit(operator), wanted)


def test_blocks_of_any_width_come_back_in_shape() -> None:
    case = make("mlp")
    operator = hessian(case.model, case.loss, (case.inputs, case.targets))
    for columns in (0, 1, 16, 17, 40):
        block = torch.randn(operator.size, columns).double()
        product = operator @ block
        assert product.shape == block.shape
        assert torch.allclose(product, torch.stack([operator @ v for v in block.T] or [block.T], dim=-1).view_as(block))


def test_flat_and_unflat_are_inverse() -> None:
    case = make("mlp")
    operator = hessian(case.model, case.loss, (case.inputs, case.targets))
    vector = torch.randn(operator.size).double()
    parts = operator.unflat(vector)
    assert [part.shape for part in parts] == [parameter.shape for parameter in case.model.parameters()]
    assert torch.equal(operator.flat(parts), vector)
    assert torch.equal(operator.flat(list(case.model.parameters())), point(case.model))


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.SGD])
def test_preconditioned_hessian_is_similar_to_the_preconditioned_matrix(kind) -> None:
    case = make("mlp")
    groups = [
        {"params": list(case.model[0].parameters()), "lr": 1e-3, "weight_decay": 0.1},
        {"params": list(case.model[2].parameters()), "lr": 5e-4},
    ]
    optimizer = kind(groups)
    for _ in range(3):
        optimizer.zero_grad()
        case.loss(case.model(case.inputs), case.targets).backward()
        optimizer.step()
    operator = preconditioned_hessian(case.model, case.loss, (case.inputs, case.targets), optimizer=optimizer)

    diagonal = []
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if kind is torch.optim.Adam:
                second = (state["exp_avg_sq"] / (1 - 0.999**3)).sqrt() + 1e-8
                scale = (1 - 0.9**3) * second
            elif kind is torch.optim.RMSprop:
                scale = state["square_avg"].sqrt() + 1e-8
            elif kind is torch.optim.Adagrad:
                scale = state["sum"].sqrt() + 1e-10
            else:
                scale = torch.ones_like(parameter)
            diagonal.append((group["lr"] / 1e-3 / scale).flatten())
    decay = torch.cat([torch.full((16,), 0.1), torch.zeros(15)]).double()
    matrix = torch.cat(diagonal)[:, None] * (dense_hessian(case) + torch.diag(decay))
    wanted = torch.linalg.eigvals(matrix).real.sort().values
    assert_equal(torch.linalg.eigvalsh(explicit(operator)), wanted, 1e-8)
    assert_equal(operator @ torch.ones(31).double(), explicit(operator).sum(1))
