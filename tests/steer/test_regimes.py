"""The classifier of abc-parametrizations, against nets of growing width and the symmetry that it must respect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from separatrix.steer import ParametrizationError, classify, regime_of, rules

# Two hidden layers: (a, b, c, descent, name, r), from Yang and Hu 2020, table 1, and by hand for sign descent.
KNOWN: dict[str, tuple[Sequence[float], Sequence[float], Any, Any, str, float]] = {
    "standard": ((0, 0, 0), (0, 0.5, 0.5), 0, "sgd", "unstable", -1),
    "standard, rate 1 / n": ((0, 0, 0), (0, 0.5, 0.5), 1, "sgd", "kernel", 0.5),
    "standard, rate 1 / n^2": ((0, 0, 0), (0, 0.5, 0.5), 2, "sgd", "trivial", 1.5),
    "neural tangent": ((0, 0.5, 0.5), (0, 0, 0), 0, "sgd", "kernel", 0.5),
    "neural tangent, rate 1 / n": ((0, 0.5, 0.5), (0, 0, 0), 1, "sgd", "trivial", 1.5),
    "maximal update": ((-0.5, 0, 0.5), (0.5, 0.5, 0.5), 0, "sgd", "feature learning", 0),
    "maximal update, rate n": ((-0.5, 0, 0.5), (0.5, 0.5, 0.5), -0.5, "sgd", "unstable", -1),
    "explodes at the start": ((0, 0, 0), (0, 0, 0.5), 2, "sgd", "unstable", 1.5),
    "sign, standard": ((0, 0, 0), (0, 0.5, 0.5), 0, "sign", "unstable", -1),
    "sign, maximal update": ((0, 0, 0), (0, 0.5, 1), (0, 1, 1), "sign", "feature learning", 0),
    "sign, neural tangent": ((0, 0.5, 0.5), (0, 0, 0), (0.5, 1, 0.5), "sign", "kernel", 0.5),
    "sign, standard with rates by layer": ((0, 0, 0), (0, 0.5, 0.5), (0, 1, 1), "sign", "unstable", 0),
    "sign, too slow": ((0, 0, 0), (0, 0.5, 1), (1, 2, 2), "sign", "trivial", 1),
}


@pytest.mark.parametrize("case", KNOWN)
def test_known_parametrizations(case: str) -> None:
    a, b, c, descent, name, r = KNOWN[case]
    found = classify(a, b, c, descent=descent)
    assert (found.name, found.r) == (name, pytest.approx(r))
    assert bool(found.reasons) == (name in ("unstable", "trivial"))


@pytest.mark.parametrize("theta", [-1.0, 0.3])
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("case", KNOWN)
def test_the_symmetry_changes_no_verdict(case: str, layer: int, theta: float) -> None:
    """a + theta, b - theta, and c - 2 theta for SGD or c - theta for sign descent, in one layer, is the same net."""
    a, b, c, descent, name, r = KNOWN[case]
    rates = [float(c)] * 3 if isinstance(c, int | float) else list(c)
    multipliers, starts = list(a), list(b)
    multipliers[layer] += theta
    starts[layer] -= theta
    rates[layer] -= theta * (2 if descent == "sgd" else 1)
    found = classify(multipliers, starts, rates, descent=descent)
    assert (found.name, found.r) == (name, pytest.approx(r))


def _moves(a: Sequence[float], b: Sequence[float], c: Any, descent: str, width: int, steps: int) -> tuple[float, float]:
    """By how much hidden features and outputs move: root mean squares over seeds, of a literal net in float64."""
    rates = [float(c)] * 3 if isinstance(c, int | float) else c
    features, outputs = [], []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        fans = ((4, width), (width, width), (width, 1))
        weights = [
            torch.randn(fan_out, fan_in, dtype=torch.float64, generator=generator) * width**-deviation
            for (fan_in, fan_out), deviation in zip(fans, b, strict=True)
        ]
        x = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(9))

        def forward(leaves: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            first = torch.tanh(width ** -a[0] * leaves[0] @ x)  # noqa: B023
            second = width ** -a[1] * leaves[1] @ first
            return second, width ** -a[2] * leaves[2] @ torch.tanh(second)

        start = forward(weights)
        for _ in range(steps):
            leaves = [weight.clone().requires_grad_() for weight in weights]
            # A loss of slope 1 at any output, so that the size of outputs at the start does not matter.
            gradients = torch.autograd.grad(forward(leaves)[1].sum(), leaves)
            moves = [gradient if descent == "sgd" else gradient.sign() for gradient in gradients]
            weights = [
                weight - 0.05 * width**-rate * move for weight, rate, move in zip(weights, rates, moves, strict=True)
            ]
        end = forward(weights)
        features.append(float((end[0] - start[0]).square().mean()))
        outputs.append(float((end[1] - start[1]).square().mean()))
    return float(np.mean(features)) ** 0.5, float(np.mean(outputs)) ** 0.5


@pytest.mark.parametrize(
    "case", [name for name, known in KNOWN.items() if known[4] != "unstable" and known[5] >= 0 and "slow" not in name]
)
def test_features_of_wide_nets_move_as_it_says(case: str) -> None:
    """Slopes over widths 64 to 576: of features -r; of outputs 0, or below for what is trivial."""
    a, b, c, descent, name, r = KNOWN[case]
    widths = (64, 192, 576)
    moves = np.log([_moves(a, b, c, descent, width, steps=3) for width in widths])
    features, outputs = np.polyfit(np.log(widths), moves, 1)[0]
    assert features == pytest.approx(-r, abs=0.15)
    assert outputs < -0.8 if name == "trivial" else outputs == pytest.approx(0, abs=0.15)


@pytest.mark.parametrize("case", ["standard", "sign, standard"])
def test_features_of_wide_nets_blow_up_as_it_says(case: str) -> None:
    a, b, c, descent, _, r = KNOWN[case]
    widths = (64, 192, 576)
    moves = np.log([_moves(a, b, c, descent, width, steps=1)[0] for width in widths])
    found = np.polyfit(np.log(widths), moves, 1)[0]
    # After one step the readout is still the one of the start, n^-1/2, which the first gradient of SGD sees.
    assert found == pytest.approx(0.5 if descent == "sgd" else -r, abs=0.15)


@pytest.mark.parametrize(
    ("rule", "sgd", "sign"),
    [
        ("standard", "unstable", "unstable"),
        ("neural-tangent", "kernel", "kernel"),
        ("maximal-update", "feature learning", "feature learning"),
        ("mean-field", "feature learning", "feature learning"),
        ("depth-maximal-update", "feature learning", "feature learning"),
        ("standard-per-layer", "unstable", "unstable"),
        ("unit-scaled-maximal-update", "feature learning", "feature learning"),
    ],
)
def test_regimes_of_the_rules(rule: str, sgd: str, sign: str) -> None:
    assert (regime_of(rule, descent="sgd").name, regime_of(rule, descent="sign").name) == (sgd, sign)


def test_every_rule_has_been_classified() -> None:
    for rule in rules():
        assert regime_of(rule, hidden_layers=1).name in ("unstable", "kernel", "feature learning")


def test_says_why() -> None:
    found = classify((0, 0, 0), (0, 0.5, 0.5), (0, 1, 1), descent="sign")
    assert str(found) == "unstable (r = 0): the output grows by that of the features"
    assert "layer 2 grows at the start" in str(classify((0, 0, 0), (0, 0, 0.5), 2))
    assert "layer 1 vanishes at the start" in str(classify((0, 0, 0), (1, 0.5, 0.5), 2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([0], [0], 0), "give one of each for two layers or more"),
        (([0, 0], [0], 0), "2, 1 and 2 exponents"),
        (([0, 0], [0, 0], [0, 0, 0]), "2, 2 and 3 exponents"),
        (([0, float("nan")], [0, 0], 0), "not finite"),
    ],
)
def test_what_cannot_be_classified_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ParametrizationError, match=message):
        classify(*given)
    with pytest.raises(ParametrizationError, match="hidden_layers of 1 or more"):
        regime_of("standard", hidden_layers=0)
