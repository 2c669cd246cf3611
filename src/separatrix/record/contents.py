"""Examples known by what they are: a hash of the bytes that the model is given, in loops without a DataLoader."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from separatrix.record.isolation import Aside
from separatrix.record.losses import is_plain
from separatrix.record.observer import Observer
from separatrix.record.ownership import flattened_tensors, wholes
from separatrix.record.subject import Subject

_MOST_CALLS = 4


def digests(tensors: Sequence[torch.Tensor]) -> list[str]:
    """A hash, 16 hexadecimal digits, of the bytes of each row of the tensors that have as many rows as the first."""
    rows = tensors[0].shape[0] if tensors and tensors[0].dim() else 0
    hashes = [hashlib.blake2b(digest_size=8) for _ in range(rows)]
    for tensor in tensors:
        if tensor.dim() and tensor.shape[0] == rows and tensor.numel() and tensor.layout is torch.strided:
            plain = torch.view_as_real(tensor) if tensor.is_complex() else tensor
            table = plain.detach().cpu().contiguous().reshape(rows, -1).view(torch.uint8).numpy()
            for known, row in zip(hashes, table, strict=True):
                known.update(row)
    return [known.hexdigest() for known in hashes]


class Contents:
    """While armed, notes the hashes of what the outermost model is called with in training."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._handle: Any = None
        self._subject: weakref.ref[Subject] | None = None
        self._ranks: dict[int, int] = {}
        self._calls: list[tuple[int, list[str]]] = []
        self._error: str = ""

    def arm(self) -> None:
        """Begin to look, if models are known and none is compiled, whose graph a hook would break."""
        if self._handle is None and self._observer.subject is not None and not self._observer.compiled:
            self._handle = register_module_forward_pre_hook(self._arrive)

    def disarm(self) -> None:
        """Look no more."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self._calls.clear()

    def take(self, rows: int) -> list[str] | str:
        """The examples that the model was called with since this was last asked, or why they are not known."""
        calls, self._calls = self._calls, []
        if self._observer.compiled:
            return "what a compiled model is given is not seen, and no DataLoader fetched it"
        if not calls:
            return self._error or "no model was seen to be called with tensors, and no DataLoader fetched a batch"
        outermost = min(rank for rank, _ in calls)
        found = [hashes for rank, hashes in calls if rank == outermost]
        if len(found) > 1:
            return "a model was called several times before its loss, and no DataLoader fetched the examples"
        if len(found[0]) != rows:
            return "the rows of the loss are not those of the model's first input (tokens or pixels, say)"
        return found[0]

    def _arrive(self, module: torch.nn.Module, arguments: Any) -> None:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or torch._C._current_graph_task_id() != -1:
            return
        subject = self._observer.subject
        if subject is None:
            return
        if self._subject is None or self._subject() is not subject:
            self._learn_models(subject)
        rank = self._ranks.get(id(module))
        if rank is None or len(self._calls) >= _MOST_CALLS or self._observer.snapshots.developing:
            return
        try:
            with Aside():
                tensors = list(flattened_tensors(arguments))
                if tensors and all(map(is_plain, tensors)):
                    self._calls.append((rank, digests(tensors)))
        except Exception as error:
            self._error = f"the bytes of the model's input cannot be read ({type(error).__name__}: {error})"

    def _learn_models(self, subject: Subject) -> None:
        self._subject = weakref.ref(subject)
        # A model stands before the part of it that holds all its parameters, which it may call.
        self._ranks = {id(whole.module): rank for m in subject.models for rank, whole in enumerate(wholes(m))}
