"""The sweep of schedules against trainings one at a time by torch, and its best rate against a parabola."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from separatrix.steer.schedules import linear, wsd
from separatrix.studies._character_transformer import FusedCharacterTransformer
from separatrix.studies._scheduled import Problem, Sweep, characters, gradient_norms, mean_loss, places, sweep

STEPS = 6
FACTORS = {"linear": linear(STEPS).values(), "wsd": wsd(STEPS, warmup=1).values()}
RATES = np.array([0.01, 0.1])


def _problem(adaptive: bool) -> Problem:
    def draw(step: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(100 * seed + step)
        return torch.randn(5, 4, generator=generator), torch.randint(3, (5,), generator=generator)

    return Problem("small", lambda: nn.Linear(4, 3), draw, draw(0, 99), adaptive)


def _alone(problem: Problem, factors: np.ndarray, rate: float, seed: int) -> tuple[float, list[list[float]]]:
    """Judged loss after one training by torch.optim, and its gradients' norms."""
    torch.manual_seed(seed)
    model = problem.build()
    options = {"betas": (0.9, 0.99)} if problem.adaptive else {}
    optimizer = (torch.optim.Adam if problem.adaptive else torch.optim.SGD)(model.parameters(), lr=1.0, **options)
    norms = []
    for step, factor in enumerate(factors, start=1):
        optimizer.param_groups[0]["lr"] = rate * factor
        inputs, targets = problem.draw(step, seed)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        flat = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])  # type: ignore[union-attr]
        norms.append([flat.square().sum().sqrt().item(), flat.abs().sum().item()])
        optimizer.step()
    return nn.functional.cross_entropy(model(problem.judged[0]), problem.judged[1]).item(), norms


@pytest.mark.parametrize("adaptive", [False, True])
def test_every_copy_is_the_training_it_would_be_alone(adaptive: bool) -> None:
    problem = _problem(adaptive)
    before = torch.get_rng_state()
    found = sweep(problem, FACTORS, RATES, [3, 5], every=2)
    norms = gradient_norms(problem, FACTORS["wsd"], 0.1, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.losses.shape == (4, 2, 2, 2)
    assert found.points.tolist() == [0, 2, 4, 6]
    for i, factors in enumerate(FACTORS.values()):
        for j, rate in enumerate(RATES):
            for k, seed in enumerate((3, 5)):
                assert found.losses[-1, i, j, k] == pytest.approx(_alone(problem, factors, rate, seed)[0], rel=1e-4)
    np.testing.assert_allclose(norms.T, _alone(problem, FACTORS["wsd"], 0.1, 5)[1], rtol=1e-5)


def test_the_best_rate_is_that_of_a_parabola() -> None:
    rates = np.geomspace(0.01, 1.0, 5)
    losses = (np.log(rates) - np.log(0.07)) ** 2 + 1.0
    found = Sweep(("a",), rates, np.array([0]), losses.reshape(1, 1, 5, 1))
    assert found.best_rate("a") == pytest.approx(0.07)
    assert found.tuned[0] == losses.min()
    assert found.tuned_seeds.tolist() == [[losses.min()]]
    beside = np.array([3.0, 1.0, np.inf, np.inf, np.inf]).reshape(1, 1, 5, 1)
    assert Sweep(("a",), rates, np.array([0]), beside).best_rate("a") == rates[1]


def test_places_count_only_what_seeds_tell_apart() -> None:
    scatter = np.array([-0.01, 0.0, 0.01])  # Welch of two such: t = gap / 0.00816, 4 degrees of freedom, 2.776 at 5 %
    assert places(np.array([1.0, 1.022, 1.044])[:, None] + scatter).tolist() == [1.0, 1.0, 2.0]
    assert places(np.array([1.024, 1.0, 1.024])[:, None] + scatter).tolist() == [2.0, 1.0, 2.0]
    diverged = np.array([[1.0, 1.1, 1.2], [np.inf, np.inf, np.inf]])
    assert places(diverged).tolist() == [1.0, 2.0]


def test_a_sweep_keeps_the_seeds_of_the_best_rate() -> None:
    losses = np.random.default_rng(0).random((2, 3, 4, 5))
    found = Sweep(("a", "b", "c"), np.ones(4), np.array([0, 1]), losses)
    assert (found.tuned_seeds.mean(1) == found.tuned).all()


def test_the_character_model_sees_no_character_to_come() -> None:
    torch.manual_seed(0)
    model = FusedCharacterTransformer(8, 6)
    nn.init.normal_(model.output)
    tokens = torch.randint(90, (2, 6), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[:, 4:] = 7
    same = model(tokens)[:, :4], model(changed)[:, :4]
    assert torch.allclose(*same, atol=1e-6)
    assert not torch.allclose(model(tokens)[:, 4:], model(changed)[:, 4:])


def test_text_is_drawn_by_seed_and_step() -> None:
    first, second = (characters(8, 6, 3, seed, held_out=4) for seed in (0, 1))
    assert torch.equal(first.draw(2, 0)[0], first.draw(2, 0)[0])
    assert torch.equal(first.draw(2, 0)[0][:, 1:], first.draw(2, 0)[1][:, :-1])
    for other in (first.draw(3, 0), first.draw(2, 1), second.draw(2, 0)):
        assert not torch.equal(first.draw(2, 0)[0], other[0])
    assert first.judged[0].shape == (4, 6)
    logits = torch.zeros(3, 6, 98)
    assert float(mean_loss(logits, first.draw(1, 0)[1])) == pytest.approx(np.log(98), rel=1e-6)
