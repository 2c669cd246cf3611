"""GaLore: all weights trained by Adam in a low-rank subspace of the gradient that is found anew now and then.

Three scenes. Characters of Python's library, learnt by a small transformer: GaLore next to Adam, next to a training
of the output alone, and next to LoRA on frozen random matrices. A planted matrix of full
rank, fitted from zero: no update of rank r can leave less than the Eckart-Young residual, GaLore at rank r does. And
gradient descent whose gradient has the form A - B W C, whose stable rank the paper's lemma bounds.

Two of the paper's observations do not show on characters at this size; they are reported as series, not claimed. LoRA
of equal rank is no worse: at width 32, rank 4 and 1500 steps 2.06 nats next to 2.10 by GaLore and 1.98 by Adam. And the
stable rank of the transformer's gradients rises in training (a control): at first one direction, that of the
frequencies of characters, is nearly all of them.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from separatrix.steer.optim import GaLore
from separatrix.studies._character_transformer import CharacterTransformer, train
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

_QUICK = {"adam": (5e-3, 1e-2), "galore": (4e-2, 8e-2), "lora": (2e-2,), "output": (1e-2,)}
_FULL = {"adam": (2.5e-3, 5e-3), "galore": (2e-2, 4e-2), "lora": (5e-3, 1e-2, 2e-2), "output": (1e-2,)}
_SCALE = 0.25
_SIDE, _FITTING = 48, 400
_DESCENT = 1000


class _LowRank(nn.Module):
    """A frozen matrix and a product of two trained ones, (out, rank) and (rank, in), the first zero at the start."""

    def __init__(self, linear: nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(linear.weight.detach().clone(), requires_grad=False)
        outputs, inputs = self.weight.shape
        self.first = nn.Parameter(torch.randn(rank, inputs, generator=generator) / math.sqrt(inputs))
        self.second = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.weight.T + (inputs @ self.first.T) @ self.second.T


def _with_low_rank(model: CharacterTransformer, rank: int, seed: int) -> CharacterTransformer:
    generator = torch.Generator().manual_seed(seed)
    for block in model.blocks:
        for name, part in list(block.named_children()):
            if isinstance(part, nn.Linear):
                setattr(block, name, _LowRank(part, rank, generator))
    return model


def _optimizer(method: str, model: CharacterTransformer, rate: float, rank: int, gap: int) -> torch.optim.Optimizer:
    matrices = list(model.blocks.parameters())
    known = {id(parameter) for parameter in matrices}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
    if method == "galore":
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": rest, "rank": None, "lr": _SCALE * rate}]
        return GaLore(groups, lr=rate, rank=rank, update_gap=gap, scale=_SCALE)
    if method == "output":
        return torch.optim.Adam(model.output.parameters(), lr=rate)
    return torch.optim.Adam([parameter for parameter in model.parameters() if parameter.requires_grad], lr=rate)


def _stable_rank(gradient: Float[Tensor, "m n"]) -> float:
    squares = torch.linalg.svdvals(gradient.double()).square()
    return float(squares.sum() / squares[0])


def _planted_residual(rank: int, gap: int, seed: int) -> float:
    """Residual of a planted full-rank matrix fitted by GaLore from zero, over the least at that rank."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(_SIDE, _SIDE, generator=generator, dtype=torch.float64)
    weight = nn.Parameter(torch.zeros_like(target))
    optimizer = GaLore([weight], lr=0.05 * _SIDE**0.5, rank=rank, update_gap=gap, scale=_SCALE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / _FITTING)
    for _ in range(_FITTING):
        weight.grad = weight.detach() - target
        optimizer.step()
        schedule.step()
    floor = torch.linalg.svdvals(target)[rank:].square().sum()
    return float((weight.detach() - target).square().sum() / floor)


def _descent(seed: int) -> tuple[list[float], list[float], list[float]]:
    """Stable ranks along gradient descent with G = A - B W C, the lemma's bound, and that bound one eigenvalue on.

    W grows by rate G from zero; the least eigenvalues of B and C are three-fold. The bound is
    sr(G0_par) + ((1 - rate l2) / (1 - rate l1))^(2 t) |G0 - G0_par|_F^2 / |G0_par|_2^2, where l1 < l2 are the least
    products of eigenvalues of B and C, and G0_par is the part of G0 in the eigenspace of l1.

    Source: Zhao et al. 2024, arXiv:2403.03507, lemma 3.3.
    """
    generator = torch.Generator().manual_seed(seed)
    values = torch.linspace(0.1, 1.0, 22, dtype=torch.float64)
    outer, inner = torch.cat([values[:1].repeat(2), values]), torch.cat([values[:1].repeat(3), values[1:]])
    side, rate = len(outer), 0.9
    start, *drawn = torch.randn(3, side, side, generator=generator, dtype=torch.float64)
    left, right = (torch.linalg.qr(matrix).Q for matrix in drawn)
    b, c = (basis * eigenvalues @ basis.T for basis, eigenvalues in ((left, outer), (right, inner)))
    products = outer[:, None] * inner
    first, second, third = (float(value) for value in torch.unique(products.round(decimals=9))[:3])
    inside = torch.where(products < (first + second) / 2, left.T @ start @ right, 0.0)
    outside = float(start.square().sum() - inside.square().sum()) / float(torch.linalg.matrix_norm(inside, 2)) ** 2
    ranks: list[float] = []
    bounds: list[float] = []
    wrong: list[float] = []
    weight = torch.zeros_like(start)
    for step in range(_DESCENT):
        gradient = start - b @ weight @ c
        if step % 25 == 0:
            ranks.append(_stable_rank(gradient))
            for found, later in ((bounds, second), (wrong, third)):
                share = ((1 - rate * later) / (1 - rate * first)) ** (2 * step)
                found.append(_stable_rank(inside) + share * outside)
        weight += rate * gradient
    return ranks, bounds, wrong


def _bytes_of_matrices(model: CharacterTransformer, optimizer: torch.optim.Optimizer) -> int:
    """What the optimizer holds for the matrices of blocks that it trains."""
    states = [optimizer.state[weight] for weight in model.blocks.parameters() if weight in optimizer.state]
    tensors = [value for state in states for value in state.values() if torch.is_tensor(value) and value.dim() == 2]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _counted_bytes(model: CharacterTransformer, rank: int) -> tuple[int, int]:
    """What the paper's table 1 counts for GaLore, m r + 2 n r numbers where m <= n, and Adam's 2 m n."""
    sides = [sorted(weight.shape) for weight in model.blocks.parameters()]
    return sum(4 * (m * rank + 2 * n * rank) for m, n in sides), sum(4 * 2 * m * n for m, n in sides)


@dataclasses.dataclass
class _Trainings:
    """Losses of each method by rate; of the last training by GaLore, the stable ranks that its refreshes saw."""

    losses: dict[str, list[float]]
    held: dict[str, int]
    stable_ranks: list[float]
    counted: int = 0
    plain: int = 0


def _trainings(settings: Settings, seed: int, quick: bool, progress: Progress) -> _Trainings:
    width = 16 * settings["heads"] * (1 if quick else 2)
    layers, steps, batch = (2, 50 * settings["heads"], 8) if quick else (4, 1000, 16)
    rank, gap = width // 4, max(2, steps // settings["subspaces"])
    done = _Trainings({}, {}, [])
    for method, rates in (_QUICK if quick else _FULL).items():
        done.losses[method] = []
        for rate in rates:
            model = CharacterTransformer(width, layers, torch.Generator().manual_seed(seed))
            done.counted, done.plain = (done.counted, done.plain) if done.plain else _counted_bytes(model, rank)
            if method == "lora":
                model = _with_low_rank(model, rank, seed + 1)
            optimizer = _optimizer(method, model, rate, rank, gap)
            found: list[float] = []

            def watch(step: int, optimizer: torch.optim.Optimizer = optimizer, found: list[float] = found) -> None:
                if isinstance(optimizer, GaLore) and step % gap == 1:
                    seen = optimizer.subspaces()
                    found.append(sum(each.stable_rank for each in seen) / len(seen))

            loss = train(model, optimizer, steps=steps, batch=batch, seed=seed, watch=watch)
            done.losses[method].append(loss)
            done.held[method] = _bytes_of_matrices(model, optimizer)
            done.stable_ranks = found or done.stable_ranks
            progress()
    return done


def _plan(settings: Settings, quick: bool) -> Plan:
    runs = sum(len(rates) for rates in (_QUICK if quick else _FULL).values()) + 1
    return Plan(runs=runs, seconds=0.2 * settings["heads"] ** 2 if quick else 11.0 * settings["heads"] ** 2)


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    done = _trainings(settings, seed, quick, progress)
    fitting = max(1, _FITTING // settings["subspaces"])
    residual, frozen = (_planted_residual(_SIDE // 4, gap, seed) for gap in (fitting, _FITTING))
    along, bounds, wrong = _descent(seed)
    progress()
    best = {method: min(found) for method, found in done.losses.items()}
    return Outcome(
        measured={
            "as_good_as_adam": best["galore"] / best["adam"],
            "state_as_counted": done.held["galore"] / done.counted,
            "state_over_adams": done.held["galore"] / done.held["adam"],
            "passes_the_floor_of_its_rank": residual,
            "stable_rank_within_the_lemma": max(a - b for a, b in zip(along, bounds, strict=True)),
            "stable_rank_falls": along[-1] / along[0],
        },
        controls={
            "only_the_output_trained": best["output"] / best["adam"],
            "counted_as_adam": done.held["galore"] / done.plain,
            "state_of_lora": done.held["lora"] / done.held["adam"],
            "subspace_never_found_anew": frozen,
            "next_eigenvalue": max(a - b for a, b in zip(along, wrong, strict=True)),
            "on_text": done.stable_ranks[-1] / done.stable_ranks[0],
        },
        series={
            **{f"{method}_loss": found for method, found in done.losses.items()},
            "text_stable_rank": done.stable_ranks,
            "stable_rank": along,
            "stable_rank_bound": bounds,
        },
    )


study = Study(
    id="18",
    slug="low-rank-gradients",
    paper=Paper(
        title="GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection",
        authors=(
            "Jiawei Zhao",
            "Zhenyu Zhang",
            "Beidi Chen",
            "Zhangyang Wang",
            "Anima Anandkumar",
            "Yuandong Tian",
        ),
        year=2024,
        url="https://arxiv.org/abs/2403.03507",
    ),
    summary="Adam in a moving low-rank subspace does what Adam does, with a third of its memory.",
    settings=(
        Setting("heads", "int", 4, "heads of 16 in the transformer, of rank a quarter of the width", 2, 8),
        Setting("subspaces", "int", 8, "subspaces in a training", 5, 20),
    ),
    statements=(
        Statement(
            "as_good_as_adam",
            "at_most",
            1.05,
            "Loss on fresh text of GaLore over that of Adam, each at the better of two rates: within a few percent.",
        ),
        Statement("state_as_counted", "equal", 1.0, "Bytes held for matrices over m r + 2 n r numbers."),
        Statement(
            "state_over_adams", "at_most", 0.345, "Bytes held for matrices over Adam's; the paper saves up to 65.5 %."
        ),
        Statement(
            "passes_the_floor_of_its_rank",
            "at_most",
            0.5,
            "Residual of a planted full-rank matrix over the least that any matrix of the projection's rank leaves.",
        ),
        Statement(
            "stable_rank_within_the_lemma",
            "at_most",
            0.0,
            "Stable rank of gradients A - B W C above the bound of lemma 3.3, the largest over steps.",
            tolerance=1e-9,
        ),
        Statement("stable_rank_falls", "at_most", 0.5, "Stable rank of those gradients, at the end over at first."),
    ),
    controls=(
        Control("only_the_output_trained", "as_good_as_adam", "All other weights are left as they were drawn."),
        Control("counted_as_adam", "state_as_counted", "Adam's 2 m n numbers."),
        Control("state_of_lora", "state_over_adams", "What Adam holds for LoRA of the same rank."),
        Control("subspace_never_found_anew", "passes_the_floor_of_its_rank", "One subspace for the whole training."),
        Control("next_eigenvalue", "stable_rank_within_the_lemma", "The bound with one eigenvalue further on."),
        Control("on_text", "stable_rank_falls", "Gradients of the transformer, whose stable rank rises."),
    ),
    plan=_plan,
    run=_run,
    smoke={"heads": 2},
)
