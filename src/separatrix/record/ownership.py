"""Who owns what: models from the optimizers' parameters, names from the user's own variables."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch

_WRAPPERS = {"DistributedDataParallel": "module", "DataParallel": "module", "OptimizedModule": "_orig_mod"}
_COMPOSITE_LEAVES = (torch.nn.MultiheadAttention,)


@dataclasses.dataclass(frozen=True)
class Model:
    """A root module that owns trained parameters; `prefix` sets several models apart in labels."""

    module: torch.nn.Module
    name: str
    prefix: str

    def parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Label and tensor of every parameter, tied ones once."""
        for name, parameter in self.module.named_parameters():
            yield self.prefix + name, parameter

    def leaves(self) -> Iterator[tuple[str, torch.nn.Module]]:
        """Label and module of every leaf: no children, or a composite that computes without calling them."""
        inside: tuple[str, ...] = ()
        for name, module in self.module.named_modules():
            if name.startswith(inside):
                continue
            if isinstance(module, _COMPOSITE_LEAVES):
                inside = (*inside, name + ".")
            elif any(True for _ in module.children()):
                continue
            yield self.prefix + (name or type(module).__name__), module


def wholes(model: Model) -> Iterator[Model]:
    """The model and the parts of it that hold all its parameters, as the network of a LightningModule does."""
    if unwrapped(model.module) is model.module:
        yield model
    held = {id(p) for p in model.module.parameters()}
    for name, child in model.module.named_children():
        if held and held == {id(p) for p in child.parameters()}:
            yield from wholes(Model(child, model.name, f"{model.prefix}{name}."))
            return


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The user's module inside data-parallel and compile wrappers."""
    while type(module).__name__ in _WRAPPERS:
        module = getattr(module, _WRAPPERS[type(module).__name__])
    return module


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether the module or a part of it runs compiled, so that hooks must stay away."""
    if any(type(p).__name__ == "OptimizedModule" or vars(p).get("_compiled_call_impl") for p in module.modules()):
        return True
    if "torch._dynamo" not in sys.modules:
        return False
    return any(type(m).__name__ == "OptimizedModule" and unwrapped(m) is module for m in living_modules())


def living_modules() -> list[torch.nn.Module]:
    """Every module alive in the process, however it came to be (constructed, copied, unpickled)."""
    return [o for o in gc.get_objects() if issubclass(type(o), torch.nn.Module)]


def topmost_owners(modules: Iterable[torch.nn.Module], parameters: Sequence[torch.Tensor]) -> list[torch.nn.Module]:
    """The fewest topmost modules that together hold all those of `parameters` that any module holds."""
    wanted = {id(p) for p in parameters}
    modules = list(modules)
    children = {id(child) for module in modules for child in module.children()}
    owned = []
    for module in modules:
        if id(module) in children:
            continue
        held = {id(p) for p in module.parameters()} & wanted
        if held:
            owned.append((held, module))
    chosen = []
    # Larger owners first; among equals the module itself before a wrapper or container made around it later.
    for held, module in sorted(owned, key=lambda pair: -len(pair[0])):
        if held & wanted:
            chosen.append(module)
            wanted -= held
    return chosen


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if not frame.f_globals.get("__name__", "").startswith(("separatrix.", "torch.")):
            yield frame
        frame = frame.f_back


def _variables(frame: FrameType) -> list[tuple[str, object]]:
    """Names and values of a frame's local variables."""
    own = frame.f_locals
    found = list(own.items())
    # Before python 3.13 a function's frame keeps this dict, and so would keep alive what the user deletes. Two names
    # and the frame itself refer to it here; a further reference is the user's, who called locals().
    if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED and sys.getrefcount(own) <= 3:
        own.clear()
    return found


def variable_name(target: object) -> str | None:
    """The name by which the running script knows `target`: a variable of a calling function or of `__main__`."""
    for frame in _frames():
        for name, value in _variables(frame):
            if value is target and name.isidentifier() and name not in ("self", "module", "optimizer", "cls"):
                return name
    for name, value in list(vars(sys.modules["__main__"]).items()):
        if value is target:
            return str(name)
    # Attributes of the objects that hold the loop, such as trainer.net.
    for frame in _frames():
        holder = dict(_variables(frame)).get("self")
        for name, value in list(getattr(holder, "__dict__", {}).items()):
            if value is target:
                return str(name)
    return None


def unique(name: str, taken: Iterable[str]) -> str:
    """`name`, numbered when it is taken."""
    taken = set(taken)
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate


def find_models(parameters: Sequence[torch.Tensor], given: Sequence[torch.nn.Module] = ()) -> list[Model]:
    """The models that own `parameters`, named as the user names them; `given` ones are taken as they are."""
    roots = list(given) or topmost_owners(living_modules(), parameters)
    names: list[str] = []
    for root in roots:
        own = variable_name(root) or variable_name(unwrapped(root)) or type(unwrapped(root)).__name__
        names.append(unique(own, names))
    several = len(roots) > 1
    return [
        Model(unwrapped(root), name, f"{name}." if several else "") for root, name in zip(roots, names, strict=True)
    ]


def flattened_tensors(value: Any, depth: int = 3) -> Iterator[torch.Tensor]:
    """The tensors inside nested tuples, lists, dicts and dataclasses, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif depth > 0 and isinstance(value, dict):
        for item in value.values():
            yield from flattened_tensors(item, depth - 1)
    elif depth > 0 and isinstance(value, list | tuple):
        for item in value:
            yield from flattened_tensors(item, depth - 1)
    elif depth > 0 and dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from flattened_tensors(getattr(value, field.name), depth - 1)
