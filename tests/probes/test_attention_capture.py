from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from separatrix.probes._attention import attention_entropy, entropy_lower_bound, logit_spectral_norm
from separatrix.probes._attention_capture import AttentionCall, hearing_attention

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def heard(model: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, list[AttentionCall]]:
    calls: list[AttentionCall] = []
    with hearing_attention(model, calls.append):
        output = model(*args, **kwargs)
    return output, calls


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b.detach(), rtol=0, atol=TOLERANCE[a.dtype])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


MULTI_HEAD: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "without bias": {"bias": False},
    "extra keys": {"add_bias_kv": True, "add_zero_attn": True},
    "other sizes": {"kdim": 5, "vdim": 7},
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("options", MULTI_HEAD.values(), ids=MULTI_HEAD)
@pytest.mark.parametrize("masked", ["no mask", "boolean", "added", "by head", "padding", "both", "causal"])
def test_multi_head_attention_gives_its_own_weights(dtype: torch.dtype, options: dict[str, Any], masked: str) -> None:
    layer = nn.MultiheadAttention(12, 3, **options).to(dtype).eval()
    for bias in (layer.bias_k, layer.in_proj_bias):
        if bias is not None:
            nn.init.normal_(bias)
    length, keys, batch = 5, 5 if masked == "causal" else 6, 2
    query = torch.randn(length, batch, 12, dtype=dtype)
    key = torch.randn(keys, batch, options.get("kdim", 12), dtype=dtype)
    value = torch.randn(keys, batch, options.get("vdim", 12), dtype=dtype)
    if options.get("batch_first"):
        query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    hidden = torch.zeros(batch, keys, dtype=torch.bool)
    hidden[0, 4:] = True
    choices: dict[str, dict[str, Any]] = {
        "boolean": {"attn_mask": torch.ones(length, keys, dtype=torch.bool).triu(2)},
        "added": {"attn_mask": torch.randn(length, keys, dtype=dtype)},
        "by head": {"attn_mask": torch.randn(batch * 3, length, keys, dtype=dtype)},
        "padding": {"key_padding_mask": hidden},
        "both": {"attn_mask": torch.ones(length, keys, dtype=torch.bool).triu(2), "key_padding_mask": hidden},
        "causal": {"attn_mask": torch.ones(length, keys, dtype=torch.bool).triu(1), "is_causal": True},
    }
    given = choices.get(masked, {})
    expected = layer(query, key, value, average_attn_weights=False, **given)[1]
    with torch.no_grad():
        usual = layer(query, key, value, need_weights=False, **given)[0]
    # torch's causal hint, used where no weights are asked for, hides extra keys that its mask does not.
    inconsistent = masked == "causal" and bool(options.get("add_zero_attn"))
    for need_weights in (True,) if inconsistent else (True, False):
        with torch.no_grad():
            (output, _), calls = heard(layer, query, key, value, need_weights=need_weights, **given)
        assert [c.module for c in calls] == [""]
        close(calls[0].weights, expected)
        if not inconsistent:
            close(output, usual)


def test_the_causal_hint_over_extra_keys_is_taken_as_torch_takes_it() -> None:
    # Without weights asked for, torch lets early queries see no extra key, with weights it does: output tells.
    layer = nn.MultiheadAttention(12, 3, add_bias_kv=True, add_zero_attn=True).double().eval()
    x, mask = torch.randn(5, 2, 12, dtype=torch.float64), torch.ones(5, 5, dtype=torch.bool).triu(1)
    projected = x @ layer.in_proj_weight[24:].T + layer.in_proj_bias[24:]
    values = torch.cat([projected, layer.bias_v.expand(1, 2, 12), torch.zeros(1, 2, 12)])
    values = values.view(7, 2, 3, 4).permute(1, 2, 0, 3)
    for need_weights in (True, False):
        with torch.no_grad():
            (output, _), (call,) = heard(layer, x, x, x, attn_mask=mask, is_causal=True, need_weights=need_weights)
            mixed = (call.weights @ values).permute(2, 0, 1, 3).flatten(2)
            close(layer.out_proj(mixed), output)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("training", [True, False])
def test_a_transformer_encoder_is_heard_where_it_would_take_its_fast_path(training: bool) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).train(training)
    x, padding = torch.randn(3, 5, 16), torch.zeros(3, 5, dtype=torch.bool)
    padding[1, 3:] = True
    with torch.no_grad():
        output, calls = heard(model, x, src_key_padding_mask=padding)
        usual = model(x, src_key_padding_mask=padding)
    assert [c.module for c in calls] == ["layers.0.self_attn", "layers.1.self_attn"]
    torch.testing.assert_close(output[~padding], usual[~padding], rtol=0, atol=2e-6)
    first = model.layers[0].self_attn(x, x, x, key_padding_mask=padding, average_attn_weights=False)[1]
    close(calls[0].weights, first)


def tiny(kind: str, implementation: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    sizes: dict[str, Any] = {
        "GPT2": {"n_positions": 16, "n_embd": 24, "n_layer": 2, "n_head": 3, "bos_token_id": 0, "eos_token_id": 0},
        "Llama": {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32, "intermediate_size": 48},
        "Bert": {"num_attention_heads": 3, "hidden_size": 24, "intermediate_size": 32},
    }
    names = {"GPT2": "GPT2LMHeadModel", "Llama": "LlamaForCausalLM", "Bert": "BertForMaskedLM"}
    depth = {} if kind == "GPT2" else {"num_hidden_layers": 2, "max_position_embeddings": 16}
    config = getattr(transformers, f"{kind}Config")(vocab_size=50, **sizes[kind], **depth)
    config._attn_implementation = implementation
    torch.manual_seed(1)
    model: nn.Module = getattr(transformers, names[kind])(config).eval()
    assert model.config._attn_implementation == implementation
    for parameter in model.parameters():
        # Weights as they are drawn make attention uniform, which would hide mistakes.
        parameter.data.mul_(15.0 if parameter.dim() > 1 else 1.0)
    return model


MODULES = {
    "GPT2": "transformer.h.{}.attn",
    "Llama": "model.layers.{}.self_attn",
    "Bert": "bert.encoder.layer.{}.attention.self",
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", MODULES)
def test_hugging_face_models_give_their_own_weights(
    kind: str, implementation: str, padded: bool, dtype: torch.dtype
) -> None:
    model, reference = (tiny(kind, i).to(dtype) for i in (implementation, "eager"))
    ids = torch.randint(0, 50, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.int64)
    if padded:
        mask[1, 6:] = 0
    with torch.no_grad():
        expected = reference(ids, attention_mask=mask, output_attentions=True).attentions
        usual = model(ids, attention_mask=mask).logits
        output, calls = heard(model, ids, attention_mask=mask)
    assert torch.equal(output.logits, usual)
    assert [c.module for c in calls] == [MODULES[kind].format(i) for i in range(2)]
    for call, weights in zip(calls, expected, strict=True):
        assert float(weights.max()) > 0.5
        # Llama's eager attention makes its softmax in float32 whatever the dtype, and a second layer inherits that.
        atol = 16 * torch.finfo(torch.float32).eps if kind == "Llama" else TOLERANCE[dtype]
        torch.testing.assert_close(call.weights, weights.to(dtype), rtol=0, atol=atol)
        assert call.q is not None and call.k is not None
        products = call.q.double() @ call.k.double().repeat_interleave(call.q.shape[1] // call.k.shape[1], 1).mT
        norms = torch.linalg.matrix_norm(products * call.scale, ord=2)
        torch.testing.assert_close(call.spectral_norms, norms, rtol=1e-6, atol=0)
        bound = entropy_lower_bound(call.logits, call.spectral_norms)
        assert bool((attention_entropy(call.weights) >= bound - 1e-6).all())


def test_rows_that_see_nothing_under_left_padding_are_zero() -> None:
    model = tiny("GPT2", "eager")
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[0, :3] = 0
    with torch.no_grad():
        _, calls = heard(model, torch.randint(0, 50, (2, 9)), attention_mask=mask)
    sums = calls[0].weights.sum(-1)
    assert bool((sums[0, :, :3] == 0).all())
    torch.testing.assert_close(sums[0, :, 3:], torch.ones(3, 6))


def by_hand(scores: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], heads: int = 2) -> nn.Module:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(8, 24)
            self.soft = nn.Softmax(dim=-1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = (
                (y.unflatten(-1, (heads, -1)).transpose(1, 2) if heads else y) for y in self.qkv(x).chunk(3, dim=-1)
            )
            self.kept = self.soft(scores(q, k))
            return self.kept @ v

    return nn.Sequential(nn.Linear(8, 8), Attention())


def filled(s: torch.Tensor, value: float) -> torch.Tensor:
    return s.masked_fill(torch.ones_like(s, dtype=torch.bool).triu(1), value)


def assigned(s: torch.Tensor, value: float) -> torch.Tensor:
    s[..., torch.ones(s.shape[-2:], dtype=torch.bool).triu(1)] = value
    return s


def one_head_doubled(s: torch.Tensor) -> torch.Tensor:
    s[:, 0].mul_(2.0)
    return s


HAND_WRITTEN: dict[str, tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor], bool]] = {
    "scaled": (lambda q, k: q @ k.mT / math.sqrt(q.shape[-1]), True),
    "scale first": (lambda q, k: 3.0 * torch.matmul(q * 0.5, k.transpose(-2, -1)), True),
    "filled": (lambda q, k: filled((q @ k.mT).mul_(0.5), -torch.inf), True),
    "filled with -1e9": (lambda q, k: filled(q @ k.mT * 0.5, -1e9), True),
    "where": (lambda q, k: torch.where(torch.ones(5, 5, dtype=torch.bool).tril(), q @ k.mT, -torch.inf), True),
    "assigned": (lambda q, k: assigned(q @ k.mT, -torch.inf), True),
    "assigned something else": (lambda q, k: assigned(q @ k.mT, 4.0), False),
    "einsum": (lambda q, k: torch.einsum("b h i d, b h j d -> b h i j", q, k) * 2.0, True),
    "einsum other way": (lambda q, k: torch.einsum("bhjd,bhid->bhij", k, q), True),
    "bias": (lambda q, k: q @ k.mT + torch.linspace(-1, 1, 5), False),
    "capped": (lambda q, k: 2.0 * torch.tanh(q @ k.mT / 2.0), False),
    "temperature by head": (lambda q, k: q @ k.mT * torch.tensor([1.0, 2.0]).view(2, 1, 1), False),
    "one head doubled in place": (lambda q, k: one_head_doubled(q @ k.mT), False),
    "largest removed": (lambda q, k: (lambda s: s - s.amax(-1, keepdim=True))(q @ k.mT), False),
    "flattened": (lambda q, k: torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT).view(3, 2, 5, 5), True),
    "baddbmm with bias": (
        lambda q, k: torch.baddbmm(torch.linspace(-1, 1, 5), q.flatten(0, 1), k.flatten(0, 1).mT).view(3, 2, 5, 5),
        False,
    ),
    "baddbmm": (
        lambda q, k: torch.baddbmm(torch.empty(6, 5, 5), q.flatten(0, 1), k.flatten(0, 1).mT, beta=0, alpha=0.3).view(
            3, 2, 5, 5
        ),
        True,
    ),
}


@pytest.mark.parametrize(("scores", "known"), HAND_WRITTEN.values(), ids=HAND_WRITTEN)
def test_attention_written_by_hand(scores: Callable[..., torch.Tensor], known: bool) -> None:
    model = by_hand(scores)
    x = torch.randn(3, 5, 8)
    output, calls = heard(model, x)
    torch.testing.assert_close(output, model(x), rtol=0, atol=0)
    (call,) = calls
    assert call.module == "1"
    torch.testing.assert_close(call.weights, model[1].kept.detach(), rtol=0, atol=1e-6)
    assert (call.q is not None) is known
    if call.q is not None and call.k is not None:
        products = call.scale * call.q @ call.k.mT
        seen = call.logits > -torch.inf
        torch.testing.assert_close(products[seen], call.logits[seen], rtol=0, atol=1e-5)
    else:
        torch.testing.assert_close(call.spectral_norms, logit_spectral_norm(call.logits))


def test_the_rounding_of_half_precision_is_no_bias_and_a_bias_is_no_rounding() -> None:
    x = torch.randn(3, 5, 8)
    for bias, known in ((0.0, True), (3.0, False)):
        model = by_hand(lambda q, k, bias=bias: q @ k.mT * 0.5 + bias * torch.linspace(-1, 1, 5))
        with torch.autocast("cpu", torch.bfloat16):
            _, (call,) = heard(model, x)
        assert (call.q is not None) is known
        assert call.logits.dtype == torch.float32
        assert bool((attention_entropy(call.weights) >= entropy_lower_bound(call.logits, call.spectral_norms)).all())


def test_logits_are_measured_in_float32_under_autocast() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(3, 5, 8)
    found: list[tuple[AttentionCall, torch.Tensor]] = []
    with torch.autocast("cpu", torch.bfloat16), hearing_attention(model, lambda c: found.append((c, c.logits))):
        model(x, x, x, need_weights=False)
    ((call, logits),) = found
    assert call.q is not None and call.k is not None and call.q.dtype == torch.bfloat16
    torch.testing.assert_close(logits, call.q.float() @ call.k.float().mT / 2.0, rtol=0, atol=1e-6)


def test_one_head_without_a_dim_for_it() -> None:
    x = torch.randn(3, 5, 8)
    model = by_hand(lambda q, k: filled(q @ k.mT * 0.5, -torch.inf), heads=0)
    _, (call,) = heard(model, x)
    assert call.weights.shape == (3, 1, 5, 5)
    torch.testing.assert_close(call.weights[:, 0], model[1].kept.detach(), rtol=0, atol=1e-6)


def test_a_softmax_that_is_no_attention_is_not_heard() -> None:
    class Router(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate = torch.softmax(x @ torch.ones(8, 8), dim=-1)
            over_channels = torch.softmax(F.layer_norm(x.mT @ x, (8,)), dim=-1)
            queries = torch.softmax(x @ x.mT, dim=1)
            return gate.sum() + over_channels.sum() + queries.sum() + F.softmax(gate, dim=-1).sum()

    assert heard(Router(), torch.randn(2, 5, 8))[1] == []


def test_fused_attention_of_every_rank_and_kind() -> None:
    class Fused(nn.Module):
        def forward(self, q: torch.Tensor, k: torch.Tensor, **options: Any) -> torch.Tensor:
            return F.scaled_dot_product_attention(q, k, torch.eye(k.shape[-2]).expand(*k.shape[:-1], -1), **options)

    for shape, mask_shape in (
        ((5, 4), (5, 5)),
        ((3, 5, 4), (3, 5, 5)),
        ((3, 2, 5, 4), (2, 1, 5)),
        ((6, 3, 2, 5, 4), (3, 1, 5, 5)),
    ):
        q, k = torch.randn(shape), torch.randn(shape)
        for options in ({}, {"is_causal": True}, {"attn_mask": torch.randn(mask_shape)}, {"scale": 2.0}):
            output, (call,) = heard(Fused(), q, k, **options)
            assert call.weights.dim() == 4
            torch.testing.assert_close(call.weights.reshape(output.shape), output, rtol=0, atol=1e-6)
            if "attn_mask" in options:
                torch.testing.assert_close(call.spectral_norms, logit_spectral_norm(call.logits))


def test_nested_tensors_are_named_as_unseen() -> None:
    class Nested(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = x.unflatten(-1, (2, 4)).transpose(1, 2)
            return F.scaled_dot_product_attention(q, q, q)

    model = nn.Sequential(Nested())
    nested = torch.nested.nested_tensor([torch.randn(3, 8), torch.randn(5, 8)], layout=torch.jagged)
    calls: list[AttentionCall] = []
    unseen: list[tuple[str, str]] = []
    with hearing_attention(model, calls.append, lambda *seen: unseen.append(seen)):
        model(nested)
    assert calls == [] and [module for module, _ in unseen] == ["0"] and "nested" in unseen[0][1]


def test_attention_modules_in_which_nothing_was_heard_are_named() -> None:
    class SinkAttention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores = torch.cat([x @ x.mT, torch.zeros(*x.shape[:2], 1)], dim=-1)
            return scores.softmax(-1)[..., :-1] @ x

    class AttentionBlock(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    model = nn.ModuleDict({"a": AttentionBlock(SinkAttention()), "b": AttentionBlock(by_hand(lambda q, k: q @ k.mT))})
    calls: list[AttentionCall] = []
    unseen: list[tuple[str, str]] = []
    with hearing_attention(model, calls.append, lambda *seen: unseen.append(seen)):
        model["b"](model["a"](torch.randn(2, 5, 8)))
    assert [c.module for c in calls] == ["b.inner.1"]
    assert [module for module, _ in unseen] == ["a.inner"]


def test_nothing_stays_behind_and_no_random_number_is_drawn() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    x = torch.randn(2, 4, 8)
    torch.manual_seed(3)
    expected = model(x)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    output, calls = heard(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(calls) == 1 and not calls[0].weights.requires_grad
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    output.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks and not module._forward_hooks_always_called
    assert not torch.overrides.has_torch_function((x,))


def test_an_error_leaves_nothing_behind_and_a_caught_one_does_not_misname() -> None:
    class Failing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("no")

    class Catching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.failing = Failing()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                self.failing(x)
            except ValueError:
                return F.scaled_dot_product_attention(x, x, x)
            return x

    model = nn.Sequential(Catching())
    _, (call,) = heard(model, torch.randn(1, 1, 3, 4))
    assert call.module == "0"
    with pytest.raises(ValueError, match="no"):
        heard(Failing(), torch.zeros(1))
    assert not torch.overrides.has_torch_function((torch.zeros(1),))
    with pytest.raises(ZeroDivisionError), hearing_attention(model, lambda call: 1 / 0):  # type: ignore[arg-type, return-value]
        model(torch.randn(1, 1, 3, 4))
    assert not model[0]._forward_hooks


def test_a_module_called_twice_is_heard_twice_in_order() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = attention

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x, x, x)[0]
            return self.second(y, y, y)[0]

    x = torch.randn(2, 4, 8)
    _, calls = heard(Twice(), x)
    assert [c.module for c in calls] == ["first", "first"]
    close(calls[0].weights, attention(x, x, x, average_attn_weights=False)[1])
