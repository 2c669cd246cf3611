"""Tune small, train large: under the maximal-update parametrization the best learning rate stays as nets widen.

A net of L hidden layers on digits and a transformer on the characters of source text are trained by Adam at rates a
factor 2 apart, at widths from the base's on. Under muP features change by the same amount at every width, so a rate
that is best for the narrow nets is best, to a step of the grid, for the wide ones, and wide nets are at least as good
with it. Under the standard parametrization updates add up with the width, and the best rate falls with it.

Not claimed is that the transferred rate costs the widest nets at most a tenth of their loss: it was 6 % at seed 0 and
25 % at seed 1 (217 % and 87 % under the standard parametrization). Nets of width 512 are near interpolation, with
losses of 0.05 to 0.09, where a step of the grid is worth that much, and their best rate lies a step above the base's.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from separatrix.steer import (
    CoordinateCheck,
    Parametrization,
    TransferSweep,
    coordinate_check,
    judge_transfer,
    parametrize,
)
from separatrix.steer.coordinates import BOUND, parametrized_setup
from separatrix.studies._scaling import CharTransformer, Scaling, digit_batches, losses_by_rate, mlp, text_batches
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

_RULES = ("maximal-update", "standard")
_MLP_RATES = tuple(2.0**power for power in range(-9, 0))
_TEXT_RATES = tuple(2.0**power for power in range(-8, -2))
_BATCH = 64
_WINDOWS = 8


def _sweep(
    scaling: Scaling,
    widths: Sequence[int],
    rates: Sequence[float],
    settings: Settings,
    seeds: Sequence[int],
    text: bool,
) -> TransferSweep:
    steps = settings["text_steps"] if text else settings["steps"]
    losses = np.empty((len(widths), len(rates), len(seeds)))
    for row, width in enumerate(widths):
        for column, seed in enumerate(seeds):
            draw = text_batches(seed, _WINDOWS) if text else digit_batches(seed, _BATCH)
            losses[row, :, column] = losses_by_rate(scaling, width, rates, seed, draw, steps).numpy()
    return judge_transfer(widths, rates, losses)


def _coordinates(rule: str, widths: Sequence[int], settings: Settings, seed: int) -> CoordinateCheck:
    """Changes of every layer of the net on digits over four steps of Adam."""
    build = functools.partial(mlp, layers=settings["layers"])
    small, large = (functools.partial(build, size) for size in (widths[0], 2 * widths[0]))

    def make(model: nn.Module, width: int) -> Parametrization:
        del width
        return parametrize(model, base=small, delta=large, rule=rule)

    setup = parametrized_setup(build, make, torch.optim.Adam, lr=2.0**-9)
    draw = digit_batches(seed, _BATCH)
    layers = [str(2 * index) for index in range(settings["layers"] + 1)]
    seeds = (3 * seed, 3 * seed + 1, 3 * seed + 2)
    return coordinate_check(setup, widths, draw, functional.cross_entropy, seeds=seeds, modules=layers)


def _slopes(check: CoordinateCheck) -> list[float]:
    return [check.slope("feature_change", module).value for module in check.modules]


def _curves(name: str, sweeps: Mapping[str, TransferSweep]) -> dict[str, list[float]]:
    """Mean losses over the grid of rates, by rule and width; where a training broke a large number."""
    return {
        f"{rule}_{name}_of_{size}": np.minimum(row, 1e6).tolist()
        for rule, sweep in sweeps.items()
        for size, row in zip(sweep.sizes, sweep.means, strict=True)
    }


def _widths(settings: Settings, quick: bool) -> tuple[list[int], list[int]]:
    """Those of the nets on digits and of the transformers."""
    smallest = settings["smallest"]
    if quick:
        return [smallest * 4**k for k in range(3)], [smallest, 4 * smallest]
    return [smallest * 2**k for k in range(6)], [smallest * 2**k for k in range(4)]


def _plan(settings: Settings, quick: bool) -> Plan:
    return Plan(
        runs=5 if quick else 6,
        seconds=(2.0 + settings["seeds"]) * (1.0 if quick else 12.0) * (settings["smallest"] / 32) ** 1.5,
    )


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    widths, text_widths = _widths(settings, quick)
    seeds = range(settings["seeds"] * seed, settings["seeds"] * (seed + 1))
    nets = functools.partial(mlp, layers=settings["layers"])
    checks, sweeps, texts = {}, {}, {}
    for rule in _RULES:
        checks[rule] = _coordinates(rule, widths, settings, seed)
        progress()
        sweeps[rule] = _sweep(Scaling(nets, rule, widths[0]), widths, _MLP_RATES, settings, seeds, text=False)
        progress()
    for rule in _RULES[:1] if quick else _RULES:
        scaling = Scaling(CharTransformer, rule, text_widths[0])
        texts[rule] = _sweep(scaling, text_widths, _TEXT_RATES, settings, seeds[:1] if quick else seeds, text=True)
        progress()
    mup, standard = _RULES
    transferred = {rule: sweeps[rule].means[:, sweeps[rule].best[0]] for rule in _RULES}
    return Outcome(
        measured={
            "features_change_alike": [abs(slope) for slope in _slopes(checks[mup])],
            "best_rate_of_nets_stays": abs(sweeps[mup].drift),
            "best_rate_of_transformers_stays": abs(texts[mup].drift),
            "standard_rate_drifts": -sweeps[standard].drift,
            "wider_is_better": transferred[mup].tolist(),
        },
        controls={
            "standard_features": [abs(slope) for slope in _slopes(checks[standard])],
            "standard_rates": abs(sweeps[standard].drift),
            "maximal_update_drifts": -sweeps[mup].drift,
        },
        series={
            "width": widths,
            "log2_rate": np.log2(_MLP_RATES).tolist(),
            **{f"{rule}_optimum": sweeps[rule].optima for rule in _RULES},
            **{
                f"{rule}_loss_of_{w}": row.tolist()
                for rule in _RULES
                for w, row in zip(widths, sweeps[rule].means, strict=True)
            },
            "text_width": text_widths,
            "text_log2_rate": np.log2(_TEXT_RATES).tolist(),
            **{f"{rule}_text_optimum": sweep.optima for rule, sweep in texts.items()},
            **_curves("text_loss", texts),
        },
    )


study = Study(
    id="319",
    slug="hyperparameter-transfer",
    paper=Paper(
        title="Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer",
        authors=(
            "Greg Yang",
            "Edward J. Hu",
            "Igor Babuschkin",
            "Szymon Sidor",
            "Xiaodong Liu",
            "David Farhi",
            "Nick Ryder",
            "Jakub Pachocki",
            "Weizhu Chen",
            "Jianfeng Gao",
        ),
        year=2022,
        url="https://arxiv.org/abs/2203.03466",
    ),
    summary="Under muP the best rate of a narrow net is that of a wide one; under the standard one it drifts.",
    settings=(
        Setting("smallest", "int", 32, "smallest width, the base that is tuned", 16, 64),
        Setting("layers", "int", 2, "hidden layers of the nets on digits", 1, 4),
        Setting("seeds", "int", 2, "starts of each net, of which losses are averaged", 1, 4),
        Setting("steps", "int", 60, "steps of the nets on digits", 40, 160),
        Setting("text_steps", "int", 60, "steps of the transformers", 40, 160),
    ),
    statements=(
        Statement(
            "features_change_alike",
            "at_most",
            BOUND,
            "Exponents of the width in each layer's change over four steps, without sign, at most half of the smallest "
            "by which other parametrizations are off.",
        ),
        Statement(
            "best_rate_of_nets_stays",
            "at_most",
            1.0,
            "Steps of the grid (factors of 2) between best rates of narrow and wider nets on digits.",
        ),
        Statement(
            "best_rate_of_transformers_stays",
            "at_most",
            1.0,
            "The same of transformers on text.",
        ),
        Statement(
            "standard_rate_drifts",
            "at_least",
            2.0,
            "Steps down to the best rate of the widest nets on digits under the standard parametrization.",
        ),
        Statement(
            "wider_is_better",
            "monotone",
            "decreasing",
            "Loss on digits at the narrowest nets' best rate, by width.",
            tolerance=0.02,
        ),
    ),
    controls=(
        Control("standard_features", "features_change_alike", "The standard parametrization."),
        Control("standard_rates", "best_rate_of_nets_stays", "The standard parametrization."),
        Control("maximal_update_drifts", "standard_rate_drifts", "The maximal-update parametrization."),
    ),
    plan=_plan,
    run=_run,
    smoke={"smallest": 16, "seeds": 1, "steps": 40, "text_steps": 40},
)
