"""Memorisation: the training examples are fitted while the evaluation accuracy stays where it began.

Training accuracy is 0.95 or more, evaluation accuracy has gained less than a quarter of what training has, and this
lasts at least as long as fitting took. A network that overfits a little gains on both and is none.
"""

from __future__ import annotations

from separatrix.analysis.phases.named._fitting import fitting_of
from separatrix.analysis.phases.phase import Phase, PhaseRule
from separatrix.runs import Run


def find(run: Run) -> list[Phase]:
    """From the step at which training accuracy is high for good until evaluation accuracy moves, or to the end."""
    found = fitting_of(run)
    if found is None:
        return []
    end = found.stays_until if found.rises is None else max(found.fitted, min(found.rises, found.stays_until))
    evidence = {
        "series": ["accuracy", "eval_accuracy"],
        "fitted_at": found.fitted,
        "eval_accuracy": found.start_level,
        "train_accuracy": found.train_level,
    }
    return [Phase(rule.name, found.fitted, end, evidence, 0.9 if end - found.fitted > 2 * found.fitted else 0.75)]


rule = PhaseRule(
    name="memorisation",
    title="Training examples are fitted, evaluation stays where it began",
    needs=(("accuracy",), ("eval_accuracy",)),
    source="Power et al. 2022, arXiv:2201.02177",
    find=find,
)
