"""Equations as data: a small expression language, parsed with `ast`, differentiated symbolically.

Expressions are numbers, names, `+ - * / % **`, and the functions of `FUNCTIONS`. A tape holds each distinct
subexpression once, in an order in which it can be computed: what generated code computes twice in the text it computes
once.
"""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from separatrix.systems.errors import DescriptionError

Node = int
"""A subexpression: its position on a tape."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """One entry of a tape: `number` (value), `name` (text), an operator or a function with its arguments."""

    kind: str
    arguments: tuple[Node, ...] = ()
    text: str = ""
    value: float = 0.0


_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Mod: "%", ast.Pow: "**"}
_CONSTANTS = {"pi": math.pi}
_FOLDED: Mapping[str, Callable[..., float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "%": lambda a, b: a % b,
    "**": lambda a, b: float(a**b),
    "sin": math.sin,
    "cos": math.cos,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "sinh": math.sinh,
    "cosh": math.cosh,
    "tanh": math.tanh,
}
_UNROLLED_POWER = 6


class Tape:
    """Subexpressions in computable order, each once; grows as expressions are parsed and differentiated."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._known: dict[Operation, Node] = {}
        self._derivatives: dict[tuple[Node, Node], Node] = {}
        self._reaching: list[frozenset[Node]] = []

    def number(self, value: float) -> Node:
        """A constant."""
        return self._entered(Operation("number", value=float(value)))

    def name(self, text: str) -> Node:
        """A variable or parameter."""
        return self._entered(Operation("name", text=text))

    def parse(self, text: str, known: Mapping[str, Node]) -> Node:
        """The expression `text`, its names standing for the nodes of `known`.

        Raises:
            DescriptionError: it is no expression of this language, or a name is unknown.
        """
        try:
            tree = ast.parse(text.strip(), mode="eval")
        except SyntaxError as error:
            raise DescriptionError(f"{text!r} is no expression ({error.msg}): write it as in `sigma*(y - x)`") from None
        return self._read(tree.body, known, text)

    def apply(self, kind: str, *arguments: Node) -> Node:
        """An operator or function of nodes, simplified where numbers allow."""
        values = [self._value(node) for node in arguments]
        if kind in _FOLDED and None not in values:
            return self.number(_FOLDED[kind](*values))
        if kind in _SIMPLIFIED:
            simple = _SIMPLIFIED[kind](self, *arguments)
            if simple is not None:
                return simple
        return self._entered(Operation(kind, arguments))

    def derivative(self, node: Node, name: Node) -> Node:
        """The partial derivative of a node with respect to a name."""
        if name not in self._reaching[node]:
            return self.number(0.0)
        if node == name:
            return self.number(1.0)
        if (node, name) not in self._derivatives:
            operation = self.operations[node]
            partials = _PARTIALS[operation.kind](self, node, *operation.arguments)
            total = self.number(0.0)
            for argument, partial in zip(operation.arguments, partials, strict=True):
                inner = self.derivative(argument, name)
                if self._value(inner) != 0.0:
                    total = self.apply("+", total, self.apply("*", partial(), inner))
            self._derivatives[node, name] = total
        return self._derivatives[node, name]

    def reaching(self, node: Node) -> frozenset[Node]:
        """The names on which a node depends."""
        return self._reaching[node]

    def needed(self, outputs: Iterable[Node]) -> list[Node]:
        """Every node that the outputs are computed from, in computable order."""
        found: set[Node] = set()
        left = list(outputs)
        while left:
            node = left.pop()
            if node not in found:
                found.add(node)
                left.extend(self.operations[node].arguments)
        return sorted(found)

    def _value(self, node: Node) -> float | None:
        operation = self.operations[node]
        return operation.value if operation.kind == "number" else None

    def _entered(self, operation: Operation) -> Node:
        node = self._known.get(operation)
        if node is None:
            node = self._known[operation] = len(self.operations)
            self.operations.append(operation)
            names = frozenset({node}) if operation.kind == "name" else frozenset()
            self._reaching.append(names.union(*(self._reaching[argument] for argument in operation.arguments)))
        return node

    def _read(self, tree: ast.expr, known: Mapping[str, Node], text: str) -> Node:
        match tree:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return self.number(value)
            case ast.Name(id=name) if name in known:
                return known[name]
            case ast.Name(id=name) if name in _CONSTANTS:
                return self.number(_CONSTANTS[name])
            case ast.Name(id=name):
                raise DescriptionError(f"{text!r} speaks of {name!r}, which is neither a variable nor a parameter")
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.apply("*", self.number(-1.0), self._read(operand, known, text))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self._read(operand, known, text)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return self.apply(_OPERATORS[type(op)], self._read(left, known, text), self._read(right, known, text))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS:
                if len(arguments) != FUNCTIONS[name]:
                    raise DescriptionError(
                        f"{name} in {text!r} takes {FUNCTIONS[name]} argument(s), not {len(arguments)}"
                    )
                return self.apply(name, *(self._read(each, known, text) for each in arguments))
        raise DescriptionError(
            f"{text!r} holds what this language does not have ({ast.unparse(tree)}): use + - * / % ** and"
            f" {', '.join(sorted(FUNCTIONS))}"
        )


Partial = Callable[[], Node]


def _sum(tape: Tape, a: Node, b: Node) -> Node | None:
    if tape._value(a) == 0.0:
        return b
    if tape._value(b) == 0.0:
        return a
    negated = _negated(tape, b)
    if negated is not None:
        return tape.apply("-", a, negated)
    negated = _negated(tape, a)
    return None if negated is None else tape.apply("-", b, negated)


def _difference(tape: Tape, a: Node, b: Node) -> Node | None:
    if tape._value(b) == 0.0:
        return a
    if a == b:
        return tape.number(0.0)
    if tape._value(a) == 0.0:
        return tape.apply("*", tape.number(-1.0), b)
    negated = _negated(tape, b)
    return None if negated is None else tape.apply("+", a, negated)


def _negated(tape: Tape, node: Node) -> Node | None:
    """The node without its sign, if it carries one in front."""
    operation = tape.operations[node]
    if operation.kind == "*" and tape._value(operation.arguments[0]) == -1.0:
        return operation.arguments[1]
    return None


def _product(tape: Tape, a: Node, b: Node) -> Node | None:
    for one, other in ((a, b), (b, a)):
        if tape._value(one) == 0.0:
            return tape.number(0.0)
        if tape._value(one) == 1.0:
            return other
    if tape._value(b) is not None:
        return tape.apply("*", b, a)  # numbers come first
    value, inner = tape._value(a), tape.operations[b]
    if value is not None and inner.kind == "*" and (number := tape._value(inner.arguments[0])) is not None:
        return tape.apply("*", tape.number(value * number), inner.arguments[1])
    for one, other in ((a, b), (b, a)):
        bare = _negated(tape, one)
        if bare is not None and tape._value(other) is None:
            return tape.apply("*", tape.number(-1.0), tape.apply("*", bare, other))
    return None


def _quotient(tape: Tape, a: Node, b: Node) -> Node | None:
    value = tape._value(b)
    if value is not None and value != 0.0 and math.frexp(value)[0] == 0.5:
        return tape.apply("*", tape.number(1.0 / value), a)  # exact: a power of two
    return tape.number(0.0) if tape._value(a) == 0.0 else None


def _power(tape: Tape, a: Node, b: Node) -> Node | None:
    exponent = tape._value(b)
    if exponent == 0.5:
        return tape.apply("sqrt", a)
    if exponent is None or exponent != int(exponent) or abs(exponent) > _UNROLLED_POWER:
        return None
    if exponent < 0:
        return tape.apply("/", tape.number(1.0), tape.apply("**", a, tape.number(-exponent)))
    if exponent == 0:
        return tape.number(1.0)
    half = tape.apply("**", a, tape.number(exponent // 2)) if exponent > 1 else tape.number(1.0)
    square = tape._entered(Operation("*", (half, half))) if exponent > 1 else half
    return tape.apply("*", square, a) if exponent % 2 else square


_SIMPLIFIED: Mapping[str, Callable[[Tape, Node, Node], Node | None]] = {
    "+": _sum,
    "-": _difference,
    "*": _product,
    "/": _quotient,
    "**": _power,
}


def _scaled(kind: str, sign: float = 1.0) -> Callable[[Tape, Node, Node], list[Partial]]:
    return lambda tape, node, a: [lambda: tape.apply("*", tape.number(sign), tape.apply(kind, a))]


def _flat(tape: Tape, node: Node, *arguments: Node) -> list[Partial]:
    return [lambda: tape.number(0.0) for _ in arguments]


def _formula(text: str) -> Callable[..., list[Partial]]:
    """Partials given as expressions of the arguments `a`, `b` and of the value `f`, separated by semicolons."""

    def partials(tape: Tape, node: Node, *arguments: Node) -> list[Partial]:
        known = {"f": node, **dict(zip("ab", arguments, strict=False))}
        return [lambda each=each: tape.parse(each, known) for each in text.split(";")]  # type: ignore[misc]

    return partials


_PARTIALS: Mapping[str, Callable[..., Sequence[Partial]]] = {
    "+": _formula("1; 1"),
    "-": _formula("1; -1"),
    "*": _formula("b; a"),
    "/": _formula("1/b; -f/b"),
    "%": _formula("1; -floor(a/b)"),
    "**": _formula("b*a**(b - 1); f*log(a)"),
    "sin": _scaled("cos"),
    "cos": _scaled("sin", -1.0),
    "tan": _formula("1 + f*f"),
    "exp": _formula("f"),
    "log": _formula("1/a"),
    "sqrt": _formula("0.5/f"),
    "sinh": _scaled("cosh"),
    "cosh": _scaled("sinh"),
    "tanh": _formula("1 - f*f"),
    "arcsin": _formula("1/sqrt(1 - a*a)"),
    "arccos": _formula("-1/sqrt(1 - a*a)"),
    "arctan": _formula("1/(1 + a*a)"),
    "abs": _formula("sign(a)"),
    "minimum": _formula("1 - heaviside(a - b); heaviside(a - b)"),
    "maximum": _formula("heaviside(a - b); 1 - heaviside(a - b)"),
    "sign": _flat,
    "heaviside": _flat,
    "floor": _flat,
}

FUNCTIONS: Mapping[str, int] = {
    kind: 2 if kind in ("minimum", "maximum") else 1 for kind in _PARTIALS if kind.isidentifier()
}
"""Functions of the language and how many arguments each takes; `heaviside` is 0 at 0 and below, 1 above."""
