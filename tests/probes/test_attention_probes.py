"""Attention and output logits as probes: against loops over every number, and of real models as they are recorded."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.unhurried import unhurried
from torch import nn
from torch.overrides import TorchFunctionMode

import separatrix
from separatrix.probes.attention import attention, logits
from separatrix.record.shadow import undisturbed
from separatrix.record.snapshot import Snapshot, snapshot_of
from separatrix.testing import check_probe


@pytest.fixture(autouse=True)
def _time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots are dear beside the steps of a small training: here time must not decide whether they are taken."""
    unhurried(monkeypatch)


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max())
    return powers / powers.sum()


def entropy(p: np.ndarray) -> float:
    return -math.fsum(float(x) * math.log(float(x)) for x in p if x > 0)


def least_entropy(norm: float, count: int) -> float:
    """Of the distribution of `count` logits that the bound says is the worst: one large, the others equal."""
    if count == 1:
        return 0.0
    large = norm * math.sqrt((count - 1) / count)
    return entropy(softmax(np.array([large] + [-large / (count - 1)] * (count - 1))))


def by_loops(q: np.ndarray, k: np.ndarray, tokens: np.ndarray, *, causal: bool) -> dict[str, list[float]]:
    """Every quantity by head, for q and k (batch, heads, length, size)."""
    batch, heads, length, size = q.shape
    found: dict[str, list[float]] = {}
    for h in range(heads):
        numbers: dict[str, list[float]] = {}
        for b in range(batch):
            products = q[b, h] @ k[b, h].T / math.sqrt(size)
            norm = np.linalg.svd(products, compute_uv=False)[0]
            for t in range(length):
                seen = products[t, : t + 1] if causal else products[t]
                weights = softmax(seen)
                row = {
                    "attention_entropy": entropy(weights),
                    "attention_entropy_bound": least_entropy(norm, len(seen)),
                    "attention_logit_max": seen.max(),
                }
                targets = [j for j in range(1, t + 1) if tokens[b, j - 1] == tokens[b, t]]
                if t:
                    row |= {"attention_sink_mass": weights[0], "previous_token_score": weights[t - 1]}
                if targets:
                    row["induction_score"] = sum(weights[j] for j in targets)
                for name, value in row.items():
                    numbers.setdefault(name, []).append(float(value))
        for name, values in numbers.items():
            value = max(values) if name == "attention_logit_max" else math.fsum(values) / len(values)
            found.setdefault(name, []).append(value)
    return found


def projected(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    q, k, _ = (x @ weight.T + bias).detach().unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4).numpy()
    return q, k


def explicit(snapshot: Snapshot) -> dict[Any, Any]:
    weights = snapshot.parameters
    tokens = snapshot.inputs[0]
    if "qkv.weight" in weights:
        q, k = projected(weights["embed.weight"][tokens], weights["qkv.weight"], weights["qkv.bias"])
        label, values = "Tied", by_loops(q, k, tokens.numpy(), causal=True)
    else:
        own = weights["1.self_attn.in_proj_weight"], weights["1.self_attn.in_proj_bias"]
        q, k = projected(weights["0.weight"][tokens], *own)
        label, values = "1.self_attn", by_loops(q, k, tokens.numpy(), causal=False)
    assert len(values) == len(attention.series)
    return {(name, label): numbers for name, numbers in values.items()}


def test_attention_is_that_of_loops_over_queries_and_keys() -> None:
    assert check_probe(attention, oracle=explicit) == 2 * 2 * len(attention.series)


def explicit_scale(snapshot: Snapshot) -> dict[str, float]:
    output = snapshot.forward()
    rows = output.detach().reshape(-1, output.shape[-1]).tolist()
    flat = list(itertools.chain(*rows))
    log_z = [math.log(math.fsum(map(math.exp, row))) for row in rows]
    return {
        "output_logit_rms": math.sqrt(math.fsum(x * x for x in flat) / len(flat)),
        "output_logit_mean": math.fsum(flat) / len(flat),
        "output_logit_max": max(flat),
        "output_log_z": math.fsum(log_z) / len(log_z),
        "output_log_z_rms": math.sqrt(math.fsum(z * z for z in log_z) / len(log_z)),
    }


def test_output_logits_are_those_of_sums_over_all_scores() -> None:
    assert check_probe(logits, oracle=explicit_scale) == 2 * 8 * len(logits.series)


def read(probe: Any, snapshot: Snapshot) -> dict[Any, Any]:
    with undisturbed():
        return {(r.series, *r.at.values()): torch.as_tensor(r.values).tolist() for r in probe.measure(snapshot, {})}


def test_ignored_targets_count_nowhere_and_log_probabilities_are_refused() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 3).double(), torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3
    kept = read(logits, snapshot_of(model, "cross_entropy", x[:4], y[:4]))
    y[4:] = 1
    some = torch.where(y == 1, 1, y)
    everything = read(logits, snapshot_of(model, "cross_entropy", x, some, ignore_index=1))
    seen = read(logits, snapshot_of(model, "cross_entropy", x[some != 1], some[some != 1]))
    assert everything == pytest.approx(seen, rel=1e-12) and everything != pytest.approx(kept)
    refused = snapshot_of(nn.Sequential(model, nn.LogSoftmax(1)), "nll_loss", x, y)
    assert read(logits, refused) == {}
    assert refused.unseen == ["output logits are not seen: nll_loss is given log-probabilities, not scores"]


class Layered(nn.Module):
    """Attention whose input is (length, batch) or (batch, length), called twice, on tokens of the other argument."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)
        self.mix = nn.MultiheadAttention(4, 2, batch_first=batch_first)

    def forward(self, tokens: torch.Tensor, key_padding_mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.embed(tokens)
        for _ in range(2):
            x = x + self.mix(x, x, x, key_padding_mask=key_padding_mask)[0]
        return self.head(x)


def test_layouts_repeated_calls_and_padding() -> None:
    torch.manual_seed(0)
    model = Layered(True).double()
    tokens, targets = torch.randint(0, 5, (3, 6)), torch.randint(0, 5, (3, 6)).flatten()
    whole = read(attention, snapshot_of(model, "cross_entropy", tokens, targets))
    assert {key[1] for key in whole} == {"mix", "mix_2"} and len(whole) == 2 * len(attention.series)
    turned = Layered(False).double()
    turned.load_state_dict(model.state_dict())
    across = read(attention, snapshot_of(turned, "cross_entropy", tokens.T.contiguous(), targets))
    assert across.keys() == whole.keys()
    for key, values in across.items():
        assert values == pytest.approx(whole[key], rel=1e-10)
    # Where batch and length agree in size the layout of the tokens cannot be told.
    square = snapshot_of(turned, "cross_entropy", tokens[:, :3].contiguous(), targets[:9])
    assert {name for name, _ in read(attention, square)} == {s.name for s in attention.series} - {"induction_score"}
    padding = torch.zeros(3, 6, dtype=torch.bool)
    padding[:, 4:] = True
    padded = read(attention, snapshot_of(model, "cross_entropy", (tokens, padding), targets))
    short = read(attention, snapshot_of(model, "cross_entropy", tokens[:, :4].contiguous(), targets[:12]))
    for key, values in padded.items():
        # The norm that bounds the entropy is that of all products, padding included.
        if key[0] != "attention_entropy_bound":
            assert values == pytest.approx(short[key], rel=1e-10)


def test_of_two_token_arguments_none_is_taken_and_not_a_number_stays_so() -> None:
    class Pair(Layered):
        def forward(self, source: torch.Tensor, other: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(source + 0 * other)

    torch.manual_seed(0)
    model, tokens = Pair(True).double(), torch.randint(0, 5, (3, 6))
    found = read(attention, snapshot_of(model, "cross_entropy", (tokens, tokens), tokens.flatten()))
    assert "induction_score" not in {name for name, _ in found}
    snapshot = snapshot_of(model, "cross_entropy", (tokens, tokens), tokens.flatten())
    nn.init.constant_(snapshot.model.embed.weight, math.nan)
    broken = read(attention, snapshot)
    assert all(math.isnan(x) for values in broken.values() for x in values)


def test_attention_that_is_not_heard_is_named(tmp_path: Path) -> None:
    class OwnAttention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores = torch.cat([x @ x.mT, torch.zeros_like(x[..., :1])], -1)
            return scores.softmax(-1)[..., :-1] @ x

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), OwnAttention())
    snapshot = snapshot_of(model, "mse_loss", torch.randn(2, 3, 4), torch.randn(2, 3, 4))
    assert read(attention, snapshot) == {}
    assert len(snapshot.unseen) == 1 and "attention of 1 is not seen" in snapshot.unseen[0]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with separatrix.record(model, optimizer, run=tmp_path / "run", probes="attention", budget=1.0):
        for _ in range(4):
            F.mse_loss(model(torch.randn(2, 3, 4)), torch.randn(2, 3, 4)).backward()
            optimizer.step()
    (event,) = separatrix.open(tmp_path / "run").events
    assert event.kind == "unseen" and "attention of 1 is not seen" in event.message
    assert "attention_entropy" in event.data["series"]


SIZES: dict[str, dict[str, Any]] = {
    "GPT2": {"n_positions": 16, "n_embd": 12, "n_layer": 2, "n_head": 3, "bos_token_id": 0, "eos_token_id": 0}
    | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "Llama": {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 16, "intermediate_size": 8},
    "Bert": {"num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 8}
    | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
NAMES = {
    "GPT2": ("GPT2LMHeadModel", "transformer.h.{}.attn"),
    "Llama": ("LlamaForCausalLM", "model.layers.{}.self_attn"),
    "Bert": ("BertForMaskedLM", "bert.encoder.layer.{}.attention.self"),
}


def tiny(kind: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    depth = {} if kind == "GPT2" else {"num_hidden_layers": 2, "max_position_embeddings": 16}
    config = getattr(transformers, f"{kind}Config")(vocab_size=20, **SIZES[kind], **depth)
    config._attn_implementation = "sdpa"
    model: nn.Module = getattr(transformers, NAMES[kind][0])(config)
    for parameter in model.parameters():
        # Weights as they are drawn make attention uniform, which would hide mistakes.
        parameter.data.mul_(10.0 if parameter.dim() > 1 else 1.0)
    return model


def own_attention(model: Any, batch: dict[str, torch.Tensor]) -> list[np.ndarray]:
    """The attention weights (batch, heads, length, length) that a model itself returns, by layer."""
    training = model.training
    model.eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = model(**batch, output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    model.train(training)
    return [weights.double().numpy() for weights in found]


def mean_by_head(weights: np.ndarray, valid: np.ndarray, of: Callable[[np.ndarray, int], float | None]) -> list[float]:
    rows = [
        [of(weights[b, h, t], t) for b in range(len(weights)) for t in range(weights.shape[2]) if valid[b, t]]
        for h in range(weights.shape[1])
    ]
    return [float(np.mean([x for x in row if x is not None])) for row in rows]


@pytest.mark.parametrize("kind", NAMES)
def test_hugging_face_models_in_a_recorded_loop(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = tiny(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    mask = torch.ones(3, 8, dtype=torch.int64)
    mask[1, 5:] = 0
    expected = {}
    with separatrix.record(model, optimizer, run=tmp_path / "run", probes="attention,output-logits", budget=1.0) as on:
        for step in (1, 2, 3):
            ids = torch.randint(0, 20, (3, 8))
            batch = {"input_ids": ids, "attention_mask": mask}
            with on.paused():
                expected[step] = own_attention(model, batch)
            model(**batch, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    run = separatrix.open(tmp_path / "run")
    assert not [e for e in run.events if e.kind in ("unseen", "probe-off")]
    entropies, sinks = run["attention_entropy"], run["attention_sink_mass"]
    assert entropies.dims == ("step", "module", "head")
    assert entropies.attrs["units"] == "nats"
    steps = entropies.step.values.tolist()
    assert steps and steps == run["output_log_z"].step.values.tolist()
    for step in steps:
        for layer, weights in enumerate(expected[step]):
            here = {"step": step, "module": NAMES[kind][1].format(layer)}
            wanted = mean_by_head(weights, mask.numpy(), lambda row, t: entropy(row))
            assert entropies.sel(here).values.tolist() == pytest.approx(wanted, rel=1e-5)
            wanted = mean_by_head(weights, mask.numpy(), lambda row, t: row[0] if t else None)
            assert sinks.sel(here).values.tolist() == pytest.approx(wanted, rel=1e-4)
    assert (run["attention_entropy_bound"] <= entropies + 1e-6).all()
    scores = run["induction_score"].values
    assert scores.shape == entropies.shape and ((scores >= 0) & (scores <= 1)).all()


def test_a_hugging_face_trainer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    torch.manual_seed(2)
    ids = torch.randint(0, 20, (12, 8))
    model = tiny("GPT2")
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=4,
        num_train_epochs=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    data = [{"input_ids": row, "labels": row} for row in ids]
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data)
    with separatrix.record(run=tmp_path / "run", probes="default,attention", budget=1.0):
        trainer.train()
    run = separatrix.open(tmp_path / "run")
    assert run["attention_entropy"].sizes == {"step": 3, "module": 2, "head": 3}
    assert set(run["induction_score"].module.values) == {"transformer.h.0.attn", "transformer.h.1.attn"}


def test_a_function_mode_of_the_user_hears_what_it_heard_without_a_recording(tmp_path: Path) -> None:
    from separatrix.testing.snapshot_contract import Tied

    class Counting(TorchFunctionMode):
        calls = 0

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.calls += 1
            return function(*args, **(kwargs or {}))

    def train(record: contextlib.AbstractContextManager[Any]) -> int:
        torch.manual_seed(0)
        model = Tied()
        tokens = torch.randint(0, 7, (4, 6))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with record, Counting() as mode:
            for _ in range(3):
                optimizer.zero_grad()
                F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
                optimizer.step()
        return mode.calls

    expected = train(contextlib.nullcontext())
    assert expected == train(separatrix.record(run=tmp_path / "run", probes="attention", budget=1.0))
    assert len(separatrix.open(tmp_path / "run")["attention_entropy"]) >= 2


def test_fused_attention_in_a_recorded_loop(tmp_path: Path) -> None:
    from separatrix.testing.snapshot_contract import Tied

    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = {}
    with separatrix.record(run=tmp_path / "run", probes="attention,output-logits", budget=1.0):
        for step in (1, 2, 3):
            tokens = torch.randint(0, 7, (4, 6))
            q, k = projected(model.embed.weight[tokens].detach(), model.qkv.weight, model.qkv.bias)
            expected[step] = by_loops(q, k, tokens.numpy(), causal=True)
            optimizer.zero_grad()
            F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
            optimizer.step()
    run = separatrix.open(tmp_path / "run")
    for name in expected[1]:
        found = run[name].squeeze("module") if "module" in run[name].dims else run[name]
        assert found.dims == ("step", "head")
        for step in found.step.values:
            assert found.sel(step=step).values.tolist() == pytest.approx(expected[int(step)][name], rel=1e-5)
    assert run["output_logit_rms"].dims == ("step",)
