"""An eager copy of a model in which anything may be computed while the training stays as it is."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import random
import sys
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules import module as nn_module

from separatrix.record.isolation import Aside
from separatrix.record.ownership import unwrapped

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
    "_global_forward_hooks_always_called",
    "_global_forward_hooks_with_kwargs",
)
_HALF = (torch.float16, torch.bfloat16)
_PART_OF_THE_MODEL = ("torch.nn.utils.", "separatrix.steer.")


@dataclasses.dataclass(frozen=True)
class RandomState:
    """The states of every generator that a forward pass may draw from."""

    host: torch.Tensor
    devices: tuple[torch.Tensor, ...]
    numpy: Any
    python: Any

    @classmethod
    def now(cls) -> RandomState:
        """The states as they are."""
        devices = tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
        return cls(torch.get_rng_state(), devices, np.random.get_state(), random.getstate())

    def restore(self) -> None:
        """Set every generator back."""
        torch.set_rng_state(self.host)
        if self.devices:
            torch.cuda.set_rng_state_all(list(self.devices))
        np.random.set_state(self.numpy)
        random.setstate(self.python)


class Shadow:
    """A deep copy of a model, eager and without the user's hooks; `load` makes it equal to the model again.

    Weights in half precision are held in float32: second derivatives mean little otherwise.
    """

    def __init__(self, root: torch.nn.Module) -> None:
        self.module = _eager_copy(root)
        if any(p.dtype in _HALF for p in self.module.parameters()):
            self.module.float()
        parts, copies = list(_parts(root)), list(self.module.modules())
        if [type(part) for part in parts] != [type(part) for part in copies]:
            raise TypeError("a copy of the model has other modules than the model")
        self._pairs = [(weakref.ref(part), mine) for part, mine in zip(parts, copies, strict=True)]

    def load(self) -> None:
        """Take over parameters, buffers, training modes and requires_grad flags.

        Raises:
            RuntimeError: the model's parts or shapes have changed since it was copied.
        """
        with torch.no_grad():
            for reference, mine in self._pairs:
                original = reference()
                if original is None:
                    continue
                mine.training = original.training
                for name, parameter in original._parameters.items():
                    _copy(parameter, mine._parameters[name])
                for name, buffer in original._buffers.items():
                    _copy(buffer, mine._buffers[name])

    def fits(self, root: torch.nn.Module) -> bool:
        """Whether this still is a copy of `root`: the same modules with tensors of the same names and shapes."""
        parts = list(_parts(root))
        return len(parts) == len(self._pairs) and all(
            part is reference() and _shapes(part) == _shapes(mine)
            for part, (reference, mine) in zip(parts, self._pairs, strict=True)
        )


def copied_bytes(root: torch.nn.Module) -> int:
    """Memory that a shadow of the model takes."""
    tensors = {id(t): t for part in _parts(root) for _, t in (*part._parameters.items(), *part._buffers.items())}
    return sum(t.numel() * (4 if t.dtype in _HALF else t.element_size()) for t in tensors.values() if t is not None)


def _copy(source: torch.Tensor | None, target: torch.Tensor | None) -> None:
    if source is not None and target is not None:
        target.copy_(source.detach())
        if target.is_leaf:
            target.requires_grad_(source.requires_grad)


def _shapes(module: torch.nn.Module) -> list[tuple[str, Any]]:
    named = [*module._parameters.items(), *module._buffers.items()]
    return [(name, None if t is None else t.shape) for name, t in named]


def _parts(root: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The modules of a tree in order, compiled ones in place of their wrappers, each once."""
    seen: set[int] = set()
    stack = [root]
    while stack:
        part = unwrapped(stack.pop())
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        stack.extend(child for child in reversed(list(part._modules.values())) if child is not None)


def _eager_copy(root: torch.nn.Module) -> torch.nn.Module:
    # What is in `memo` is not copied but replaced: a hook may belong to an object that holds the whole program.
    memo: dict[int, Any] = {}
    for part in _parts(root):
        for kind in _HOOKS:
            hooks = part.__dict__.get(kind)
            if hooks is not None:
                memo[id(hooks)] = OrderedDict((key, hook) for key, hook in hooks.items() if _computes(kind, hook))
        compiled = vars(part).get("_compiled_call_impl")
        if compiled is not None:
            memo[id(compiled)] = None
    copied = unwrapped(copy.deepcopy(unwrapped(root), memo))
    for part in list(copied.modules()):
        for name, child in list(part._modules.items()):
            if child is not None:
                part._modules[name] = unwrapped(child)
        if isinstance(part, torch.nn.Embedding | torch.nn.EmbeddingBag):
            # The same lookup; gradients that leave rows out have no second derivative.
            part.sparse = False
    return copied


def _computes(kind: str, hook: object) -> bool:
    """Whether a hook is part of the model, such as the one by which weight normalisation computes the weight."""
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return kind == "_forward_pre_hooks" and f"{home}.".startswith(_PART_OF_THE_MODEL)


@contextlib.contextmanager
def undisturbed(state: RandomState | None = None) -> Iterator[None]:
    """Compute apart from the training: generators are put back, no module hook fires, no warning is shown.

    Fused attention is replaced by the plain one, which has second derivatives, torch's shortcut of transformers in
    evaluation, which leaves out padding, is not taken, and nothing is compiled. With `state`, generators begin there.
    """
    before = RandomState.now()
    # Filters stay as they are: to change them makes python show anew what it has shown once.
    show = vars(warnings).get("_showwarnmsg")
    hooks = {name: getattr(nn_module, name) for name in _GLOBAL_HOOKS}
    shortcut = torch.backends.mha.get_fastpath_enabled()
    with contextlib.ExitStack() as stack:
        stack.enter_context(Aside())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if "torch._dynamo" in sys.modules:
            # Functions that the user compiled would be compiled anew for what is different here.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for name in hooks:
            setattr(nn_module, name, OrderedDict())
        try:
            vars(warnings)["_showwarnmsg"] = lambda message: None
            torch.backends.mha.set_fastpath_enabled(False)
            if state is not None:
                state.restore()
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(shortcut)
            vars(warnings)["_showwarnmsg"] = show
            for name, own in hooks.items():
                setattr(nn_module, name, own)
            before.restore()
