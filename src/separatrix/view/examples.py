"""The examples panel of the report: which were hardest, most forgotten, or are suspected to carry a wrong label."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from separatrix.analysis import examples
from separatrix.runs import Run
from separatrix.runs.thumbnails import thumbnails
from separatrix.view.pictures import picture
from separatrix.view.text import count, number

SHOWN = 12
"""Rows of a list."""

_MOST_CELLS = 20_000_000
_SUSPICION = 0.5
_FEWEST_PASSES = 2


@dataclasses.dataclass(frozen=True)
class ExampleList:
    """A titled table: what it holds in a sentence, its head and its rows."""

    title: str
    summary: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    pictures: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Images as data addresses, by the label in the first column."""


def series_of_examples(run: Run) -> list[str]:
    """Names of the series that have a value an example."""
    return [name for name in run.names() if run.spec(name).dims == ("example",)]


def example_lists(run: Run) -> tuple[tuple[ExampleList, ...], str]:
    """The lists that a run's series over examples allow, and a remark where there are too many values to judge here."""
    known = series_of_examples(run)
    if "example_loss" not in known:
        return (), ""
    recorded = run.series("example_loss")
    passes, width = recorded.values.shape
    if recorded.values.size > _MOST_CELLS:
        return (), (
            f"{count(width, 'example')} in {passes:,} passes are too many for this page: ask"
            " separatrix.analysis.examples in Python."
        )
    names = ("example_loss", *(n for n in ("example_margin", "example_correct", "example_prediction") if n in known))
    read = examples.trajectories(run, *names)
    facts = _Facts(read, _targets(run, read.examples))
    found = [_hardest(facts)]
    if "example_correct" in names and passes >= _FEWEST_PASSES:
        found.append(_forgotten(facts))
    if "example_margin" in names and passes >= _FEWEST_PASSES:
        found.append(_suspected(facts))
    shown = [row[0] for one in found for row in one.rows]
    pictures = _pictures(run, list(recorded.coords["example"]), shown)
    return tuple(dataclasses.replace(one, pictures=pictures) for one in found), ""


def _pictures(run: Run, labels: Sequence[str], shown: Sequence[str]) -> dict[str, str]:
    images = thumbnails(run.path)
    places = {label: at for at, label in enumerate(labels)} if images else {}
    return {label: picture(images[places[label]]) for label in shown if places.get(label) in images}


@dataclasses.dataclass(frozen=True)
class _Facts:
    read: examples.Trajectories
    targets: Sequence[str]

    def row(self, index: int, *values: str) -> tuple[str, ...]:
        return (self.read.examples[index], self.targets[index], _last(self.read, index), *values)

    @property
    def head(self) -> tuple[str, ...]:
        return ("example", "label", "last prediction")


def _targets(run: Run, labels: Sequence[str]) -> list[str]:
    if "example_target" not in series_of_examples(run):
        return [""] * len(labels)
    data = run.series("example_target")
    (names,) = data.coords.values()
    values = np.where(data.measured, data.values, np.nan)
    known = {name: number(float(column[~np.isnan(column)][-1])) for name, column in _columns(names, values)}
    return [known.get(label, "") for label in labels]


def _columns(names: Sequence[str], values: np.ndarray) -> list[tuple[str, np.ndarray]]:
    return [(name, values[:, i]) for i, name in enumerate(names) if not np.isnan(values[:, i]).all()]


def _last(read: examples.Trajectories, index: int) -> str:
    values = read.values.get("example_prediction")
    seen = np.empty(0) if values is None else values[:, index][~np.isnan(values[:, index])]
    return number(float(seen[-1])) if seen.size else ""


def _ranked(
    facts: _Facts, scores: np.ndarray, shown: Callable[[int], tuple[str, ...]], least: float = -np.inf
) -> tuple[tuple[str, ...], ...]:
    """The rows of the highest scores; ties go by position, and what was never seen is left out."""
    order = np.argsort(-np.where(np.isnan(scores), -np.inf, scores), kind="stable")
    chosen = [int(i) for i in order[:SHOWN] if not np.isnan(scores[i]) and scores[i] > least]
    return tuple(facts.row(i, *shown(i)) for i in chosen)


def _hardest(facts: _Facts) -> ExampleList:
    losses = facts.read.values["example_loss"]
    with np.errstate(invalid="ignore"):
        means = np.where(np.isnan(losses).all(axis=0), np.nan, np.nansum(losses, axis=0))
    means = means / np.maximum(1, (~np.isnan(losses)).sum(axis=0))
    last = losses[-1]
    rows = _ranked(facts, means, lambda i: (number(float(means[i])), number(float(last[i]))))
    seen = int((~np.isnan(means)).sum())
    summary = f"The highest mean loss over {len(losses):,} passes, of {count(seen, 'example')}."
    return ExampleList("Hardest", summary, (*facts.head, "mean loss", "loss in the last pass"), rows)


def _forgotten(facts: _Facts) -> ExampleList:
    found = examples.forgetting(facts.read.values["example_correct"])
    rows = _ranked(
        facts,
        found.events.astype(np.float64),
        lambda i: (
            str(int(found.events[i])),
            "never" if found.never_learnt[i] else str(int(found.first_learnt[i]) + 1),
        ),
        least=0.0,
    )
    summary = (
        f"{count(int((found.events > 0).sum()), 'example')} were right in one pass and wrong in a later one;"
        f" {int(found.unforgettable.sum()):,} were learnt and never forgotten, {int(found.never_learnt.sum()):,} never"
        " learnt."
    )
    return ExampleList("Most often forgotten", summary, (*facts.head, "times forgotten", "first right in pass"), rows)


def _pass(row: float) -> str:
    return str(int(row) + 1) if np.isfinite(row) else "never"


def _suspected(facts: _Facts) -> ExampleList:
    found = examples.mislabeled(facts.read.values["example_loss"], facts.read.values["example_margin"])
    chances = found.probability
    rows = _ranked(facts, chances, lambda i: (f"{100 * chances[i]:.0f} %",), least=_SUSPICION)
    many = int((np.nan_to_num(chances) > _SUSPICION).sum())
    summary = (
        f"{100 * found.noise_rate:.1f} % of the labels are estimated to be wrong; {count(many, 'example')} more likely"
        " so than not. An example between two classes looks the same as a wrong label: look before you drop it."
    )
    return ExampleList("Suspected wrong labels", summary, (*facts.head, "label wrong with probability"), rows)
