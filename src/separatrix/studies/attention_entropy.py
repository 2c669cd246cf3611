"""Attention-entropy collapse: its lower bound, its onset at high rates, and sigma-reparametrisation that prevents it.

Transformers of two layers see handwritten digits as 16 patches, and train without warm-up or weight decay. All seeds
and rates of a kind are one batched program.

Past the range of rates below, reparametrised nets no longer learn either, and of many nets one loses its entropy: at
rate times width of 1.2 the least of eight ended at 0.49 nats, seed 2, where 0.5 are asked.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from separatrix.probes._attention import smallest_entropy
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

_STEPS, _DESCENT_STEPS = 200, 300
_BATCH = 32
_LAST = 30
_ROWS = 64  # test images whose rows of attention are held against the bound
_CALM = 1 / 20
_NORMS = (1.0, 2.0, 4.0, 6.0, 8.0)


@dataclasses.dataclass(frozen=True)
class _Ending:
    """A training, test accuracies by rate, and attention logits of the test images by layer."""

    trained: Trained
    accuracies: list[float]
    attention: list[torch.Tensor]


def _least_entropy(norm: float, keys: int, generator: torch.Generator) -> float:
    """Least entropy of a softmax over `keys` logits of that norm that gradient descent from drawn starts finds.

    Starts lean on one key, since uniform ones sit on the maximum; nothing is known of the other entries.
    """
    logits = torch.randn(32, keys, dtype=torch.float64, generator=generator)
    logits[:, 0] += 3.0
    for step in range(400):
        leaf = logits.detach().requires_grad_()
        scaled = norm * leaf / leaf.norm(dim=1, keepdim=True)
        entropy = _entropy(scaled)
        (gradient,) = torch.autograd.grad(entropy.sum(), leaf)
        logits = logits - 0.3 * 0.98**step * leaf.norm(dim=1, keepdim=True).detach() * gradient / (
            gradient.norm(dim=1, keepdim=True) + 1e-30
        )
    return float(entropy.detach().min())


def _entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropies of the softmax over the last dimension, nats."""
    entropies: torch.Tensor = torch.special.entr(logits.softmax(-1)).sum(-1)
    return entropies


def _alternating(keys: int) -> torch.Tensor:
    """Logits (keys,) of norm 1 of which half are up and half down."""
    return torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(keys // 2) / math.sqrt(keys)


def _margin(attention: list[torch.Tensor], share: float = 1.0) -> float:
    """Least entropy of a row above its bound, over rows of logits (copies, examples, heads, queries, keys), nats.

    The bound takes `share` of the spectral norm of the row's matrix.
    """
    least = math.inf
    for logits in attention:
        wide = logits.double()
        norms = share * torch.linalg.matrix_norm(wide, ord=2)[..., None]
        entropy = _entropy(wide)
        least = min(least, float((entropy - smallest_entropy(norms, torch.tensor(wide.shape[-1]))).min()))
    return least


def _worst_matrix(norm: float, keys: int) -> torch.Tensor:
    """Logits (1, 1, 1, 1, keys) of that spectral norm: one key stands out against equal others."""
    row = torch.full((1, 1, 1, 1, keys), -1.0 / (keys - 1), dtype=torch.float64)
    row[..., 0] = 1.0
    return row * (norm / float(row.norm()))


def _end(values: torch.Tensor) -> torch.Tensor:
    """Mean of the last steps, (copies,)."""
    mean: torch.Tensor = values[-_LAST:].mean(0)
    return mean


def _plan(settings: Settings, quick: bool) -> Plan:
    return Plan(runs=4, seconds=(1.0 + 0.3 * settings["nets"] * settings["head_size"]) * (1 if quick else 4))


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    seeds = settings["nets"] * (1 if quick else 4)
    generator = torch.Generator().manual_seed(seed)
    fitted, fresh = digit_patches(seed)
    width = 2 * settings["head_size"]
    rate = settings["rate_times_width"] / width

    def run(spectral: bool, rates: tuple[float, ...], plain: bool = False) -> _Ending:
        model = PatchTransformer(width, 2, 2, PATCHES, 10, features=4, normalised=not plain, spectral=spectral)
        own = torch.Generator().manual_seed(seed)
        parameters = model.initial(seeds, own)
        parameters = {name: part.repeat(len(rates), *[1] * (part.dim() - 1)) for name, part in parameters.items()}

        def draw(step: int) -> tuple[torch.Tensor, torch.Tensor]:
            rows = torch.randint(len(fitted.classes), (seeds, _BATCH), generator=own)
            rows = rows.repeat(len(rates), 1)
            return fitted.patches[rows], fitted.classes[rows]

        every = torch.tensor(rates).repeat_interleave(seeds)
        trained = train(model, parameters, every, draw, steps=_DESCENT_STEPS if plain else _STEPS, adaptive=not plain)
        progress()
        with torch.no_grad():
            outputs, attention = model(trained.parameters, fresh.patches.expand(len(every), *fresh.patches.shape))
        right = (outputs.argmax(2) == fresh.classes).double().mean(1)
        return _Ending(trained, right.view(len(rates), seeds).mean(1).tolist(), attention)

    base = run(False, (rate, _CALM * rate))
    spectral = run(True, (rate,))
    bare, broken = (run(kind, (settings["descent_rate"],), plain=True) for kind in (True, False))
    attention = [logits[:, :_ROWS] for ending in (base, spectral) for logits in ending.attention]
    drawn = [4.0 * torch.randn(1, 64, 1, 16, 16, generator=generator)]
    found = [_least_entropy(norm, 16, generator) for norm in _NORMS]
    bound = smallest_entropy(torch.tensor(_NORMS), torch.tensor(16)).tolist()
    level = [float(_entropy(norm * _alternating(16))) for norm in _NORMS]
    worst = [_worst_matrix(4.0, 16)]
    return Outcome(
        measured={
            "entropy_stays_above_the_bound": [_margin(part) for part in (attention, drawn, worst)],
            "search_finds_the_bound": [a / b for a, b in zip(found, bound, strict=True)],
            "entropy_collapses": float(_end(base.trained.entropies)[:seeds].max()),
            "reparametrised_entropy_stays": float(_end(spectral.trained.entropies).min()),
            "collapse_costs_accuracy": base.accuracies[1] - base.accuracies[0],
            "learns_without_norms_or_adam": bare.accuracies[0],
        },
        controls={
            "half_the_norm": [_margin(part, 0.5) for part in (attention, drawn, worst)],
            "no_outstanding_key": [a / b for a, b in zip(level, bound, strict=True)],
            "low_rate": float(_end(base.trained.entropies)[seeds:].min()),
            "plain_entropy": float(_end(base.trained.entropies)[:seeds].min()),
            "reparametrised": base.accuracies[1] - spectral.accuracies[0],
            "descent_without_reparametrisation": broken.accuracies[0],
        },
        series={
            "entropy": base.trained.entropies[:, 0].tolist(),
            "loss": base.trained.losses[:, 0].tolist(),
            "reparametrised_entropy": spectral.trained.entropies[:, 0].tolist(),
            "reparametrised_loss": spectral.trained.losses[:, 0].tolist(),
        },
    )


study = Study(
    id="380",
    slug="attention-entropy",
    paper=Paper(
        title="Stabilizing Transformer Training by Preventing Attention Entropy Collapse",
        authors=(
            "Shuangfei Zhai",
            "Tatiana Likhomanenko",
            "Etai Littwin",
            "Dan Busbridge",
            "Jason Ramapuram",
            "Yizhe Zhang",
            "Jiatao Gu",
            "Josh Susskind",
        ),
        year=2023,
        url="https://arxiv.org/abs/2303.06296",
    ),
    summary="High rates collapse attention on single keys and cost accuracy; sigma-reparametrisation prevents both.",
    settings=(
        Setting("nets", "int", 2, "nets of each kind, four times as many when not quick", 1, 4),
        Setting(
            "head_size",
            "int",
            16,
            "size of each of two heads in each of two layers, half of the width",
            16,
            32,
            reason="narrower ones collapse late, wider ones exceed a quick run",
        ),
        Setting(
            "rate_times_width",
            "float",
            1.0,
            "high learning rate of Adam, times the width",
            0.9,
            1.1,
            reason="below, collapse takes more steps; above, some reparametrised nets lose their entropy too",
        ),
        Setting(
            "descent_rate",
            "float",
            0.1,
            "learning rate of gradient descent with momentum 0.9, for nets without norms",
            0.1,
            0.2,
            reason="below, nets that are not reparametrised train as well; above, neither does",
        ),
    ),
    statements=(
        Statement(
            "entropy_stays_above_the_bound",
            "at_least",
            0.0,
            "Least entropy of a row above the bound of its matrix's spectral norm: trained, drawn and worst logits.",
            tolerance=1e-9,
        ),
        Statement(
            "search_finds_the_bound",
            "equal",
            1.0,
            "Least entropy that descent over logits of norms 1 to 8 finds, over the bound: it is tight.",
            tolerance=1e-3,
        ),
        Statement(
            "entropy_collapses",
            "at_most",
            0.25,
            "At the high rate the least mean entropy of a layer ends here, in nats, of log 16 = 2.77, in every net.",
        ),
        Statement(
            "reparametrised_entropy_stays",
            "at_least",
            0.5,
            "At the same rate that of the sigma-reparametrised nets ends here.",
        ),
        Statement(
            "collapse_costs_accuracy",
            "at_least",
            0.06,
            "Test accuracy lost at the high rate, against a rate 20 times lower.",
        ),
        Statement(
            "learns_without_norms_or_adam",
            "at_least",
            0.4,
            "Test accuracy of reparametrised nets without layer norms, by gradient descent with momentum.",
        ),
    ),
    controls=(
        Control("half_the_norm", "entropy_stays_above_the_bound", "A bound from half of the spectral norm."),
        Control("no_outstanding_key", "search_finds_the_bound", "Rows of the same norms with half of the keys up."),
        Control("low_rate", "entropy_collapses", "A rate 20 times lower."),
        Control("plain_entropy", "reparametrised_entropy_stays", "The nets that are not reparametrised."),
        Control("reparametrised", "collapse_costs_accuracy", "The reparametrised nets at the high rate."),
        Control(
            "descent_without_reparametrisation",
            "learns_without_norms_or_adam",
            "The same nets, not reparametrised.",
        ),
    ),
    plan=_plan,
    run=_run,
    smoke={"nets": 1},
)
