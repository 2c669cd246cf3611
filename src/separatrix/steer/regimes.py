"""Which limit an abc-parametrization has as the width grows: features are learnt, a kernel is followed, or neither.

Layer l = 1 ... L+1 of a net with L hidden layers of width n acts as n^-a_l w^l, w^l starts with deviation n^-b_l, and
its learning rate is n^-c_l. Features move, in a step, as n^-r: r collects the size of the gradient that arrives, the
rate, and what adds up. Widths enter only by exponents, so a verdict is exact.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from separatrix.steer.errors import ParametrizationError
from separatrix.steer.parametrization import Descent, Role, Rule, TensorFacts, find_rule

RegimeName = Literal["unstable", "trivial", "kernel", "feature learning"]
_EQUAL = 1e-9
_WIDTHS = (64, 4096)


@dataclasses.dataclass(frozen=True)
class Regime:
    """What a parametrization does in the limit: features move as n^-r; `reasons` say which conditions are not met."""

    name: RegimeName
    r: float
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        because = f": {'; '.join(self.reasons)}" if self.reasons else ""
        return f"{self.name} (r = {self.r:g}){because}"


def classify(a: Sequence[float], b: Sequence[float], c: float | Sequence[float], *, descent: Descent = "sgd") -> Regime:
    """The regime of exponents of multipliers, initial deviations and rates, input layer first, output layer last.

    `c` is one number for all layers or one for each. `descent` is "sgd", or "sign" for optimizers that normalise
    gradients entry by entry, whose updates have entries of the rate.

    `unstable`: values or updates grow with the width, or values vanish at the start. `trivial`: outputs stay where they
    start. `kernel`: outputs move, features do not. `feature learning`: both do.

    Raises:
        ParametrizationError: there are fewer than two layers, or not one exponent for each.

    Source: Yang and Hu 2020, arXiv:2011.14522, definition 3.2 and theorems 3.3 and 3.4; for sign descent Yang and
    Littwin 2023, arXiv:2308.01814.
    """
    layers = len(a)
    rates = [float(c)] * layers if isinstance(c, int | float) else [float(value) for value in c]
    if layers < 2 or len(b) != layers or len(rates) != layers:
        raise ParametrizationError(
            f"{layers}, {len(b)} and {len(rates)} exponents a, b and c: give one of each for two layers or more"
        )
    if not all(map(math.isfinite, (*a, *b, *rates))):
        raise ParametrizationError("exponents that are not finite: give numbers")
    start = a[-1] + b[-1]
    if descent == "sgd":
        # What arrives at the last hidden layer is the readout as it starts, or as it has been moved.
        arriving = min(start, 2 * a[-1] + rates[-1])
        moved = [arriving + 2 * a[i] + rates[i] - (i > 0) for i in range(layers - 1)]
        readout = 2 * a[-1] + rates[-1] - 1
    else:
        moved = [a[i] + rates[i] - (i > 0) for i in range(layers - 1)]
        readout = a[-1] + rates[-1] - 1
    r = min(moved)
    if reasons := [*_starts_badly(a, b), *_moves_too_far(r, readout, start)]:
        return Regime("unstable", r, tuple(reasons))
    if readout > _EQUAL and start + r - 1 > _EQUAL:
        return Regime("trivial", r, ("outputs stay where they start",))
    return Regime("feature learning" if abs(r) <= _EQUAL else "kernel", r)


def _starts_badly(a: Sequence[float], b: Sequence[float]) -> list[str]:
    reasons = []
    for layer in range(len(a) - 1):
        wanted = 0.0 if layer == 0 else 0.5
        if abs(a[layer] + b[layer] - wanted) > _EQUAL:
            what = "grows" if a[layer] + b[layer] < wanted else "vanishes"
            reasons.append(f"layer {layer + 1} {what} at the start, where a + b should be {wanted:g}")
    if a[-1] + b[-1] < 0.5 - _EQUAL:
        reasons.append("the output grows at the start, where a + b should be at least 0.5")
    return reasons


def _moves_too_far(r: float, readout: float, start: float) -> list[str]:
    reasons = []
    if r < -_EQUAL:
        reasons.append("features grow")
    if readout < -_EQUAL:
        reasons.append("the output grows by its own update")
    if start + r - 1 < -_EQUAL:
        reasons.append("the output grows by that of the features")
    return reasons


def regime_of(rule: str | Rule, *, descent: Descent = "sign", hidden_layers: int = 2) -> Regime:
    """The regime of a rule for nets of fully connected layers.

    Raises:
        ParametrizationError: there is no such rule, or a net without hidden layers is asked for.
    """
    if hidden_layers < 1:
        raise ParametrizationError("a net without hidden layers has no width: give hidden_layers of 1 or more")
    chosen = find_rule(rule)
    roles: list[Role] = ["input", *["hidden"] * (hidden_layers - 1), "output"]  # type: ignore[list-item]
    layers = [_exponents(chosen, role, descent) for role in roles]
    return classify(*([layer[part] for layer in layers] for part in range(3)), descent=descent)


def _exponents(rule: Rule, role: Role, descent: Descent) -> tuple[float, float, float]:
    """How the rule's factors for a role fall with the width."""
    small, large = (rule.scale(_facts(role, width), descent) for width in _WIDTHS)
    pairs = ((small.multiplier, large.multiplier), (small.initial, large.initial), (small.rate, large.rate))
    a, b, c = (-math.log(after / before) / math.log(_WIDTHS[1] / _WIDTHS[0]) for before, after in pairs)
    return a, b, c


def _facts(role: Role, width: int) -> TensorFacts:
    inputs, outputs = width if role != "input" else 8, width if role != "output" else 8
    ratio = width / _WIDTHS[0]
    return TensorFacts(
        role,
        role,
        (outputs, inputs),
        inputs,
        outputs,
        ratio if role != "input" else 1.0,
        ratio if role != "output" else 1.0,
    )
