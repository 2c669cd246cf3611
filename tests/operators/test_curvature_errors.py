from __future__ import annotations

import random
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from separatrix.operators import (
    ForwardError,
    NonFiniteError,
    NotTwiceDifferentiableError,
    OperatorUsageError,
    ParameterError,
    StaleOperatorError,
    UnbatchedProductsWarning,
    fisher,
    ggn,
    gradient_second_moment,
    hessian,
    hessian_of,
    precondition,
    tangent_kernel,
    top_eigenpairs,
)
from separatrix.operators.likelihoods import sampler

X, Y = torch.linspace(-1, 1, 12).reshape(4, 3).double(), torch.tensor([0, 1, 1, 0])


class Cube(torch.autograd.Function):
    """x^3 with a backward that can be differentiated."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * slope


class CubeOnce(Cube):
    @staticmethod
    @once_differentiable
    def backward(ctx, slope: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * slope


class CubeCut(Cube):
    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        return torch.tensor(3 * ctx.saved_tensors[0].detach().numpy() ** 2 * slope.detach().numpy())


class Stubborn(Cube):
    """Differentiable twice, but not by vmap: its backward reads numbers."""

    @staticmethod
    def backward(ctx, slope: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * slope if float(slope.detach().sum()) < 1e9 else slope


class Apply(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def network(function) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Tanh(), Apply(function)), nn.Linear(4, 2)).double()


def test_custom_functions_with_a_second_derivative_work() -> None:
    given, wanted = network(Cube.apply), network(lambda x: x**3)
    identity = torch.eye(26).double()
    for operator in (hessian, ggn):
        products = operator(given, F.cross_entropy, (X, Y)) @ identity
        assert torch.allclose(products, operator(wanted, F.cross_entropy, (X, Y)) @ identity, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("make_operator", [hessian, ggn, gradient_second_moment])
@pytest.mark.parametrize("function", [CubeOnce, CubeCut])
@pytest.mark.parametrize("columns", [1, 3])
def test_custom_functions_without_one_are_named(make_operator, function, columns: int) -> None:
    model = network(function.apply)
    with pytest.raises(NotTwiceDifferentiableError, match=r"module '1\.1' \(Apply\).*" + function.__name__) as caught:
        make_operator(model, F.cross_entropy, (X, Y)) @ torch.ones(26, columns).double()
    assert "\n" not in str(caught.value) and "leave its parameters" in str(caught.value)


def test_a_custom_loss_without_one_is_refused() -> None:
    with pytest.raises(NotTwiceDifferentiableError, match="CubeCut"):
        hessian(nn.Linear(3, 2).double(), lambda o, t: CubeCut.apply(o.mean()), (X, Y))


def test_compiled_parts_are_refused_and_compiled_models_unwrapped() -> None:
    model = nn.Linear(3, 2).double()
    compiled = torch.compile(model, backend="aot_eager")
    identity = torch.eye(8).double()
    wanted = hessian(model, F.cross_entropy, (X, Y)) @ identity
    assert torch.equal(hessian(compiled, F.cross_entropy, (X, Y)) @ identity, wanted)
    with pytest.raises(NotTwiceDifferentiableError, match="pass the original module"):
        hessian(nn.Sequential(compiled), F.cross_entropy, (X, Y))


def test_operations_of_torch_without_one_are_named() -> None:
    class Distances(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cdist(x, x.detach() + 1, p=3.0)

    model = nn.Sequential(nn.Linear(3, 2), Distances()).double()
    with pytest.raises(NotTwiceDifferentiableError, match=r"module '1' \(Distances\).*cdist"):
        hessian(model, lambda o, t: o.square().mean(), (X, Y)) @ torch.ones(8).double()


def test_only_torch_batching_refused_falls_back_and_says_so_once() -> None:
    operator = hessian(network(Stubborn.apply), F.cross_entropy, (X, Y))
    operator.batched = True
    identity = torch.eye(26).double()
    with pytest.warns(UnbatchedProductsWarning, match="one vector at a time"):
        products = operator @ identity
    assert operator.batched is False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(operator @ identity, products)
    wanted = hessian(network(lambda x: x**3), F.cross_entropy, (X, Y)) @ identity
    assert torch.allclose(products, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("columns", [1, 4])
def test_checkpointing(columns: int) -> None:
    class Checkpointed(nn.Module):
        def __init__(self, reentrant: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second, self.reentrant = nn.Linear(3, 4), nn.Linear(4, 2), reentrant

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x).tanh()
            return checkpoint(lambda v: self.second(v).sin(), x, use_reentrant=self.reentrant)

    vectors = torch.linspace(-1, 1, 26 * columns).reshape(26, columns).double()
    operator = hessian(Checkpointed(False).double(), F.cross_entropy, (X, Y))
    plain = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), Apply(torch.sin)).double()
    plain.load_state_dict(
        {key.replace("first", "0").replace("second", "2"): v for key, v in Checkpointed(False).state_dict().items()}
    )
    for _ in range(2):
        wanted = hessian(plain, F.cross_entropy, (X, Y)) @ vectors
        assert torch.allclose(operator @ vectors, wanted, rtol=1e-12, atol=1e-14)
    with pytest.raises(NotTwiceDifferentiableError, match="use_reentrant=False"):
        hessian(Checkpointed(True).double(), F.cross_entropy, (X, Y))


def test_parameters_that_cannot_be_differentiated() -> None:
    model = nn.Linear(3, 2).double()
    with pytest.raises(ParameterError, match=r"unfreeze some"):
        hessian(nn.Linear(3, 2).requires_grad_(False), F.cross_entropy, (X, Y))
    with pytest.raises(ParameterError, match="no trainable parameters"):
        hessian(model, F.cross_entropy, (X, Y), parameters=[])
    with pytest.raises(ParameterError, match="'wieght' is no parameter"):
        hessian(model, F.cross_entropy, (X, Y), parameters=["wieght"])
    with pytest.raises(ParameterError, match="is no parameter of the model"):
        hessian(model, F.cross_entropy, (X, Y), parameters=[torch.ones(3, requires_grad=True)])
    model.bias.requires_grad_(False)
    with pytest.raises(ParameterError, match="bias is frozen"):
        hessian(model, F.cross_entropy, (X, Y), parameters=["weight", "bias"])
    for dtype in (torch.float16, torch.bfloat16):
        with pytest.raises(ParameterError, match=r"float32 copy"):
            hessian(nn.Linear(3, 2).to(dtype), F.cross_entropy, (X.to(dtype), Y))
    quantised = nn.Linear(3, 2).double()
    quantised.scale = nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)
    assert hessian(quantised, F.cross_entropy, (X, Y)).size == 8
    with pytest.raises(ParameterError, match=r"scale has dtype torch.int64"):
        hessian(quantised, F.cross_entropy, (X, Y), parameters=["scale"])
    shared = nn.Parameter(torch.ones(2, 3).double())
    with pytest.raises(ParameterError, match="listed twice"):
        hessian_of(lambda: shared.square().sum(), [shared, shared])


def test_losses_that_cannot_be_differentiated() -> None:
    model = nn.Linear(3, 2).double()
    with pytest.raises(OperatorUsageError, match="reduction='mean'"):
        hessian(model, lambda o, t: F.cross_entropy(o, t, reduction="none"), (X, Y))
    with pytest.raises(OperatorUsageError, match="no graph"):
        hessian(model, lambda o, t: F.cross_entropy(o.detach(), t), (X, Y))
    with pytest.raises(OperatorUsageError, match="no graph"):
        hessian_of(lambda: torch.tensor(1.0), list(model.parameters()))
    with pytest.raises(NonFiniteError, match="the loss is nan"):
        hessian(model, F.cross_entropy, (X * torch.nan, Y))
    with pytest.raises(NonFiniteError, match="gradient of parameter 0"):
        hessian(model, lambda o, t: (o - o).abs().sqrt().mean(), (X, Y))
    with pytest.raises(OperatorUsageError, match="one floating tensor"):
        ggn(nn.GRU(3, 2).double(), lambda o, t: o[0].mean(), (X, Y))


def test_an_infinite_second_derivative_is_no_eigenvalue() -> None:
    weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    operator = hessian_of(lambda: weight.abs().pow(1.5).sum(), [weight])
    with pytest.raises(NonFiniteError, match="infinite second derivative"):
        top_eigenpairs(operator, 1)


def test_losses_that_are_no_mean_over_examples_have_no_second_moment() -> None:
    model = nn.Linear(3, 2).double()
    weights = torch.tensor([1.0, 3.0]).double()
    for loss in (
        lambda o, t: F.cross_entropy(o, t, weight=weights),
        lambda o, t: F.cross_entropy(o, t, reduction="sum"),
        lambda o, t: F.cross_entropy(o, t, ignore_index=0),
    ):
        with pytest.raises(OperatorUsageError, match="plain mean over examples"):
            gradient_second_moment(model, loss, (X, Y))
    with pytest.raises(OperatorUsageError, match="sample_targets="):
        fisher(model, lambda o, t: o.mean(), (X, Y), kind="monte-carlo")
    for loss in (
        nn.CrossEntropyLoss(weight=weights),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.MSELoss(reduction="sum"),
        nn.BCEWithLogitsLoss(pos_weight=weights),
        F.l1_loss,
    ):
        with pytest.raises(OperatorUsageError, match="distribution behind the loss"):
            sampler(loss)
    with pytest.raises(OperatorUsageError, match="monte-carlo"):
        fisher(model, F.cross_entropy, (X, Y), kind="exact")
    with pytest.raises(OperatorUsageError, match="sampled targets"):
        _ = fisher(model, F.cross_entropy, (X, Y), kind="monte-carlo").gradient


def test_data_that_is_none() -> None:
    model = nn.Linear(3, 2).double()
    for data in (X, iter([(X, Y)]), "data", None):
        with pytest.raises(OperatorUsageError, match="data of type"):
            hessian(model, F.cross_entropy, data)
    with pytest.raises(OperatorUsageError, match="no batch"):
        hessian(model, F.cross_entropy, []) @ torch.ones(8)
    with pytest.raises(OperatorUsageError, match="every batch must be"):
        hessian(model, F.cross_entropy, [X, X, X]) @ torch.ones(8)
    with pytest.raises(OperatorUsageError, match="at least one example"):
        hessian(model, F.cross_entropy, (X[:0], Y[:0]))


def test_shapes_and_blocks_that_do_not_fit() -> None:
    model = nn.Linear(3, 2).double()
    operator = hessian(model, F.cross_entropy, (X, Y))
    for wrong in (torch.ones(7), torch.ones(2, 8), torch.ones(8, 1, 1)):
        with pytest.raises(OperatorUsageError, match=r"pass \(8,\) or \(8, k\)"):
            _ = operator @ wrong
    with pytest.raises(OperatorUsageError, match="in order"):
        operator.flat([torch.ones(2), torch.ones(2, 3)])
    with pytest.raises(OperatorUsageError, match=r"pass \(8,\)"):
        operator.unflat(torch.ones(9))
    for blocks in ([["weight"]], [["weight", "bias"], ["bias"]]):
        with pytest.raises(ParameterError, match="each of the 2 parameters once"):
            hessian(model, F.cross_entropy, (X, Y), blocks=blocks)
    with pytest.raises(ParameterError, match="'other'"):
        hessian(model, F.cross_entropy, (X, Y), blocks=[["other"]])
    with pytest.raises(ParameterError, match="use 'layer'"):
        hessian(model, F.cross_entropy, (X, Y), blocks="module")
    with pytest.raises(OperatorUsageError, match="has no parameters"):
        precondition(torch.eye(3), torch.optim.SGD(model.parameters()))


@pytest.mark.parametrize("data", [(X, Y), [(X[:2], Y[:2]), (X[2:], Y[2:])]])
def test_an_operator_of_the_past_is_not_used(data) -> None:
    model = nn.Linear(3, 2).double()
    operator = hessian(model, F.cross_entropy, data)
    _ = operator @ torch.ones(8)
    with torch.no_grad():
        model.bias.add_(1)
    with pytest.raises(StaleOperatorError, match="have changed"):
        _ = operator @ torch.ones(8)
    operator = hessian(model, F.cross_entropy, data)
    operator.release()
    with pytest.raises(StaleOperatorError, match="released"):
        _ = operator @ torch.ones(8)


def test_an_in_place_change_of_the_graph_is_explained() -> None:
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    inputs = torch.ones(3, dtype=torch.float64)
    operator = hessian_of(lambda: (weight * inputs).pow(3).sum(), [weight])
    inputs.mul_(2)
    with pytest.raises(StaleOperatorError, match="changed in place"):
        _ = operator @ torch.ones(3)


def test_random_states_survive_an_error_between_batches() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).double()
    operator = hessian(model, F.cross_entropy, [(X, Y), (X * torch.nan, Y)])
    states = torch.get_rng_state(), random.getstate()
    with pytest.raises(NonFiniteError) as caught:
        _ = operator @ torch.ones(8)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert caught.value.__traceback__ is not None


def test_an_ordinary_error_of_the_model_can_be_caught_as_such() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        hessian(nn.Linear(4, 2).double(), F.cross_entropy, (X, Y))


class Silent(nn.Linear):
    def forward(self, x):
        raise ValueError


def test_what_a_model_does_not_take_is_said_with_the_module_that_minds():
    model = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)))
    x, y = torch.randn(5, 4), torch.randint(0, 3, (5,))
    with pytest.raises(ForwardError, match=r"module '1\.0' \(BatchNorm1d\) does not take these inputs: Expected"):
        hessian(model, F.cross_entropy, (x[:1], y[:1]))
    with pytest.raises(ForwardError, match=r"module '0' \(Linear\) does not take these inputs: mat1 and mat2"):
        tangent_kernel(model.eval(), x.double())
    with pytest.raises(OperatorUsageError, match="Sequential does not take these inputs"):
        hessian(model, F.cross_entropy, ((x, x), y))
    with pytest.raises(ForwardError, match=r"module '0' \(Silent\) does not take these inputs: ValueError"):
        hessian(nn.Sequential(Silent(3, 3)), F.cross_entropy, (x, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Linear(4, 3))
    for call in (lambda: hessian(scripted, F.cross_entropy, (x, y)), lambda: tangent_kernel(scripted, x)):
        with pytest.raises(OperatorUsageError, match=r"scripted.*pass the original"):
            call()


def test_complex_parameters_are_refused_as_such():
    model = nn.Linear(4, 3, dtype=torch.complex64)
    with pytest.raises(ParameterError, match="parameter weight is complex"):
        hessian(model, lambda outputs, _: outputs.abs().square().mean(), (torch.randn(5, 4).to(torch.complex64), None))
