"""Addition modulo p by circuits of single frequencies: each grows as its amplitudes do, and the decay removes the weak.

A net of product units, logits f_c(a, b) = sum_i u_i(a) v_i(b) q_i(c), p odd, with three units for each frequency
w_k = 2 pi k / p, k = 1 ... (p - 1) / 2, and weights A_k cos(w_k a + s), B_k cos(w_k b + s), C_k cos(w_k c + 2 s) at the
phases s = o_k + pi j / 3, j = 0, 1, 2. The product of three cosines is a quarter of a sum of four; three of them cancel
over the phases, and what is left is the Fourier multiplication circuit

    f_c(a, b) = sum_k g_k cos(w_k d),    d = a + b - c,    g_k = 3 A_k B_k C_k / 4.

The derivative of the mean cross-entropy over all pairs by the logits, softmax(f)_d - [d = 0], depends on d alone and is
even; with r_k = (2 / p) sum_d (softmax(f)_d - [d = 0]) cos(w_k d) that by u_i(a) is r_k B_k C_k / 4 cos(w_k a + s), and
the same with the letters turned. Weights keep their waves, and gradient descent with weight decay h is, exactly and at
any rate, A_k <- A_k - rate (r_k B_k C_k / 4 + h A_k) and so on. A frequency lives only while |r_k| B_k C_k > 4 h A_k,
and all r_k fall as the loss does: the strong put out the weak. A_k^2 - B_k^2 is multiplied in each step by
(1 - rate h)^2 - (rate r_k C_k / 4)^2.

This is the circuit that Nanda et al. (2023) find in transformers, for the cross-entropy that they train on; the
reduction was derived here. That trained nets consist of single-frequency units is the finding of Gromov (2023).

A simulation is the training of one net on all pairs: there is nothing to average.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from separatrix.runs import SeriesSpec
from separatrix.theory._fourier import (
    circuit_amplitudes,
    circuit_logits,
    circuit_loss,
    excluded,
    frequency_norms,
    gini,
    restricted,
    sum_waves,
    wave_shares,
)
from separatrix.theory.theory import (
    Band,
    Curves,
    Law,
    Paper,
    Prediction,
    Setting,
    Settings,
    Simulation,
    Theory,
)

__all__ = [
    "THEORY",
    "CircuitProblem",
    "amplitudes_at",
    "circuit_amplitudes",
    "circuit_logits",
    "circuit_loss",
    "excluded",
    "frequency_norms",
    "gini",
    "restricted",
    "sum_waves",
    "unit_weights",
    "wave_shares",
]

_LAST = 300
_PHASES = 3


@dataclasses.dataclass(frozen=True)
class CircuitProblem:
    """Modulus, first amplitudes of u, v and q by frequency, phases o_k, and the optimizer's rate and weight decay.

    `keys` are the indices of the third of the frequencies whose circuits are strongest at the end.
    """

    p: int
    amplitudes: Float[Tensor, "3 frequencies"]
    offsets: Float[Tensor, " frequencies"]
    learning_rate: float
    weight_decay: float
    keys: Int[Tensor, " keys"]


def strengths(amplitudes: Float[Tensor, "*times 3 frequencies"]) -> Float[Tensor, "*times frequencies"]:
    """g_k = 3 A_k B_k C_k / 4."""
    return _PHASES / 4.0 * amplitudes.prod(-2)


def errors(amplitudes: Float[Tensor, "3 frequencies"], p: int) -> Float[Tensor, " frequencies"]:
    """r_k: Fourier coefficients of the probabilities less those wanted."""
    surplus = circuit_logits(strengths(amplitudes), p).softmax(-1)
    surplus[0] -= 1.0
    coefficients: Tensor = 2.0 / p * torch.fft.rfft(surplus).real[1:]
    return coefficients


def amplitudes_at(problem: CircuitProblem, steps: Sequence[int]) -> Float[Tensor, "steps 3 frequencies"]:
    """Amplitudes after so many steps of gradient descent."""
    now, wanted, found = problem.amplitudes, set(steps), {}
    for count in range(max(steps, default=-1) + 1):
        if count in wanted:
            found[count] = now
        others = torch.stack([now[1] * now[2], now[2] * now[0], now[0] * now[1]])
        gradient = errors(now, problem.p) * others / 4.0 + problem.weight_decay * now
        now = now - problem.learning_rate * gradient
    return torch.stack([found[count] for count in steps])


def predict(problem: CircuitProblem, steps: Sequence[int]) -> Curves:
    """Losses of all circuits, of the key ones and of the others; their strengths, inequality and the weights' norm."""
    at = amplitudes_at(problem, steps)
    strong = strengths(at)
    key = torch.zeros(strong.shape[1], dtype=strong.dtype)
    key[problem.keys] = 1.0
    found = {
        "loss": circuit_loss(strong, problem.p),
        "restricted_loss": circuit_loss(strong * key, problem.p),
        "excluded_loss": circuit_loss(strong * (1.0 - key), problem.p),
        "circuit_amplitude": strong,
        "gini": gini(strong),
        "weight_norm": (0.5 * _PHASES * problem.p * at.square().sum((1, 2))).sqrt(),
    }
    return {name: values.numpy() for name, values in found.items()}


def unit_weights(problem: CircuitProblem) -> Float[Tensor, "3 p units"]:
    """First weights u, v and q of the net, three units a frequency."""
    residues = torch.arange(problem.p, dtype=torch.float64)[:, None, None]
    count = problem.amplitudes.shape[1]
    turns = 2.0 * math.pi / problem.p * torch.arange(1, count + 1, dtype=torch.float64)[:, None] * residues
    phases = problem.offsets[:, None] + math.pi / _PHASES * torch.arange(_PHASES, dtype=torch.float64)
    shifts = torch.stack([phases, phases, 2.0 * phases])[:, None]
    return (problem.amplitudes[:, None, :, None] * (turns + shifts).cos()).flatten(2)


def _logits(weights: Float[Tensor, "3 p units"]) -> Float[Tensor, "pairs p"]:
    pairs = weights[0][:, None] * weights[1]
    return pairs.flatten(0, 1) @ weights[2].T


def _simulate(problem: CircuitProblem, steps: Sequence[int], seed: int) -> Simulation:
    p = problem.p
    weights = unit_weights(problem).requires_grad_()
    sums = (torch.arange(p)[:, None] + torch.arange(p)).flatten() % p
    optimizer = torch.optim.SGD([weights], lr=problem.learning_rate, weight_decay=problem.weight_decay)
    wanted, found = set(steps), []
    for count in range(max(steps) + 1):
        logits = _logits(weights)
        loss = torch.nn.functional.cross_entropy(logits, sums)
        if count in wanted:
            found.append(_measured(problem, logits.detach(), sums, float(weights.detach().norm())))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Simulation({name: np.array([each[name] for each in found]) for name in found[0]})


def _measured(problem: CircuitProblem, logits: Tensor, sums: Tensor, norm: float) -> dict[str, Any]:
    strong = circuit_amplitudes(logits)

    def loss(part: Tensor) -> float:
        return float(torch.nn.functional.cross_entropy(part, sums))

    return {
        "loss": loss(logits),
        "restricted_loss": loss(restricted(logits, problem.keys)),
        "excluded_loss": loss(excluded(logits, problem.keys)),
        "circuit_amplitude": strong.numpy(),
        "gini": float(gini(strong)),
        "weight_norm": norm,
    }


def _problem(settings: Settings, seed: int) -> CircuitProblem:
    generator = torch.Generator().manual_seed(seed)
    count = settings["frequencies"]
    p = 2 * count + 1
    draws = torch.rand(3, count, dtype=torch.float64, generator=generator)
    amplitudes = settings["amplitude"] * (1.0 + settings["spread"] * (2.0 * draws - 1.0))
    offsets = 2.0 * math.pi * torch.rand(count, dtype=torch.float64, generator=generator)
    problem = CircuitProblem(p, amplitudes, offsets, settings["rate"] * p, settings["decay"] / p, torch.arange(count))
    last = strengths(amplitudes_at(problem, [_LAST]))[0]
    return dataclasses.replace(problem, keys=last.argsort(descending=True)[: max(1, count // 3)])


def _steps(problem: CircuitProblem) -> list[int]:
    return list(range(0, _LAST + 1, 6))


def _at_start(problem: CircuitProblem, seen: Prediction) -> float:
    sums = (torch.arange(problem.p)[:, None] + torch.arange(problem.p)).flatten() % problem.p
    first = float(torch.nn.functional.cross_entropy(_logits(unit_weights(problem)), sums))
    return abs(float(seen["loss"][0]) - first) / math.log(problem.p)


def _balance(problem: CircuitProblem, seen: Prediction) -> float:
    """By how much any A^2 - B^2 leaves the law by which steps multiply it, over the largest A^2 at the start."""
    at = amplitudes_at(problem, [0, 1, 2])
    worst = 0.0
    for before, after in itertools.pairwise(at):
        push = problem.learning_rate * errors(before, problem.p) / 4.0
        factor = (1.0 - problem.learning_rate * problem.weight_decay) ** 2 - (push * before[2]).square()
        gap = (after[0].square() - after[1].square()) - factor * (before[0].square() - before[1].square())
        worst = max(worst, float(gap.abs().max() / at[0].square().max()))
    return worst


def _even(problem: CircuitProblem, seen: Prediction) -> float:
    """Circuits of equal strength g add up to a spike: the loss is log(1 + (p - 1) exp(-p g / 2))."""
    even = dataclasses.replace(
        problem, amplitudes=torch.full_like(problem.amplitudes, float(problem.amplitudes.mean()))
    )
    steps = seen.steps.tolist()
    strong = strengths(amplitudes_at(even, steps))
    expected = torch.log1p((problem.p - 1) * torch.exp(-0.5 * problem.p * strong[:, 0]))
    spread = (strong - strong[:, :1]).abs().max() / strong.max()
    gap = (circuit_loss(strong, problem.p) - expected).abs().max() / math.log(problem.p)
    return float(torch.maximum(gap, spread))


def _nothing(problem: CircuitProblem, seen: Prediction) -> float:
    """Without circuits the loss is log p for ever."""
    still = dataclasses.replace(problem, amplitudes=torch.zeros_like(problem.amplitudes))
    loss = circuit_loss(strengths(amplitudes_at(still, [0, 50])), problem.p)
    return float((loss / math.log(problem.p) - 1.0).abs().max())


def _wrong(settings: Settings) -> dict[str, Any]:
    decay = settings["decay"]
    return {**settings, "decay": decay / 4.0 if decay > 0.02 else 4.0 * decay}


_EXACT = "the reduction is exact: rounding alone is left"

THEORY = Theory(
    name="modular-fourier",
    question="Which frequencies will a net use to add modulo p, and when do the others go?",
    assumptions=(
        "Product units, each with one frequency, three for each with evenly spaced phases.",
        "All pairs are seen at every step, by gradient descent on cross-entropy with weight decay.",
    ),
    papers=(
        Paper(
            title="Progress Measures for Grokking via Mechanistic Interpretability",
            authors=("Neel Nanda", "Lawrence Chan", "Tom Lieberum", "Jess Smith", "Jacob Steinhardt"),
            year=2023,
            url="https://arxiv.org/abs/2301.05217",
        ),
        Paper(
            title="Grokking Modular Arithmetic",
            authors=("Andrey Gromov",),
            year=2023,
            url="https://arxiv.org/abs/2301.02679",
        ),
    ),
    settings=(
        Setting("frequencies", "int", 8, "of which p is twice as many and one", 4, 18),
        Setting("amplitude", "float", 0.4, "mean of the first amplitudes", 0.2, 0.8),
        Setting("spread", "float", 0.5, "half the range of the first amplitudes, over their mean", 0.2, 0.8),
        Setting("decay", "float", 0.03, "weight decay times p", 0.005, 0.08),
        Setting("rate", "float", 0.15, "learning rate over p", 0.1, 0.4),
    ),
    series=(
        SeriesSpec("loss", description="mean cross-entropy over all pairs"),
        SeriesSpec("restricted_loss", description="the same of the key frequencies alone"),
        SeriesSpec("excluded_loss", description="the same of all other frequencies"),
        SeriesSpec("circuit_amplitude", ("mode",), description="coefficient of cos(w_k (a + b - c)) in the logits"),
        SeriesSpec("gini", description="inequality of these coefficients: 0 all equal, near 1 a single one"),
        SeriesSpec("weight_norm", description="root of the sum of all squared weights"),
    ),
    problem=_problem,
    steps=_steps,
    predict=predict,
    simulate=_simulate,
    bands=tuple(
        Band(name, 1e-9, _EXACT)
        for name in ("loss", "restricted_loss", "excluded_loss", "circuit_amplitude", "gini", "weight_norm")
    ),
    laws=(
        Law("start", "the first loss is that of the net's own logits", _at_start, 1e-12),
        Law("balance", "steps multiply A^2 - B^2 by (1 - rate decay)^2 - (rate r C / 4)^2", _balance, 1e-12),
        Law("even", "circuits of equal strength stay so and make a spike", _even, 1e-9),
        Law("nothing", "a net of zeros stays at log p", _nothing, 1e-12),
    ),
    wrong=_wrong,
)
