"""The catalogue: one TOML file a family, one table a system; `measured.json` holds what was computed from them.

Equations and parameters were compared with W. Gilpin, "Chaos as an interpretable benchmark for forecasting and
data-driven modelling" (NeurIPS 2021), whose package dysts is the reference; what stands under `published` is its table.
"""

from __future__ import annotations

import functools
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from separatrix.systems.errors import DescriptionError
from separatrix.systems.system import Facts, System

FOLDER = Path(__file__).parent
MEASURED = FOLDER / "measured.json"
_FACTS = ("period", "exponents", "errors", "kaplan_yorke", "correlation")


class Catalogue(Mapping[str, System]):
    """Systems by name, in alphabetical order; each is made, and its equations are checked, when it is first asked for.

    Raises:
        DescriptionError: two files describe a system of one name; when asked for: a table does not describe a system.
    """

    def __init__(self, folder: Path, measured: Mapping[str, Any]) -> None:
        self._measured = measured
        self._made: dict[str, System] = {}
        self._tables: dict[str, tuple[str, Mapping[str, Any]]] = {}
        for path in sorted(folder.glob("*.toml")):
            for name, table in tomllib.loads(path.read_text()).items():
                if name in self._tables:
                    raise DescriptionError(f"{path.stem} and {self._tables[name][0]} both describe {name}: rename one")
                self._tables[name] = path.stem, table
        self._names = sorted(self._tables, key=str.lower)
        self._aliases = {alias: name for name in self._names for alias in self._tables[name][1].get("aliases", ())}

    @property
    def aliases(self) -> Mapping[str, str]:
        """Further names, and the names they stand for."""
        return self._aliases

    def __getitem__(self, name: str) -> System:
        if name not in self._made:
            family, table = self._tables[name]
            self._made[name] = read(name, table, family=family, measured=self._measured.get(name))
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@functools.cache
def catalogue() -> Catalogue:
    """The catalogue of the package."""
    return Catalogue(FOLDER, json.loads(MEASURED.read_text()) if MEASURED.exists() else {})


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
    given |= {"kind": table.get("kind", "flow"), "parameters": table.get("parameters", {})}
    given |= {"definitions": definitions, "published": _facts(table.get("published"))}
    if measured and "initial" in measured:
        given["initial"] = tuple(measured["initial"])
    return System(name=name, family=family, measured=_facts(measured), **{"parameters": {}, **given})


def _facts(table: Mapping[str, Any] | None) -> Facts:
    items = {key: value for key, value in (table or {}).items() if key in _FACTS}
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in items.items()}
    return Facts(**given)
