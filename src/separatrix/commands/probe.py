"""`separatrix probe list`: what can be measured while a training runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from separatrix.commands import _values as values
from separatrix.commands._printing import list_members

if TYPE_CHECKING:
    from separatrix.runs.probe import Probe


def add(commands: values.Commands) -> None:
    """Add the grammar."""
    group = commands.add_parser("probe", help="list what can be measured while a training runs")
    verbs = group.add_subparsers(metavar="list", required=True)
    listing = verbs.add_parser("list", help="list what can be measured while a training runs")
    listing.add_argument("--json", action="store_true", help="print one JSON document")
    listing.set_defaults(command="probe list", perform=run)


def run(options: argparse.Namespace) -> int:
    """Do what the options ask for and return the exit code."""
    rows = [
        {
            "name": probe.name,
            "moment": probe.moment.value,
            "series": [spec.name for spec in probe.series],
            "default": probe.default,
            "description": probe.description if options.json else probe.description + _price(probe),
            "source": probe.source,
            "cost": probe.cost,
            "needs": list(probe.needs),
        }
        for _, probe in sorted(known_probes().items())
    ]
    return list_members("probes", rows, options.json, ("name", "description"))


def _price(probe: Probe) -> str:
    """What a probe of snapshots costs and needs, in words; empty for others."""
    if probe.moment.value != "snapshot":
        return ""
    needs = f", needs {' and '.join(probe.needs)}" if probe.needs else ""
    return f" (snapshot: costs about {probe.cost:g} times a gradient{needs})"


def known_probes() -> Mapping[str, Probe]:
    """The probes that are installed, by name."""
    from separatrix.runs.discovery import members
    from separatrix.runs.probe import Probe

    return members("separatrix.probes", Probe, "separatrix.probes")
