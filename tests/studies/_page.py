"""docs/studies.md, from what the studies declare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from separatrix.studies import Setting, Study

PAGE = Path(__file__).resolve().parents[2] / "docs" / "studies.md"
INTRODUCTION = """\
# Studies

A study is a paper's claim made runnable: it trains, measures, and holds the numbers against what was claimed. Its
claims hold for every setting in the ranges below, which `--set` keeps to. Its controls are claims measured where they
must fail, under a wrong theory or without the cause; a control that passes counts as a failure of the study, since it
shows a test that cannot tell.

```console
$ separatrix study list
$ separatrix study show tangent-kernel
$ separatrix study run 44 --quick --seed 1 --set depth=1 --set width=32
```

`--quick` measures the same claims from fewer and smaller trainings, in under a minute. `make studies-quick` and
`make studies` run all at three seeds, keep what they computed, and end with a table.

A study of your own is an instance of `separatrix.studies.Study` that your package offers under the entry point
`separatrix.studies`; `separatrix.testing.check_study` says whether it keeps to the contract.

This page is written by `python -m tests.studies`; a test fails when it differs from what the studies declare.
"""


def page(studies: Mapping[str, Study]) -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(_section(study) for study in studies.values())])


def _section(study: Study) -> str:
    paper = f"[{study.paper.title}]({study.paper.url})" if study.paper.url else study.paper.title
    lines = [f"## {study.id} {study.slug}", "", f"{', '.join(study.paper.authors)} ({study.paper.year}): {paper}.", ""]
    lines += [study.summary, "", "| claim | expected | what is measured |", "|---|---|---|"]
    lines += [f"| `{part.name}` | {part.expectation} | {part.says} |" for part in study.statements]
    lines += ["", "| control | fails | because |", "|---|---|---|"]
    lines += [f"| `{control.name}` | `{control.refutes}` | {control.says} |" for control in study.controls]
    lines += ["", "| setting | type | default | range | meaning |", "|---|---|---|---|---|"]
    lines += [_row(setting) for setting in study.settings]
    return "\n".join(lines) + "\n"


def _row(setting: Setting) -> str:
    reason = f" ({setting.reason})" if setting.reason else ""
    return (
        f"| `{setting.name}` | {setting.kind} | {setting.default} | {setting.range} | {setting.description}{reason} |"
    )
