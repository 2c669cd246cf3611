"""Builds of a user's model at other sizes: without storage where the constructor allows it, else for real."""

from __future__ import annotations

import contextlib
import inspect
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from separatrix.steer.errors import ParametrizationError

Build = nn.Module | Callable[[], nn.Module]
"""A model, or a function without arguments that builds one."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of `torch.compile` and data-parallel wrappers.

    Raises:
        ParametrizationError: it is no module.
    """
    inner: Any = model
    while True:
        if isinstance(inner, nn.parallel.DistributedDataParallel | nn.DataParallel):
            inner = inner.module
        elif hasattr(inner, "_orig_mod"):
            inner = inner._orig_mod
        elif isinstance(inner, nn.Module):
            return inner
        else:
            raise ParametrizationError(f"the model is of the type {type(inner).__name__}: give a torch.nn.Module")


def shapes_only(build: Build, what: str) -> tuple[nn.Module, str | None]:
    """The model of `build` on the meta device, and why it had to be built on the CPU, if it had to be.

    Raises:
        ParametrizationError: `build` is nothing to call without arguments, or gives no module.
    """
    if isinstance(build, nn.Module):
        return unwrapped(build), None
    _callable(build, what)
    try:
        with kept_generators(), torch.device("meta"):
            return _checked(build(), what), None
    except ParametrizationError:
        raise
    except Exception as error:
        # A constructor may read values, call numpy or load a file; what it raises then is its own.
        reason = f"{what} was built on the CPU, because its constructor fails on the meta device: {_said(error)}"
        return with_values(build, what), reason


def with_values(build: Build, what: str) -> nn.Module:
    """The model of `build` on the CPU, from fixed seeds; global generators are left as they were.

    Raises:
        ParametrizationError: `build` gives no module.
    """
    if isinstance(build, nn.Module):
        return unwrapped(build)
    with kept_generators():
        return _checked(build(), what)


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Fixed seeds for the global generators of torch (of the CPU), numpy and Python, which are put back after it."""
    python, arrays, tensors = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        random.seed(0)
        np.random.seed(0)
        torch.default_generator.manual_seed(0)  # torch.manual_seed would reseed other devices, too
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.default_generator.set_state(tensors)


def has_values(model: nn.Module) -> bool:
    """Whether every parameter has storage."""
    return not any(parameter.is_meta for parameter in model.parameters())


def _callable(build: object, what: str) -> None:
    if not callable(build):
        raise ParametrizationError(
            f"{what} is of the type {type(build).__name__}: give a module, or a function that makes one"
        )
    try:
        needed = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):  # what is written in C may tell no signature
        return
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if missing := [one.name for one in needed if one.default is one.empty and one.kind not in optional]:
        raise ParametrizationError(
            f"{what} needs an argument {missing[0]!r}: give a function that takes none, lambda: build(32)"
        )


def _checked(model: object, what: str) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise ParametrizationError(
            f"{what} builds a {type(model).__name__}: give a module or a function that makes one"
        )
    return unwrapped(model)


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
