"""What an attention call does, by head: entropy and its bound, logits, sinks, previous-token and induction patterns.

Weights and logits have shape (batch, heads, queries, keys); a masked logit is -inf, and a query that sees no key has
weights of zero and counts nowhere. Results are (heads,), NaN where no query counts.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from separatrix.runs.errors import UsageError


def attention_logits(
    q: torch.Tensor,
    k: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
    is_causal: bool = False,
) -> torch.Tensor:
    """Scaled and masked logits (b, h, t, s), float32 or wider, of queries q (b, h, t, e) and keys k (b, g, s, e).

    As in `scaled_dot_product_attention`: `scale` defaults to 1 / sqrt(e), query t of a causal call sees keys 0..t, a
    boolean mask is true where a key is seen, another is added, and h may be a multiple of g (consecutive query heads
    share a key head). An added mask hides where it is -1e8 (in half precision -3e4) or below.

    Raises:
        UsageError: shapes that do not fit.
    """
    if q.dim() != 4 or k.dim() != 4 or q.shape[3] != k.shape[3] or q.shape[1] % max(1, k.shape[1]):
        raise UsageError(
            f"queries {tuple(q.shape)} and keys {tuple(k.shape)} do not fit: give (batch, heads, length, size) with"
            " equal sizes, and query heads a multiple of key heads."
        )
    q, k = wide(q), wide(k)
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    logits = q @ k.transpose(2, 3) * (1.0 / math.sqrt(q.shape[3]) if scale is None else scale)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + hidden(mask)
    if is_causal:
        unseen = torch.ones(logits.shape[2:], dtype=torch.bool, device=logits.device).triu(1)
        logits = logits.masked_fill(unseen, -torch.inf)
    return logits


def wide(x: torch.Tensor) -> torch.Tensor:
    """`x` detached, in float32 where its dtype is narrower."""
    return x.detach() if x.dtype in (torch.float32, torch.float64) else x.detach().to(torch.float32)


def hiding(dtype: torch.dtype) -> float:
    """Logits and masks at this number or below stand for -inf: -1e8, or half the most negative number of the dtype."""
    return max(torch.finfo(dtype).min / 2, -1e8)


def hidden(x: torch.Tensor) -> torch.Tensor:
    """A floating-point mask, or logits it was added to, with the large negative numbers that stand for -inf made so."""
    return wide(x).masked_fill(x.detach() <= hiding(x.dtype), -torch.inf)


def attention_weights(logits: torch.Tensor) -> torch.Tensor:
    """Softmax over keys of logits (..., keys); zeros for a query that sees no key."""
    return torch.softmax(logits, dim=-1).masked_fill((logits == -torch.inf).all(dim=-1, keepdim=True), 0.0)


def _by_head(values: torch.Tensor, counts: torch.Tensor | None = None) -> torch.Tensor:
    """Mean over batch and queries of values (b, h, t) where `counts`, broadcast to it, is true: (h,) float64."""
    counts = torch.ones_like(values, dtype=torch.bool) if counts is None else counts.expand_as(values)
    total = torch.where(counts, values, 0.0).sum(dim=(0, 2), dtype=torch.float64)
    return total / counts.sum(dim=(0, 2))


def _seeing(weights: torch.Tensor) -> torch.Tensor:
    """Queries (b, h, t) that see a key; those with NaN weights do."""
    return (weights != 0).any(dim=-1)


def attention_entropy(weights: torch.Tensor) -> torch.Tensor:
    """Mean entropy of the attention distributions, nats, by head: between 0 and log of the number of keys seen.

    NaN for a head with a weight that is not a number.

    Source: Zhai et al. 2023, arXiv:2303.06296, section 3.
    """
    return _by_head(torch.special.entr(weights).sum(dim=-1), _seeing(weights))


def smallest_entropy(norm: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Least entropy, nats, of a softmax over `keys` logits of Euclidean norm at most `norm`; elementwise, broadcast.

    log(1 + (n - 1) b) + g (n - 1) b / (1 + (n - 1) b) with gap g = norm sqrt(n / (n - 1)) and b = exp(-g): attained by
    one logit norm sqrt((n - 1) / n) over n - 1 equal ones that make the sum zero. A row of a matrix has at most its
    spectral norm, so that norm bounds the entropy of every row of attention logits from below; so does that of more
    columns than a query sees. NaN for a norm that is not a number, 0 for a single key.

    Source: Zhai et al. 2023, arXiv:2303.06296, theorem 3.1.
    """
    norm, keys = norm.to(torch.float64), keys.to(torch.float64)
    others = (keys - 1.0).clamp(min=1.0)
    # exp(-1e4) is zero, and infinity times zero would not be a number.
    gap = (norm * ((others + 1.0) / others).sqrt()).clamp(max=1e4)
    rest = others * torch.exp(-gap)
    bound = torch.log1p(rest) + gap * rest / (1.0 + rest)
    return torch.where((keys > 1.0) | torch.isnan(norm), bound, 0.0)


def product_spectral_norm(q: torch.Tensor, k: torch.Tensor, scale: float | None = None) -> torch.Tensor:
    """Spectral norm (b, h) of scale q k' for q (b, h, t, e), k (b, g, s, e), float64; the (t, s) matrix is not built.

    `scale` and grouped heads as in `attention_logits`. NaN where an entry is not finite. Cost: O((t + s) e^2 + e^3)
    a head.
    """
    a, b = q.detach().to(torch.float64), k.detach().to(torch.float64)
    b = b.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    finite = torch.isfinite(a).all(dim=3).all(dim=2) & torch.isfinite(b).all(dim=3).all(dim=2)
    a, b = a.masked_fill(~finite[:, :, None, None], 0.0), b.masked_fill(~finite[:, :, None, None], 0.0)
    triangles = torch.linalg.qr(a).R @ torch.linalg.qr(b).R.transpose(2, 3)
    norms: torch.Tensor = torch.linalg.matrix_norm(triangles, ord=2)
    norms = norms * abs(1.0 / math.sqrt(q.shape[3]) if scale is None else scale)
    return norms.masked_fill(~finite, torch.nan)


def logit_spectral_norm(logits: torch.Tensor) -> torch.Tensor:
    """Spectral norm (b, h) of logits (b, h, t, s) as they are, masked entries taken as zero, float64.

    Where a bias is added to the products this is the norm that bounds, not that of the products. NaN where an entry is
    NaN or +inf. Cost: O(t s min(t, s)) a head.
    """
    seen = logits.to(torch.float64).masked_fill(logits == -torch.inf, 0.0)
    finite = torch.isfinite(seen).all(dim=3).all(dim=2)
    norms: torch.Tensor = torch.linalg.matrix_norm(seen.masked_fill(~finite[:, :, None, None], 0.0), ord=2)
    return norms.masked_fill(~finite, torch.nan)


def entropy_lower_bound(logits: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """Least that `attention_entropy` can be, nats, by head, given spectral norms (b, h) of the logits (b, h, t, s).

    Every query has the bound of `smallest_entropy` for the number of keys it sees, averaged as the entropy is.
    """
    keys = (logits != -torch.inf).sum(dim=-1)
    return _by_head(smallest_entropy(norms[:, :, None], keys), keys > 0)


def largest_logit(logits: torch.Tensor) -> torch.Tensor:
    """Largest logit that is not masked, by head (float64); NaN where all are, or where one is NaN.

    Source: Dehghani et al. 2023, arXiv:2302.05442, section 3.1; Wortsman et al. 2023, arXiv:2309.14322, section 3.1.1.
    """
    largest = logits.detach().amax(dim=(0, 2, 3)).to(torch.float64)
    return largest.masked_fill(largest == -torch.inf, torch.nan)


def _checked(weights: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
    """The tokens (b, t) that count, all unless given."""
    b, _, t, s = weights.shape
    if t != s:
        raise UsageError(f"attention has {t} queries and {s} keys: this score is for self-attention over whole inputs.")
    if valid is None:
        return torch.ones(b, t, dtype=torch.bool, device=weights.device)
    if valid.shape != (b, t):
        raise UsageError(
            f"valid tokens have shape {tuple(valid.shape)}: give (batch, length) = ({b}, {t}), no padding."
        )
    return valid.to(weights.device, torch.bool)


def sink_mass(weights: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Mean attention paid to the first valid token by the valid tokens after it, by head; in [0, 1].

    `valid` (b, t) is false for padding. Uniform causal attention over t tokens gives the mean of 1/2, 1/3 ... 1/t.

    Raises:
        UsageError: other than self-attention, or `valid` of another shape.

    Source: Xiao et al. 2024, arXiv:2309.17453, section 3.1.
    """
    valid = _checked(weights, valid)
    first = valid.to(torch.uint8).argmax(dim=1)
    mass = weights.gather(3, first[:, None, None, None].expand(-1, *weights.shape[1:3], 1))[..., 0]
    later = torch.arange(weights.shape[2], device=weights.device) > first[:, None]
    return _by_head(mass, (valid & later)[:, None] & _seeing(weights))


def previous_token_score(weights: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Mean attention of a token to the one just before it, by head, over neighbours that are both valid; in [0, 1].

    Raises:
        UsageError: other than self-attention, or `valid` of another shape.

    Source: Olsson et al. 2022, arXiv:2209.11895, head activation evaluators.
    """
    valid = _checked(weights, valid)
    mass = weights.diagonal(offset=-1, dim1=2, dim2=3)
    return _by_head(mass, (valid[:, 1:] & valid[:, :-1])[:, None] & _seeing(weights)[:, :, 1:])


def induction_score(weights: torch.Tensor, tokens: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Mean attention to what followed earlier occurrences of the current token, by head; in [0, 1].

    Query i with token x_i counts if x_i came before it; its targets are all j <= i with x_{j-1} = x_i and j - 1 < i,
    and its score is the attention summed over them. On a random sequence repeated with period p, without repeats in
    the period, the target is j = i - p + 1 alone, as in the source. NaN where nothing repeats. `tokens` (b, t).

    Raises:
        UsageError: other than self-attention, tokens or `valid` of another shape.

    Source: Olsson et al. 2022, arXiv:2209.11895, head activation evaluators (prefix matching).
    """
    valid = _checked(weights, valid)
    if tokens.shape != valid.shape:
        raise UsageError(f"tokens have shape {tuple(tokens.shape)}: give (batch, length) = {tuple(valid.shape)}.")
    tokens = tokens.to(weights.device)
    alike = (tokens[:, :, None] == tokens[:, None, :]) & valid[:, :, None] & valid[:, None, :]
    targets = alike.tril(-1).roll(1, dims=2) & valid[:, None, :]
    mass = torch.where(targets[:, None], weights, 0.0).sum(dim=-1)
    return _by_head(mass, targets.any(dim=-1)[:, None] & _seeing(weights))


@dataclasses.dataclass(frozen=True)
class OutputLogits:
    """Scale of a model's output logits; float64 scalars.

    Attributes:
        rms: root mean square over all logits.
        mean: over all logits; a drift that softmax does not see.
        largest: over all logits.
        log_z: mean over examples of log sum exp, the log of softmax's normaliser.
        log_z_rms: root mean square of log sum exp; the z-loss penalises its square.
    """

    rms: torch.Tensor
    mean: torch.Tensor
    largest: torch.Tensor
    log_z: torch.Tensor
    log_z_rms: torch.Tensor


def output_logits(logits: torch.Tensor) -> OutputLogits:
    """Scale and log Z of output logits (..., classes); NaN in gives NaN out.

    Raises:
        UsageError: no class dimension or no logits.

    Source: Wortsman et al. 2023, arXiv:2309.14322, section 3.1.2.
    """
    if not logits.dim() or not logits.numel() or not logits.is_floating_point():
        raise UsageError(f"output logits have shape {tuple(logits.shape)}: give floating-point (examples, classes).")
    x = logits.detach().to(torch.float64)
    log_z = torch.logsumexp(x, dim=-1)
    return OutputLogits(x.square().mean().sqrt(), x.mean(), x.amax(), log_z.mean(), log_z.square().mean().sqrt())
