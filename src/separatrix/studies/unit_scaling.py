"""u-muP: weights, activations and gradients start at one, so rates transfer and 8 bits suffice.

A transformer of one block over the characters of Python's library, in the unit-scaled maximal-update parametrization
and in the standard one. The audit feeds inputs and targets drawn independently, as unit scaling supposes, and
leaves out the outputs, which the maximal update makes 1 / sqrt(width). On text the gradients of weights start at 1.0 to
5.4, since all examples pull the output towards the frequencies of characters: outside of what is claimed here.

That factors chosen one by one come within 1 % of the best of the grid holds in some quick runs and not in others (1.000
at one head, 1.012 at two, where the median of the grid is at 1.06); it is in the series and not claimed.

Eight bits are simulated: what goes into every product is rounded to E4M3 on the way out and to E5M2 on the way back.
The mean of the standard loss is taken over as many tokens as a batch of a large training has; Adam's steps do not
depend on that, the size of gradients, which then fall below E5M2's least number, does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from separatrix.studies._unit_scaled import BATCH, LENGTH, Hyper, Transformer, audit, train
from separatrix.studies._wide_nets import best_rate
from separatrix.studies.study import (
    Control,
    Outcome,
    Paper,
    Plan,
    Progress,
    Setting,
    Settings,
    Statement,
    Study,
)
from separatrix.tasks.text import SourceText

_TIMES = (1, 3, 8)  # the narrowest width, in heads
_AUDITED = (32, 128, 512)
_RATES = {True: range(-3, 4), False: range(-9, -2)}  # powers of two, by whether unit-scaled
_FACTORS = (0.5, 1.0, 2.0)


def _windows(seed: int) -> Callable[[int], Tensor]:
    text = SourceText(length=LENGTH)
    return lambda step: text.windows(BATCH, torch.Generator().manual_seed(1_000_003 * seed + step))


def _final(losses: Tensor) -> Tensor:
    """Mean of the last fifth, (copies,); what diverged counts as 10 nats."""
    end = losses[-len(losses) // 5 :].mean(0)
    return end.where(end.isfinite(), torch.full_like(end, 10.0)).clamp(max=10.0)


def _trained(model: Transformer, hyper: Hyper, steps: int, seed: int) -> tuple[Tensor, float]:
    losses, lost = train(model, hyper, _windows(seed), steps, torch.Generator().manual_seed(seed))
    return _final(losses), lost


def _best(width: int, unit: bool, steps: int, seed: int) -> float:
    """log2 of the best rate."""
    rates = torch.tensor([2.0**power for power in _RATES[unit]])
    return best_rate(rates, _trained(Transformer(width, unit), Hyper.of_rates(rates), steps, seed)[0])


def _grid(width: int, around: float, attention: tuple[float, ...], steps: int, seed: int) -> Tensor:
    """Losses by rate (three, a factor 2 apart), factor of branches, of attention and of the output."""
    rates = [2.0 ** (round(around) + shift) for shift in (-1, 0, 1)]
    points = torch.tensor(list(itertools.product(rates, _FACTORS, attention, _FACTORS)))
    found, _ = _trained(Transformer(width, unit=True), Hyper(*points.T.unbind()), steps, seed)
    return found.view(3, 3, len(attention), 3)


def _independent(grid: Tensor) -> float:
    """The loss where each factor takes the value that is best with the others at one, at the rate best for these."""
    one = grid.shape[2] // 2
    rate = int(grid[:, 1, one, 1].argmin())
    line = grid[rate]
    chosen = int(line[:, one, 1].argmin()), int(line[1, :, 1].argmin()), int(line[1, one, :].argmin())
    return float(line[chosen])


def _scales(unit: bool, seed: int) -> list[float]:
    """Least and largest root mean square at the start, of all widths."""
    every = [
        value
        for width in _AUDITED
        for value in audit(Transformer(width, unit), torch.Generator().manual_seed(seed)).values()
    ]
    return [min(every), max(every)]


def _eight_bits(width: int, unit: bool, best: float, tokens: int, steps: int, seed: int) -> tuple[float, float]:
    """Loss in 8 bits over that in 32, and the share of gradients that became zero."""
    hyper = Hyper.of_rates(torch.tensor([2.0**best]))
    plain, _ = _trained(Transformer(width, unit, tokens=tokens), hyper, steps, seed)
    small, lost = _trained(Transformer(width, unit, small=True, tokens=tokens), hyper, steps, seed)
    return float(small / plain), lost


def _plan(settings: Settings, quick: bool) -> Plan:
    return Plan(runs=5, seconds=0.5 * (settings["heads"] + 1) ** 1.5 * (1 if quick else 25))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    heads, steps = (settings["heads"], 40 + 20 * settings["heads"]) if quick else (2 * settings["heads"], 400)
    widths = [8 * heads * times for times in _TIMES]
    scales = {unit: _scales(unit, seed) for unit in (True, False)}
    progress()
    best = {}
    for unit in (True, False):
        best[unit] = [_best(width, unit, steps, seed) for width in widths]
        progress()
    grid = _grid(widths[0], best[True][0], (1.0,) if quick else _FACTORS, steps, seed)
    progress()
    tokens = 2 ** settings["log2_tokens"]
    small = {unit: _eight_bits(widths[1], unit, best[unit][1], tokens, steps, seed) for unit in (True, False)}
    progress()
    least = float(grid.min())
    return Outcome(
        measured={
            "everything_starts_at_one": scales[True],
            "rate_transfers": max(best[True]) - min(best[True]),
            "eight_bits_suffice": small[True][0],
            "gradients_survive": small[True][1],
        },
        controls={
            "standard_scales": scales[False],
            "standard_rate": max(best[False]) - min(best[False]),
            "standard_in_eight_bits": small[False][0],
            "standard_gradients": small[False][1],
        },
        series={
            "width": widths,
            "log2_best_rate": best[True],
            "standard_log2_best_rate": best[False],
            "one_by_one_over_least": [_independent(grid) / least],
            "grid_losses": sorted(grid.flatten().tolist()),
        },
    )


study = Study(
    id="167",
    slug="unit-scaling",
    paper=Paper(
        title="u-\u03bcP: The Unit-Scaled Maximal Update Parametrization",
        authors=(
            "Charlie Blake",
            "Constantin Eichenberg",
            "Josef Dean",
            "Lukas Balles",
            "Luke Y. Prince",
            "Bj\u00f6rn Deiseroth",
            "Andres Felipe Cruz-Salinas",
            "Carlo Luschi",
            "Samuel Weinbach",
            "Douglas Orr",
        ),
        year=2024,
        url="https://arxiv.org/abs/2407.17465",
    ),
    summary="Where all scales start at one, rates transfer and 8 bits suffice.",
    settings=(
        Setting("heads", "int", 2, "heads of 8 in the narrowest transformer; doubled in full runs", 1, 4),
        Setting(
            "log2_tokens",
            "int",
            20,
            "log2 of the tokens in the batch that gradients are the mean of",
            18,
            22,
            reason="the range, of a factor 16, is in tokens",
        ),
    ),
    statements=(
        Statement(
            "everything_starts_at_one",
            "interval",
            (0.5, 2.0),
            "Least and largest root mean square of activations, weights and the gradients of both, widths 32 to 512.",
        ),
        Statement(
            "rate_transfers", "at_most", 1.0, "Spread of the best rate over widths a factor 8 apart, in factors of 2."
        ),
        Statement("eight_bits_suffice", "at_most", 1.02, "Loss of training in 8 bits over that in 32."),
        Statement("gradients_survive", "at_most", 0.05, "Share of gradients that E5M2 rounds to zero."),
    ),
    controls=(
        Control("standard_scales", "everything_starts_at_one", "The standard parametrization."),
        Control("standard_rate", "rate_transfers", "The standard parametrization."),
        Control("standard_in_eight_bits", "eight_bits_suffice", "The standard parametrization."),
        Control("standard_gradients", "gradients_survive", "The standard parametrization."),
    ),
    plan=_plan,
    run=_run,
    smoke={"heads": 1},
)
