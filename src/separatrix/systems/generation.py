"""Python functions generated from a tape: for rows of numpy arrays, for floats, for torch tensors.

What depends on parameters alone is computed once, when the function is made; the rest in one pass, without a loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from separatrix.systems.expressions import Node, Tape

Target = Literal["rows", "floats", "tensors"]
"""`rows`: f(t, inputs, outputs) writes into views of numpy arrays; `floats`, `tensors`: f(t, inputs) gives a list."""

_UFUNCS = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide", "%": "remainder", "**": "power"}


def _numpy_names() -> dict[str, Any]:
    names = {each: getattr(np, each) for each in (*_UFUNCS.values(), "sin", "cos", "tan", "exp", "log", "sqrt")}
    for each in ("sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "abs", "minimum", "maximum", "sign", "floor"):
        names[each] = getattr(np, each)
    return names | {"heaviside": lambda a: np.heaviside(a, 0.0)}


def _float_names() -> dict[str, Any]:
    names = {each: getattr(math, each) for each in ("sin", "cos", "tan", "exp", "log", "sqrt", "floor")}
    names |= {each: getattr(math, each) for each in ("sinh", "cosh", "tanh")}
    return names | {
        "arcsin": math.asin,
        "arccos": math.acos,
        "arctan": math.atan,
        "abs": abs,
        "minimum": min,
        "maximum": max,
        "sign": lambda a: float(a > 0) - float(a < 0),
        "heaviside": lambda a: float(a > 0),
    }


def _tensor_names() -> dict[str, Any]:
    import torch

    def wrapped(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda *arguments: function(*(torch.as_tensor(each) for each in arguments))

    names = {each: wrapped(getattr(torch, each)) for each in ("sin", "cos", "tan", "exp", "log", "sqrt", "floor")}
    for each in ("sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "abs", "minimum", "maximum", "sign"):
        names[each] = wrapped(getattr(torch, each))
    return names | {"heaviside": lambda a: (torch.as_tensor(a) > 0).to(torch.as_tensor(a).dtype)}


_NAMESPACES: Mapping[Target, Callable[[], dict[str, Any]]] = {
    "rows": _numpy_names,
    "floats": _float_names,
    "tensors": _tensor_names,
}


def generate(
    tape: Tape,
    target: Target,
    *,
    inputs: Sequence[Node],
    parameters: Sequence[Node],
    time: Node,
    outputs: Sequence[Node],
) -> Callable[..., Callable[..., Any]]:
    """A factory: called with a value for each of `parameters`, it gives a function of time and of `inputs`."""
    source = _source(tape, target, inputs, parameters, time, outputs)
    namespace = _NAMESPACES[target]()
    exec(compile(source, "<equations>", "exec"), namespace)
    made: Callable[..., Callable[..., Any]] = namespace["make"]
    return made


def _source(
    tape: Tape, target: Target, inputs: Sequence[Node], parameters: Sequence[Node], time: Node, outputs: Sequence[Node]
) -> str:
    given = {*inputs, time}
    texts = {node: f"v{node}" for node in (*inputs, *parameters)} | {time: "t"}
    counts: dict[Node, int] = {}
    order = tape.needed(outputs)
    for node in order:
        for argument in tape.operations[node].arguments:
            counts[argument] = counts.get(argument, 0) + 1
    for node in outputs:
        counts[node] = counts.get(node, 0) + 1

    def written(node: Node) -> str:
        operation = tape.operations[node]
        if operation.kind == "number":
            value = operation.value
            return repr(value) if value >= 0 else f"({value!r})"
        arguments = [texts[each] for each in operation.arguments]
        if operation.kind in _UFUNCS:
            return f"({arguments[0]} {operation.kind} {arguments[1]})"
        return f"{operation.kind}({', '.join(arguments)})"

    constant: list[str] = []
    varying: list[str] = []
    fixed = {node for node in order if not tape.reaching(node) & given}
    finals = set(outputs) if target == "rows" else set()
    for node in order:
        if node in texts:
            continue
        text = written(node)
        number = tape.operations[node].kind == "number"
        hoisted = node in fixed and not number
        if not number and (hoisted or (counts[node] > 1 and node not in finals)):
            (constant if hoisted else varying).append(f"v{node} = {text}")
            text = f"v{node}"
        elif node in finals and counts[node] > 1 and not number:
            place = f"o{list(outputs).index(node)}"
            varying.append(_stored(tape, node, place, texts, text))
            text = place
        texts[node] = text
    names = ", ".join(f"v{node}" for node in parameters)
    lines = [f"def make({names}):", *(f"    {each}" for each in constant)]
    unpacked = f"        ({', '.join(texts[node] for node in inputs)},) = y"
    if target == "rows":
        stores = [f"o{i}" for i in range(len(outputs))]
        lines += ["    def f(t, y, out):", unpacked, f"        ({', '.join(stores)},) = out"]
        lines += [f"        {each}" for each in varying]
        lines += [
            f"        {_stored(tape, node, place, texts, texts[node])}"
            for node, place in zip(outputs, stores, strict=True)
            if texts[node] != place
        ]
    else:
        lines += ["    def f(t, y):", unpacked, *(f"        {each}" for each in varying)]
        lines += [f"        return [{', '.join(texts[node] for node in outputs)}]"]
    return "\n".join([*lines, "    return f", ""])


def _stored(tape: Tape, node: Node, place: str, texts: Mapping[Node, str], text: str) -> str:
    """A statement that leaves the node's value in the array `place`; the last operation writes there itself."""
    operation = tape.operations[node]
    if (
        operation.kind in _UFUNCS
        and text == f"({texts[operation.arguments[0]]} {operation.kind} {texts[operation.arguments[1]]})"
    ):
        first, second = (texts[each] for each in operation.arguments)
        return f"{_UFUNCS[operation.kind]}({first}, {second}, {place})"
    return f"{place}[...] = {text}"
