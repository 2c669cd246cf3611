"""Digests of everything in a training that a recording could disturb, taken without disturbing it."""

from __future__ import annotations

import gc
import hashlib
import os
import random
import signal
import sys
import threading
import types
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch.nn.modules import module as nn_module
from torch.optim import optimizer as optim_module

Fingerprint = dict[str, str]
"""What was looked at, by its place, and a digest of it."""

_HOOK_TABLES = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)
_OPTIMIZER_HOOK_TABLES = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
)
_LISTENED_TO = (
    "torch",
    "torch._tensor",
    "torch.amp",
    "torch.autograd",
    "torch.func",
    "torch.functional",
    "torch.jit",
    "torch.nn",
    "torch.optim",
    "torch.serialization",
    "torch.utils.checkpoint",
    "torch.utils.data",
)
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD") if hasattr(signal, name))
_MOST_DEPTH = 8


def fingerprint(value: object, place: str = "") -> Fingerprint:
    """Digests of a value: modules, optimizers, tensors, generators, arrays, containers and plain values inside it.

    Tensors differ in one bit, in their gradient (None included), in requires_grad or in their version counter; modules
    also in mode, in hooks and in the names of their attributes; optimizers in state, groups and hooks. What is none of
    these is compared by its `repr`.
    """
    return dict(_digests(value, place, 0))


def surroundings() -> Fingerprint:
    """Digests of what a training shares with the rest of its process: random states, modes, threads, handlers."""
    facts: dict[str, object] = {
        "random": random.getstate(),
        "numpy.random": fingerprint(np.random.get_state(legacy=False)),
        "torch random state": torch.get_rng_state().numpy().tobytes(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "anomaly mode": torch.is_anomaly_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "autocast cache": torch.is_autocast_cache_enabled(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "default dtype": torch.get_default_dtype(),
        "default device": str(torch.get_default_device()),
        "matmul precision": torch.get_float32_matmul_precision(),
        "attention kernels": (
            torch._C._get_flash_sdp_enabled(),
            torch._C._get_mem_efficient_sdp_enabled(),
            torch._C._get_math_sdp_enabled(),
        ),
        "mkldnn": torch.backends.mkldnn.enabled,
        "modes": (torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()),
        "numpy errors": np.geterr(),
        "working directory": os.getcwd(),
        "signal handlers": [signal.getsignal(number) for number in _SIGNALS],
        "exception hooks": (sys.excepthook, threading.excepthook, sys.unraisablehook, sys.displayhook),
        "tracing": (sys.gettrace(), sys.getprofile()),
        "garbage collection": (gc.isenabled(), gc.get_threshold(), len(gc.callbacks)),
        "recursion limit": sys.getrecursionlimit(),
    }
    return {name: _hash(repr(fact).encode()) for name, fact in facts.items()}


def patchable_places() -> dict[str, tuple[object, ...]]:
    """Every function and class of torch that can be replaced, with its code, and torch's tables of global hooks.

    Two results are compared by identity: the objects themselves are in them.
    """
    places: dict[str, tuple[object, ...]] = {}
    for module_name, module in list(sys.modules.items()):
        if not isinstance(module, types.ModuleType) or not _is_listened_to(module_name):
            continue
        for name, member in list(vars(module).items()):
            if isinstance(member, types.FunctionType):
                places[f"{module_name}.{name}"] = _function(member)
            elif isinstance(member, type):
                places[f"{module_name}.{name}"] = (member,)
                if member.__module__ == module_name:
                    for attribute, function in list(vars(member).items()):
                        if isinstance(function, types.FunctionType):
                            places[f"{module_name}.{name}.{attribute}"] = _function(function)
    for table_home in (nn_module, optim_module):
        for name, table in vars(table_home).items():
            if name.startswith("_global_") and isinstance(table, dict):
                places[f"{table_home.__name__}.{name}"] = tuple(item for pair in table.items() for item in pair)
    places["sys.meta_path"] = tuple(sys.meta_path)
    places["gc.callbacks"] = tuple(gc.callbacks)
    return places


def replaced_places(before: Mapping[str, tuple[object, ...]], after: Mapping[str, tuple[object, ...]]) -> list[str]:
    """Names of the places in both that do not hold the same objects."""
    return [
        name
        for name, objects in before.items()
        if name in after
        and (len(objects) != len(after[name]) or any(a is not b for a, b in zip(objects, after[name], strict=True)))
    ]


def _is_listened_to(name: str) -> bool:
    return name in _LISTENED_TO or (name.startswith(_LISTENED_TO[1:]) and name.startswith("torch."))


def _function(function: types.FunctionType) -> tuple[object, ...]:
    return function, function.__code__, function.__defaults__, function.__kwdefaults__


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=12).hexdigest()


def _digests(value: object, place: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, torch.Tensor):
        yield from _of_tensor(value, place)
    elif isinstance(value, torch.nn.Module):
        yield from _of_module(value, place)
    elif isinstance(value, torch.optim.Optimizer):
        yield from _of_optimizer(value, place, depth)
    elif isinstance(value, torch.Generator):
        yield place, _hash(value.get_state().numpy().tobytes())
    elif isinstance(value, np.random.Generator):
        yield place, _hash(repr(value.bit_generator.state).encode())
    elif isinstance(value, np.ndarray):
        yield place, _hash(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, Mapping) and depth < _MOST_DEPTH:
        yield f"{place} keys", _hash(repr([_name(key) for key in value]).encode())
        for key, item in value.items():
            yield from _digests(item, f"{place}[{_name(key)}]", depth + 1)
    elif isinstance(value, list | tuple) and depth < _MOST_DEPTH:
        yield f"{place} length", str(len(value))
        for index, item in enumerate(value):
            yield from _digests(item, f"{place}[{index}]", depth + 1)
    else:
        yield place, repr(value)


def _name(key: object) -> str:
    return f"tensor of shape {tuple(key.shape)}" if isinstance(key, torch.Tensor) else repr(key)


def _of_tensor(tensor: torch.Tensor, place: str) -> Iterator[tuple[str, str]]:
    yield place, _numbers(tensor)
    version = "inference" if tensor.is_inference() else tensor._version
    yield f"{place} flags", f"requires_grad={tensor.requires_grad} leaf={tensor.is_leaf} version={version}"
    if tensor.is_leaf and tensor.requires_grad:
        gradient = tensor.grad
        yield f"{place}.grad", "None" if gradient is None else f"{_numbers(gradient)} version={gradient._version}"
        hooks = tensor._backward_hooks
        yield f"{place} hooks", str(0 if hooks is None else len(hooks))


def _numbers(tensor: torch.Tensor) -> str:
    plain = tensor.detach()
    layout = f"{plain.dtype} {tuple(plain.shape)} {plain.layout}"
    if plain.layout is not torch.strided:
        plain = plain.to_dense()
    data = plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return f"{layout} {_hash(data)}"


def _of_module(root: torch.nn.Module, place: str) -> Iterator[tuple[str, str]]:
    for name, module in root.named_modules():
        here = f"{place}.{name}" if name else place
        yield f"{here} training", str(module.training)
        yield f"{here} attributes", _hash(repr((type(module).__qualname__, sorted(vars(module)))).encode())
        yield f"{here} hooks", repr([len(getattr(module, table, ())) for table in _HOOK_TABLES])
    for name, parameter in root.named_parameters(remove_duplicate=False):
        yield from _of_tensor(parameter, f"{place}.{name}")
    for name, buffer in root.named_buffers(remove_duplicate=False):
        yield from _of_tensor(buffer, f"{place}.{name}")


def _of_optimizer(optimizer: torch.optim.Optimizer, place: str, depth: int) -> Iterator[tuple[str, str]]:
    yield f"{place} attributes", _hash(repr((type(optimizer).__qualname__, sorted(vars(optimizer)))).encode())
    yield f"{place} hooks", repr([len(getattr(optimizer, table, ())) for table in _OPTIMIZER_HOOK_TABLES])
    yield from _digests(optimizer.state_dict(), f"{place}.state_dict()", depth + 1)
