"""What the package declares about itself agrees with what it is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def declared() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def pinned() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.\-]+==[\w.!]+", line) for line in lines), "every line is name==version"
    return {canonicalize_name(name): Version(version) for name, _, version in (line.partition("==") for line in lines)}


def requirements(declared: dict[str, Any]) -> list[Requirement]:
    project = declared["project"]
    extras = [entry for group in project["optional-dependencies"].values() for entry in group]
    found = [Requirement(entry) for entry in (*project["dependencies"], *extras, *declared["build-system"]["requires"])]
    return [requirement for requirement in found if requirement.name != project["name"]]


def test_every_requirement_is_pinned_to_a_version_it_allows(
    declared: dict[str, Any], pinned: dict[str, Version]
) -> None:
    for requirement in requirements(declared):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} does not allow {version}"


def test_no_requirement_is_unbounded_below(declared: dict[str, Any]) -> None:
    built_with = {entry for entry in declared["build-system"]["requires"]}
    unbounded = [str(r) for r in requirements(declared) if not r.specifier and str(r) not in built_with]
    assert unbounded == []


def test_torch_is_pinned_and_torchvision_is_not_wanted(pinned: dict[str, Version]) -> None:
    assert pinned["torch"] == Version("2.13.0")
    assert "torchvision" not in pinned


def test_all_holds_every_extra_for_users(declared: dict[str, Any]) -> None:
    extras = declared["project"]["optional-dependencies"]
    (everything,) = (Requirement(entry) for entry in extras["all"])
    assert everything.extras == set(extras) - {"all", "dev"}


def test_the_room_order_is_the_design(declared: dict[str, Any]) -> None:
    (contract,) = declared["tool"]["importlinter"]["contracts"]
    layers = [layer.strip("()") for layer in contract["layers"]]
    rooms = "cli testing studies view steer analysis reconstruct theory probes record systems tasks operators runs"
    assert [layer for layer in layers if layer in rooms.split()] == rooms.split()
    assert contract["exhaustive"] is True


def test_the_licence_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
