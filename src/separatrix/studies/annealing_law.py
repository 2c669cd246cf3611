"""The scaling law with learning-rate annealing: one constant and one cosine run foretell other schedules' curves.

A small transformer on characters of real text trains under five schedules. The law is fitted to the validation losses
of two of them, without their first tenth, and judged on the other three.

In a model this small trainings that differ a little soon differ for good: which features come first moves the loss by
2 to 5 %, more than annealing does. All schedules therefore go on from one state after a quarter of the steps at the
highest rate, on equal batches, and several such families are averaged. Trained apart from the start, with two runs a
schedule, errors were 0.4 to 1.1 % and the ranking was wrong. The law's memory, a constant of 0.99 to 0.999 in the
paper, is fitted too, since a training of some thousand steps has shorter times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from separatrix.analysis.forecasting import Curve, Fitted, fit
from separatrix.steer.schedules import Schedule, constant, cosine, step_decay, wsd
from separatrix.studies._character_copies import CharacterCopies, State, Text, begin, train
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

_LENGTH = 16
_SHARED = 0.25
_WARMUP = 0.025
_VALIDATIONS = 50
_LAST = 2
_FITTED = ("constant", "cosine")
_HELD_OUT = ("wsd", "two steps", "cosine to zero")


def _schedules(steps: int) -> tuple[np.ndarray, dict[str, Schedule]]:
    """Factors of the first quarter, which all share, and schedules of the rest; falls are at shares of the whole."""
    shared = round(_SHARED * steps)
    first = constant(shared, warmup=max(1, round(_WARMUP * steps))).values()
    rest = steps - shared
    falls = tuple((share * steps - shared) / rest for share in (0.6, 0.8))
    return first, {
        "constant": constant(rest),
        "cosine": cosine(rest, final=0.1),
        "wsd": wsd(rest, cooldown=round(0.2 * steps)),
        "two steps": step_decay(rest, at=falls, factor=10**-0.5),
        "cosine to zero": cosine(rest),
    }


def _trained(settings: Settings, steps: int, runs: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Learning rates by schedule, and validation losses (times, runs, schedules)."""
    generator = torch.Generator().manual_seed(seed)
    model = CharacterCopies(2 * round(settings["width"] / 2), _LENGTH)
    text = Text(_LENGTH, settings["batch"], seed, held_out=96)
    first, schedules = _schedules(steps)
    every = steps // _VALIDATIONS

    def follow(state: State, factors: np.ndarray, streams: Sequence[int]) -> tuple[State, torch.Tensor]:
        table = torch.from_numpy(settings["rate"] * factors).float()
        return train(model, state, table, text, streams, every=every)

    start = begin(model, runs, generator)
    state, early = follow(start, np.tile(first[:, None], runs), range(runs))
    streams = [run for run in range(runs) for _ in schedules]
    factors = np.stack([made.values() for made in schedules.values()], 1)
    _, late = follow(state.copies(streams), np.tile(factors, runs), streams)
    losses = torch.cat([early.repeat_interleave(len(schedules), 1), late])
    rates = {name: settings["rate"] * np.concatenate([first, made.values()]) for name, made in schedules.items()}
    return rates, losses.view(len(losses), runs, len(schedules)).double().numpy()


def _errors(fitted: Fitted, curves: Mapping[str, Curve]) -> list[float]:
    """Mean relative error of each held-out curve, from its first tenth on."""
    found = []
    for name in _HELD_OUT:
        curve = curves[name].settled()
        found.append(float(np.abs(fitted.predict(curve.rates)[curve.updates - 1] / curve.losses - 1).mean()))
    return found


def _ends(fitted: Fitted, curves: Mapping[str, Curve]) -> np.ndarray:
    """The law's losses where the last validations were, mean by schedule (schedules,)."""
    found = [
        fitted.predict(curve.rates)[curve.updates[-_LAST:] - 1].mean() for curve in map(curves.__getitem__, _HELD_OUT)
    ]
    return np.array(found)


def _ranked(foretold: np.ndarray, ends: np.ndarray) -> float:
    """Share of pairs of schedules in the right order, of those that differ by more than two standard errors.

    `ends` (runs, schedules) are the last losses. Runs of equal number see equal batches, so errors are those of
    differences. NaN if no pair differs.
    """
    right: list[bool] = []
    for one in range(len(foretold)):
        for other in range(one):
            gaps = ends[:, one] - ends[:, other]
            error = gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
            if abs(gaps.mean()) > 2 * error:
                right.append(bool((foretold[one] - foretold[other]) * gaps.mean() > 0))
    return float(np.mean(right)) if right else float("nan")


def _plan(settings: Settings, quick: bool) -> Plan:
    steps, runs = _amount(settings, quick)
    return Plan(runs=1, seconds=steps * (0.002 + runs * (0.0004 + settings["width"] * settings["batch"] * 1.2e-5)))


def _amount(settings: Settings, quick: bool) -> tuple[int, int]:
    """Steps, and runs a schedule."""
    steps = int(settings["steps"])
    return (steps, settings["runs"]) if quick else (4 * steps, 2 * settings["runs"])


def _run(settings: Settings, seed: int, quick: bool, progress: Progress) -> Outcome:
    steps, runs = _amount(settings, quick)
    rates, losses = _trained(settings, steps, runs, seed)
    progress()
    every = steps // _VALIDATIONS
    updates = np.arange(every, every * len(losses) + 1, every)
    mean = losses.mean(1)
    curves = {name: Curve(updates, mean[:, index], rates[name], name) for index, name in enumerate(rates)}
    given = [curves[name].settled() for name in _FITTED]
    law, without, plain, relaxed = (fit(given, name) for name in ("annealing", "forward", "power", "relaxation"))
    held = [list(rates).index(name) for name in _HELD_OUT]
    ends = losses[-_LAST:].mean(0)[:, held]
    return Outcome(
        measured={
            "other_schedules_are_foretold": _errors(law, curves),
            "two_curves_follow_the_law": float(np.abs(law.residuals).mean()),
            "schedules_are_ranked": _ranked(_ends(law, curves), ends),
        },
        controls={
            "without_annealing": _errors(without, curves),
            "two_curves_without_annealing": float(np.abs(without.residuals).mean()),
            "ranked_by_a_plain_power_law": _ranked(_ends(plain, curves), ends),
        },
        series=_series(curves, {"law": law, "without": without, "relaxation": relaxed, "power": plain}),
    )


def _series(curves: Mapping[str, Curve], laws: Mapping[str, Fitted]) -> dict[str, Sequence[float]]:
    found: dict[str, Sequence[float]] = {"step": curves["constant"].updates.tolist()}
    for name, curve in curves.items():
        found[name.replace(" ", "_")] = curve.losses.tolist()
    for label, law in laws.items():
        found[f"{label}_errors"] = _errors(law, curves)
        found[f"{label}_ends"] = _ends(law, curves).tolist()
    return found


study = Study(
    id="459",
    slug="annealing-law",
    paper=Paper(
        title="Scaling Law with Learning Rate Annealing",
        authors=("Howe Tissue", "Venus Wang", "Lu Wang"),
        year=2024,
        url="https://arxiv.org/abs/2408.11029",
    ),
    summary="Loss is a power of the area under the rates less an annealing area: two curves foretell other schedules.",
    settings=(
        Setting("steps", "int", 2400, "steps of a training; four times as many in full", 1200, 4800),
        Setting("rate", "float", 0.01, "highest learning rate of Adam", 0.005, 0.02),
        Setting("width", "int", 24, "width of the transformer, made even", 16, 64),
        Setting("batch", "int", 8, "windows of 16 characters a batch", 4, 16),
        Setting("runs", "int", 4, "starts and orders of the data that are averaged over; twice as many in full", 2, 8),
    ),
    statements=(
        Statement(
            "other_schedules_are_foretold",
            "at_most",
            0.01,
            "Mean relative error of the validation loss under WSD, two steps and cosine to zero, each.",
        ),
        Statement(
            "two_curves_follow_the_law",
            "at_most",
            0.005,
            "Mean relative error of the two curves that the law is fitted to.",
        ),
        Statement(
            "schedules_are_ranked",
            "equal",
            1.0,
            "Share of pairs of schedules whose last losses are foretold in the right order, of those that differ by"
            " more than two standard errors.",
        ),
    ),
    controls=(
        Control("without_annealing", "other_schedules_are_foretold", "The law without the annealing area."),
        Control("two_curves_without_annealing", "two_curves_follow_the_law", "The same, where it is fitted."),
        Control("ranked_by_a_plain_power_law", "schedules_are_ranked", "A power law of the steps knows no schedules."),
    ),
    plan=_plan,
    run=_run,
    smoke={"steps": 1200, "width": 16, "batch": 4, "runs": 2},
)
