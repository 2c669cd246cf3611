"""Matrix sensing: columns too many make symmetric factors slow, and factors of unequal size are fast again.

M of rank r is fitted to m Gaussian measurements by X X' or F G' with k >= r columns; starts are Gaussian, of variance
alpha^2 / rows for X and F and of a third of that scale for G. Rates are of the squared distance from M, a step.

The number of measurements is finite, so the isotropic formulas of `separatrix.theory.matrix_sensing` hold up to
factors: a random operator on a space of d dimensions has eigenvalues between (1 -+ sqrt(d / m))^2. Where the end point
is known, the rate is that of gradient descent on its smallest eigenvalue h of the Hessian other than 0, -2 log(1 - eta
h). The spare columns drift towards matrices that the measurements see least, which takes the order from 2 down to 1.8
or so at 8 measurements for each entry of a factor, and the constant above the isotropic (k - r) / (4 t^2).

Starts are small if alpha^2 is small against the least singular value of M, so scales are multiples of its square root.
Rates for several alpha are compared at equal alpha^2 t, as the spare columns alone are unchanged by such a scaling;
only for the largest alpha is the descent followed until the slowest mode is left.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch

from separatrix.studies._sensing import Measurements, descend_one, descend_two, measured, slowest
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
from separatrix.theory.matrix_sensing import (
    Decay,
    asymmetric_rate,
    classify_decay,
    rebalanced,
    symmetric_floor,
)

_SCALES = (0.6, 0.19, 0.06)  # alpha over the square root of the least singular value
_START = 0.5  # alpha of the symmetric factors
_LATE = 4.0  # alpha^2 t at which rates are compared
_SPARE_TIME = 200.0
_PARTS = (2, 4)  # of the learning rate, for the drift of the imbalance
_LARGEST_ORDER = 100.0

Pair = tuple[torch.Tensor, torch.Tensor]
"""F (..., n, k) and G (..., m, k)."""


def _fall(rate: float, curvature: float) -> float:
    """Of the logarithm of the squared distance, a step."""
    return -2 * math.log1p(-rate * curvature)


@dataclasses.dataclass(frozen=True)
class _Descent:
    """Squared distances from M at every step, (steps + 1, copies), and what tells the copies apart."""

    distances: np.ndarray

    def decay(self, copy: int = 0) -> Decay:
        return classify_decay(range(len(self.distances)), self.distances[:, copy])

    def late_rates(self, last: list[int]) -> list[float]:
        """Mean rate of each copy over the last quarter of the steps up to its `last`."""
        found = []
        for copy, end in enumerate(last):
            begin = end - end // 4
            fall = np.log(self.distances[begin, copy] / self.distances[end, copy])
            found.append(float(fall) / (end - begin))
        return found


def _exponent(scales: list[float], values: list[float]) -> float:
    """Least-squares slope of log value over log scale."""
    return float(np.polyfit(np.log(scales), np.log(values), 1)[0])


@dataclasses.dataclass(frozen=True)
class _Sizes:
    rows: int
    columns: int
    rank: int
    factor: int
    weakest: float
    measurements: int
    rate: float

    @property
    def scales(self) -> list[float]:
        """Values of alpha."""
        return [math.sqrt(self.weakest) * scale for scale in _SCALES]

    @property
    def learned(self) -> list[int]:
        """For each alpha: steps after which all of M is learned."""
        return [round((2 * math.log(1 / scale) + 12) / self.weakest / self.rate) for scale in _SCALES]

    @property
    def late(self) -> list[int]:
        """For each alpha: steps at which rates are compared."""
        steps = [round(_LATE / scale**2 / self.rate) for scale in self.scales]
        return [max(pair) for pair in zip(self.learned, steps, strict=True)]


def _sizes(settings: Settings) -> _Sizes:
    rows, rank = settings["size"], settings["rank"]
    factor = rank + settings["spare"]
    weakest = 1.0 if rank == 1 else 1 / settings["condition"]
    count = math.ceil(settings["oversampling"] * rows * factor)
    return _Sizes(rows, rows // 2, rank, factor, weakest, count, settings["rate"])


def _normal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=generator) / math.sqrt(rows)


def _one(seen: Measurements, start: torch.Tensor, rate: float, steps: int) -> _Descent:
    distances: list[torch.Tensor] = []
    descend_one(seen, start, rate, steps, lambda _, x: distances.append((x @ x.mT - seen.matrix).square().sum()))
    return _Descent(torch.stack(distances)[:, None].numpy())


def _two(seen: Measurements, start: Pair, rate: float, steps: int, stop: int = 0) -> tuple[_Descent, Pair]:
    """The descent, and the factors at step `stop`."""
    distances: list[torch.Tensor] = []
    kept = start

    def look(step: int, left: torch.Tensor, right: torch.Tensor) -> None:
        nonlocal kept
        distances.append((left @ right.mT - seen.matrix).square().sum((1, 2)))
        kept = (left, right) if step == stop else kept

    descend_two(seen, start, rate, steps, look)
    return _Descent(torch.stack(distances).numpy()), kept


@dataclasses.dataclass(frozen=True)
class _Symmetric:
    """Of X X' with k = r and k > r: late decays, relative error of the exact rate, least distances over the floor."""

    exact: Decay
    spare: Decay
    rate_error: float
    over_floor: float
    exact_over_floor: float
    distances: np.ndarray


def _symmetric(task: MatrixSensing, sizes: _Sizes, generator: torch.Generator, progress: Progress) -> _Symmetric:
    seen = measured(task, sizes.measurements, generator)
    starts = [_START * _normal(sizes.rows, width, generator) for width in (sizes.rank, sizes.factor)]
    exact = _one(seen, starts[0], sizes.rate, round((30 / sizes.weakest + 20) / sizes.rate))
    progress()
    spare = _one(seen, starts[1], sizes.rate, round(_SPARE_TIME / sizes.rate))
    progress()
    values, vectors = torch.linalg.eigh(seen.matrix)
    end = vectors[:, -sizes.rank :] * values[-sizes.rank :].sqrt()
    times = sizes.rate * np.arange(len(spare.distances), dtype=np.float64)
    floor = symmetric_floor(seen.matrix.numpy(), starts[1].numpy(), sizes.rank, times)
    shared = min(len(exact.distances), len(floor))
    decay = exact.decay()
    return _Symmetric(
        exact=decay,
        spare=spare.decay(),
        rate_error=abs(decay.rate / _fall(sizes.rate, slowest(seen, sizes.rank, end, None)) - 1),
        over_floor=float((spare.distances[:, 0] / floor).min()),
        exact_over_floor=float((exact.distances[:shared, 0] / floor[:shared]).min()),
        distances=spare.distances[:, 0],
    )


@dataclasses.dataclass(frozen=True)
class _Asymmetric:
    """Of F G' from several scales, plain and with one modified step: late rates a step, decays, expected rates."""

    plain: Decay
    rates: list[float]
    isotropic: list[float]
    drift: list[float]
    drift_of_sum: list[float]
    modified: list[float]
    expected: list[float]

    def errors(self, rates: list[float]) -> list[float]:
        """Relative ones, of rates from the expected rates of the modified descent."""
        return [abs(one / other - 1) for one, other in zip(rates, self.expected, strict=True)]


def _asymmetric(task: MatrixSensing, sizes: _Sizes, generator: torch.Generator, progress: Progress) -> _Asymmetric:
    seen = measured(task, sizes.measurements, generator)
    scales = torch.tensor(sizes.scales, dtype=torch.float64)[:, None, None]
    pair = (
        scales * _normal(sizes.rows, sizes.factor, generator),
        scales / 3 * _normal(sizes.columns, sizes.factor, generator),
    )
    plain, learned = _two(seen, pair, sizes.rate, sizes.late[-1], sizes.learned[-1])
    progress()
    drift, drift_of_sum = _drifts(seen, (pair[0][1:2], pair[1][1:2]), sizes, progress)
    beta = math.sqrt(sizes.weakest)
    changed = [rebalanced(left.numpy(), right.numpy(), beta) for left, right in zip(*learned, strict=True)]
    left, right = (torch.from_numpy(np.stack(part)) for part in zip(*changed, strict=True))
    modified, _ = _two(seen, (left, right), sizes.rate, round(30 / sizes.weakest / sizes.rate))
    progress()
    return _Asymmetric(
        plain=plain.decay(),
        rates=plain.late_rates(sizes.late),
        isotropic=[
            sizes.rate * asymmetric_rate(seen.matrix.numpy(), one.numpy(), other.numpy(), sizes.rank)
            for one, other in zip(*pair, strict=True)
        ],
        drift=drift,
        drift_of_sum=drift_of_sum,
        modified=[modified.decay(copy).rate for copy in range(len(_SCALES))],
        expected=[_fall(sizes.rate, slowest(seen, sizes.rank, one, seen.matrix.mT @ one / beta**2)) for one in left],
    )


def _drifts(seen: Measurements, start: Pair, sizes: _Sizes, progress: Progress) -> tuple[list[float], list[float]]:
    """Change of F'F - G'G and of F'F + G'G while M is learned, over the first; at parts of the rate."""
    differences: list[float] = []
    sums: list[float] = []
    for part in _PARTS:
        end = descend_two(seen, start, sizes.rate / part, part * sizes.learned[1], lambda *_: None)
        for sign, found in ((-1, differences), (1, sums)):
            before, after = (left.mT @ left + sign * right.mT @ right for left, right in (start, end))
            found.append(float((after - before).norm() / before.norm()))
        progress()
    return differences, sums


def _plan(settings: Settings, quick: bool) -> Plan:
    steps = _sizes(settings).late[-1]
    return Plan(runs=6, seconds=1.0 + 2.2e-10 * steps * settings["size"] ** 4)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    sizes = _sizes(settings)
    task = MatrixSensing(
        rows=sizes.rows,
        columns=sizes.rows,
        rank=sizes.rank,
        condition=settings["condition"],
        dtype=torch.float64,
        seed=seed,
    )
    one = _symmetric(task, sizes, generator, progress)
    two = _asymmetric(dataclasses.replace(task, columns=sizes.columns, symmetric=False), sizes, generator, progress)
    parts = [1 / part for part in _PARTS]
    return Outcome(
        measured={
            "exact_is_exponential": one.exact.bend,
            "exact_rate": one.rate_error,
            "spare_order": one.spare.order,
            "spare_above_floor": one.over_floor,
            "two_factors_are_exponential": two.plain.bend,
            "rate_from_imbalance": two.plain.rate / two.isotropic[0],
            "rate_exponent": _exponent(sizes.scales, two.rates),
            "imbalance_drift_exponent": _exponent(parts, two.drift),
            "modified_rate_exponent": abs(_exponent(sizes.scales, two.modified)),
            "modified_rate": two.errors(two.modified),
        },
        controls={
            "spare_columns": one.spare.bend,
            "no_spare_columns": min(one.exact.order, _LARGEST_ORDER),
            "no_floor": one.exact_over_floor,
            "one_factor": one.spare.bend,
            "modified_step": _exponent(sizes.scales, two.modified),
            "sum_of_squares": _exponent(parts, two.drift_of_sum),
            "unmodified": abs(_exponent(sizes.scales, two.rates)),
            "unmodified_rate": two.errors(two.rates),
        },
        series={
            "alpha": sizes.scales,
            "rate": two.rates,
            "rate_isotropic": two.isotropic,
            "rate_modified": two.modified,
            "imbalance_drift": two.drift,
            "spare_distance": one.distances[:: max(1, len(one.distances) // 100)].tolist(),
        },
    )


study = Study(
    id="85",
    slug="matrix-sensing",
    paper=Paper(
        title="How Over-Parameterization Slows Down Gradient Descent in Matrix Sensing: The Curses of Symmetry and"
        " Initialization",
        authors=("Nuoya Xiong", "Lijun Ding", "Simon S. Du"),
        year=2023,
        url="https://arxiv.org/abs/2310.01769",
    ),
    summary="Spare columns slow symmetric factors down to a power of the steps, and two factors as the start is small.",
    settings=(
        Setting(
            "size",
            "int",
            50,
            "rows of M; half as many columns where it is not symmetric",
            24,
            50,
            reason="In smaller ones the start may have an imbalance of both signs, which another rate governs; larger"
            " ones take minutes.",
        ),
        Setting("rank", "int", 3, "of M", 1, 4),
        Setting("spare", "int", 2, "columns of the factors beyond the rank", 1, 4),
        Setting("condition", "float", 2.0, "largest over smallest singular value of M; the largest is 1", 1.0, 4.0),
        Setting("oversampling", "float", 10.0, "measurements for each entry of X", 8.0, 32.0),
        Setting(
            "rate",
            "float",
            0.15,
            "learning rate",
            0.1,
            0.2,
            reason="The modified step diverges above; the time goes like its inverse.",
        ),
    ),
    statements=(
        Statement(
            "exact_is_exponential",
            "at_most",
            0.05,
            "X X', k = r: exponent with which the rate goes with the squared distance; 0 is exponential.",
        ),
        Statement(
            "exact_rate",
            "at_most",
            0.15,
            "X X', k = r: relative error of -2 log(1 - eta h), h the smallest eigenvalue of the Hessian at M.",
        ),
        Statement(
            "spare_order", "interval", (1.75, 2.1), "X X', k > r: p with which the squared distance falls as 1 / T^p."
        ),
        Statement(
            "spare_above_floor",
            "at_least",
            0.95,
            "X X', k > r: least ratio over time of squared distance to sum (p / (1 + 2 t p))^2, its isotropic floor.",
        ),
        Statement(
            "two_factors_are_exponential",
            "at_most",
            0.05,
            "F G', k > r, largest alpha: exponent with which the rate goes with the squared distance.",
        ),
        Statement(
            "rate_from_imbalance",
            "interval",
            (0.35, 1.4),
            "F G', k > r, largest alpha: last rate over 2 eta min eig N'(F'F - G'G)N at the start, N the spare ones.",
        ),
        Statement(
            "rate_exponent", "interval", (1.8, 2.2), "F G', k > r: exponent with which the rate goes with alpha."
        ),
        Statement(
            "imbalance_drift_exponent",
            "interval",
            (0.8, 1.2),
            "Exponent with which the change of F'F - G'G goes with the learning rate, while M is learned.",
        ),
        Statement(
            "modified_rate_exponent",
            "at_most",
            0.1,
            "After one modified step: size of the exponent with which the rate goes with alpha.",
        ),
        Statement(
            "modified_rate",
            "at_most",
            0.25,
            "After one modified step: relative error of -2 log(1 - eta h), h of the Hessian at M and F'F = beta^2;"
            " modes little faster than the slowest still take part.",
        ),
    ),
    controls=(
        Control("spare_columns", "exact_is_exponential", "k > r."),
        Control("no_spare_columns", "spare_order", "k = r; orders above 100 count as 100."),
        Control("no_floor", "spare_above_floor", "k = r, over the floor of k > r."),
        Control("one_factor", "two_factors_are_exponential", "X X' with as many columns."),
        Control("modified_step", "rate_exponent", "With the modified step."),
        Control("sum_of_squares", "imbalance_drift_exponent", "F'F + G'G, which nothing conserves."),
        Control("unmodified", "modified_rate_exponent", "Without the modified step."),
        Control("unmodified_rate", "modified_rate", "Without the modified step."),
    ),
    plan=_plan,
    run=_run,
    smoke={"size": 24, "rank": 1, "spare": 1, "condition": 1.0, "rate": 0.2},
)
