"""The batched transformer of the studies, against one copy written with torch's own attention and dense norms."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from separatrix.studies._patch_transformer import Parameters, PatchTransformer, train

MODEL = PatchTransformer(width=8, heads=2, layers=2, length=5, outputs=3, features=4)
COPIES, EXAMPLES = 3, 6


def _alone(model: PatchTransformer, parameters: Parameters, copy: int, inputs: torch.Tensor) -> torch.Tensor:
    def norm(signal: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(signal, signal.shape[-1:])

    def weight(name: str) -> torch.Tensor:
        matrix = parameters[name][copy]
        if not model.spectral:
            return matrix
        return parameters[f"{name}.gain"][copy] * matrix / torch.linalg.matrix_norm(matrix, ord=2)

    stream = inputs @ weight("input") + parameters["positions"][copy]
    for layer in range(model.layers):
        signal = norm(stream) if model.normalised else stream
        query, key, value = (
            torch.stack((signal @ weight(f"{layer}.{name}")).chunk(model.heads, -1), 1)
            for name in ("query", "key", "value")
        )
        if model.qk_norm:
            query, key = norm(query), norm(key)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        stream = stream + torch.cat(tuple(mixed.unbind(1)), -1) @ weight(f"{layer}.merge")
        signal = norm(stream) if model.normalised else stream
        stream = stream + torch.relu(signal @ weight(f"{layer}.up")) @ weight(f"{layer}.down")
    signal = stream.mean(1)
    return (norm(signal) if model.normalised else signal) @ weight("output")


@pytest.mark.parametrize(
    "change",
    [{}, {"normalised": False}, {"qk_norm": True}, {"spectral": True}, {"spectral": True, "normalised": False}],
)
def test_every_copy_is_the_transformer_that_it_would_be_alone(change: dict[str, bool]) -> None:
    model = dataclasses.replace(MODEL, **change)
    generator = torch.Generator().manual_seed(0)
    parameters = {name: part.double() for name, part in model.initial(COPIES, generator).items()}
    for name in parameters:
        if name.endswith(".right"):  # exact, where the model takes iterations
            parameters[name] = torch.linalg.svd(parameters[name.removesuffix(".right")]).Vh[:, :1].mT.contiguous()
    inputs = torch.randn(COPIES, EXAMPLES, 5, 4, dtype=torch.float64, generator=generator)
    outputs, attention = model(parameters, inputs)
    assert [logits.shape for logits in attention] == [(COPIES, EXAMPLES, 2, 5, 5)] * 2
    for copy in range(COPIES):
        torch.testing.assert_close(outputs[copy], _alone(model, parameters, copy, inputs[copy]), rtol=1e-9, atol=1e-9)


def _data(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(1, EXAMPLES, 5, 4, generator=generator).expand(COPIES, -1, -1, -1)
    return inputs, torch.randint(3, (1, EXAMPLES), generator=generator).expand(COPIES, -1)


def test_power_iteration_follows_the_spectral_norm_through_training() -> None:
    model = dataclasses.replace(MODEL, spectral=True)
    start = model.initial(COPIES, torch.Generator().manual_seed(0))
    trained = train(model, start, torch.full((COPIES,), 1e-3), _data, steps=60).parameters
    for name in [name.removesuffix(".gain") for name in trained if name.endswith(".gain")]:
        followed = (trained[name] @ trained[f"{name}.right"]).norm(dim=1)[:, 0]
        exact = torch.linalg.matrix_norm(trained[name], ord=2)
        assert not torch.equal(trained[name], start[name])
        torch.testing.assert_close(followed, exact, rtol=0.02, atol=0.0)


def test_adam_takes_the_steps_of_torch() -> None:
    rate, steps = 0.01, 5
    start = MODEL.initial(1, torch.Generator().manual_seed(0))
    batched = {name: part.expand(COPIES, *part.shape[1:]) for name, part in start.items()}
    rates = torch.tensor([rate, 0.0, 2 * rate])
    trained = train(MODEL, batched, rates, _data, steps=steps, penalty=0.1)
    leaves = {name: part.clone().requires_grad_() for name, part in start.items()}
    optimizer = torch.optim.Adam(leaves.values(), lr=rate, betas=(0.9, 0.99), eps=1e-8)
    for step in range(1, steps + 1):
        inputs, targets = _data(step)
        outputs = MODEL(leaves, inputs[:1])[0][0]
        loss = functional.cross_entropy(outputs, targets[0])
        torch.testing.assert_close(trained.losses[step - 1, 0], loss.detach(), rtol=1e-4, atol=1e-5)
        optimizer.zero_grad()
        (loss + 0.1 * outputs.logsumexp(1).square().mean()).backward()
        optimizer.step()
    for name, part in trained.parameters.items():
        torch.testing.assert_close(part[0], leaves[name].detach()[0], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(part[1], start[name][0], rtol=0.0, atol=0.0)
