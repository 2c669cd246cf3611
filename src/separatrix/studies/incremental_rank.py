"""Incremental learning in matrix sensing: from a small start, descent passes the best fits of rank 1, 2, ... in turn.

M of rank r, eigenvalues q^s, is fitted to m Gaussian measurements by X X', X with more than r columns, and with one
too few. The best fits Z_s of rank s to the measurements are found by Newton's method from the truncations of M. What
is predicted is in `separatrix.theory.incremental_rank`: when each rank is learnt, from the growth rates at the fits
before, and how the least distance from each fit shrinks with the scale of the start.

Two statements of the isotropic case do not survive measurements, of which there are many here, 80 to 320 for each row:
times go as log(1 / alpha) / l_s only within a tenth or so, while the growth rates at the fits give them within 1 %;
and as alpha goes to 0 the exponent p of the least distance alpha^p goes from the isotropic one to one smaller by the
factor (l_s - l_(s+1)) / l_s, the sooner the fewer measurements. Starts from 1e-5 to 1e-7 lie between, near the latter.
A weak fourth rank is driven by noise while the first ones are learnt, and its times do not hold: with 46 to 92
measurements for each of 14 rows, 0.80 and 1.43 of those foretold were seen among a hundred draws.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from separatrix.studies._sensing import Measurements, descend_one, measured
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
from separatrix.tasks import MatrixSensing
from separatrix.theory.incremental_rank import learning_slopes, measured_distance_exponent

_SCALES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)  # alpha
_SETTLED = 2  # scales that may be too large for plateaus between close eigenvalues
_LARGE = 0.5
_STRIDE = 4  # steps between looks
_NEWTON = 50


def best_fit(seen: Measurements, start: torch.Tensor) -> torch.Tensor:
    """The factor (n, s) of the fit of that rank next to `start`, by Newton's method on half the mean squared error."""
    factor = start
    units = torch.eye(start.numel(), dtype=start.dtype).view(-1, *start.shape)
    for _ in range(_NEWTON):
        push = seen.push(factor @ factor.mT)
        moved = units @ factor.mT
        rows = seen.vector(moved + moved.mT)
        gradient = -2 * (push @ factor).flatten()
        if gradient.norm() < 1e-13:
            break
        curvature = rows @ seen.gram @ rows.mT - 2 * torch.kron(push.contiguous(), torch.eye(start.shape[1]).double())
        step = torch.linalg.pinv(curvature, rtol=1e-9, hermitian=True) @ gradient
        factor = factor - step.view_as(factor)
    return factor


@dataclasses.dataclass(frozen=True)
class _Fits:
    """Best fits Z_s (r, n, n), truncations M_s (r, n, n), eigenvalues of M (r,), slopes of learning steps (r,)."""

    best: torch.Tensor
    truncated: torch.Tensor
    values: list[float]
    slopes: np.ndarray


def _fits(seen: Measurements, rank: int, rate: float) -> _Fits:
    values, vectors = (part.flip(-1)[..., :rank] for part in torch.linalg.eigh(seen.matrix))
    roots = [vectors[:, :count] * values[:count].sqrt() for count in range(1, rank + 1)]
    factors = [best_fit(seen, root) for root in roots]
    best = torch.stack([factor @ factor.mT for factor in factors])
    around = torch.cat([torch.zeros_like(best[:1]), best[:-1]])
    growth = torch.linalg.eigvalsh(seen.push(around)).flip(-1)[:, :rank]
    return _Fits(
        best=best,
        truncated=torch.stack([root @ root.mT for root in roots]),
        values=values.tolist(),
        slopes=learning_slopes(list(torch.log1p(rate * growth).numpy())),
    )


@dataclasses.dataclass(frozen=True)
class _Descent:
    """For each scale and rank s that can be learnt, (scales, ranks): distances as shares of |M|, steps.

    `half` is when the s-th eigenvalue reaches half of that of M, `closest` when Z_s is nearest; `last` is how far the
    end is from every Z_s, (scales, r). The last scale is the large one.
    """

    least: np.ndarray
    least_truncated: np.ndarray
    closest: np.ndarray
    half: np.ndarray
    last: np.ndarray


def _descend(seen: Measurements, fits: _Fits, columns: int, rate: float, generator: torch.Generator) -> _Descent:
    size, learnt = len(seen.matrix), min(columns, len(fits.values))
    scales = torch.tensor([*_SCALES, _LARGE], dtype=torch.float64)[:, None, None]
    start = scales * torch.randn(size, columns, dtype=torch.float64, generator=generator) / math.sqrt(size)
    distances: list[torch.Tensor] = []
    strengths: list[torch.Tensor] = []
    norm = seen.matrix.norm()

    def look(step: int, factor: torch.Tensor) -> None:
        if step % _STRIDE:
            return
        product = (factor @ factor.mT)[:, None]
        pairs = [(product - other).square().sum((2, 3)).sqrt() / norm for other in (fits.best, fits.truncated)]
        distances.append(torch.stack(pairs))
        strengths.append(torch.linalg.eigvalsh(factor.mT @ factor).flip(-1)[:, :learnt])

    weakest, following = [*fits.values, 0.0][learnt - 1 : learnt + 1]
    descend_one(seen, start, rate, _steps(weakest, weakest - following, rate), look)
    near, strong = torch.stack(distances, 1).numpy(), torch.stack(strengths).numpy()
    return _Descent(
        least=near[0].min(0)[:, :learnt],
        least_truncated=near[1].min(0)[:, :learnt],
        closest=_STRIDE * near[0].argmin(0)[:, :learnt].astype(np.float64),
        half=np.array([_crossings(strong[:, copy], np.array(fits.values) / 2) for copy in range(len(scales))]),
        last=near[0, -1],
    )


def _steps(weakest: float, gap: float, rate: float) -> int:
    """Enough to learn a mode of that eigenvalue from the smallest start, and to turn away from the next one below."""
    return round(1.2 * (math.log(1 / _SCALES[-1]) / weakest + 12 / gap) / rate)


def _crossings(strengths: np.ndarray, levels: np.ndarray) -> list[float]:
    """Step at which each column of (looks, modes) first reaches its level, between looks by the logarithm."""
    found = []
    for values, level in zip(strengths.T, levels, strict=False):
        after = max(1, int((values >= level).argmax()))
        low, high = np.log(values[after - 1]), np.log(values[after])
        found.append(_STRIDE * (after - 1 + float((np.log(level) - low) / (high - low))))
    return found


def _against_scale(values: np.ndarray, first: int = 0) -> list[float]:
    """Least-squares slopes over log alpha of each column of (scales, ranks), from the `first` to the smallest scale."""
    small = slice(first, len(_SCALES))
    return [float(np.polyfit(np.log(_SCALES[small]), column, 1)[0]) for column in values[small].T]


def _shares(found: list[float], expected: list[float]) -> list[float]:
    return [one / other for one, other in zip(found, expected, strict=False)]


def _plan(settings: Settings, quick: bool) -> Plan:
    weakest, rate = settings["ratio"] ** (settings["rank"] - 1), settings["rate"]
    above = weakest / settings["ratio"]
    steps = _steps(weakest, weakest, rate) + _steps(above, above - weakest, rate)
    return Plan(runs=2, seconds=0.3 + steps * (3e-4 + 2e-10 * settings["size"] ** 4))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    size, rank, rate, ratio = settings["size"], settings["rank"], settings["rate"], settings["ratio"]
    task = MatrixSensing(
        rows=size, columns=size, rank=rank, condition=ratio ** (1 - rank), dtype=torch.float64, seed=seed
    )
    seen = measured(task, math.ceil(settings["measurements"] * size), generator)
    fits = _fits(seen, rank, rate)
    wide = _descend(seen, fits, rank + settings["spare"], rate, generator)
    progress()
    narrow = _descend(seen, fits, rank - 1, rate, generator)
    progress()
    pairs = list(zip(fits.values, fits.values[1:], strict=False))
    exponents = [measured_distance_exponent(*pair) for pair in pairs]

    def exponent_shares(wider: np.ndarray, narrower: np.ndarray) -> list[float]:
        """For the fits that are passed, not those where the descent ends."""
        found = [slope for least in (wider, narrower) for slope in _against_scale(np.log(least[:, :-1]), _SETTLED)]
        return _shares(found, exponents + exponents[:-1])

    def slope_shares(slopes: np.ndarray) -> list[float]:
        found = [-slope for slope in _against_scale(wide.half) + _against_scale(narrow.half)]
        return _shares(found, slopes.tolist() + slopes[: rank - 1].tolist())

    small = len(_SCALES) - 1
    return Outcome(
        measured={
            "every_fit_is_passed": [*wide.least[small], *narrow.least[small]],
            "fits_come_in_order": wide.closest[small].tolist(),
            "closer_from_smaller_starts": exponent_shares(wide.least, narrow.least),
            "times_follow_growth_rates": slope_shares(fits.slopes),
            "too_few_columns_end_at_their_fit": float(narrow.last[: len(_SCALES), rank - 2].max()),
        },
        controls={
            "large_start": [*wide.least[-1], *narrow.least[-1]],
            "truncations": exponent_shares(wide.least_truncated, narrow.least_truncated),
            "other_order": slope_shares(fits.slopes[::-1]),
            "next_fit": float(narrow.last[: len(_SCALES), rank - 1].max()),
        },
        series={
            "alpha": list(_SCALES),
            "learning_slope": fits.slopes.tolist(),
            "isotropic_slope": [1 / math.log1p(rate * value) for value in fits.values],
            "least_distance_first": wide.least[: small + 1, 0].tolist(),
        },
    )


study = Study(
    id="254",
    slug="incremental-rank",
    paper=Paper(
        title="Understanding Incremental Learning of Gradient Descent: A Fine-grained Analysis of Matrix Sensing",
        authors=("Jikai Jin", "Zhiyuan Li", "Kaifeng Lyu", "Simon S. Du", "Jason D. Lee"),
        year=2023,
        url="https://arxiv.org/abs/2301.11500",
    ),
    summary="From a small start, factors pass the best fits of rank 1, 2, ... in turn, closer for smaller starts.",
    settings=(
        Setting("size", "int", 30, "rows and columns of M", 12, 48),
        Setting(
            "rank",
            "int",
            3,
            "of M",
            2,
            3,
            reason="One rank has no order; a fourth eigenvalue drowns in what so few measurements mix into it.",
        ),
        Setting(
            "ratio",
            "float",
            0.45,
            "of successive eigenvalues of M; the largest is 1",
            0.3,
            0.6,
            reason="Closer eigenvalues need smaller starts than 1e-7, smaller ones more steps than a minute holds.",
        ),
        Setting("measurements", "float", 120.0, "for each row of M", 80.0, 320.0),
        Setting("spare", "int", 3, "columns of X beyond the rank", 1, 8),
        Setting("rate", "float", 0.1, "learning rate", 0.05, 0.2),
    ),
    statements=(
        Statement(
            "every_fit_is_passed",
            "at_most",
            0.03,
            "Least distance from the best fit of each rank, over |M|, from the smallest start, columns many and few.",
        ),
        Statement(
            "fits_come_in_order",
            "monotone",
            "increasing",
            "Step at which the best fit of rank 1, 2, ... is nearest, from the smallest start.",
        ),
        Statement(
            "closer_from_smaller_starts",
            "interval",
            (0.7, 2.0),
            "Exponent of alpha, 1e-5 to 1e-7, in each least distance; over its limit, 2 g^2 / l_s / (l_s + l_(s+1))"
            " with g = l_s - l_(s+1).",
        ),
        Statement(
            "times_follow_growth_rates",
            "interval",
            (0.85, 1.15),
            "Steps for each e-fold off alpha until each rank is learnt, over those from growth rates at the best fits.",
        ),
        Statement(
            "too_few_columns_end_at_their_fit",
            "at_most",
            1e-3,
            "With one column too few: distance of the end from the best fit of that rank, over |M|, all small starts.",
        ),
    ),
    controls=(
        Control("large_start", "every_fit_is_passed", "From a start of scale 0.5."),
        Control("truncations", "closer_from_smaller_starts", "Distances from truncations of M instead of best fits."),
        Control("other_order", "times_follow_growth_rates", "The times of the ranks in the opposite order."),
        Control("next_fit", "too_few_columns_end_at_their_fit", "The best fit of one rank more."),
    ),
    plan=_plan,
    run=_run,
    smoke={"size": 16, "rank": 2, "rate": 0.2},
)
