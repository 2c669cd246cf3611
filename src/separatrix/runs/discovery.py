"""Finds the members of a registry: by walking a package, and through entry points of other installed packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import types
import warnings
from collections.abc import Iterator
from typing import TypeVar

from separatrix.runs.errors import SeparatrixError

Member = TypeVar("Member")

_KEYS = ("code", "name", "id")


class MemberError(SeparatrixError):
    """A member of a registry that has no name, or the name of another one."""


def members(package_name: str, kind: type[Member], group: str) -> dict[str, Member]:
    """Every instance of `kind` at the top level of a module of the package, or offered under the entry point `group`.

    Modules are walked recursively; those whose name starts with an underscore are left out. An entry point names an
    instance, or a module that holds some. Keys are the members' `code`, `name` or `id`, whichever exists first; the
    package's own come first, in order of module and definition, then the others in order of entry point. An entry point
    that cannot be loaded gives one warning and is left out.

    Raises:
        MemberError: two different members share a key, or one has none.
        ImportError: a module of the package itself cannot be imported.
    """
    found: dict[str, tuple[Member, str]] = {}
    for module in _modules(package_name):
        for member in _instances(module, kind):
            _add(found, member, module.__name__)
    for entry_point in sorted(
        importlib.metadata.entry_points(group=group), key=lambda point: (point.name, point.value)
    ):
        for member in _offered(entry_point, kind, group):
            _add(found, member, entry_point.value)
    return {key: member for key, (member, _) in found.items()}


def _modules(package_name: str) -> Iterator[types.ModuleType]:
    package = importlib.import_module(package_name)
    yield package
    prefix = f"{package_name}."
    for info in pkgutil.walk_packages(package.__path__, prefix):
        if not any(part.startswith("_") for part in info.name.removeprefix(prefix).split(".")):
            yield importlib.import_module(info.name)


def _instances(module: types.ModuleType, kind: type[Member]) -> Iterator[Member]:
    return (value for value in vars(module).values() if isinstance(value, kind))


def _offered(entry_point: importlib.metadata.EntryPoint, kind: type[Member], group: str) -> list[Member]:
    # Someone else's package may fail in any way while it is imported; that must not take the others down.
    try:
        loaded = entry_point.load()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        _warn(entry_point, group, f"cannot be loaded ({reason}): update or remove the package that offers it")
        return []
    offered = list(_instances(loaded, kind)) if isinstance(loaded, types.ModuleType) else [loaded]
    if not offered or not all(isinstance(value, kind) for value in offered):
        _warn(entry_point, group, f"offers no {kind.__name__}: it must name an instance, or a module that holds some")
        return []
    return offered


def _warn(entry_point: importlib.metadata.EntryPoint, group: str, what: str) -> None:
    message = f"the entry point {entry_point.name!r} of {group} ({entry_point.value}) {what}"
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def _add(found: dict[str, tuple[Member, str]], member: Member, home: str) -> None:
    key = next((value for value in (getattr(member, name, None) for name in _KEYS) if isinstance(value, str)), "")
    if not key:
        raise MemberError(f"a {type(member).__name__} in {home} has no name: give it a non-empty {', '.join(_KEYS)}")
    known, first_home = found.setdefault(key, (member, home))
    if known is not member:
        raise MemberError(
            f"{first_home} and {home} both define {key!r}: rename one, or remove the package that offers it"
        )
