"""Hears every attention call of an eager forward: which module made it, its queries, keys, mask and scale.

Nothing is replaced: a TorchFunctionMode hears torch's functions in this thread while the context is open, and forward
hooks tell which module runs. Heard are `scaled_dot_product_attention`, `nn.MultiheadAttention` (which leaves its fast
path for as long) and attention written as a product of two batched tensors followed by a softmax over its last dim.
Not heard: scripted and compiled modules, fused kernels of other packages, a softmax over scores with extra columns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from separatrix.probes._attention import (
    attention_logits,
    attention_weights,
    hidden,
    hiding,
    logit_spectral_norm,
    product_spectral_norm,
    wide,
)


@dataclasses.dataclass(frozen=True)
class AttentionCall:
    """One attention call, detached.

    Attributes:
        module: name, within the model, of the innermost module that was running (a softmax module counts for its
            parent); "" is the model itself.
        q: queries (b, h, t, e); None where the code that formed the logits did more than scale and mask a product.
        k: keys (b, g, s, e), g a divisor of h; None with q.
        mask: as `attention_logits` takes it, None without; the masks of code that formed logits itself are in those.
        scale: factor of the products.
        is_causal: whether query t sees keys 0..t only, on top of the mask.
        formed: logits (b, h, t, s) that the code formed itself.
    """

    module: str
    q: torch.Tensor | None
    k: torch.Tensor | None
    mask: torch.Tensor | None = None
    scale: float = 1.0
    is_causal: bool = False
    formed: torch.Tensor | None = None

    @functools.cached_property
    def logits(self) -> torch.Tensor:
        """Logits (b, h, t, s) that entered the softmax, float32 or wider; -inf where masked."""
        if self.formed is not None:
            return hidden(self.formed)
        assert self.q is not None and self.k is not None
        return attention_logits(self.q, self.k, mask=self.mask, scale=self.scale, is_causal=self.is_causal)

    @functools.cached_property
    def weights(self) -> torch.Tensor:
        """Attention weights (b, h, t, s) before dropout; zeros for a query that sees no key."""
        return attention_weights(self.logits)

    @functools.cached_property
    def spectral_norms(self) -> torch.Tensor:
        """Spectral norms (b, h) for `entropy_lower_bound`: of the products, or of the logits where a bias was added."""
        if self.q is None or self.k is None or not _only_masks(self.mask):
            return logit_spectral_norm(self.logits)
        return product_spectral_norm(self.q, self.k, self.scale)


@contextlib.contextmanager
def hearing_attention(
    model: torch.nn.Module,
    receive: Callable[[AttentionCall], None],
    unseen: Callable[[str, str], None] = lambda module, reason: None,
) -> Iterator[None]:
    """While open, hands every attention call of `model`'s eager forward in this thread to `receive`, as it is made.

    A call's tensors are the model's own and hold until the model writes to them: measure at once, or copy. Gradients
    and autocast are off in `receive`, and its own torch calls are not heard. Calls that were noticed but cannot be told
    are handed to `unseen` as (module, reason), and so are, in the end, modules of a class named after attention that
    ran without a call from within. Numbers and random states of the forward stay as they are, but that
    `nn.MultiheadAttention` and `nn.TransformerEncoder` do not take their fast paths (equal up to rounding, but for
    padded positions, which the fast path sets to zero). An error raised in `receive` ends the forward.
    """
    running: list[str] = []
    silent: dict[str, None] = {}
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(functools.partial(_enter, running, silent, name)))
        handles.append(module.register_forward_hook(functools.partial(_leave, running, name), always_call=True))
    try:
        with _Listener(running, silent, receive, unseen):
            yield
    finally:
        for handle in handles:
            handle.remove()
    for name in silent:
        if not any(_is_within(other, name) for other in silent if other != name):
            unseen(name, "no attention was heard in it: it is compiled, scripted, or of another form.")


def _enter(running: list[str], silent: dict[str, None], name: str, module: torch.nn.Module, inputs: Any) -> None:
    if not isinstance(module, torch.nn.Softmax):
        running.append(name)
    if "attention" in type(module).__name__.lower():
        silent[name] = None


def _is_within(name: str, outer: str) -> bool:
    return not outer or name == outer or name.startswith(f"{outer}.")


def _leave(running: list[str], name: str, module: torch.nn.Module, inputs: Any, output: Any) -> None:
    # Above it may stand modules whose forward ended in an exception that was caught.
    if not isinstance(module, torch.nn.Softmax) and name in running:
        del running[len(running) - 1 - running[::-1].index(name) :]


@dataclasses.dataclass(frozen=True)
class _Scores:
    """A tensor made, entry by entry, from the products q k' of two batched tensors; `dtype` is that of the products."""

    q: torch.Tensor
    k: torch.Tensor
    dtype: torch.dtype


_MATMUL = ("matmul", "bmm")
# Functions of scores that give scores, without underscores: what they did is told from their result.
_ARITHMETIC = ("mul", "rmul", "imul", "div", "true_divide", "truediv", "itruediv", "add", "radd", "iadd", "sub", "isub")
_ENTRYWISE = ("multiply", "divide", "subtract", "rsub", "neg", "tanh", "clamp", "where", "masked_fill")
_SHAPE = ("view", "reshape", "contiguous", "clone", "to", "type", "type_as", "float", "double", "half", "bfloat16")


class _Listener(TorchFunctionMode):
    def __init__(
        self,
        running: list[str],
        silent: dict[str, None],
        receive: Callable[[AttentionCall], None],
        unseen: Callable[[str, str], None],
    ) -> None:
        super().__init__()
        self._running, self._silent, self._receive, self._unseen = running, silent, receive, unseen
        self._scores: Any = WeakIdKeyDictionary()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._hear(_fused(*args, **kwargs))
        elif func is F.multi_head_attention_forward:
            with torch.no_grad():
                heard = _multi_head(inspect.signature(func).bind(*args, **kwargs))
            self._hear(heard)
        name = getattr(func, "__name__", "")
        if name == "softmax":
            self._hear_softmax(*args, **kwargs)
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor):
            scores = _scores_made(name, args, kwargs, result, self._scores)
            if scores is not None:
                self._scores[result] = scores
        return result

    def _hear(self, heard: dict[str, Any] | str) -> None:
        module = self._running[-1] if self._running else ""
        for name in [n for n in self._silent if _is_within(module, n)]:
            del self._silent[name]
        if isinstance(heard, str):
            self._unseen(module, heard)
            return
        call = AttentionCall(module=module, **heard)
        with _plain(call.q if call.formed is None else call.formed):
            self._receive(call)

    def _hear_softmax(self, input: torch.Tensor, dim: int | None = None, *args: Any, **kwargs: Any) -> None:
        scores = self._scores.get(input)
        if scores is None or dim not in (-1, input.dim() - 1) or input.dim() not in (3, 4):
            return
        logits = _with_heads(input.detach())
        with _plain(logits):
            product = _product(scores, logits)
        self._hear({"formed": logits, **(product or {"q": None, "k": None})})


@contextlib.contextmanager
def _plain(tensor: torch.Tensor | None) -> Iterator[None]:
    """Neither gradients nor the forward's autocast, which would round what is measured."""
    with torch.no_grad(), torch.autocast("cpu" if tensor is None else tensor.device.type, enabled=False):
        yield


def _product(scores: _Scores, logits: torch.Tensor) -> dict[str, Any] | None:
    """Queries, keys and scale whose products are `logits` (b, h, t, s) where not masked, up to rounding; else None."""
    heads = logits.shape[:2]
    if not scores.q.shape[:-2].numel() == scores.k.shape[:-2].numel() == heads.numel():
        return None
    q, k = (x.reshape(*heads, *x.shape[-2:]) for x in (scores.q, scores.k))
    formed = hidden(logits)
    seen = formed > -torch.inf
    products, formed = (wide(q) @ wide(k).mT)[seen].double(), formed[seen].double()
    power = products.square().sum()
    scale = float((products * formed).sum() / power) if bool(power > 0) else 0.0
    # Rounding of a product is in parts of the operands' norms, which cancellation does not lessen.
    sizes = [torch.linalg.vector_norm(wide(x), dim=-1).amax().double() for x in (q, k)]
    rounding = 16 * torch.finfo(scores.dtype).eps * abs(scale) * sizes[0] * sizes[1]
    agree = bool(((products * scale - formed).abs() <= rounding).all())
    return {"q": q, "k": k, "scale": scale} if agree else None


def _with_heads(x: torch.Tensor) -> torch.Tensor:
    """(..., t, s) as (b, h, t, s): a head dim of one where there is no dim for it, all further dims one batch."""
    if x.dim() < 4:
        return x[(None,) * (3 - x.dim())].unsqueeze(1)
    return x if x.dim() == 4 else x.flatten(0, x.dim() - 4)


def _fused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> dict[str, Any] | str:
    """What a call of `scaled_dot_product_attention` says."""
    if query.is_nested or key.is_nested:
        return "attention over nested tensors: pad them to one length to see it."
    if attn_mask is not None and query.dim() != 4:
        attn_mask = _with_heads(attn_mask.expand(*query.shape[:-1], key.shape[-2]))
    return {
        "q": _with_heads(query.detach()),
        "k": _with_heads(key.detach()),
        "mask": None if attn_mask is None else attn_mask.detach(),
        "scale": 1.0 / math.sqrt(query.shape[-1]) if scale is None else float(scale),
        "is_causal": is_causal,
    }


def _multi_head(bound: inspect.BoundArguments) -> dict[str, Any] | str:
    """What a call of `multi_head_attention_forward` says: its projections made once more."""
    bound.apply_defaults()
    given = bound.arguments
    if given["static_k"] is not None:
        return "attention with static keys."
    query, key = (x if x.dim() == 3 else x.unsqueeze(1) for x in (given["query"], given["key"]))
    if given["use_separate_proj_weight"]:
        w_q, w_k = given["q_proj_weight"], given["k_proj_weight"]
    else:
        w_q, w_k, _ = given["in_proj_weight"].chunk(3)
    bias = given["in_proj_bias"]
    b_q, b_k, _ = (None, None, None) if bias is None else bias.chunk(3)
    heads, batch = given["num_heads"], query.shape[1]
    q, k = F.linear(query, w_q, b_q), F.linear(key, w_k, b_k)
    if given["bias_k"] is not None:
        k = torch.cat([k, given["bias_k"].expand(1, batch, -1)])
    if given["add_zero_attn"]:
        k = torch.cat([k, torch.zeros_like(k[:1])])
    # (length, batch, heads * size) to (batch, heads, length, size)
    q, k = (x.view(len(x), batch, heads, -1).permute(1, 2, 0, 3) for x in (q, k))
    mask, padding = given["attn_mask"], given["key_padding_mask"]
    # torch's own rule for when the hint replaces the mask.
    is_causal = given["is_causal"] and padding is None and not given["need_weights"]
    if is_causal:
        mask = None
    if mask is not None:
        mask = _additive(mask, q.dtype)
        mask = mask if mask.dim() == 2 else mask.view(batch, heads, *mask.shape[1:])
    if padding is not None:
        padding = _additive(padding, q.dtype).reshape(batch, 1, 1, -1)
        mask = padding if mask is None else mask + padding
    if mask is not None:
        mask = F.pad(mask, (0, k.shape[2] - mask.shape[-1]))
    return {"q": q, "k": k, "mask": mask, "scale": 1.0 / math.sqrt(q.shape[3]), "is_causal": is_causal}


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask of `nn.MultiheadAttention`, boolean ones true where a key is hidden, as one to add."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(mask, -torch.inf)


def _scores_made(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: torch.Tensor, known: Mapping[Any, _Scores]
) -> _Scores | None:
    """What `result` of the function `name` holds, if scores: a product of two batched tensors, or made from scores."""
    name = name.strip("_")
    tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
    if name == "einsum" and len(args) == 3 and isinstance(args[0], str):
        return _contracted(*args, result.dtype)
    if (name in _MATMUL and len(tensors) == 2) or (name == "baddbmm" and len(tensors) == 3):
        q, k = tensors[-2:]
        batched = min(q.dim(), k.dim()) >= 3
        return _Scores(q.detach(), k.detach().transpose(-2, -1), result.dtype) if batched else None
    carries = name in (*_ARITHMETIC, *_ENTRYWISE, *_SHAPE)
    source = next((x for x in tensors if x in known), None) if carries else None
    if source is None or source.numel() != result.numel() or not result.is_floating_point():
        return None
    return known[source]


def _contracted(equation: str, a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> _Scores | None:
    """Scores of an einsum such as "bthe,bshe->bhts": batch and head in both operands, query and key in one each."""
    operands, _, out = equation.replace(" ", "").partition("->")
    first, _, second = operands.partition(",")
    if len(out) != 4 or len(first) != 4 or len(second) != 4 or "." in operands:
        return None
    if out[2] not in first:
        (first, a), (second, b) = (second, b), (first, a)
    shared = (set(first) & set(second)) - set(out)
    if len(shared) != 1:
        return None
    inner = shared.pop()
    q_dims, k_dims = (out[0], out[1], out[2], inner), (out[0], out[1], out[3], inner)
    if set(first) != set(q_dims) or set(second) != set(k_dims):
        return None
    q, k = a.detach().permute([first.index(c) for c in q_dims]), b.detach().permute([second.index(c) for c in k_dims])
    return _Scores(q, k, dtype)


def _only_masks(mask: torch.Tensor | None) -> bool:
    """Whether adding `mask` only hides keys: it is boolean or holds zeros and large negative numbers."""
    if mask is None or mask.dtype == torch.bool:
        return True
    if not mask.is_floating_point():
        return False
    values = wide(mask)
    return bool(((values == 0) | (values <= hiding(mask.dtype))).all())
