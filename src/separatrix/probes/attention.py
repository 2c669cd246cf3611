"""Attention and output logits of a snapshot: what each head looks at, and how large the model's scores have grown."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch

from separatrix.probes._attention import (
    attention_entropy,
    attention_weights,
    entropy_lower_bound,
    induction_score,
    largest_logit,
    output_logits,
    previous_token_score,
    sink_mass,
)
from separatrix.probes._attention_capture import AttentionCall, hearing_attention
from separatrix.record.isolation import overridable
from separatrix.record.losses import class_rows
from separatrix.record.ownership import unique
from separatrix.record.snapshot import Snapshot
from separatrix.runs.probe import LossView, Moment, Probe, Reading
from separatrix.runs.types import SeriesSpec

_NO_TOKENS = ("label", "target", "mask", "position", "type")
_SECOND_SEQUENCE = ("tgt", "decoder")


def measure_attention(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """By head and attention module: entropy and its bound, largest logit, sink mass, previous-token, induction.

    The module is the innermost that was running when attention was computed, as the run labels it; further calls by
    the same module are numbered from 2. Sink mass and previous-token score are read of self-attention, induction of
    self-attention over the model's tokens: its argument `input_ids`, or else its only integer argument (B, T). Padding,
    as told by `attention_mask` next to `input_ids` or by `key_padding_mask` or `src_key_padding_mask`, counts nowhere.
    Of a model that reads two sequences neither tokens nor padding are taken. What is computed inside compiled or
    scripted functions is not seen, and said to be.
    """
    tokens, valid = _sequence(snapshot)
    found: dict[str, dict[str, torch.Tensor]] = {}

    def label_of(module: str) -> str:
        return snapshot.prefix + (module or type(snapshot.model).__name__)

    def receive(call: AttentionCall) -> None:
        snapshot.tick()
        own = tokens
        if own is not None and _length_first(snapshot.model, call.module):
            own = None if own.shape[0] == own.shape[1] else own.T
        found[unique(label_of(call.module), found)] = _patterns(call, own, valid)

    def unseen(module: str, reason: str) -> None:
        snapshot.unseen.append(f"attention of {label_of(module)} is not seen: {reason}")

    with overridable(), torch.no_grad(), hearing_attention(snapshot.model, receive, unseen):
        snapshot.forward()
    for label, values in found.items():
        for name, value in values.items():
            yield Reading(name, value, at={"module": label})


def _patterns(call: AttentionCall, tokens: torch.Tensor | None, valid: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Every quantity (heads,) that is defined of this call."""
    logits = call.logits
    batch, _, queries, keys = logits.shape
    square = queries == keys
    padding = valid if square and valid is not None and valid.shape == (batch, queries) else None
    if padding is not None:
        logits = logits.masked_fill(~padding[:, None, :, None], -torch.inf)
    weights = attention_weights(logits)
    values = {
        "attention_entropy": attention_entropy(weights),
        "attention_entropy_bound": entropy_lower_bound(logits, call.spectral_norms),
        "attention_logit_max": largest_logit(logits),
    }
    if square:
        values["attention_sink_mass"] = sink_mass(weights, padding)
        values["previous_token_score"] = previous_token_score(weights, padding)
    if square and tokens is not None and tokens.shape == (batch, queries):
        values["induction_score"] = induction_score(weights, tokens, padding)
    return values


def _length_first(model: torch.nn.Module, name: str) -> bool:
    """Whether a module is torch's own attention over (length, batch) input."""
    module = model.get_submodule(name)
    return isinstance(module, torch.nn.MultiheadAttention) and not module.batch_first


def _sequence(snapshot: Snapshot) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The tokens that the model was called with, and which positions are no padding; None where not told."""
    named = _arguments(snapshot)
    config = getattr(snapshot.model, "config", None)
    if getattr(config, "is_encoder_decoder", False) or any(name.startswith(_SECOND_SEQUENCE) for name in named):
        return None, None
    tables = {name: x for name, x in named.items() if isinstance(x, torch.Tensor) and x.dim() == 2}
    valid = None
    for name in ("key_padding_mask", "src_key_padding_mask"):
        if name in tables and tables[name].dtype == torch.bool:
            valid = ~tables[name]
    if "input_ids" in inspect.signature(snapshot.model.forward).parameters:
        mask = tables.get("attention_mask")
        return tables.get("input_ids"), valid if mask is None or mask.is_floating_point() else mask != 0
    integers = [x for name, x in tables.items() if _is_integer(x) and not any(part in name for part in _NO_TOKENS)]
    return (integers[0] if len(integers) == 1 else None), valid


def _arguments(snapshot: Snapshot) -> dict[str, Any]:
    """What the model was called with, by the names that its forward gives them; None left out."""
    call = snapshot.batch.call
    try:
        bound = inspect.signature(snapshot.model.forward).bind(*call.arguments, **call.keywords).arguments
    except (TypeError, ValueError):
        return dict(call.keywords)
    named: dict[str, Any] = {}
    for name, value in bound.items():
        named.update(value if name == "kwargs" and isinstance(value, dict) else {name: value})
    return {name: value for name, value in named.items() if value is not None}


def _is_integer(x: torch.Tensor) -> bool:
    return not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool


def measure_output_logits(snapshot: Snapshot, state: dict[str, Any]) -> Iterator[Reading]:
    """Scale of the class scores that cross-entropy is given, and log Z, over all targets that are not ignored.

    Of `nll_loss` nothing is read: it is given log-probabilities, whose log Z is zero whatever the scores.
    """
    view = snapshot.batch.view
    if snapshot.kind != "cross_entropy" or view is None:
        snapshot.unseen.append(f"output logits are not seen: {snapshot.kind} is given log-probabilities, not scores")
        return
    with torch.no_grad():
        outputs, _ = snapshot.evaluate()
    assert outputs is not None
    rows = class_rows(LossView(view.kind, outputs, view.targets, view.options))
    if rows is None:
        return
    scale = output_logits(rows[0])
    yield Reading("output_logit_rms", scale.rms)
    yield Reading("output_logit_mean", scale.mean)
    yield Reading("output_logit_max", scale.largest)
    yield Reading("output_log_z", scale.log_z)
    yield Reading("output_log_z_rms", scale.log_z_rms)


def _by_head(name: str, description: str, units: str = "", source: str = "") -> SeriesSpec:
    return SeriesSpec(name, ("head",), units, description, source=source)


attention = Probe(
    name="attention",
    moment=Moment.SNAPSHOT,
    series=(
        _by_head(
            "attention_entropy",
            "mean entropy of the head's attention distributions, before dropout",
            "nats",
            "Zhai et al. 2023, arXiv:2303.06296, section 3",
        ),
        _by_head(
            "attention_entropy_bound",
            "least entropy that the spectral norms of the head's logits allow",
            "nats",
            "Zhai et al. 2023, arXiv:2303.06296, theorem 3.1",
        ),
        _by_head(
            "attention_logit_max",
            "largest logit that is not masked",
            source="Wortsman et al. 2023, arXiv:2309.14322, section 3.1.1",
        ),
        _by_head(
            "attention_sink_mass",
            "mean attention of later tokens to the first",
            source="Xiao et al. 2024, arXiv:2309.17453, section 3.1",
        ),
        _by_head(
            "previous_token_score",
            "mean attention of a token to the one before it",
            source="Olsson et al. 2022, arXiv:2209.11895, head activation evaluators",
        ),
        _by_head(
            "induction_score",
            "mean attention of a token that occurred before to the tokens that followed its occurrences",
            source="Olsson et al. 2022, arXiv:2209.11895, head activation evaluators",
        ),
    ),
    measure=measure_attention,
    description="entropy, logits, sinks, previous-token and induction patterns of every attention head",
    priority=55,
    cost=2.5,
    source="Zhai et al. 2023, arXiv:2303.06296",
)

logits = Probe(
    name="output-logits",
    moment=Moment.SNAPSHOT,
    series=(
        SeriesSpec("output_logit_rms", description="root mean square of the class scores"),
        SeriesSpec("output_logit_mean", description="mean of the class scores, which softmax does not see"),
        SeriesSpec("output_logit_max", description="largest class score"),
        SeriesSpec("output_log_z", description="mean over targets of log sum exp of the class scores"),
        SeriesSpec("output_log_z_rms", description="its root mean square; the z-loss penalises the square"),
    ),
    measure=measure_output_logits,
    description="scale of the class scores that cross-entropy is given, and the log of softmax's normaliser",
    priority=52,
    cost=0.5,
    needs=("outputs", "classes"),
    source="Wortsman et al. 2023, arXiv:2309.14322, section 3.1.2",
)
