"""The model is in the wrong mode: trained in evaluation mode, or evaluated in training mode.

Only layers that differ between the modes matter: dropout with a probability above 0, and normalisation that keeps
running statistics. A model known to have none is unaffected, and nothing is said.

*Training in evaluation mode*: dropout is off, so nothing regularises, and batch normalisation uses the running
statistics, which stay what they were. One sampled step in that mode is a fact; what differs is how it came about. It is
a fault if the model is in evaluation mode for at least half of the steps (somebody never called `train()`), or from an
evaluation on (`eval()` was called for it and not undone) for at least a tenth of them: less could be a probe of the
user's own. Else it looks like a choice (batch statistics frozen for the last steps): info. So it does if most
parameters are frozen, or every normalisation that keeps statistics is and there is no dropout: that is how backbones
are fine-tuned.

*Evaluation in training mode*: dropout stays on, so that losses and accuracies are worse and noisier than the model,
and batch normalisation learns from the evaluation's data. It is a fault if all evaluations of the run's second half
were like that; the training's own metrics under `no_grad` between proper evaluations are none.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from separatrix.analysis.profiles import module_of
from separatrix.analysis.trends import Floats, Integers, listed, tracks
from separatrix.runs import Finding, FindingRule, NotAssessed, Run

_MOST_STEPS = 0.5
_AFTER_EVALUATION = 0.1
_FEWEST_EVALUATIONS = 2
_MOST_FROZEN = 0.5


def assess(run: Run) -> Sequence[Finding] | NotAssessed:
    """At most one finding for training and one for evaluation."""
    training = [track.finite() for track in tracks(run, "training_mode")]
    evaluation = [track.finite() for track in tracks(run, "eval_mode")]
    if not any(map(len, training)) and not any(map(len, evaluation)):
        return NotAssessed(rule.code, ("training_mode or eval_mode",))
    affected = _affected(run)
    if affected is not None and not affected:
        return []
    found = []
    if training and len(training[0]):
        found.append(_training(run, training[0].steps, training[0].values, affected))
    if evaluation and len(evaluation[0]) >= _FEWEST_EVALUATIONS:
        found.append(_evaluation(evaluation[0].steps, evaluation[0].values, affected))
    return [finding for finding in found if finding is not None]


def _affected(run: Run) -> dict[str, str] | None:
    """What the modes change in each layer that they change; None where the run does not tell."""
    told = [module for module in run.modules if "mode_effect" in module]
    if not told:
        return None
    return {str(module["name"]): str(module["mode_effect"]) for module in told if module["mode_effect"]}


def _training(run: Run, steps: Integers, modes: Floats, affected: dict[str, str] | None) -> Finding | None:
    off = modes == 0.0
    if not off.any():
        return None
    last = int(run.series("loss").steps[-1]) if "loss" in run else int(steps[-1])
    # Each sample stands for the steps up to the next one.
    spans = np.diff(np.append(steps, last + 1)).clip(1)
    share = float(spans[off].sum() / spans.sum())
    first = int(steps[np.argmax(off)])
    evaluated = _follows_evaluation(run, steps, off)
    place = (
        f"the evaluation before step {first} left the model in evaluation mode"
        if evaluated
        else f"it was not in force at step {first}"
    )
    meant = affected is None or _deliberate(run, affected)
    fault = share >= _MOST_STEPS or (evaluated and share >= _AFTER_EVALUATION)
    started = "from the first step on" if first == int(steps[0]) else f"since step {first}"
    names = list(affected or ())
    return Finding(
        code=rule.code,
        severity="warning" if fault and not meant else "info",
        confidence=0.95 if share >= _MOST_STEPS else 0.8,
        step=first,
        summary=(
            f"The model trains in evaluation mode {started}, in {share:.0%} of the steps: "
            + (
                f"{_effects(affected)} of {listed(names)} {'is' if len(names) == 1 else 'are'} off."
                if affected
                else "layers that differ between the modes, if it has any, are off."
            )
        ),
        remedy=(
            f"Call model.train() {'before the first step' if first == int(steps[0]) else 'after each evaluation'}"
            f" ({place})."
        ),
        evidence={
            "series": ["training_mode"],
            "labels": names,
            "how": "training in evaluation mode",
            "share_of_steps": share,
            "after_evaluation": evaluated,
        },
        source=rule.source,
    )


def _follows_evaluation(run: Run, steps: Integers, off: np.ndarray) -> bool:
    """Whether an evaluation lies between the last step seen in training mode and the first one seen without."""
    first = int(np.argmax(off))
    before = int(steps[first - 1]) if first else -1
    return any(((track.steps >= before) & (track.steps < steps[first])).any() for track in tracks(run, "eval_mode"))


def _deliberate(run: Run, affected: dict[str, str]) -> bool:
    """Whether this looks like fine-tuning: most parameters frozen, or all that normalises, and nothing drops out."""
    frozen = [not p.get("requires_grad", True) or not p.get("optimizer") for p in run.parameters]
    sizes = [int(p.get("numel", 1)) for p in run.parameters]
    if sum(size for size, is_frozen in zip(sizes, frozen, strict=True) if is_frozen) > _MOST_FROZEN * sum(sizes):
        return True
    own = [f for p, f in zip(run.parameters, frozen, strict=True) if module_of(p) in affected]
    return "dropout" not in affected.values() and bool(own) and all(own)


def _effects(affected: dict[str, str]) -> str:
    words = {"dropout": "dropout", "batch statistics": "the batch statistics"}
    return " and ".join(dict.fromkeys(words.get(effect, effect) for effect in affected.values()))


def _evaluation(steps: Integers, modes: Floats, affected: dict[str, str] | None) -> Finding | None:
    recent = modes[len(modes) // 2 :]
    if (recent != 0.0).any() or affected is None:
        return None
    wrong = modes == 0.0
    names = list(affected)
    return Finding(
        code=rule.code,
        severity="warning",
        confidence=0.9,
        step=int(steps[np.argmax(wrong)]),
        summary=(
            f"The model is evaluated in training mode, in {int(wrong.sum())} of {len(wrong)} evaluations:"
            f" {_effects(affected)} of {listed(names)} {'is' if len(names) == 1 else 'are'} at work there."
        ),
        remedy=(
            "Call model.eval() before each evaluation and model.train() after it: the losses recorded at"
            f" {len(wrong)} evaluations are those of a model with {_effects(affected)} in force."
        ),
        evidence={
            "series": ["eval_mode"],
            "labels": names,
            "how": "evaluation in training mode",
            "evaluations": len(wrong),
            "in_training_mode": int(wrong.sum()),
        },
        source=rule.source,
    )


rule = FindingRule(
    code="eval-mode-training",
    title="Training or evaluation in the wrong mode",
    needs=(),
    source="torch.nn.Module documentation: train() and eval(); Ioffe & Szegedy 2015, arXiv:1502.03167",
    assess=assess,
)
