"""Parametrized models go on to be what models are: copied, saved, compiled, sharded, and from another library."""

from __future__ import annotations

import collections
import copy
import dataclasses
import functools
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch._dynamo.testing
import torch.distributed
from tests.steer.nets import Tied, mlp, train
from torch import nn

from separatrix.steer import ParametrizationError, parametrize, rules
from separatrix.steer.parametrization.multipliers import OutputMultiplier
from separatrix.steer.parametrization.rulebook.standard_per_layer import standard_with_exponents

SIZES: dict[str, Any] = {"base": functools.partial(mlp, 16), "delta": functools.partial(mlp, 24)}


def tied(absorb: bool = True) -> tuple[Tied, Any]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = Tied(64)
    return model, parametrize(model, base=lambda: Tied(16), delta=lambda: Tied(24), absorb=absorb)


def steps(model: nn.Module, groups: list[dict[str, Any]], count: int = 4) -> list[float]:
    """Losses of a few steps of AdamW that predict each token's successor."""
    optimizer, losses = torch.optim.AdamW(groups), []
    tokens = torch.arange(11)
    for _ in range(count):
        loss = nn.functional.cross_entropy(model(tokens), (tokens + 1) % 11)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_a_copy_trains_alike_with_groups_of_its_own() -> None:
    model, found = tied()
    other = copy.deepcopy(model)
    assert list(other.readout._forward_pre_hooks.values()) == list(model.readout._forward_pre_hooks.values())
    groups = found.param_groups(torch.optim.AdamW, lr=0.01, model=other)
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in other.parameters()}
    assert steps(other, groups) == steps(model, found.param_groups(torch.optim.AdamW, lr=0.01))


def test_the_parametrization_itself_can_be_copied() -> None:
    model, found = tied()
    other = copy.deepcopy(found)
    assert other.model is not model
    assert steps(other.model, other.param_groups(torch.optim.AdamW, lr=0.01)) == steps(
        model, found.param_groups(torch.optim.AdamW, lr=0.01)
    )


def test_a_pickled_model_keeps_its_multipliers() -> None:
    model, _ = tied(absorb=False)
    other = pickle.loads(pickle.dumps(model))
    tokens = torch.arange(5)
    assert torch.equal(other(tokens), model(tokens))


@pytest.mark.parametrize("rule", [*rules(), "of one's own"])
def test_a_pickled_parametrization_gives_the_same_groups(rule: str) -> None:
    chosen = standard_with_exponents({"sign": {"hidden": 0.25}}) if rule == "of one's own" else rule
    found = parametrize(mlp(64), **SIZES, rule=chosen)
    other = pickle.loads(pickle.dumps(found))
    assert other.rule == found.rule
    for optimizer in (torch.optim.AdamW, torch.optim.SGD):
        assert other.factors(optimizer) == found.factors(optimizer)
        ours, theirs = (part.param_groups(optimizer, lr=0.1) for part in (found, other))
        assert [group["lr"] for group in theirs] == [group["lr"] for group in ours]


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_saved_training_goes_on_bit_equal(optimizer: Any) -> None:
    def start() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = mlp(64)
        groups = parametrize(model, **SIZES).param_groups(optimizer, lr=0.01)
        return model, optimizer(groups)

    model, first = start()
    train(model, first)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert set(saved["model"]) == set(mlp(64).state_dict())  # nothing is added to it
    other, second = start()
    other.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    assert torch.equal(train(other, second), train(model, first))


def test_a_checkpoint_is_left_alone_without_initialising() -> None:
    model = mlp(64)
    parametrize(model, **SIZES)
    resumed = mlp(64, seed=1)
    found = parametrize(resumed, **SIZES, initialize=False)
    resumed.load_state_dict(model.state_dict())
    assert found.factors() == parametrize(mlp(64), **SIZES).factors()
    inputs = torch.randn(5, 6, dtype=torch.float64)
    assert torch.equal(resumed(inputs), model(inputs))


class Pair(NamedTuple):
    features: torch.Tensor
    rest: torch.Tensor | None


@dataclasses.dataclass
class Record:
    features: torch.Tensor
    rest: torch.Tensor | None


KINDS: dict[str, Any] = {
    "tuple": lambda first, rest: (first, rest),
    "list": lambda first, rest: [first, rest],
    "namedtuple": Pair,
    "mapping": lambda first, rest: {"features": first, "rest": rest},
    "ordered": lambda first, rest: collections.OrderedDict(features=first, rest=rest),
    "dataclass": Record,
}


class Several(nn.Module):
    """Gives what a layer does among other things."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.layer, self.kind = nn.Linear(4, width), kind

    def forward(self, inputs: torch.Tensor, rest: torch.Tensor | None = None) -> Any:
        return KINDS[self.kind](self.layer(inputs), rest)


class Inside(nn.Module):
    """Calls the one that gives several."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.body = Several(width, kind)

    def forward(self, inputs: torch.Tensor) -> Any:
        return self.body(inputs, inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_multiplier_scales_the_first_of_several_outputs(kind: str) -> None:
    model, rest = Inside(16, kind), torch.randn(3, 4)
    alone = copy.deepcopy(model)
    parametrize(model, base=lambda: Inside(8, kind), delta=lambda: Inside(12, kind), multipliers={"body": 0.5})
    got, expected = model(rest), alone(rest)
    assert type(got) is type(expected)
    for given, plain in ((got, 1.0), (expected, 0.5)):
        parts = (
            given if isinstance(given, tuple | list) else [*(vars(given) if kind == "dataclass" else given).values()]
        )
        torch.testing.assert_close(parts[0] * plain, alone.body.layer(rest) * 0.5)
        assert parts[1] is rest


def test_a_multiplier_on_what_is_no_tensor_is_refused_in_one_line() -> None:
    class Odd(Inside):
        def forward(self, inputs: torch.Tensor) -> Any:
            return {"rest": None, "features": self.body(inputs)} if self.body.kind == "mapping" else None

    class Outer(nn.Module):
        def __init__(self, width: int, kind: str) -> None:
            super().__init__()
            self.odd = Odd(width, kind)

        def forward(self, inputs: torch.Tensor) -> Any:
            return self.odd(inputs)

    for kind in ("mapping", "tuple"):
        model = Outer(16, kind)
        sizes: dict[str, Any] = {what: functools.partial(Outer, n, kind) for what, n in (("base", 8), ("delta", 12))}
        parametrize(model, **sizes, multipliers={"odd": 0.5})
        with pytest.raises(ParametrizationError, match=r"^Odd returns a .* whose first part is no tensor: put"):
            model(torch.randn(3, 4))


def test_a_multiplier_keeps_outputs_of_hugging_face_models() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    given = outputs.BaseModelOutput(last_hidden_state=torch.ones(2), attentions=(torch.ones(3),))
    scaled = OutputMultiplier(0.5)(nn.Identity(), (), given)
    assert type(scaled) is type(given)
    assert torch.equal(scaled.last_hidden_state, torch.full((2,), 0.5))
    assert scaled[0] is scaled.last_hidden_state and scaled.attentions is given.attentions
    assert torch.equal(given.last_hidden_state, torch.ones(2))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("absorb", [True, False])
def test_compiles_to_one_graph_and_trains_alike(absorb: bool) -> None:
    """With the eager backend: what is compiled is the same as without hooks, so no code needs to be generated."""
    plain, compiled = (tied(absorb) for _ in range(2))
    counter = torch._dynamo.testing.CompileCounter()
    model = torch.compile(compiled[0], backend=counter, fullgraph=True)
    losses = steps(model, compiled[1].param_groups(torch.optim.AdamW, lr=0.01, model=model))
    assert losses == steps(plain[0], plain[1].param_groups(torch.optim.AdamW, lr=0.01))
    assert counter.frame_count == 1


def test_a_compiled_layer_inside_keeps_its_place() -> None:
    model, found = tied()
    model.middle = torch.compile(model.middle, backend="eager")  # type: ignore[assignment]
    assert any("_orig_mod" in name for name, _ in model.named_parameters())
    assert len(found.param_groups(torch.optim.AdamW, lr=0.01)) == 2


def test_hugging_face_models_with_tied_embeddings() -> None:
    transformers = pytest.importorskip("transformers")

    def build(width: int) -> nn.Module:
        sizes = {"vocab_size": 50, "n_positions": 16, "n_layer": 2, "bos_token_id": 0, "eos_token_id": 0}
        model: nn.Module = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_embd=width, n_head=width // 8, **sizes)
        )
        return model.eval()

    torch.manual_seed(0)
    model = build(64)
    reference = copy.deepcopy(model)
    found = parametrize(model, base=lambda: build(16), delta=lambda: build(24))
    factors = found.factors()
    inside = "transformer.h.1.mlp.c_proj.weight"
    assert (factors[inside].tensor.fan_in, factors[inside].tensor.fan_out) == (256, 64)
    assert (factors[inside].initial, factors[inside].rate) == pytest.approx((0.5, 0.25))
    assert factors["lm_head.weight"].multiplier == 0.25
    tokens = torch.arange(12).view(2, 6)
    features = model.transformer(tokens).last_hidden_state
    torch.testing.assert_close(model(tokens).logits, features @ reference.lm_head.weight.T / 4)
    losses = []
    optimizer = torch.optim.AdamW(found.param_groups(torch.optim.AdamW, lr=0.01))
    for _ in range(5):
        loss = model(tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    restored = build(64)
    again = parametrize(restored, base=lambda: build(16), delta=lambda: build(24), initialize=False)
    restored.load_state_dict(model.state_dict())
    torch.testing.assert_close(restored(tokens).logits, model(tokens).logits)
    assert again.factors() == factors


def test_experts_of_hugging_face_models_are_known() -> None:
    transformers = pytest.importorskip("transformers")

    def build(width: int) -> nn.Module:
        sizes = {"vocab_size": 50, "num_hidden_layers": 1, "num_local_experts": 4, "max_position_embeddings": 16}
        heads = {"num_attention_heads": width // 8, "num_key_value_heads": width // 8}
        config = transformers.MixtralConfig(hidden_size=width, intermediate_size=3 * width, **heads, **sizes)
        model: nn.Module = transformers.MixtralForCausalLM(config)
        return model

    sizes: dict[str, Any] = {"base": lambda: build(16), "delta": lambda: build(24)}
    found = parametrize(build(32), **sizes, rule="unit-scaled-maximal-update", roles={"*.*.*.*.gate.weight": "output"})
    assert not found.notes
    factors = found.factors()
    names = [f"model.layers.0.mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")]
    if names[0] not in factors:
        pytest.skip("this transformers holds experts apart")
    assert [(factors[n].tensor.fan_in, factors[n].tensor.fan_out) for n in names] == [(32, 192), (96, 32)]
    # Blake et al. 2024, table 2, absorbed: a deviation of 1 / sqrt(fan-in), and Adam's rate of that times the same.
    assert [factors[n].initial for n in names] == pytest.approx([32**-0.5, 96**-0.5])
    assert [factors[n].rate for n in names] == pytest.approx([1 / 32, 1 / 96])


SCRIPT = """
import json, sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from tests.steer.nets import Tied
from tests.steer.test_parametrization_around import steps, tied

torch.set_num_threads(1)
dist.init_process_group("gloo")
mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
noted = {}

model, found = tied()
noted["alone"] = steps(model, found.param_groups(torch.optim.AdamW, lr=0.01))

model, found = tied()
wrapped = DistributedDataParallel(model)
noted["replicated"] = steps(wrapped, found.param_groups(torch.optim.AdamW, lr=0.01, model=wrapped))

model, found = tied()
fully_shard(model.middle, mesh=mesh)
fully_shard(model, mesh=mesh)
groups = found.param_groups(torch.optim.AdamW, lr=0.01)
noted["sharded_tensors"] = all(isinstance(p, DTensor) for group in groups for p in group["params"])
noted["sharded"] = steps(model, groups)
noted["rates"] = sorted(group["lr"] for group in groups)

if dist.get_rank() == 0:
    with open(sys.argv[1], "w") as file:
        json.dump(noted, file)
dist.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo")
def test_replicated_and_sharded_models_train_like_one_alone(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root / "src"), str(root)])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "train.py", "out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(launch, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-3000:]
    noted = json.loads((tmp_path / "out").read_text())
    assert noted["replicated"] == pytest.approx(noted["alone"], rel=1e-5)
    assert noted["sharded"] == pytest.approx(noted["alone"], rel=1e-5)
    assert noted["sharded_tensors"]
    assert noted["rates"] == [0.0025, 0.01]
    assert noted["alone"][-1] < noted["alone"][0]
