import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from tests.operators.structured_models import EVERY, FALLBACK, STRUCTURED, build, jacobian, relative
from torch import nn

from separatrix.operators import (
    CoupledExamplesError,
    JacobianFallbackWarning,
    NonFiniteError,
    OperatorUsageError,
    ParameterError,
    StructureError,
    _blocks,
    _row_products,
    tangent_kernel,
    tangent_kernel_of,
)
from separatrix.operators._structure import watch


def quietly(function, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", JacobianFallbackWarning)
        return function(*arguments, **options)


@pytest.mark.parametrize("name", EVERY)
def test_kernels_equal_the_product_of_explicit_jacobians(name):
    model, sample = build(name)
    x, y = sample(5), sample(3)
    first, second = jacobian(model, x), jacobian(model, y)
    full = torch.einsum("iap,jbp->ijab", first, second)
    assert relative(quietly(tangent_kernel, model, x, y, "full"), full) < 1e-9
    assert relative(quietly(tangent_kernel, model, x, y), full.diagonal(dim1=2, dim2=3).sum(-1)) < 1e-9
    own = torch.einsum("iap,jap->ij", first, first)
    assert relative(quietly(tangent_kernel, model, x), own) < 1e-9
    assert relative(quietly(tangent_kernel_of, lambda: model(x), model), own) < 1e-9


@pytest.mark.parametrize("name", STRUCTURED)
def test_common_layers_need_no_fallback(name):
    model, sample = build(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", JacobianFallbackWarning)
        tangent_kernel(model, sample(5))


@pytest.mark.parametrize(
    ("name", "layers"), [("gru", ["cell"]), ("unusual", ["model itself", "layer.parametrizations"])]
)
def test_fallback_is_announced_once_and_names_the_layers(name, layers):
    assert name in FALLBACK
    model, sample = build(name)
    with pytest.warns(JacobianFallbackWarning) as caught:
        tangent_kernel(model, sample(5), sample(3), memory=20_000)
    assert len(caught) == 1
    assert all(layer in str(caught[0].message) for layer in layers)


def test_a_fallback_is_announced_at_the_callers_line():
    # In a process of its own, since the check of shapes adds frames in between.
    code = """if True:
        import torch, warnings
        from separatrix.operators import tangent_kernel

        class Cell(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.cell = torch.nn.GRUCell(2, 2)

            def forward(self, x):
                return self.cell(x)

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tangent_kernel(Cell(), torch.ones(2, 2))
        print([(warning.category.__name__, warning.filename) for warning in caught])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[('JacobianFallbackWarning', '<string>')]", done.stderr


@pytest.mark.parametrize("name", ["cnn", "tied", "transformer", "unusual"])
@pytest.mark.parametrize("form", ["trace", "full"])
def test_little_memory_changes_nothing(name, form):
    model, sample = build(name)
    x, y = sample(10), sample(9)
    for memory in (40_000, 200_000):
        expected = quietly(tangent_kernel, model, x, form=form)
        assert relative(quietly(tangent_kernel, model, x, form=form, memory=memory), expected) < 1e-12
        expected = quietly(tangent_kernel, model, x, y, form)
        assert relative(quietly(tangent_kernel, model, x, y, form, memory=memory), expected) < 1e-12


@pytest.mark.parametrize("form", ["trace", "full"])
def test_layers_add_up_and_each_is_its_own_jacobian(form):
    model, sample = build("cnn-batchnorm")
    x = sample(4)
    parts = tangent_kernel(model, x, form=form, per_layer=True)
    assert list(parts) == ["0", "1", "3", "4", "6", "8"]
    assert relative(sum(parts.values()), tangent_kernel(model, x, form=form)) < 1e-12
    for name, part in parts.items():
        model.requires_grad_(False).get_submodule(name).requires_grad_(True)
        own = jacobian(model, x)
        equation = "iap,jap->ij" if form == "trace" else "iap,jbp->ijab"
        assert relative(part, torch.einsum(equation, own, own)) < 1e-9


def test_selected_parameters_and_an_unused_layer():
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "idle": nn.Linear(2, 2)}).double()
    model.forward = lambda x: model["used"](x)
    x = torch.randn(4, 3, dtype=torch.float64)
    parts = tangent_kernel(model, x, per_layer=True)
    assert parts["idle"].eq(0).all()
    bias_only = tangent_kernel(model, x, parameters=[model["used"].bias])
    assert torch.equal(bias_only, torch.full((4, 4), 2.0, dtype=torch.float64))
    assert torch.allclose(parts["used"], 2 * (x @ x.T + 1))


@pytest.mark.parametrize("name", EVERY)
def test_single_precision_stays_within_the_documented_figure(name):
    model, sample = build(name)
    x = sample(6)
    exact = quietly(tangent_kernel, model, x)
    x = x.float() if x.is_floating_point() else x
    assert relative(quietly(tangent_kernel, model.float(), x).double(), exact) < 1e-5


@pytest.mark.parametrize(("name", "n"), [("mlp", 150), ("cnn-batchnorm", 67), ("transformer", 130), ("positions", 67)])
def test_products_of_many_examples_are_cut_up_without_a_trace(name, n, monkeypatch):
    monkeypatch.setattr(_row_products, "_CUT", 1)
    model, sample = build(name)
    x = sample(n)
    own = jacobian(model, x)
    truth = torch.einsum("iap,jap->ij", own, own)
    assert relative(tangent_kernel(model, x), truth) < 1e-9
    assert relative(tangent_kernel(model, x, memory=100_000), truth) < 1e-9
    parts = tangent_kernel(model, x, per_layer=True)
    assert relative(sum(parts.values()), truth) < 1e-9


def test_the_graph_of_a_forward_is_kept_where_it_has_room(monkeypatch):
    model, sample = build("transformer")
    x, forwards = sample(12), []
    model.register_forward_hook(lambda *_: forwards.append(1))
    counts, kernels = [], []
    monkeypatch.setattr(_blocks, "MEMORY", 40_000)
    for room in (10**9, 40_000):
        monkeypatch.setattr(_blocks, "GRAPH_MEMORY", room)
        forwards.clear()
        kernels.append(tangent_kernel(model, x))
        counts.append(len(forwards))
    assert counts[0] == 3
    assert counts[1] > 10
    assert relative(kernels[1], kernels[0]) < 1e-12


@pytest.mark.parametrize("positions", [[0], [-1], [1, 2], [0, 3]])
def test_positions_that_no_gradient_reaches_are_left_out(positions):
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.matrix = nn.Linear(6, 7), nn.Parameter(torch.randn(7, 5))

        def forward(self, x):
            return (self.layer(x).tanh() @ self.matrix)[:, positions].sum(1)

    model, x = Read().double(), torch.randn(9, 5, 6, dtype=torch.float64)
    own = jacobian(model, x)
    assert relative(tangent_kernel(model, x), torch.einsum("iap,jap->ij", own, own)) < 1e-12
    full = torch.einsum("iap,jbp->ijab", own, own[:5])
    assert relative(tangent_kernel(model, x, x[:5], "full"), full) < 1e-12


class Pooled(nn.Module):
    """A convolution read through rectification and pooling, and perhaps elsewhere too."""

    def __init__(self, elsewhere):
        super().__init__()
        self.layer, self.elsewhere = nn.Conv2d(1, 3, 3), elsewhere

    def forward(self, x):
        found = self.layer(x)
        read = nn.functional.max_pool2d(found.relu(), 2).relu().flatten(1)
        return torch.cat([read, found.mean((2, 3))], 1) if self.elsewhere else read


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("differentiated", [False, True])
def test_a_first_convolution_is_read_behind_its_pooling_where_nothing_else_reads_it(elsewhere, differentiated):
    torch.manual_seed(0)
    model, x = Pooled(elsewhere).double(), torch.randn(5, 1, 8, 8, dtype=torch.float64)
    x.requires_grad_(differentiated)
    trace, reasons = watch(lambda: model(x), list(model.parameters()))
    whole = elsewhere or differentiated
    assert {edge.node.name() for edge in trace.edges} == {"ConvolutionBackward0" if whole else "ReluBackward0"}
    assert not reasons
    own = jacobian(model, x.detach())
    truth = torch.einsum("iap,jap->ij", own, own)
    assert relative(tangent_kernel_of(lambda: model(x), model), truth) < 1e-9
    assert relative(tangent_kernel(model, x.detach(), memory=60_000), truth) < 1e-9


class Headed(nn.Module):
    """A last layer behind a rectified one, which is also read elsewhere, used twice or has other outputs beside it."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.inner, self.head = kind, nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        hidden = self.inner(x).tanh() if self.kind == "twice" else x
        hidden = self.inner(hidden).relu()
        if self.kind == "elsewhere":
            return self.head(hidden) + hidden.sum(1, keepdim=True).sin()
        return torch.cat([self.head(hidden), x], 1) if self.kind == "beside" else self.head(hidden)


@pytest.mark.parametrize("kind", ["plain", "elsewhere", "twice", "beside"])
@pytest.mark.parametrize("memory", [2**26, 3_000])
def test_the_layer_before_the_last_is_summed_over_outputs_where_nothing_else_counts(kind, memory):
    torch.manual_seed(1)
    model, x = Headed(kind).double(), torch.randn(9, 4, dtype=torch.float64)
    trace, _ = watch(lambda: model(x), list(model.parameters()))
    assert len(trace.tails) == (kind == "plain")
    own = jacobian(model, x)
    assert relative(tangent_kernel(model, x, memory=memory), torch.einsum("iap,jap->ij", own, own)) < 1e-9
    assert (
        relative(tangent_kernel(model, x, form="full", memory=memory), torch.einsum("iap,jbp->ijab", own, own)) < 1e-9
    )
    for name, parameter in model.named_parameters():
        model.requires_grad_(False).get_parameter(name).requires_grad_(True)
        alone = jacobian(model, x)
        found = tangent_kernel(model, x, parameters=[parameter], memory=memory)
        assert relative(found, torch.einsum("iap,jap->ij", alone, alone)) < 1e-9
        model.requires_grad_(True)


@pytest.mark.parametrize("rows", [3, 200])
def test_tables_are_compared_where_indices_meet(rows):
    model = nn.Sequential(nn.Embedding(rows, 4), nn.Flatten(), nn.Linear(24, 3)).double()
    x, y = torch.randint(0, rows, (9, 6)), torch.randint(0, rows, (7, 6))
    first, second = jacobian(model, x), jacobian(model, y)
    assert relative(tangent_kernel(model, x, y), torch.einsum("iap,jap->ij", first, second)) < 1e-9
    full = torch.einsum("iap,jbp->ijab", first, first)
    assert relative(tangent_kernel(model, x, form="full"), full) < 1e-9


def test_a_position_table_that_also_goes_elsewhere_falls_back():
    model, sample = build("mixed")
    with pytest.warns(JacobianFallbackWarning, match="place"):
        tangent_kernel(model, sample(6))


def test_half_precision_is_contracted_in_single():
    model, sample = build("mlp", torch.bfloat16)
    kernel = tangent_kernel(model, sample(4).bfloat16())
    assert kernel.dtype is torch.float32
    assert torch.linalg.eigvalsh(kernel).min() > -1e-4 * kernel.max()


def test_sequences_of_different_lengths():
    model, _ = build("tied")
    x, y = torch.randint(0, 7, (4, 5)), torch.randint(0, 7, (3, 2))
    expected = torch.einsum("iap,jap->ij", jacobian(model, x), jacobian(model, y))
    assert relative(tangent_kernel(model, x, y), expected) < 1e-9


def test_several_inputs_and_compiled_wrapper():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(2, 3), nn.Linear(4, 3)

        def forward(self, a, b):
            return self.left(a) * self.right(b)

    model = Pair().double()
    a, b = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    wrapper = nn.Module()
    wrapper._orig_mod = model
    whole = jacobian(lambda_model(model, 2), torch.cat([a, b], 1))
    assert relative(tangent_kernel(wrapper, (a, b)), torch.einsum("iap,jap->ij", whole, whole)) < 1e-9


def lambda_model(model, split):
    class Joined(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x[:, :split], x[:, split:])

    return Joined()


class Touchy(nn.Module):
    """Draws random numbers, counts its calls in a buffer, may fail."""

    def __init__(self, fails=False):
        super().__init__()
        self.layer, self.fails = nn.Linear(3, 2), fails
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        torch.rand(1), random.random(), np.random.rand()
        if self.fails:
            raise RuntimeError("refused")
        return self.layer(x)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_changed_even_by_a_failing_model(fails):
    model = Touchy(fails).train()
    model.layer.weight.grad = torch.ones_like(model.layer.weight)
    hooks = []
    model.layer.register_forward_hook(lambda *_: hooks.append(1))
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with torch.no_grad():
        if fails:
            with pytest.raises(RuntimeError, match="refused"):
                tangent_kernel(model, torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
        else:
            tangent_kernel(model, torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
        assert not torch.is_grad_enabled()
    assert torch.equal(states[0], torch.get_rng_state())
    assert (states[1], states[2]) == (random.getstate(), np.random.get_state()[1].tolist())
    assert model.calls == 0 and model.training and model.layer.weight.grad.eq(1).all()
    assert model.layer.bias.grad is None and len(model.layer._forward_hooks) == 1
    before = len(hooks)
    model.fails = False
    model(torch.ones(1, 3))
    assert len(hooks) == before + 1
    assert torch.overrides._get_current_function_mode() is None


class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x - x.mean(0))


class Reentrant(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.layer, x.requires_grad_(), use_reentrant=True)


class Hidden(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return gradient @ weight.T, x.T @ gradient


class OutOfSight(nn.Module):
    """Uses its weight, or a view of it, in a custom function, and the same where a rule sees it."""

    def __init__(self, view, seen):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))
        self.view, self.seen = view, seen

    def forward(self, x):
        weight = self.view(self.weight)
        hidden = Hidden.apply(x, weight).sin()
        return hidden + x @ weight if self.seen else hidden


VIEWS = {
    "itself": lambda weight: weight,
    "transposed": lambda weight: weight.t(),
    "a view of a view": lambda weight: weight.view(9).view(3, 3).mT,
    "sliced": lambda weight: weight[:],
    "one of several outputs": lambda weight: weight.unsqueeze(0).unbind()[0],
}


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("view", VIEWS)
def test_a_use_out_of_sight_is_found_in_the_graph(view, seen):
    torch.manual_seed(0)
    model = OutOfSight(VIEWS[view], seen).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    own = jacobian(model, x)
    with pytest.warns(JacobianFallbackWarning, match="out of sight"):
        assert relative(tangent_kernel(model, x), torch.einsum("iap,jap->ij", own, own)) < 1e-9


@pytest.mark.parametrize(
    ("model", "x", "error", "words"),
    [
        (
            nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)),
            torch.randn(4, 3),
            CoupledExamplesError,
            r"'1'.*model.eval\(\)",
        ),
        (nn.Sequential(nn.Linear(3, 40), nn.Dropout(0.5)), torch.randn(4, 3), CoupledExamplesError, r"model.eval\(\)"),
        (Mixing(), torch.randn(4, 3), CoupledExamplesError, "alone"),
        (nn.Linear(3, 2).requires_grad_(False), torch.randn(4, 3), ParameterError, "unfreeze"),
        (nn.Linear(3, 2), torch.full((4, 3), float("inf")), NonFiniteError, "example 0"),
        (nn.Linear(3, 2), torch.randn(0, 3), StructureError, "at least one"),
        (nn.LSTM(3, 2), torch.randn(4, 5, 3), StructureError, "tuple"),
        (Reentrant(), torch.randn(4, 3), StructureError, "use_reentrant=False"),
    ],
)
def test_what_has_no_kernel_is_refused_in_one_line(model, x, error, words):
    with pytest.raises(error, match=words) as caught:
        tangent_kernel(model, x)
    assert "\n" not in str(caught.value)


def test_bad_arguments_are_refused():
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    with pytest.raises(OperatorUsageError, match="'trace' or 'full'"):
        tangent_kernel(model, x, form="diagonal")
    with pytest.raises(ParameterError, match="no given module"):
        tangent_kernel(model, x, parameters=[nn.Parameter(torch.ones(2))])
    with pytest.raises(StructureError, match="same number"):
        tangent_kernel(model, (x, x[:2]))
    with pytest.raises(OperatorUsageError, match="numbers of outputs"):
        tangent_kernel(nn.Conv1d(1, 1, 1), torch.randn(2, 1, 3), torch.randn(2, 1, 4))
