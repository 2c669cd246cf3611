"""Copies of a transformer over characters, against one written out by hand and trained by torch, and their branches."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from separatrix.studies._character_copies import CharacterCopies, Text, begin, train

MODEL = CharacterCopies(width=8, length=6, layers=2)
TEXT = Text(length=6, batch=3, seed=5, held_out=7)
COPIES, STEPS = 3, 4


def _loss(parameters: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """Of one copy (size,), with attention by an explicit mask."""
    sizes = [math.prod(shape) for shape in MODEL.shapes.values()]
    parts = torch.split(parameters, sizes)
    weight = {name: part.view(shape) for (name, shape), part in zip(MODEL.shapes.items(), parts, strict=True)}

    def norm(signal: torch.Tensor) -> torch.Tensor:
        centred = signal - signal.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    inputs, targets = windows[:, :-1], windows[:, 1:]
    stream = weight["symbols"][inputs] + weight["positions"]
    future = torch.ones(MODEL.length, MODEL.length, dtype=torch.bool).triu(1)
    for layer in range(MODEL.layers):
        mixed = []
        signal = norm(stream) @ weight[f"{layer}.attend"]
        for query, key, value in zip(*(part.chunk(MODEL.heads, -1) for part in signal.chunk(3, -1)), strict=True):
            logits = (query @ key.mT / math.sqrt(query.shape[-1])).masked_fill(future, -math.inf)
            mixed.append(logits.softmax(-1) @ value)
        stream = stream + torch.cat(mixed, -1) @ weight[f"{layer}.merge"]
        stream = stream + torch.relu(norm(stream) @ weight[f"{layer}.up"]) @ weight[f"{layer}.down"]
    return functional.cross_entropy((norm(stream) @ weight["output"]).flatten(0, 1), targets.flatten())


def test_losses_are_those_of_each_copy_alone() -> None:
    parameters = torch.randn(COPIES, MODEL.size, generator=torch.Generator().manual_seed(0)) / 3
    windows = torch.stack([TEXT.drawn(0, copy) for copy in range(COPIES)])
    found = MODEL.losses(parameters, windows)
    expected = torch.stack([_loss(row, seen) for row, seen in zip(parameters, windows, strict=True)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_every_copy_takes_the_steps_of_adam_at_its_own_rates() -> None:
    start = begin(MODEL, COPIES, torch.Generator().manual_seed(0))
    rates = torch.tensor([[0.01, 0.03, 0.0]]) * torch.linspace(1.0, 0.4, STEPS)[:, None]
    streams = [1, 0, 1]
    state, losses = train(MODEL, start, rates, TEXT, streams, every=2)
    assert state.step == STEPS and losses.shape == (2, COPIES)
    assert torch.equal(state.parameters[2], start.parameters[2])
    for copy in (0, 1):
        leaf = start.parameters[copy].clone().requires_grad_()
        optimizer = torch.optim.Adam([leaf], betas=(0.9, 0.99))
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = float(rates[step, copy])
            optimizer.zero_grad()
            _loss(leaf, TEXT.drawn(step, streams[copy])).backward()
            optimizer.step()
        torch.testing.assert_close(state.parameters[copy], leaf.detach(), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(losses[-1, copy], _loss(leaf.detach(), TEXT.validation()), rtol=1e-4, atol=0.0)


def test_a_branch_goes_on_as_the_trunk_does() -> None:
    start = begin(MODEL, COPIES, torch.Generator().manual_seed(0))
    rates, streams = torch.full((STEPS, COPIES), 0.01), list(range(COPIES))
    trunk, whole = train(MODEL, start, rates, TEXT, streams, every=1)
    half, early = train(MODEL, start, rates[:2], TEXT, streams, every=1)
    kept = half.parameters.clone()
    rows = [2, 0, 2]
    branch, late = train(MODEL, half.copies(rows), rates[2:], TEXT, rows, every=1)
    torch.testing.assert_close(branch.parameters, trunk.parameters[rows])
    torch.testing.assert_close(torch.cat([early[:, rows], late]), whole[:, rows])
    assert torch.equal(half.parameters, kept)
