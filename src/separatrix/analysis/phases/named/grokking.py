"""Grokking: evaluation accuracy jumps long after training accuracy did.

A memorisation came before, and evaluation accuracy then gains at least half of what training gained and keeps it. The
phase is the jump: from a tenth to nine tenths of the rise.
"""

from __future__ import annotations

from separatrix.analysis.phases.named._fitting import fitting_of
from separatrix.analysis.phases.phase import Phase, PhaseRule
from separatrix.runs import Run


def find(run: Run) -> list[Phase]:
    """The jump, if there is one."""
    found = fitting_of(run)
    if found is None or found.rises is None or found.risen is None:
        return []
    evidence = {
        "series": ["accuracy", "eval_accuracy"],
        "fitted_at": found.fitted,
        "delay": found.rises - found.fitted,
        "eval_accuracy_from": found.start_level,
        "eval_accuracy_to": found.final,
    }
    return [Phase(rule.name, found.rises, found.risen, evidence, 0.95 if found.final >= 0.9 else 0.8)]


rule = PhaseRule(
    name="grokking",
    title="Evaluation accuracy jumps long after training accuracy",
    needs=(("accuracy",), ("eval_accuracy",)),
    source="Power et al. 2022, arXiv:2201.02177",
    find=find,
)
