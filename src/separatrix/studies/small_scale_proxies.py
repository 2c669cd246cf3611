"""Small-scale proxies for transformer instability: attention logits, output normalisers, and what keeps them in check.

Transformers of two layers classify handwritten digits, seen as 16 patches, at learning rates over nearly two decades,
without warm-up. All rates and nets of a kind are one batched program, and all kinds see the same images in one order.

Digits take the place of the paper's text: in a quick training on characters attention is hardly used yet, and its
collapse costs too little to tell. Here the output's log-denominator drifts up, where the paper's became very negative;
and loss against rate is lowered by a part rather than flattened over decades.
"""

from __future__ import annotations

import math

import torch

from separatrix.studies._patch_transformer import PATCHES, PatchTransformer, Trained, digit_patches, train
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

_BATCH = 16
_STEPS = 200
_LAST = 20
_HEADS = 2
_SMALL = 4  # times as many of the nets from which is extrapolated, and which cost little
_SHARES = (1 / 80, 1 / 16, 1 / 4, 1.0)
"""Learning rates, over the highest."""


def _train(
    width: int, rates: torch.Tensor, seeds: int, seed: int, *, qk_norm: bool = False, penalty: float = 0.0
) -> Trained:
    """All rates (r,), `seeds` nets each: the copies of a rate are neighbours."""
    images, _ = digit_patches(seed)
    model = PatchTransformer(width, _HEADS, 2, PATCHES, 10, features=4, qk_norm=qk_norm)
    generator = torch.Generator().manual_seed(seed)
    parameters = model.initial(seeds, generator)
    parameters = {name: part.repeat(len(rates), *[1] * (part.dim() - 1)) for name, part in parameters.items()}

    def draw(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.randint(len(images.classes), (seeds, _BATCH), generator=generator).repeat(len(rates), 1)
        return images.patches[rows], images.classes[rows]

    return train(model, parameters, rates.repeat_interleave(seeds), draw, steps=_STEPS, penalty=penalty)


def _end(values: torch.Tensor, seeds: int) -> torch.Tensor:
    """Mean of the last steps by rate and seed, (rates, seeds)."""
    return values[-_LAST:].mean(0).view(-1, seeds)


def _losses(trained: Trained, seeds: int) -> torch.Tensor:
    """Final losses by rate, (rates,), each at most what it was before training; a net that is lost counts as that."""
    start = trained.losses[0].view(-1, seeds)
    end = _end(trained.losses, seeds)
    return torch.minimum(end.where(end.isfinite(), start), start).mean(1)


def _sensitivity(losses: torch.Tensor) -> float:
    """Mean over rates of the loss above the best: the sensitivity to the learning rate, nats."""
    return float((losses - losses.min()).mean())


def _plan(settings: Settings, quick: bool) -> Plan:
    return Plan(runs=5, seconds=(1.0 + settings["nets"] * settings["smallest_head"]) * (1 if quick else 4))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    seeds, width = settings["nets"] * (1 if quick else 4), 8 * settings["smallest_head"]
    rates = settings["rate_times_width"] / width * torch.tensor(_SHARES)
    plain = _train(width, rates, seeds, seed)
    progress()
    normed = _train(width, rates, seeds, seed, qk_norm=True)
    progress()
    penalised = _train(width, rates, seeds, seed, penalty=settings["penalty"])
    progress()
    smaller = []
    for part in (4, 2):
        small = _train(width // part, rates[-1:], _SMALL * seeds, seed)
        smaller.append(float(_end(small.logits, _SMALL * seeds).log().mean()))
        progress()

    logits, normed_logits = (_end(part.logits, seeds).log().mean(1) for part in (plain, normed))
    bound = math.sqrt(width // _HEADS)
    losses = [_losses(part, seeds) for part in (plain, normed, penalised)]
    sensitivities = [_sensitivity(part) for part in losses]
    normalisers, held = (_end(part.normalisers, seeds).abs().mean(1) for part in (plain, penalised))
    predicted = 2.0 * smaller[1] - smaller[0]
    return Outcome(
        measured={
            "attention_logits_grow_with_rate": float((logits[-1] - logits[0]).exp()),
            "qk_norm_bounds_them": float(normed.logits.max()) / bound,
            "growth_costs_loss": float(losses[0][-1] - losses[1][-1]),
            "qk_norm_lowers_sensitivity": sensitivities[1] / sensitivities[0],
            "z_loss_holds_the_normaliser": float(held[-1] / normalisers[-1]),
            "size_predicts_the_logits": abs(predicted - float(logits[-1])),
        },
        controls={
            "qk_norm": float((normed_logits[-1] - normed_logits[0]).exp()),
            "without_qk_norm": float(plain.logits.max()) / bound,
            "low_rate": float(losses[0][0] - losses[1][0]),
            "z_loss_at_a_low_rate": float(held[0] / normalisers[0]),
            "size_does_not_matter": abs(smaller[1] - float(logits[-1])),
        },
        series={
            "rate": rates.tolist(),
            "loss": losses[0].tolist(),
            "qk_norm_loss": losses[1].tolist(),
            "z_loss_loss": losses[2].tolist(),
            "log_largest_logit": logits.tolist(),
            "sensitivity": sensitivities,
            "normaliser": normalisers.tolist(),
            "z_loss_normaliser": held.tolist(),
        },
    )


study = Study(
    id="48",
    slug="small-scale-proxies",
    paper=Paper(
        title="Small-scale proxies for large-scale Transformer training instabilities",
        authors=(
            "Mitchell Wortsman",
            "Peter J. Liu",
            "Lechao Xiao",
            "Katie Everett",
            "Alex Alemi",
            "Ben Adlam",
            "John D. Co-Reyes",
            "Izzeddin Gur",
            "Abhishek Kumar",
            "Roman Novak",
            "Jeffrey Pennington",
            "Jascha Sohl-Dickstein",
            "Kelvin Xu",
            "Jaehoon Lee",
            "Justin Gilmer",
            "Simon Kornblith",
        ),
        year=2023,
        url="https://arxiv.org/abs/2309.14322",
    ),
    summary="At high rates attention logits grow and cost loss, qk-norm prevents it, and smaller nets foretell it.",
    settings=(
        Setting("nets", "int", 2, "nets of each kind and rate, four times as many when not quick", 1, 4),
        Setting(
            "smallest_head",
            "int",
            4,
            "an eighth of the width, of two layers with two heads; heads of the smallest nets have this size",
            4,
            8,
            reason="wider nets exceed a quick run",
        ),
        Setting("rate_times_width", "float", 4.0, "highest learning rate of Adam, times the width", 2.0, 8.0),
        Setting("penalty", "float", 1e-3, "coefficient of z-loss", 1e-3, 4e-3),
    ),
    statements=(
        Statement(
            "attention_logits_grow_with_rate",
            "at_least",
            20.0,
            "Largest attention logit at the highest rate over that at a rate 80 times lower.",
        ),
        Statement(
            "qk_norm_bounds_them",
            "at_most",
            1.0,
            "Largest logit of nets with normalised queries and keys, over the square root of a head's size.",
            tolerance=1e-5,
        ),
        Statement(
            "growth_costs_loss",
            "at_least",
            0.2,
            "Loss at the highest rate above that of nets with normalised queries and keys, nats.",
        ),
        Statement(
            "qk_norm_lowers_sensitivity",
            "at_most",
            0.85,
            "Sensitivity of the loss to the learning rate with normalised queries and keys, over that without.",
        ),
        Statement(
            "z_loss_holds_the_normaliser",
            "at_most",
            0.75,
            "Output log-denominator at the highest rate with z-loss, over that without.",
        ),
        Statement(
            "size_predicts_the_logits",
            "at_most",
            1.0,
            "Error in the log of the largest logit, from a power law through half and a quarter of the width.",
        ),
    ),
    controls=(
        Control("qk_norm", "attention_logits_grow_with_rate", "Queries and keys are normalised."),
        Control("without_qk_norm", "qk_norm_bounds_them", "They are not."),
        Control("low_rate", "growth_costs_loss", "The lowest rate."),
        Control(
            "z_loss_at_a_low_rate", "z_loss_holds_the_normaliser", "The lowest rate, where nothing has drifted yet."
        ),
        Control("size_does_not_matter", "size_predicts_the_logits", "The logit of half the width as the prediction."),
    ),
    plan=_plan,
    run=_run,
    smoke={"nets": 1},
)
