"""Neural stochastic equations: Brownian motion by hand, an ordinary equation without noise, starts that are learnt."""

from __future__ import annotations

import math

import torch

from separatrix.reconstruct.neural_sde import NeuralSDE, fit_to_signatures
from separatrix.reconstruct.ode import solve


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _constant(drift: tuple[float, float], spread: tuple[float, float]) -> NeuralSDE:
    sde = NeuralSDE.drawn(2, 4, _generator())
    with torch.no_grad():
        *_, outward, last = sde.field.weights
        outward.zero_()
        last.copy_(torch.tensor([*drift, *(math.log(math.expm1(each)) for each in spread)]))
    return sde


def test_with_constant_fields_it_is_brownian_motion_with_drift() -> None:
    sde = _constant((0.5, -1.0), (0.3, 2.0))
    with torch.no_grad():
        paths = sde.sample(40_000, 8, 0.25, _generator(1))
    gained = (paths[-1] - paths[0]).T
    # 40,000 paths: errors of means are 2.8 and of covariances 5.7 at most over 200
    torch.testing.assert_close(gained.mean(1), torch.tensor([1.0, -2.0]).double(), rtol=0, atol=0.06)
    expected = torch.tensor([[0.09 * 2, 0.0], [0.0, 4.0 * 2]], dtype=torch.float64)
    torch.testing.assert_close(gained.cov(), expected, rtol=0, atol=0.25)
    steps = paths.diff(dim=0)[..., 1]
    assert abs(float(torch.corrcoef(steps)[0, 1])) < 0.02  # increments know nothing of one another


def test_equal_seeds_give_equal_paths_and_gradients_reach_every_weight() -> None:
    sde = NeuralSDE.drawn(2, 8, _generator())
    paths, again = (sde.sample(16, 5, 0.1, _generator(3)) for _ in range(2))
    assert torch.equal(paths, again)
    gradients = torch.autograd.grad(paths.square().sum(), sde.weights)
    assert all(bool(each.abs().sum() > 0) for each in gradients)


def test_without_noise_it_is_an_ordinary_equation() -> None:
    sde = NeuralSDE.drawn(2, 8, _generator(), noise=False)
    with torch.no_grad():
        paths = sde.sample(10, 100, 0.01, _generator(1))
        drift = lambda _, state: sde.field(state)[:, :2]  # noqa: E731
        exact, _ = solve(drift, paths[0], (0.0, 1.0), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(paths[-1], exact[-1], rtol=0, atol=1e-4)


def test_a_random_walk_with_drift_is_learnt_from_its_signatures() -> None:
    generator = _generator()
    steps = 0.5 * 0.1 + 0.4 * 0.1**0.5 * torch.randn(5, 4000, 1, dtype=torch.float64, generator=generator)
    start = 1.0 + 0.2 * torch.randn(1, 4000, 1, dtype=torch.float64, generator=generator)
    paths = torch.cat([start, steps]).cumsum(0)
    sde = NeuralSDE.drawn(1, 4, generator)
    fit_to_signatures(sde, paths, 0.1, steps=150, depth=3, generator=generator)
    with torch.no_grad():
        made = sde.sample(4000, 5, 0.1, generator)
    assert abs(sde.location.item() - 1.0) < 0.1 and abs(abs(sde.scale.item()) - 0.2) < 0.1
    gained = (made[-1] - made[0])[:, 0]
    assert abs(float(gained.mean()) - 0.25) < 0.1  # closed form: drift and noise over half a time unit
    assert abs(float(gained.std()) - 0.4 * 0.5**0.5) < 0.1
