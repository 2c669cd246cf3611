"""Warm-up, stable rate, decay: short decays from one constant-rate training stand for trainings of every length.

A trunk trains a small transformer on characters of real text at a constant rate. Branches leave it a tenth before each
third of its steps and lower the rate to zero. Beside them cosines are trained whose only decay ends at these lengths.
All schedules share the first fifteenth of the trunk, see equal batches, and are averaged over several starts, since in
a model this small which features come first moves the loss by more than annealing does. The decay is linear; in a
trial the paper's exponential one came within 0.01 nats of it.

Most claims are at one peak rate for all schedules, as in the paper, and at a rate at which noise holds the trunk up.
In trainings of some thousand steps the best rates are lower, and there everything ends lower, a cosine with half of its
steps at a low rate is left behind, and the trunk gains more by itself: in the last tenth 0.12 to 0.25 of what the decay
gains at the rate itself, 0.3 to 0.42 at a quarter, 1.2 to 1.6 at a sixteenth (seeds 0 to 2, quick;
`trunk_share_by_rate` in the series). Gains, and losses over those of cosines, are means over the lengths. That was
decided after a look: at one length, with eight runs, the latter have a standard error of half a percent. With two to
six runs single lengths came to 1.02 and to a share of 0.6.

Of the paper's measurements during the decay, gradients on fixed text become smaller and agree more from checkpoint to
checkpoint. These two bounds were set after trials, in which the cosines were 0.56 to 0.78 at the end of the decay and
0.07 to 0.15 in the trunk. That the curvature along the updates rises is not resolved: at the end over that in the trunk
it came to 2.1, 2.1 and 1.0 at these seeds, and once to -0.1 (`curvature_ratio`).

A scaling law in size and data that is fitted to branches is held against cosines trained anew. Rates go like one over
the width: at one rate for all, width 8 was as good as 16, and at width 24 a rate of 0.028 left branches 1.5 % above
their cosines. Losses read off along the longest cosine, which was thought to be a control, gave nearly the same law (an
error of 0.005, against 0.003 by branches): lengths within a factor three are no test of that. The paper's ratio of data
to parameters belongs to its models and is not looked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from separatrix.analysis.forecasting import Training, fit_scaling
from separatrix.studies._character_copies import CharacterCopies, State, Text
from separatrix.studies._trunk_and_branches import NEVER, SHARES, UNITS, Bench, Losses, trained
from separatrix.studies.study import Control, Outcome, Paper, Plan, Progress, Setting, Settings, Statement, Study
from separatrix.tasks import SourceText

_LENGTH = 16
_ENDS = (40, 80, 120)
_RATES = (0.25, 0.5, 1.0)
_BASE = 16
"""The width to which the setting of the rate belongs."""
_SLOW = 1 / 16
_HELD_OUT, _PROBED = 128, 128
_CHECKPOINTS = 4
_SHIFT = 1e-4


@dataclasses.dataclass(frozen=True)
class _Path:
    """Along a stretch of training in four parts, means over runs.

    `norms` are of gradients on fixed text before each part and at the end, `cosines` between each of these gradients
    and the one before, `curvatures` of the loss at the start of a part in the direction of the part's whole update.
    """

    norms: Float[np.ndarray, " checkpoints"]
    cosines: Float[np.ndarray, " parts"]
    curvatures: Float[np.ndarray, " parts"]


def _path(bench: Bench, state: State, factors: Float[np.ndarray, " steps"]) -> _Path:
    windows = SourceText(length=_LENGTH).windows(_PROBED, torch.Generator().manual_seed(0))

    def slopes(parameters: Tensor) -> Tensor:
        leaf = parameters.detach().requires_grad_()
        losses = bench.model.losses(leaf, windows.expand(len(leaf), -1, -1))
        return torch.autograd.grad(losses.sum(), leaf)[0]

    gradients, curvatures = [slopes(state.parameters.double())], []
    for part in np.array_split(factors, _CHECKPOINTS):
        old = state.parameters.double()
        state, _ = bench.train(state, part[:, None], NEVER)
        way = functional.normalize(state.parameters.double() - old, dim=1)
        bend = slopes(old + _SHIFT * way) - slopes(old - _SHIFT * way)
        curvatures.append((way * bend).sum(1) / (2 * _SHIFT))
        gradients.append(slopes(state.parameters.double()))
    both = torch.stack(gradients)
    return _Path(
        both.norm(dim=2).mean(1).numpy(),
        functional.cosine_similarity(both[1:], both[:-1], dim=2).mean(1).numpy(),
        torch.stack(curvatures).mean(1).numpy(),
    )


def _law_errors(
    sizes: Sequence[int], data: Float[np.ndarray, " ends"], given: Sequence[np.ndarray], cosines: Sequence[np.ndarray]
) -> float:
    """Mean relative error, on cosines (sizes, ends), of the law that is fitted to losses (sizes, ends)."""
    fitted = [
        Training(size, float(seen), float(loss))
        for size, row in zip(sizes, given, strict=True)
        for seen, loss in zip(data, row, strict=True)
    ]
    law = fit_scaling(fitted)
    foretold = np.array([[law.loss(size, float(seen)) for seen in data] for size in sizes])
    return float(np.abs(foretold / np.stack(cosines) - 1).mean())


def _amount(settings: Settings, quick: bool) -> tuple[int, int, tuple[int, ...]]:
    """Steps of a part, runs, and widths, the first of which is looked at most closely."""
    unit, runs, width = settings["steps"] // UNITS, settings["runs"], 4 * round(settings["width"] / 4)
    return (unit, runs, (width, 2 * width)) if quick else (4 * unit, 2 * runs, (width, 2 * width, width // 2))


def _plan(settings: Settings, quick: bool) -> Plan:
    unit, runs, widths = _amount(settings, quick)
    copies = [3 * runs, *[runs] * (len(widths) - 1)]
    a_step = [
        0.0015 + each * (0.0001 + 1e-6 * width * (settings["batch"] + 0.15 * width))
        for each, width in zip(copies, widths, strict=True)
    ]
    return Plan(runs=len(widths) + 1, seconds=2.8 * unit * UNITS * sum(a_step) / (len(widths) + 1))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    unit, runs, widths = _amount(settings, quick)
    text = Text(_LENGTH, settings["batch"], seed, held_out=_HELD_OUT)

    def bench(width: int, factors: Sequence[float]) -> Bench:
        rates = tuple(settings["rate"] * _BASE / width * factor for factor in factors)
        return Bench(CharacterCopies(width, _LENGTH), text, rates, runs, unit)

    first = bench(widths[0], _RATES)
    main, state = trained(first, seed, _ENDS, tuple(SHARES))
    at = len(_RATES) - 1
    kept = [run * len(_RATES) + at for run in range(runs)]
    probed = bench(widths[0], _RATES[at:])
    steps = _ENDS[-1] * unit - state.step
    stable = _path(probed, state.copies(kept), np.ones(steps))
    decay = _path(probed, state.copies(kept), 1 - np.arange(steps) / steps)
    progress()
    slow, _ = trained(bench(widths[0], [_SLOW]), seed, _ENDS[:1], ("tenth",))
    progress()
    found = [main]
    for width in widths[1:]:
        found.append(trained(bench(width, _RATES[at:]), seed, _ENDS, ("tenth",))[0])
        progress()

    sizes = [CharacterCopies(width, _LENGTH).size for width in widths]
    data = np.array(_ENDS) * float(unit * settings["batch"] * _LENGTH)
    cosines = [losses.own_cosines[:, :, -1].mean(1) for losses in found]
    laws = {
        "branches": [losses.branches["tenth"][:, :, -1].mean(1) for losses in found],
        "trunk": [losses.trunk[:, :, -1].mean(1) for losses in found],
        "one_cosine": [losses.cosines[-1, :, :, -1].mean(1) for losses in found],
    }
    errors = {name: _law_errors(sizes, data, losses, cosines) for name, losses in laws.items()}
    tenth, fifth = main.gain("tenth", at), main.gain("fifth", at)
    best = (main.branches["tenth"].mean(1).min(1) / main.own_cosines.mean(1).min(1)).tolist()
    spent = _ENDS[-1] + sum(end // SHARES["tenth"] for end in _ENDS)
    return Outcome(
        measured={
            "the_decay_makes_the_drop": main.trunk_share(at),
            "as_good_as_its_cosine": main.over_cosine(main.branches["tenth"], at),
            "as_good_when_tuned": best,
            "a_tenth_is_enough": tenth / fifth,
            "gradients_shrink": float(decay.norms[-1] / stable.norms.mean()),
            "gradients_agree": float(decay.cosines[-1]),
            "branches_give_the_scaling_law": errors["branches"],
            "steps_are_saved": spent / sum(_ENDS),
        },
        controls={
            "at_a_sixteenth_of_the_rate": slow.trunk_share(0),
            "without_decay": main.over_cosine(main.trunk, at),
            "a_fortieth": main.gain("fortieth", at) / fifth,
            "gradients_of_the_trunk": float(stable.norms[-1] / stable.norms.mean()),
            "agreement_in_the_trunk": float(stable.cosines.mean()),
            "law_of_the_trunk": errors["trunk"],
        },
        series=_series(main, stable, decay)
        | {
            f"branches_of_width_{width}": losses.tolist()
            for width, losses in zip(widths, laws["branches"], strict=True)
        }
        | {f"cosines_of_width_{width}": losses.tolist() for width, losses in zip(widths, cosines, strict=True)}
        | {f"law_error_of_{name}": [error] for name, error in errors.items()}
        | {"steps": [float(end * unit) for end in _ENDS], "rates": list(first.rates)},
    )


def _series(main: Losses, stable: _Path, decay: _Path) -> dict[str, list[float]]:
    """Losses, means over runs, by length and within it by rate; what was seen of gradients and curvature."""
    losses = {"trunk": main.trunk, "cosine": main.own_cosines, **main.branches}
    return {
        **{name: values.mean(1).ravel().tolist() for name, values in losses.items()},
        "trunk_share_by_rate": [main.trunk_share(rate) for rate in range(len(_RATES))],
        "gradient_norms_stable": stable.norms.tolist(),
        "gradient_norms_decay": decay.norms.tolist(),
        "gradient_cosines_stable": stable.cosines.tolist(),
        "gradient_cosines_decay": decay.cosines.tolist(),
        "curvatures_stable": stable.curvatures.tolist(),
        "curvatures_decay": decay.curvatures.tolist(),
        "curvature_ratio": [float(decay.curvatures[-1] / stable.curvatures.mean())],
    }


study = Study(
    id="382",
    slug="warmup-stable-decay",
    paper=Paper(
        title="MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies",
        authors=("Shengding Hu", "Yuge Tu", "Xu Han", "et al."),
        year=2024,
        url="https://arxiv.org/abs/2404.06395",
    ),
    summary="Short decays from one constant-rate training match cosines of every length, and give their scaling law.",
    settings=(
        Setting("steps", "int", 2400, "steps of the trunk; four times as many in full", 1800, 7200),
        Setting(
            "rate",
            "float",
            0.025,
            "highest learning rate of Adam at width 16; it goes like one over the width",
            0.02,
            0.03,
            reason="noise holds a slower trunk up only in longer trainings; a faster one is ever further from the best",
        ),
        Setting("width", "int", 16, "width, to a multiple of 4; others are twice and, in full, half of it", 8, 32),
        Setting("batch", "int", 2, "windows of 16 characters a batch", 1, 4),
        Setting("runs", "int", 8, "starts and orders of the data that are averaged over; twice as many in full", 4, 16),
    ),
    statements=(
        Statement(
            "the_decay_makes_the_drop",
            "at_most",
            1 / 3,
            "What the trunk gains in the last tenth, over what the branch that decays in it gains; means over lengths.",
        ),
        Statement(
            "as_good_as_its_cosine",
            "at_most",
            1.01,
            "Loss of branches with a tenth of decay over that of cosines of their length and rate, mean over lengths.",
        ),
        Statement(
            "as_good_when_tuned",
            "at_most",
            1.01,
            "The same at each length, and each at the best of three rates: the highest, a half and a quarter of it.",
        ),
        Statement(
            "a_tenth_is_enough",
            "at_least",
            2 / 3,
            "What a decay over a tenth gains on the trunk, over what one that is twice as long gains.",
        ),
        Statement(
            "gradients_shrink",
            "at_most",
            0.7,
            "Norm of the gradient on fixed text at the end of the decay, over its mean in the trunk meanwhile.",
        ),
        Statement(
            "gradients_agree",
            "at_least",
            0.35,
            "Cosine between the gradients on fixed text before and after the last quarter of the decay.",
        ),
        Statement(
            "branches_give_the_scaling_law",
            "at_most",
            0.01,
            "Mean relative error, on cosines of every size and length, of the law fitted to branches.",
        ),
        Statement(
            "steps_are_saved",
            "at_most",
            2 / 3,
            "Steps of trunk and branches over those of trainings of each length.",
        ),
    ),
    controls=(
        Control("at_a_sixteenth_of_the_rate", "the_decay_makes_the_drop", "So slow a trunk is held up by no noise."),
        Control("without_decay", "as_good_as_its_cosine", "The trunk itself."),
        Control("a_fortieth", "a_tenth_is_enough", "A decay over a fortieth, which the paper finds too short."),
        Control("gradients_of_the_trunk", "gradients_shrink", "The trunk at the same step."),
        Control("agreement_in_the_trunk", "gradients_agree", "The mean of four such cosines in the trunk meanwhile."),
        Control("law_of_the_trunk", "branches_give_the_scaling_law", "The law fitted to the trunk."),
    ),
    plan=_plan,
    run=_run,
    smoke={"steps": 1800, "runs": 4, "width": 8},
)
