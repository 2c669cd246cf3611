"""The checker through which tests load the package: shapes that signatures state hold while they run.

Only annotations with a shape are checked. The others are mypy's, tests pass wrong ones on purpose, and looking into
containers would draw from python's generator, which must stay as it is.
"""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import beartype

_jaxtyped = jaxtyping.jaxtyped
_SHAPED = re.compile(r"\b(Float|Int|Integer|Bool|Num|Real|Complex|Inexact|Shaped)\[")
_CONTAINERS = re.compile(r"\b(list|tuple|dict|Sequence|Mapping|Iterable|Iterator)\[")


def check_shapes(*packages: str) -> None:
    """Have the modules of these packages, which must not be imported yet, checked."""
    jaxtyping.install_import_hook(packages, f"{__name__}.checked")
    # The hook puts this decorator on every function, and each call of a decorated one costs a binding of its arguments.
    jaxtyping.jaxtyped = _where_stated


def _where_stated(*, typechecker: Any) -> Callable[[Any], Any]:
    """jaxtyping's decorator, of functions and classes that state a shape alone."""
    decorated = _jaxtyped(typechecker=typechecker)
    return lambda each: decorated(each) if _states_shapes(each) else each


def _states_shapes(each: Any) -> bool:
    if not isinstance(each, types.FunctionType | type):
        return True
    owners = each.__mro__ if isinstance(each, type) else (each,)
    stated = [value for owner in owners for value in getattr(owner, "__annotations__", {}).values()]
    return any(map(_has_shape, stated))


def checked(function: Any) -> Any:
    """`function`, refusing arguments and results whose shapes are not those of its signature."""
    if not isinstance(function, types.FunctionType):
        return function
    stated = {name: each for name, each in function.__annotations__.items() if _has_shape(each)}
    if not stated:
        return function
    twin = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    functools.update_wrapper(twin, function)
    del twin.__wrapped__
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__annotations__ = stated
    return beartype(twin)


def _has_shape(annotation: Any) -> bool:
    text = annotation if isinstance(annotation, str) else repr(annotation)
    return bool(_SHAPED.search(text)) and not _CONTAINERS.search(text)
