"""Linear students against torch's own training and closed forms, and the errors of their means."""

from __future__ import annotations

import pytest
import torch

from separatrix.tasks import ensemble
from separatrix.theory._averages import averaged, jackknifed
from separatrix.theory.linear_students import compressed, half_squares, learnt, students


def _normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("examples", [3, 5, 40])
def test_compressed_examples_have_the_errors_of_all_but_for_a_constant(examples: int) -> None:
    inputs, targets = _normal(2, examples, 5, seed=0), _normal(2, examples, 3, seed=1)
    few = compressed(inputs, targets)
    assert few[0].shape == (2, min(examples, 5), 5)
    weights = _normal(2, 5, 3, seed=2).requires_grad_()
    losses, slopes = [], []
    for one, other in ((inputs, targets), few):
        loss = (one @ weights - other).square().mean((1, 2))
        losses.append(loss)
        slopes.append(torch.autograd.grad(loss.sum(), weights, retain_graph=True)[0])
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-12, atol=1e-13)
    best = (inputs @ torch.linalg.lstsq(inputs, targets).solution - targets).square().mean((1, 2))
    torch.testing.assert_close(losses[0] - losses[1], best * float(examples > 5), rtol=1e-10, atol=1e-12)


def test_students_take_the_steps_of_torch() -> None:
    start, inputs, targets = _normal(3, 4, 2, seed=0), _normal(3, 6, 4, seed=1), _normal(3, 6, 2, seed=2)
    training = ensemble.train(
        students(start),
        half_squares,
        ensemble.SGD([0.1, 0.2, 0.3], weight_decay=0.05),
        lambda step: (inputs, targets),
        20,
        measure={"weights": learnt},
        every=[0, 20],
    )
    first, last = training.measured["weights"].values
    torch.testing.assert_close(first, start, rtol=0, atol=0)
    for copy, rate in enumerate((0.1, 0.2, 0.3)):
        weights = start[copy].clone().requires_grad_()
        optimizer = torch.optim.SGD([weights], rate, weight_decay=0.05)
        for step in range(20):
            loss = ((inputs[copy] @ weights - targets[copy]) ** 2).sum() / 12
            assert float(training.loss[step, copy]) == pytest.approx(float(loss.detach()), rel=1e-12)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.testing.assert_close(last[copy], weights.detach(), rtol=1e-12, atol=1e-13)


def test_a_mean_comes_with_its_error_by_label() -> None:
    draws = _normal(2, 20, 3, seed=0)
    found = averaged({"strength": draws})
    assert found.curves["strength"].shape == (2, 3)
    assert found.curves["strength"][1, 2] == pytest.approx(float(draws[1, :, 2].mean()), abs=1e-12)
    assert found.standard_errors["strength"][1, 2] == pytest.approx(float(draws[1, :, 2].std()) / 20**0.5, rel=1e-12)


def test_the_jackknife_gives_the_error_of_a_mean() -> None:
    draws = torch.randn(1, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    without = (draws.sum(1, keepdim=True) - draws) / 19
    found = jackknifed({"loss": without})
    assert found.curves["loss"][0] == pytest.approx(float(draws.mean()), abs=1e-12)
    assert found.standard_errors["loss"][0] == pytest.approx(float(draws.std()) / 20**0.5, rel=1e-12)
