"""Loss functions seen through thin wrappers of torch's own, and where that fails through the graph of the loss."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from separatrix.runs.probe import LossView

WATCHED = (
    "cross_entropy",
    "nll_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "kl_div",
)
"""Functions of torch.nn.functional that are watched; the loss modules call them."""

_NODES = {
    "NllLossBackward": "nll_loss",
    "NllLoss2DBackward": "nll_loss",
    "NllLossNdBackward": "nll_loss",
    "MseLossBackward": "mse_loss",
    "SmoothL1LossBackward": "smooth_l1_loss",
    "HuberLossBackward": "huber_loss",
    "BinaryCrossEntropyBackward": "binary_cross_entropy",
    "BinaryCrossEntropyWithLogitsBackward": "binary_cross_entropy_with_logits",
}
_LINKS = ("DivBackward", "MulBackward", "AddBackward", "MeanBackward", "SumBackward", "ToCopyBackward", "SubBackward")
_OF_DIFFERENCES = (
    "MeanBackward",
    "SumBackward",
    "PowBackward",
    "AbsBackward",
    "SqrtBackward",
    "MulBackward",
    "DivBackward",
)
_DIFFERENCES = ("SubBackward", "RsubBackward")
_MOST_NODES = 64
_NUMBERLESS = ("FakeTensor", "FunctionalTensor")
_CLASS_LOSSES = ("cross_entropy", "nll_loss")


def is_plain(tensor: object) -> bool:
    """Whether `tensor` holds numbers that can be read now: not inside vmap or a trace, not fake, not on meta."""
    return (
        isinstance(tensor, torch.Tensor)
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        and tensor.device.type != "meta"
        and type(tensor).__name__ not in _NUMBERLESS
        and not torch._is_functional_tensor(tensor)
        and torch._C._get_tracing_state() is None
    )


def view_of_call(kind: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> LossView | None:
    """The outputs and targets of a call of a watched loss function; None where they cannot be read."""
    outputs = args[0] if args else kwargs.get("input")
    targets = args[1] if len(args) > 1 else kwargs.get("target")
    if not (is_plain(outputs) and is_plain(targets)):
        return None
    assert isinstance(outputs, torch.Tensor) and isinstance(targets, torch.Tensor)
    options = kwargs if len(args) < 3 else {**_named(kind, args), **kwargs}
    return LossView(kind, outputs, targets, {k: v for k, v in options.items() if k not in ("input", "target")})


def _named(kind: str, args: Sequence[Any]) -> dict[str, Any]:
    """Options given by position, by name."""
    return dict(zip(inspect.signature(getattr(torch.nn.functional, kind)).parameters, args, strict=False))


def family(kind: str) -> str:
    """The kind of loss function that calls of `kind` come down to in the graph."""
    return "nll_loss" if kind in _CLASS_LOSSES else kind


def views_from_graph(loss: torch.Tensor) -> list[LossView]:
    """Outputs and targets read from the graph behind `loss`, through sums, means and weights.

    Must not be called where saved-tensor hooks may be in force (checkpointing): unpacking would recompute.
    """
    found: list[LossView] = []
    queue: list[Any] = [loss.grad_fn]
    for _ in range(_MOST_NODES):
        if not queue:
            break
        node = queue.pop()
        if node is None:
            continue
        name = node.name().rstrip("0123456789")
        if name in _NODES:
            options = {"ignore_index": node._saved_ignore_index} if hasattr(node, "_saved_ignore_index") else {}
            found.append(LossView(_NODES[name], node._saved_self, node._saved_target, options))
        elif name.startswith(_LINKS):
            queue.extend(following for following, _ in node.next_functions)
    return found


def crossed_shapes(loss: torch.Tensor) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Shapes of outputs and targets whose difference, written by hand, compares each with each; None where it does not.

    Seen in losses that are a sum, mean, power, size, root or multiple of `outputs - targets`, where outputs of shape
    (n, 1) and targets of shape (n,), or the other way round, make a square of differences.
    """
    node = loss.grad_fn
    for _ in range(_MOST_NODES):
        if node is None:
            return None
        name = node.name().rstrip("0123456789")
        edges = [(before, index) for before, index in node.next_functions if before is not None]
        if name.startswith(_DIFFERENCES) and len(edges) == 1:
            return _crossed(_made_by(*edges[0]), _made_by(node, 0))
        if not name.startswith(_OF_DIFFERENCES) or len(set(edges)) != 1:
            return None
        node = edges[0][0]
    return None


def _crossed(outputs: tuple[int, ...], result: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Shapes of outputs and targets, where their difference is a square of each with each."""
    if len(result) != 2 or result[0] != result[1] or result[0] < 2:
        return None
    column, row = (result[0], 1), (result[0],)
    return (outputs, row if outputs == column else column) if outputs in (column, row) else None


def _made_by(node: Any, index: int) -> tuple[int, ...]:
    """Shape of what a node of the graph made in the forward pass."""
    made = getattr(node, "_input_metadata", ())
    return tuple(made[index].shape) if index < len(made) else ()


def class_rows(view: LossView, most: int | None = None) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Class scores, shape (rows, classes), and class indices, shape (rows,), of a classification loss; else None.

    Rows are examples, pixels or tokens; ignored targets are left out, and at most the first `most` rows are taken.
    Targets given as probabilities count as their largest class.
    """
    outputs, targets = view.outputs.detach(), view.targets.detach()
    if view.kind not in _CLASS_LOSSES or outputs.dim() == 0:
        return None
    if outputs.dim() == 1:
        outputs, targets = outputs[None], targets.reshape(1, *targets.shape)
    if outputs.dim() > 2:
        outputs = outputs.movedim(1, -1)
        targets = targets.movedim(1, -1) if targets.is_floating_point() else targets
        outputs = outputs.reshape(-1, outputs.shape[-1])
        targets = targets.reshape(-1, targets.shape[-1]) if targets.is_floating_point() else targets.reshape(-1)
    outputs, targets = outputs[:most], targets[:most]
    if targets.is_floating_point():
        return outputs, targets.argmax(dim=1)
    valid = targets != view.options.get("ignore_index", -100)
    if valid.device.type != "cpu" or not bool(valid.all()):
        outputs, targets = outputs[valid], targets[valid]
    return (outputs, targets) if len(targets) else None
