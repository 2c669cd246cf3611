"""The catalogue: one TOML file a family, one table a system; `measured.json` holds what was computed from them.

Equations and parameters were compared with W. Gilpin, "Chaos as an interpretable benchmark for forecasting and
data-driven modelling" (NeurIPS 2021), whose package dysts is the reference; what stands under `published` is its table.
"""

from __future__ import annotations

import functools
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from separatrix.systems.errors import DescriptionError
from separatrix.systems.system import Facts, System

FOLDER = Path(__file__).parent
MEASURED = FOLDER / "measured.json"
_FACTS = ("period", "exponents", "errors", "kaplan_yorke", "correlation")


@functools.cache
def catalogue() -> Mapping[str, System]:
    """Every system by name, in alphabetical order.

    Raises:
        DescriptionError: a table does not describe a system.
    """
    measured = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    found: dict[str, System] = {}
    for path in sorted(FOLDER.glob("*.toml")):
        for name, table in tomllib.loads(path.read_text()).items():
            if name in found:
                raise DescriptionError(f"{path.name} and {found[name].family}.toml both describe {name}: rename one")
            found[name] = read(name, table, family=path.stem, measured=measured.get(name))
    return MappingProxyType(dict(sorted(found.items(), key=lambda item: item[0].lower())))


def read(name: str, table: Mapping[str, Any], *, family: str = "", measured: Mapping[str, Any] | None = None) -> System:
    """The system that a table of the catalogue describes.

    Raises:
        DescriptionError: an entry is missing, unknown or does not fit the others.
    """
    known = {"kind", "variables", "equations", "parameters", "initial", "definitions", "observed", "phase", "delay"}
    known |= {"conservative", "stiff", "description", "source", "aliases", "published"}
    if unknown := sorted(set(table) - known):
        raise DescriptionError(f"system {name} has an entry {unknown[0]!r}: choose from {', '.join(sorted(known))}")
    if missing := [each for each in ("variables", "equations", "initial") if each not in table]:
        raise DescriptionError(f"system {name} has no {missing[0]}: add them to its table")
    definitions = {}
    for line in table.get("definitions", ()):
        left, _, right = line.partition("=")
        definitions[left.strip()] = right.strip()
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}
    given |= {"kind": table.get("kind", "flow"), "parameters": MappingProxyType(dict(table.get("parameters", {})))}
    given |= {"definitions": MappingProxyType(definitions), "published": _facts(table.get("published"))}
    if measured and "initial" in measured:
        given["initial"] = tuple(measured["initial"])
    return System(name=name, family=family, measured=_facts(measured), **{"parameters": {}, **given})


def _facts(table: Mapping[str, Any] | None) -> Facts:
    items = {key: value for key, value in (table or {}).items() if key in _FACTS}
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in items.items()}
    return Facts(**given)
