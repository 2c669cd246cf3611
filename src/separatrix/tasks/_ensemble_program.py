"""Turns a function of one copy into a flat program over all copies, traced once for each shape of the data.

`torch.func` costs a dispatch through its layers for every operation of every step. Here `vmap` runs once under
`make_fx`, which writes down the batched operations of forward and backward; the steps then replay that list.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from separatrix.tasks.errors import EnsembleError, EnsembleWarning

Program = Callable[..., Any]

_aten = torch.ops.aten
_NARROW = 16
"""Rows shorter than a vector register: torch's softmax over them takes one element at a time."""


def trace(function: Callable[..., Any], arguments: tuple[Tensor, ...], name: str) -> tuple[Program, bool]:
    """The program of `vmap(function)` for arguments (copies, ...) of these shapes, and whether it draws random numbers.

    `function` takes tensors of one copy and returns a flat tuple of tensors. Attention is written in its mathematical
    form, which has batching rules. What cannot be written down is run by `torch.func.vmap` itself, with a warning.

    Raises:
        EnsembleError: the function cannot be batched, for example since it branches on values.
    """
    batched = vmap(function, randomness="different")
    try:
        with sdpa_kernel(SDPBackend.MATH):
            module = make_fx(batched, decomposition_table=_decompositions)(*arguments)
    except Exception as error:
        program = _untraced(batched)
        try:
            program(*arguments)
        except Exception as batching:
            raise EnsembleError(
                f"{name} cannot be batched over copies ({_first_line(batching)}): write its forward without branching"
                " on values and without out=, or train the copies one by one"
            ) from batching
        warnings.warn(
            f"{name} runs under torch.func.vmap at every step, since it cannot be traced ({_first_line(error)})",
            EnsembleWarning,
            stacklevel=5,
        )
        return program, True
    _simplify(module)
    return module.forward, any(_draws(node) for node in module.graph.nodes)


def _untraced(batched: Callable[..., Any]) -> Program:
    def program(*arguments: Tensor) -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return batched(*arguments)

    return program


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _draws(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags


def _narrow_rows(values: Tensor, dim: int) -> bool:
    return values.dim() > 1 and dim % values.dim() == values.dim() - 1 and values.shape[-1] < _NARROW


def _class_first(values: Tensor) -> Tensor:
    return values.movedim(-1, 0).contiguous()


def _softmax(operation: Any) -> Callable[..., Any]:
    """Softmax over a short last dimension, moved to the front where torch works on whole vectors."""

    def decomposed(values: Tensor, dim: int, *rest: Any) -> Any:
        if not _narrow_rows(values, dim):
            return NotImplemented
        return operation(_class_first(values), 0, *rest).movedim(0, -1)

    return decomposed


def _softmax_backward(operation: Any) -> Callable[..., Any]:
    def decomposed(gradient: Tensor, output: Tensor, dim: int, dtype: torch.dtype) -> Any:
        if not _narrow_rows(output, dim):
            return NotImplemented
        return operation(_class_first(gradient), _class_first(output), 0, dtype).movedim(0, -1)

    return decomposed


_decompositions: dict[Any, Callable[..., Any]] = {
    operation: rule(operation)
    for rule, operations in (
        (_softmax, (_aten._softmax.default, _aten._log_softmax.default, _aten._safe_softmax.default)),
        (_softmax_backward, (_aten._softmax_backward_data.default, _aten._log_softmax_backward_data.default)),
    )
    for operation in operations
}


def _simplify(module: fx.GraphModule) -> None:
    """Drop operations that change nothing or were done before, and add biases in the matrix product itself."""
    graph = module.graph
    calls = [node for node in graph.nodes if node.op == "call_function"]
    pure = not any(_mutates(node) for node in calls)
    done: dict[Any, fx.Node] = {}
    for node in calls:
        replacement = _equal_node(node, pure)
        if replacement is None and pure and not _draws(node):
            known = done.setdefault((node.target, repr(node.args), repr(node.kwargs)), node)
            replacement = None if known is node else known
        if replacement is not None:
            node.replace_all_uses_with(replacement)
            graph.erase_node(node)
    graph.eliminate_dead_code()
    module.recompile()


def _shape(node: Any) -> tuple[int, ...] | None:
    meta = node.meta.get("tensor_meta") if isinstance(node, fx.Node) else None
    return None if meta is None else tuple(meta.shape)


def _equal_node(node: fx.Node, pure: bool) -> fx.Node | None:
    """A node of the same value; without `pure`, where memory is written in place, one of the same memory."""
    first = node.args[0] if node.args else None
    if not isinstance(first, fx.Node):
        return None
    if node.target in (_aten.expand.default, _aten.view.default, _aten._unsafe_view.default):
        return first if _shape(node) == _shape(first) is not None else None
    if node.target is _aten.permute.default:
        order = list(node.args[1])  # type: ignore[arg-type]
        return first if order == sorted(order) else None
    if node.target is _aten.mul.Scalar:
        return first if pure and type(node.args[1]) is int and node.args[1] == 1 else None
    if node.target is _aten.transpose.int:
        return first.args[0] if first.target is node.target and first.args[1:] == node.args[1:] else None  # type: ignore[return-value]
    if node.target is _aten.add.Tensor and not node.kwargs:
        return _biased_product(node, *node.args) or _biased_product(node, *reversed(node.args))  # type: ignore[arg-type]
    return None


def _biased_product(node: fx.Node, bias: fx.Node, product: fx.Node) -> fx.Node | None:
    """`bias + bmm(a, b)` as one operation, where the bias is broadcast over the rows of the product."""
    shape = _shape(product)
    if getattr(product, "target", None) is not _aten.bmm.default or len(product.users) > 1 or shape is None:
        return None
    if shape != _shape(node) or _shape(bias) != (shape[0], 1, shape[2]):
        return None
    with node.graph.inserting_before(node):
        fused = node.graph.call_function(_aten.baddbmm.default, (bias, *product.args))
    fused.meta = dict(node.meta)
    return fused
