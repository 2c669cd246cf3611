"""The tables of a benchmark as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.faults.catalogue import HEALTHY
from benchmarks.faults.scoring import (
    Share,
    alarms,
    cause_placed_first,
    confusion,
    false_alarms,
    found,
    placed_first,
    precision,
    rows,
)
from benchmarks.faults.trials import Trial


def report(trials: Sequence[Trial]) -> str:
    """Recall and precision by code, the sums, the confusion table, and each trial that went wrong.

    Trials that gave no diagnosis count nowhere; they are named last.
    """
    failed = [trial for trial in trials if not trial.diagnosed]
    trials = [trial for trial in trials if trial.diagnosed]
    lines = ["| code | recall | as info only | placed first | precision |", "|---|---|---|---|---|"]
    for row in rows(trials):
        shares = (text(row.recall), str(row.info_only), text(row.first), text(row.precision))
        lines.append(f"| {row.code} | {' | '.join(shares)} |")
    planted = [trial for trial in trials if trial.code != HEALTHY]
    recall = Share(sum(map(found, planted)), len(planted))
    lines += [
        "",
        f"Planted faults found: {text(recall)}. Placed first: {text(placed_first(trials))}, with causes"
        f" {text(cause_placed_first(trials))}. Alarms that are right: {text(precision(trials))}."
        f" Healthy trainings with an alarm: {text(false_alarms(trials))}.",
        "",
        "| planted | first finding |",
        "|---|---|",
    ]
    for code, counts in confusion(trials).items():
        lines.append(f"| {code} | {', '.join(f'{name} {count}' for name, count in counts.most_common())} |")
    wrong = [line for trial in trials for line in _complaints(trial)]
    lines += ["", *(wrong or ["Every trial is right."])]
    if failed:
        lines += ["", f"{len(failed)} trials gave no diagnosis and are not counted:"]
        lines += [f"- {trial.code}/{trial.name}, seed {trial.seed}: {trial.trouble}" for trial in failed]
    return "\n".join(lines)


def text(share: Share) -> str:
    """A share as `hits/trials = value (interval)`."""
    if not share.trials:
        return "-"
    low, high = share.interval
    return f"{share.hits}/{share.trials} = {share.value:.2f} ({low:.2f} to {high:.2f})"


def _complaints(trial: Trial) -> list[str]:
    place = f"- {trial.code}/{trial.name}, seed {trial.seed}"
    said = []
    if trial.trouble:
        said.append(f"{place}: exit {trial.exit_code}, {trial.trouble}")
    if trial.code != HEALTHY and not found(trial):
        said.append(f"{place}: missed")
    said += [f"{place}: wrong alarm {code}" for code, right in alarms(trial).items() if not right]
    return said
