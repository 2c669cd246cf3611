"""What a run is, in a few words: the facts that stand above a report and a terminal summary."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from separatrix.view.text import count, duration, number

if TYPE_CHECKING:
    from separatrix.runs import Finding, Run, Segment

SEVERITY_WORDS = {"error": "Error", "warning": "Warning", "info": "Note"}
STATUS_WORDS = {
    "running": "still running",
    "finished": "finished",
    "crashed": "crashed",
    "interrupted": "interrupted",
    "killed": "killed",
}


@dataclasses.dataclass(frozen=True)
class Facts:
    """The head of a summary: how the run stands, its last step if any, and labelled facts in order."""

    name: str
    status: str
    last_step: int | None
    rows: tuple[tuple[str, str], ...]


def facts(run: Run) -> Facts:
    """Status, steps, duration, model, optimizer and loss of a run; what is unknown is left out."""
    segments = run.segments
    last = last_step(run, segments)
    rows: list[tuple[str, str]] = []
    if last is not None:
        rows.append(("Steps", f"{last:,}"))
    seconds = sum(segment.ended - segment.started for segment in segments if segment.ended is not None)
    imported = run.config.get("imported_from")
    if imported:
        rows.append(("Imported from", str(imported)))
    elif seconds > 0:
        rows.append(("Duration", duration(seconds)))
    rows += _described("Model", run.config.get("models"), _model)
    rows += _described("Optimizer", run.config.get("optimizers"), _optimizer)
    rows += _loss(run)
    if "overhead" in run and not run.series("overhead").coords and run.series("overhead").values.size:
        rows.append(("Recording overhead", f"{100 * float(run.series('overhead').values[-1]):.2g} %"))
    return Facts(run.name, STATUS_WORDS.get(run.status.value, run.status.value), last, tuple(rows))


def last_step(run: Run, segments: Sequence[Segment]) -> int | None:
    """The last step of a run, from its segments or, where these do not say, from its loss."""
    known = [segment.last_step for segment in segments if segment.last_step is not None]
    if "loss" in run:
        known += [int(step) for step in run.series("loss").steps[-1:]]
    return max(known, default=None)


def verdict(findings: Sequence[Finding]) -> str:
    """One phrase for all findings: `2 errors, 1 warning`, or that nothing wrong was found."""
    amounts = {word: sum(f.severity == severity for f in findings) for severity, word in SEVERITY_WORDS.items()}
    found = [count(amount, word.lower()) for word, amount in amounts.items() if amount]
    return ", ".join(found) if found else "Nothing wrong found"


def segment_notes(segments: Sequence[Segment]) -> list[str]:
    """For each segment after the first: whether it overlaps the one before it or leaves a gap."""
    notes = []
    for before, after in itertools.pairwise(segments):
        if before.last_step is None or after.first_step is None:
            notes.append(f"Segment {after.index + 1}: steps not known yet.")
        elif after.first_step <= before.last_step:
            steps = _span(after.first_step, before.last_step)
            notes.append(
                f"Segment {after.index + 1} overlaps the one before it: {steps} recorded twice; the later ones count."
            )
        elif after.first_step > before.last_step + 1:
            steps = _span(before.last_step + 1, after.first_step - 1)
            notes.append(f"Gap before segment {after.index + 1}: {steps} not recorded.")
        else:
            notes.append(f"Segment {after.index + 1} continues without overlap or gap at step {after.first_step:,}.")
    return notes


def _span(first: int, last: int) -> str:
    return f"step {first:,} was" if first == last else f"steps {first:,} to {last:,} were"


def _described(label: str, entries: Any, describe: Any) -> list[tuple[str, str]]:
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        return []
    texts = [describe(entry) for entry in entries if isinstance(entry, Mapping)]
    return [(label if len(texts) == 1 else f"{label}s", "; ".join(texts))] if texts else []


def _model(entry: Mapping[str, Any]) -> str:
    parameters = entry.get("parameters")
    size = f", {count(parameters, 'parameter')}" if isinstance(parameters, int) else ""
    return f"{entry.get('class', entry.get('name', 'unknown'))}{size}"


def _optimizer(entry: Mapping[str, Any]) -> str:
    defaults = entry.get("defaults")
    rate = defaults.get("lr") if isinstance(defaults, Mapping) else None
    told = f", learning rate {number(float(rate))}" if isinstance(rate, int | float) else ""
    return f"{entry.get('class', entry.get('name', 'unknown'))}{told}"


def _loss(run: Run) -> list[tuple[str, str]]:
    rows = []
    for label, name in (("Loss", "loss"), ("Evaluation loss", "eval_loss")):
        if name not in run:
            continue
        data = run.series(name)
        if not data.coords and data.values.size:
            rows.append((label, f"{number(float(data.values[0]))} at first, {number(float(data.values[-1]))} at last"))
    return rows
