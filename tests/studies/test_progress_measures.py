"""The transformer that adds, token by token; its loss where nothing is left of it; and when its training ends."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from separatrix.studies.progress_measures import _CLEANING, _MOST, _last, _loss, _net, _weights


def test_the_net_is_a_transformer_of_one_layer_read_at_its_last_token() -> None:
    p, width = 7, 16
    draw = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(values.shape, generator=draw) for name, values in _weights(p, width, draw).items()}
    pairs = torch.randint(p, (11, 2), generator=draw)
    tokens = torch.cat([pairs, torch.full((11, 1), p)], 1)
    stream = weights["token"][tokens] + weights["position"]
    query, key, value = (torch.einsum("ntd,hde->nhte", stream, weights[name]) for name in ("query", "key", "value"))
    mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    stream = stream + mixed @ weights["output"]
    hidden = (stream @ weights["inwards"] + weights["inwards_bias"]).relu()
    expected = (stream + hidden @ weights["outwards"] + weights["outwards_bias"]) @ weights["logits"]
    torch.testing.assert_close(_net(weights, pairs), expected[:, -1], rtol=1e-4, atol=1e-3)


def test_the_loss_is_a_cross_entropy_however_little_is_left_of_it() -> None:
    logits = 3.0 * torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    targets = logits.argmax(1)
    logits[range(50), targets] += torch.linspace(-5.0, 40.0, 50)
    odds = (logits.double() - logits.double().gather(1, targets[:, None])).exp()
    odds[range(50), targets] = 0.0
    others = odds.sum(1, keepdim=True)
    slopes = odds / (1.0 + others)
    slopes[range(50), targets] = -slopes.sum(1)
    held = logits.clone().requires_grad_()
    loss = _loss(held, targets)
    loss.backward()
    assert held.grad is not None
    torch.testing.assert_close(50 * held.grad.double(), slopes, rtol=2e-5, atol=0.0)
    torch.testing.assert_close(loss.detach().double(), others.log1p().mean(), rtol=1e-5, atol=0.0)
    last = _loss(logits[-1:], targets[-1:]).double()
    assert 0.0 < float(last) < 1e-15
    torch.testing.assert_close(last, others[-1].log1p()[0], rtol=2e-5, atol=0.0)


def test_a_training_ends_when_its_weights_rest_after_the_others_are_known() -> None:
    steps, time = [0, 100, 200, 300, 400], 100.0
    shrinking = [(1.0, 0.1, 9.0), (1.0, 0.5, 9.0), (1.0, 0.95, 8.0), (1.0, 1.0, 6.0)]
    assert _last(steps[:2], shrinking[:2], time) == _MOST
    assert _last(steps[:3], shrinking[:3], time) == math.ceil(2 * 200 + _CLEANING * time)
    assert _last(steps[:4], shrinking, time) > 300
    assert _last(steps, [*shrinking, (1.0, 1.0, 5.9)], time) == 400
