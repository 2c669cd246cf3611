"""A diagnosis written by hand, and names that a page, a plot or a terminal might act on."""

from __future__ import annotations

import dataclasses

from separatrix.runs import Finding, NotAssessed

HOSTILE = (
    "<b>bold</b>",
    "<img src=x onerror=hack()>",
    "</script><script>hack()",
    '<a href="http://x.test">l</a>',
    "%{x}&lt;i&gt;&amp;",
    "a\x1b[31mb\u202ec",
)
"""Names that a page, a plot or a terminal might act on; all are short enough to be shown in full."""


@dataclasses.dataclass(frozen=True)
class HandDiagnosis:
    """What `write_report` and the terminal read of a diagnosis."""

    run: str = "run"
    findings: tuple[Finding, ...] = ()
    not_assessed: tuple[NotAssessed, ...] = ()


HEALTHY = HandDiagnosis()


def finding(code: str = "dead-units", severity: str = "warning", **given: object) -> Finding:
    facts = {"confidence": 0.8, "summary": f"{code} summary", "remedy": f"{code} remedy", **given}
    return Finding(code=code, severity=severity, **facts)
