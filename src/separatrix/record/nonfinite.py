"""Where a loss that is not finite came from: a parameter, an input, or the first operation that made it so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from separatrix.runs.writer import RunWriter

_MOST_NODES = 20_000
_MOST_NAMES = 20
_OWN_RESULTS = ("_saved_result", "_saved_output")

# Operations that leave the numbers for some finite operands: the operand saved, and where it is out of bounds.
_DOMAINS: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "Log": ("_saved_self", lambda x: x <= 0),
    "Log2": ("_saved_self", lambda x: x <= 0),
    "Log10": ("_saved_self", lambda x: x <= 0),
    "Log1P": ("_saved_self", lambda x: x <= -1),
    "Div": ("_saved_other", lambda x: x == 0),
    "Reciprocal": ("_saved_self", lambda x: x == 0),
    "Acos": ("_saved_self", lambda x: x.abs() > 1),
    "Asin": ("_saved_self", lambda x: x.abs() > 1),
}


def _is_bad(tensor: torch.Tensor) -> bool:
    """NaN or +inf; -inf alone is how masks are written."""
    if not tensor.is_floating_point() or tensor.layout is not torch.strided:
        return False
    return bool(torch.isnan(tensor).any() or torch.isposinf(tensor).any())


def bad_parameters(named: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    """Names of the parameters that hold non-finite entries."""
    return [name for name, p in named if p.is_floating_point() and not bool(torch.isfinite(p.detach()).all())]


def _forward_order(root: Any) -> Iterator[Any]:
    """Nodes of the graph behind `root`, producers before consumers."""
    seen: set[Any] = set()
    stack = [(root, False)]
    while stack and len(seen) < _MOST_NODES:
        node, expanded = stack.pop()
        if expanded:
            yield node
            continue
        if node in seen:
            continue
        seen.add(node)
        stack.append((node, True))
        stack.extend((following, False) for following, _ in reversed(node.next_functions) if following is not None)


def _saved_tensors(node: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name in dir(node):
        if not name.startswith("_saved_"):
            continue
        try:
            value = getattr(node, name)
        except RuntimeError:  # freed by an earlier backward
            continue
        if isinstance(value, torch.Tensor):
            yield name, value


def _leaves_domain(operation: str, name: str, tensor: torch.Tensor) -> bool:
    saved, outside = _DOMAINS.get(operation, ("", torch.isnan))
    return name == saved and tensor.is_floating_point() and bool(outside(tensor).any())


def _parameter_names(node: Any, names: Mapping[int, str]) -> list[str]:
    variables = (getattr(following, "variable", None) for following, _ in node.next_functions)
    return [names[id(v)] for v in variables if v is not None and id(v) in names]


def first_bad_operation(loss: torch.Tensor, names: Mapping[int, str]) -> dict[str, str] | None:
    """The first operation of the forward pass that holds a NaN or +inf, and the module whose parameters it used.

    `names` maps ids of parameters to their labels. Reads what autograd saved and computes nothing, so it must not be
    called where saved-tensor hooks may be in force. None where nothing saved is bad.
    """
    module = ""
    for node in _forward_order(loss.grad_fn):
        used = _parameter_names(node, names)
        if used:
            module = used[0].rpartition(".")[0]
        operation = node.name().rstrip("0123456789").removesuffix("Backward")
        for name, tensor in _saved_tensors(node):
            if _leaves_domain(operation, name, tensor):
                return {"where": "module", "name": module, "operation": operation}
            if not _is_bad(tensor):
                continue
            made_here = name in _OWN_RESULTS
            has_producer = any(
                following is not None and not hasattr(following, "variable") for following, _ in node.next_functions
            )
            if not made_here and not has_producer:
                return {"where": "input", "name": module, "operation": operation}
            return {"where": "module", "name": module, "operation": operation}
    return None


class NonfiniteWatch:
    """Tells once of the first loss and once of the first gradient that is not finite, with where it came from."""

    def __init__(self, writer: RunWriter) -> None:
        self._writer = writer
        self._told: set[str] = set()

    def see_loss(
        self, value: float, loss: torch.Tensor, step: int, named: Sequence[tuple[str, torch.Tensor]], readable: bool
    ) -> None:
        """A loss is about to be backwarded; its graph is searched if `readable`: no saved-tensor hooks in force."""
        if math.isfinite(value) or "loss" in self._told:
            return
        bad = bad_parameters(named)
        data: dict[str, Any] = {"where": "loss", "name": ""}
        if bad:
            data = {"where": "parameter", "name": bad[0], "parameters": bad[:_MOST_NAMES]}
        elif readable and loss.grad_fn is not None:
            data |= first_bad_operation(loss, {id(p): name for name, p in named}) or {}
        self._tell("loss", step, data, f"the loss is {value}")

    def see_gradients(self, bad: Sequence[str], step: int) -> None:
        """Gradients of the parameters `bad`, in forward order, held non-finite entries."""
        if bad and "gradient" not in self._told:
            # Backward reaches the last layers first: of the parameters hit, the last one shows where it began.
            data = {"where": "gradient", "name": bad[-1], "parameters": list(bad[:_MOST_NAMES])}
            self._tell("gradient", step, data, "a gradient is not finite")

    def _tell(self, what: str, step: int, data: Mapping[str, Any], summary: str) -> None:
        self._told.add(what)
        place = " ".join(str(data[key]) for key in ("where", "name", "operation") if data.get(key))
        message = f"{summary} at step {step}; first seen in: {place}"
        self._writer.event("nonfinite", message, step=step, severity="error", data={**data, "step": step})
