from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from separatrix.probes._attention import (
    attention_entropy,
    attention_logits,
    attention_weights,
    entropy_lower_bound,
    induction_score,
    largest_logit,
    logit_spectral_norm,
    output_logits,
    previous_token_score,
    product_spectral_norm,
    sink_mass,
    smallest_entropy,
)
from separatrix.runs.errors import UsageError


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform_causal(length: int, batch: int = 1, heads: int = 1) -> torch.Tensor:
    return attention_weights(attention_logits(*[torch.zeros(batch, heads, length, 2)] * 2, is_causal=True)).double()


def entropy(row: np.ndarray) -> float:
    p = np.exp(row - row.max())
    p = p / p.sum()
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


@pytest.mark.parametrize("mask", ["none", "causal", "boolean", "added"])
def test_weights_are_those_of_torch(mask: str) -> None:
    q, k = draw(2, 4, 6, 3), draw(2, 2, 6, 3, seed=1)
    options: dict[str, object] = {"is_causal": True} if mask == "causal" else {}
    if mask == "boolean":
        options["mask"] = (draw(2, 1, 6, 6, seed=2) > 0) | torch.eye(6, dtype=torch.bool)
    if mask == "added":
        options["mask"] = draw(4, 6, 6, seed=2)
    weights = attention_weights(attention_logits(q, k, scale=0.7, **options))  # type: ignore[arg-type]
    given = {"attn_mask" if name == "mask" else name: value for name, value in options.items()}
    # With the identity as values, what attention returns are its weights.
    values = torch.eye(6, dtype=torch.float64).expand(2, 2, 6, 6)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, values, scale=0.7, enable_gqa=True, **given)
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=1e-14)


def test_large_negative_numbers_hide_and_what_sees_nothing_counts_nowhere() -> None:
    q = draw(1, 1, 3, 4)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        lowest = torch.zeros(3, 3, dtype=dtype)
        lowest[0, 1], lowest[2] = torch.finfo(dtype).min, torch.finfo(dtype).min
        logits = attention_logits(q, q, mask=lowest)
        assert (logits == -torch.inf).nonzero()[:, 2:].tolist() == [[0, 1], [2, 0], [2, 1], [2, 2]]
        weights = attention_weights(logits)
        assert weights[0, 0, 2].tolist() == [0.0, 0.0, 0.0]
        rows = [entropy(logits[0, 0, 0, [0, 2]].numpy()), entropy(logits[0, 0, 1].numpy())]
        assert float(attention_entropy(weights)) == pytest.approx(np.mean(rows), rel=1e-6)
    blind = attention_weights(torch.full((1, 2, 3, 3), -torch.inf))
    for value in (attention_entropy(blind), largest_logit(torch.full((1, 2, 3, 3), -torch.inf)), sink_mass(blind)):
        assert bool(torch.isnan(value).all()) and value.shape == (2,)


def test_entropy_of_uniform_and_certain_attention() -> None:
    expected = np.mean([math.log(t) for t in range(1, 9)])
    assert float(attention_entropy(uniform_causal(8))) == pytest.approx(expected, rel=1e-7)
    assert float(attention_entropy(torch.eye(5)[None, None])) == 0.0
    broken = torch.eye(5).repeat(1, 2, 1, 1)
    broken[0, 1, 2, 2] = torch.nan
    assert torch.isnan(attention_entropy(broken)).tolist() == [False, True]


@pytest.mark.parametrize("count", [2, 3, 5, 9])
@pytest.mark.parametrize("norm", [0.1, 1.0, 3.0, 12.0])
def test_no_logits_of_a_given_norm_have_less_entropy_than_the_bound(count: int, norm: float) -> None:
    bound = float(smallest_entropy(torch.tensor(norm), torch.tensor(count)))
    random = np.random.default_rng(0)

    def on_sphere(x: np.ndarray) -> np.ndarray:
        return norm * x / np.linalg.norm(x)

    found = [
        scipy.optimize.minimize(lambda x: entropy(on_sphere(x)), random.standard_normal(count)).fun for _ in range(12)
    ]
    assert min(found) >= bound - 1e-9
    assert min(found) <= bound + 1e-5 * max(1.0, bound)
    # Shorter logits are no way around it: the bound falls with the norm.
    assert bound < float(smallest_entropy(torch.tensor(0.9 * norm), torch.tensor(count)))


@pytest.mark.parametrize("count", [2, 7, 100])
def test_the_bound_is_attained(count: int) -> None:
    for norm in (0.5, 4.0, 30.0):
        row = np.full(count, -norm / math.sqrt(count * (count - 1)))
        row[0] = norm * math.sqrt((count - 1) / count)
        assert np.linalg.norm(row) == pytest.approx(norm) and row.sum() == pytest.approx(0.0, abs=1e-9)
        bound = float(smallest_entropy(torch.tensor(norm), torch.tensor(count)))
        assert bound == pytest.approx(entropy(row), rel=1e-9)


def test_limits_of_the_bound() -> None:
    norms = torch.tensor([0.0, 1e5, torch.inf, torch.nan])
    found = smallest_entropy(norms, torch.tensor(10))
    assert float(found[0]) == pytest.approx(math.log(10), rel=1e-12)
    assert found[1:3].tolist() == [0.0, 0.0] and torch.isnan(found[3])
    assert float(smallest_entropy(torch.tensor(3.0), torch.tensor(1))) == 0.0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    length=st.integers(1, 9),
    size=st.integers(1, 12),
    scale=st.floats(0.01, 30.0),
    causal=st.booleans(),
    bias=st.booleans(),
)
def test_entropy_never_falls_below_the_bound(
    seed: int, length: int, size: int, scale: float, causal: bool, bias: bool
) -> None:
    q, k = draw(2, 4, length, size, seed=seed), draw(2, 2, length, size, seed=seed + 1)
    mask = 3.0 * draw(length, length, seed=seed + 2) if bias else None
    logits = attention_logits(q, k, mask=mask, scale=scale, is_causal=causal)
    norms = logit_spectral_norm(logits) if bias else product_spectral_norm(q, k, scale)
    measured = attention_entropy(attention_weights(logits))
    assert bool((measured >= entropy_lower_bound(logits, norms) - 1e-12).all())
    # The norm of masked logits bounds as well, and no worse than that of the products does by rows.
    assert bool((measured >= entropy_lower_bound(logits, logit_spectral_norm(logits)) - 1e-12).all())


def test_entropy_stays_above_the_bound_while_attention_is_trained() -> None:
    torch.manual_seed(0)
    tokens = torch.randint(0, 8, (64, 10))
    embed, query, key = torch.nn.Embedding(8, 16), torch.nn.Linear(16, 16), torch.nn.Linear(16, 16)
    read = torch.nn.Linear(16, 8)
    parameters = [p for m in (embed, query, key, read) for p in m.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.03)
    excesses = []
    for _ in range(60):
        x = embed(tokens)
        q, k = query(x)[:, None], key(x)[:, None]
        logits = attention_logits(q, k)
        measured = attention_entropy(attention_weights(logits))
        excesses.append(float(measured - entropy_lower_bound(logits, product_spectral_norm(q, k))))
        out = read(torch.softmax(q @ k.transpose(2, 3) / 4, -1)[:, 0] @ x)
        loss = torch.nn.functional.cross_entropy(out.flatten(0, 1), tokens.flip(1).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert min(excesses) >= 0.0
    assert max(excesses) > 0.1


def test_norm_of_the_products_without_building_them() -> None:
    q, k = draw(2, 4, 7, 3), draw(2, 2, 11, 3, seed=1)
    dense = np.einsum("bhte,bhse->bhts", q.numpy(), np.repeat(k.numpy(), 2, axis=1)) * 0.3
    expected = [[np.linalg.norm(dense[b, h], 2) for h in range(4)] for b in range(2)]
    np.testing.assert_allclose(product_spectral_norm(q, k, 0.3), expected, rtol=1e-12)
    np.testing.assert_allclose(logit_spectral_norm(torch.tensor(dense)), expected, rtol=1e-12)
    broken = q.clone()
    broken[1, 2, 0, 0] = torch.nan
    assert torch.isnan(product_spectral_norm(broken, k)).nonzero().tolist() == [[1, 2]]


def test_largest_logit_ignores_what_is_masked() -> None:
    logits = draw(2, 3, 5, 5)
    logits[0, 1, 0, 4] = 50.0
    masked = logits.masked_fill(torch.ones(5, 5, dtype=torch.bool).triu(1), -torch.inf)
    seen = logits.numpy()[:, :, np.tril(np.ones((5, 5), bool))]
    np.testing.assert_array_equal(largest_logit(masked), seen.max(axis=(0, 2)))


def test_planted_patterns_score_one_and_the_others_do_not() -> None:
    period, length = 6, 18
    tokens = torch.stack([torch.randperm(50, generator=torch.Generator().manual_seed(s))[:period] for s in (0, 1)])
    tokens = tokens.repeat(1, 3)
    previous, sink, induction = (torch.zeros(2, 1, length, length) for _ in range(3))
    previous[:, :, 0, 0] = 1.0
    previous[:, :, torch.arange(1, length), torch.arange(length - 1)] = 1.0
    sink[..., 0] = 1.0
    for t in range(length):
        before = [s for s in range(1, t + 1) if (t - s + 1) % period == 0]
        for s in before or [0]:
            induction[:, :, t, s] = 1.0 / len(before or [0])
    weights = torch.cat([previous, sink, induction], dim=1)
    np.testing.assert_allclose(induction_score(weights, tokens), [0.0, 0.0, 1.0], atol=1e-7)
    np.testing.assert_allclose(previous_token_score(weights), [1.0, 1 / 17, 1 / 17], atol=1e-7)
    np.testing.assert_allclose(sink_mass(weights), [1 / 17, 1.0, 5 / 17], atol=1e-7)


def test_scores_of_uniform_attention_in_closed_form() -> None:
    length, period = 12, 4
    weights = uniform_causal(length, batch=2, heads=3)
    tokens = torch.arange(period).repeat(2, length // period)
    seen = np.arange(1, length + 1)
    expected = {
        "sink": np.mean(1 / seen[1:]),
        "previous": np.mean(1 / seen[1:]),
        "induction": np.mean([(t // period) / (t + 1) for t in range(period, length)]),
    }
    np.testing.assert_allclose(sink_mass(weights), expected["sink"], rtol=1e-6)
    np.testing.assert_allclose(previous_token_score(weights), expected["previous"], rtol=1e-6)
    np.testing.assert_allclose(induction_score(weights, tokens), expected["induction"], rtol=1e-6)


def test_induction_score_by_its_definition() -> None:
    random = np.random.default_rng(1)
    tokens = random.integers(0, 4, (3, 10))
    weights = attention_weights(attention_logits(draw(3, 2, 10, 4), draw(3, 2, 10, 4, seed=1), is_causal=True))
    for head, measured in enumerate(induction_score(weights, torch.tensor(tokens))):
        scores = []
        for b in range(3):
            for i in range(10):
                targets = [j for j in range(1, i + 1) if tokens[b, j - 1] == tokens[b, i]]
                if targets:
                    scores.append(float(weights[b, head, i, targets].sum()))
        assert float(measured) == pytest.approx(np.mean(scores), rel=1e-12)
    assert bool(torch.isnan(induction_score(weights, torch.arange(30).view(3, 10))).all())


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_score(side: str) -> None:
    length, padding = 8, 3
    tokens = torch.tensor([[1, 2, 3, 1, 2, 3, 1, 2]])
    logits = attention_logits(draw(1, 2, length, 4), draw(1, 2, length, 4, seed=1), is_causal=True)
    total, start = length + padding, padding if side == "left" else 0
    padded = torch.full((1, 2, total, total), -torch.inf, dtype=torch.float64)
    padded[:, :, start : start + length, start : start + length] = logits
    valid = torch.zeros(1, total, dtype=torch.bool)
    valid[:, start : start + length] = True
    # Padding repeats a token that occurs, and its queries see whatever is not after them.
    longer = torch.full((1, total), 2)
    longer[valid] = tokens[0]
    before = torch.ones(total, total, dtype=torch.bool).tril()
    seeing = torch.where((~valid[0])[:, None] & before, 0.0, padded)
    plain, wide = attention_weights(logits), attention_weights(seeing)
    torch.testing.assert_close(sink_mass(wide, valid), sink_mass(plain))
    torch.testing.assert_close(previous_token_score(wide, valid), previous_token_score(plain))
    torch.testing.assert_close(induction_score(wide, longer, valid), induction_score(plain, tokens))
    torch.testing.assert_close(attention_entropy(attention_weights(padded)), attention_entropy(plain))


def test_scores_of_other_than_self_attention_are_refused() -> None:
    cross, square = torch.full((1, 1, 3, 5), 0.2), torch.full((1, 1, 3, 3), 1 / 3)
    for call in (
        lambda: sink_mass(cross),
        lambda: previous_token_score(cross),
        lambda: induction_score(square, torch.zeros(1, 4)),
        lambda: sink_mass(square, torch.ones(3, 3, dtype=torch.bool)),
        lambda: attention_logits(draw(1, 3, 4, 2), draw(1, 2, 4, 2)),
        lambda: attention_logits(draw(3, 4, 2), draw(3, 4, 2)),
        lambda: output_logits(torch.zeros(0, 4)),
    ):
        with pytest.raises(UsageError):
            call()
    assert torch.isnan(previous_token_score(torch.ones(2, 1, 1, 1))).all()


def test_output_logits_and_log_z() -> None:
    x = draw(4, 6, 9) * 3 + 1
    found = output_logits(x)
    log_z = np.log(np.exp(x.numpy()).sum(-1))
    assert float(found.log_z) == pytest.approx(log_z.mean(), rel=1e-12)
    assert float(found.log_z_rms) == pytest.approx(np.sqrt((log_z**2).mean()), rel=1e-12)
    assert float(found.rms) == pytest.approx(np.sqrt((x.numpy() ** 2).mean()), rel=1e-12)
    # A shift leaves the loss alone; log Z and the mean tell it.
    moved = output_logits(x - 1000.0)
    assert float(moved.log_z) == pytest.approx(float(found.log_z) - 1000.0, rel=1e-9)
    assert float(moved.mean) == pytest.approx(float(found.mean) - 1000.0, rel=1e-9)
    assert float(output_logits(torch.zeros(3, 7)).log_z) == pytest.approx(math.log(7), rel=1e-12)
