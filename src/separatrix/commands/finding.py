"""`separatrix finding list`: what can be found wrong or remarkable in a run."""

from __future__ import annotations

import argparse

from separatrix.commands import _values as values
from separatrix.commands._printing import list_members


def add(commands: values.Commands) -> None:
    """Add the grammar."""
    group = commands.add_parser("finding", help="list what can be found wrong or remarkable in a run")
    verbs = group.add_subparsers(metavar="list", required=True)
    listing = verbs.add_parser("list", help="list what can be found wrong or remarkable in a run")
    listing.add_argument("--json", action="store_true", help="print one JSON document")
    listing.set_defaults(command="finding list", perform=run)


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for and return the exit code."""
    from separatrix.runs import FindingRule
    from separatrix.runs.discovery import members

    rules = members("separatrix.analysis.findings", FindingRule, "separatrix.findings")
    rows = [
        {
            "code": rule.code,
            "title": rule.title,
            "needs": list(rule.needs),
            "caused_by": list(rule.caused_by),
            "source": rule.source,
        }
        for _, rule in sorted(rules.items())
    ]
    return list_members("findings", rows, options.json, ("code", "title"))
