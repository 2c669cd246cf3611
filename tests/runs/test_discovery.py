"""Discovery of members in packages and through entry points."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from separatrix.runs.discovery import MemberError, members


@dataclasses.dataclass(frozen=True)
class Thing:
    code: str


GROUP = "separatrix.test_things"
HEADER = "from tests.runs.test_discovery import Thing\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "things_package"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "inner" / "__init__.py").touch()
    (folder / "first.py").write_text(f"{HEADER}one = Thing('one')\nother = 3\n")
    (folder / "inner" / "second.py").write_text(f"{HEADER}from things_package.first import one\ntwo = Thing('two')\n")
    (folder / "_private.py").write_text("raise RuntimeError('imported')\n")
    sys.modules.setdefault("tests.runs.test_discovery", sys.modules[__name__])
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] in ("things_package", "vendor_module")]:
        del sys.modules[name]


def offer(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    points = [importlib.metadata.EntryPoint(name, value, GROUP) for name, value in values.items()]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: points if group == GROUP else [])


def test_members_are_found_by_walking_and_a_reexport_is_no_clash(package: Path) -> None:
    assert list(members("things_package", Thing, GROUP)) == ["one", "two"]


def test_two_members_of_one_name_are_an_error_that_names_both_homes(package: Path) -> None:
    (package / "third.py").write_text(f"{HEADER}again = Thing('one')\n")
    with pytest.raises(MemberError, match=r"things_package.first and things_package.third both define 'one'"):
        members("things_package", Thing, GROUP)


def test_a_member_without_a_name_is_an_error(package: Path) -> None:
    (package / "third.py").write_text(f"{HEADER}nameless = Thing('')\n")
    with pytest.raises(MemberError, match=r"things_package.third has no name"):
        members("things_package", Thing, GROUP)


def test_entry_points_add_instances_and_modules(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package.parent / "vendor_module.py").write_text(f"{HEADER}three = Thing('v/three')\nfour = Thing('v/four')\n")
    offer(monkeypatch, one="vendor_module:three", two="vendor_module")
    assert list(members("things_package", Thing, GROUP)) == ["one", "two", "v/three", "v/four"]


@pytest.mark.parametrize(
    "value", ["vendor_missing:thing", "vendor_module:absent", "vendor_module:number", "vendor_module:fail"]
)
def test_a_broken_entry_point_is_one_warning_and_no_crash(
    value: str, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = (
        "number = 3\ndef __getattr__(name):\n    raise {'fail': ZeroDivisionError}.get(name, AttributeError)('a\\nb')\n"
    )
    (package.parent / "vendor_module.py").write_text(broken)
    offer(monkeypatch, odd=value)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert list(members("things_package", Thing, GROUP)) == ["one", "two"]
    (warning,) = caught
    assert "'odd'" in str(warning.message)
    assert value in str(warning.message)
    assert "\n" not in str(warning.message)


def test_an_entry_point_that_takes_a_name_is_an_error(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package.parent / "vendor_module.py").write_text(f"{HEADER}mine = Thing('one')\n")
    offer(monkeypatch, taker="vendor_module:mine")
    with pytest.raises(MemberError, match=r"both define 'one'"):
        members("things_package", Thing, GROUP)
