"""docs/theories.md, from what the theories declare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from separatrix.theory import Theory

PAGE = Path(__file__).resolve().parents[2] / "docs" / "theories.md"
INTRODUCTION = """\
# Theories

What each theory predicts, where it holds, and how far a training may lie from it. [Theory beside experiment](theory.md)
says which one answers which question about a run of your own.

```console
$ separatrix theory list
```

Settings are drawn at random from their ranges by the tests, and trainings at them must stay within the bands: at each
step within the given share of the span of the prediction, plus four standard errors where the training is a mean. A
theory of your own is an instance of `separatrix.theory.Theory` that your package offers under the entry point
`separatrix.theories`; `separatrix.testing.check_theory` says whether it keeps to the contract.

This page is written by `python -m tests.theory`; a test fails when it differs from what the theories declare.
"""


def page(theories: Mapping[str, Theory]) -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(_section(theory) for theory in theories.values())])


def _section(theory: Theory) -> str:
    cited = [f"[{paper.title}]({paper.url})" if paper.url else paper.title for paper in theory.papers]
    authors = [f"{', '.join(paper.authors)} ({paper.year})" for paper in theory.papers]
    bands = {band.series: f"{band.share:g}: {band.reason}" for band in theory.bands}
    lines = [f"## {theory.name}", "", theory.question, ""]
    lines += [f"{who}: {title}." for who, title in zip(authors, cited, strict=True)]
    lines += ["", "Holds when:", "", *(f"- {assumption}" for assumption in theory.assumptions)]
    lines += ["", "| series | what it is | band |", "|---|---|---|"]
    lines += [
        f"| `{spec.name}`{_dims(spec.dims)} | {spec.description} | {bands.get(spec.name, 'none')} |"
        for spec in theory.series
    ]
    lines += ["", "| law of every prediction | |", "|---|---|", *(f"| `{w.name}` | {w.says} |" for w in theory.laws)]
    lines += ["", "| setting | type | default | range | meaning |", "|---|---|---|---|---|"]
    lines += [
        f"| `{setting.name}` | {setting.kind} | {setting.default} | {setting.range} | {setting.description}"
        f"{f' ({setting.reason})' if setting.reason else ''} |"
        for setting in theory.settings
    ]
    return "\n".join(lines) + "\n"


def _dims(dims: tuple[str, ...]) -> str:
    return f" ({', '.join(('step', *dims))})" if dims else ""
