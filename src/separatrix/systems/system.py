"""A dynamical system: equations as data, and the functions generated from them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from separatrix.systems.errors import DescriptionError
from separatrix.systems.expressions import FUNCTIONS, Node, Tape
from separatrix.systems.generation import Target, generate

Kind = Literal["flow", "map", "delay"]
Values = Mapping[str, "float | np.ndarray"]
"""Parameters by name: numbers, or arrays with one value a copy."""

DELAYED = "_delayed"
"""What is added to the name of a variable to speak of its value one delay ago."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What was measured or published of a system: None or empty where nothing was.

    `period` is the dominant period (time units, or iterations), `exponents` the Lyapunov spectrum in decreasing order
    (per time unit, or per iteration; natural logarithms), `errors` the standard errors of these, `kaplan_yorke` and
    `correlation` dimensions.
    """

    period: float | None = None
    exponents: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    kaplan_yorke: float | None = None
    correlation: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """A flow dx/dt = f(t, x), a map x' = f(x), or a flow with one delay.

    `equations` has an expression a variable; `definitions` name what several of them share and may use each other in
    order. `phase` is the variable of a driven system that only counts time, `observed` the expressions that keep its
    unbounded variables bounded. `delay` names the parameter that is the delay of a delay system, whose equations may
    speak of `x_delayed`. `measured` was computed by `python -m separatrix.systems.recompute`, `published` stands in the
    reference.

    Raises:
        DescriptionError: names clash or are unknown, or the numbers of equations and values differ.
    """

    name: str
    kind: Kind
    variables: tuple[str, ...]
    equations: tuple[str, ...]
    parameters: Mapping[str, float]
    initial: tuple[float, ...]
    definitions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    observed: tuple[str, ...] = ()
    phase: str | None = None
    delay: str | None = None
    conservative: bool = False
    stiff: bool = False
    description: str = ""
    source: str = ""
    family: str = ""
    aliases: tuple[str, ...] = ()
    measured: Facts = Facts()
    published: Facts = Facts()

    def __post_init__(self) -> None:
        for name in ("parameters", "definitions"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        if not len(self.equations) == len(self.initial) == len(self.variables) > 0:
            raise DescriptionError(
                f"system {self.name} has {len(self.variables)} variables, {len(self.equations)} equations and"
                f" {len(self.initial)} initial values: one each is needed"
            )
        names = [*self.variables, *self.parameters, *self.definitions]
        taken = {*FUNCTIONS, "t", "pi"}
        for name in names:
            if not name.isidentifier() or name in taken:
                raise DescriptionError(f"system {self.name} cannot call anything {name!r}: use another name")
            taken.add(name)
        if not all(map(math.isfinite, (*self.initial, *self.parameters.values()))):
            raise DescriptionError(f"system {self.name} has parameters or initial values that are not finite numbers")
        if (self.kind == "delay") != (self.delay in self.parameters):
            raise DescriptionError(f"system {self.name}: `delay` must name the parameter that a delay system delays by")
        for name in filter(None, (self.phase,)):
            if name not in self.variables:
                raise DescriptionError(f"system {self.name} has no variable {name!r} to be the phase of its drive")
        _ = self.program

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], System], tuple[dict[str, Any]]]:
        # views of mappings and generated functions cannot be pickled: the description can
        fields = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return _made, ({key: dict(each) if isinstance(each, Mapping) else each for key, each in fields.items()},)

    @property
    def dimension(self) -> int:
        """Number of variables."""
        return len(self.variables)

    @property
    def driven(self) -> bool:
        """Whether a variable only counts time."""
        return self.phase is not None

    @property
    def period(self) -> float:
        """Dominant period: as measured, else as published.

        Raises:
            DescriptionError: neither is known.
        """
        period = self.measured.period or self.published.period
        if period is None:
            raise DescriptionError(f"the dominant period of system {self.name} is not known: give dt instead")
        return period

    @property
    def largest_exponent(self) -> float:
        """Largest Lyapunov exponent: as measured, else as published.

        Raises:
            DescriptionError: neither is known.
        """
        exponents = self.measured.exponents or self.published.exponents
        if not exponents:
            raise DescriptionError(f"the Lyapunov exponents of system {self.name} are not known: compute them")
        return exponents[0]

    @functools.cached_property
    def program(self) -> Program:
        """The equations on a tape."""
        return Program(self)

    def values(self, parameters: Values | None = None) -> dict[str, Any]:
        """Every parameter by name: those given, the system's own for the rest.

        Raises:
            DescriptionError: a name is unknown, or a value is not finite.
        """
        given = dict(parameters or {})
        if unknown := sorted(set(given) - set(self.parameters)):
            known = ", ".join(self.parameters) or "none"
            raise DescriptionError(f"system {self.name} has no parameter {unknown[0]!r}: choose from {known}")
        for name, value in given.items():
            if not np.isfinite(np.asarray(value, dtype=np.float64)).all():
                raise DescriptionError(f"parameter {name} of system {self.name} must be finite, not {value}")
        return {**self.parameters, **given}

    def rhs(
        self,
        states: Float[np.ndarray, "*batch dim"],
        parameters: Values | None = None,
        *,
        time: float = 0.0,
        delayed: Float[np.ndarray, "*batch dim"] | None = None,
    ) -> Float[np.ndarray, "*batch dim"]:
        """The time derivative of a flow or the image of a map at each state; parameters may have shape (*batch)."""
        states = np.asarray(states, dtype=np.float64)
        inputs = [states] if delayed is None else [states, np.asarray(delayed, dtype=np.float64)]
        result = np.empty(states.shape)
        function = self.program.rows(self.values(parameters))
        function(time, [row for block in inputs for row in _columns(block)], _columns(result))
        return result

    def jacobian(
        self, states: Float[np.ndarray, "*batch dim"], parameters: Values | None = None, *, time: float = 0.0
    ) -> Float[np.ndarray, "*batch dim dim"]:
        """Derivatives of f (rows) by the variables (columns), exact, at each state."""
        states = np.asarray(states, dtype=np.float64)
        result = np.empty((*states.shape, self.dimension))
        function = self.program.jacobian(self.values(parameters))
        function(time, _columns(states), _columns(result.reshape(*states.shape[:-1], self.dimension**2)))
        return result

    def tensor_rhs(
        self, states: torch.Tensor, parameters: Mapping[str, Any] | None = None, *, time: Any = 0.0
    ) -> torch.Tensor:
        """The same of torch tensors of shape (*batch, dim): differentiable in states and parameters."""
        function = self.program.tensors({**self.parameters, **(parameters or {})})
        outputs = (torch.as_tensor(each, dtype=states.dtype) for each in function(time, states.unbind(-1)))
        return torch.stack([each.expand(states.shape[:-1]) for each in outputs], dim=-1)

    def observe(self, states: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch observed"]:
        """The states with unbounded variables replaced by bounded functions of them, as `observed` says."""
        if not self.observed:
            return states
        function = self.program.observables(dict(self.parameters))
        result = np.empty((*states.shape[:-1], len(self.observed)))
        function(0.0, _columns(states), _columns(result))
        return result


def _made(fields: dict[str, Any]) -> System:
    return System(**fields)


def _columns(block: np.ndarray) -> list[np.ndarray]:
    """Views of the entries of the last axis, arrays even where there is one state alone."""
    block = np.atleast_2d(block)
    return [block[..., i] for i in range(block.shape[-1])]


class Program:
    """What is generated from a system's equations; each function is compiled when it is first asked for."""

    def __init__(self, system: System) -> None:
        self._tape = tape = Tape()
        self._names = tuple(system.parameters)
        self._time = tape.name("t")
        self._variables = [tape.name(each) for each in system.variables]
        self._parameters = [tape.name(each) for each in system.parameters]
        self._delayed = [tape.name(each + DELAYED) for each in system.variables] if system.kind == "delay" else []
        self._tangents = [tape.name(f"{each}_tangent") for each in system.variables]
        self._known = dict(zip(system.variables, self._variables, strict=True))
        self._known |= dict(zip(system.parameters, self._parameters, strict=True))
        self._known |= {each + DELAYED: node for each, node in zip(system.variables, self._delayed, strict=False)}
        if system.kind == "flow":
            self._known["t"] = self._time
        try:
            for name, text in system.definitions.items():
                self._known[name] = tape.parse(text, self._known)
            self._outputs = [tape.parse(text, self._known) for text in system.equations]
            self._observed = [tape.parse(text, self._known) for text in system.observed]
        except DescriptionError as error:
            raise DescriptionError(f"system {system.name}: {error}") from None

    def rows(self, values: Values) -> Callable[..., None]:
        """f(t, rows, out): the right-hand side on rows of arrays (variables, then delayed ones)."""
        return self._made("rows", "rhs", values)

    def floats(self, values: Values) -> Callable[..., list[float]]:
        """f(t, y): the right-hand side on numbers."""
        return self._made("floats", "rhs", values)

    def tensors(self, values: Mapping[str, Any]) -> Callable[..., list[Any]]:
        """f(t, rows): the right-hand side on torch tensors."""
        return self._made("tensors", "rhs", values)

    def jacobian(self, values: Values, target: Target = "rows") -> Callable[..., Any]:
        """The Jacobian, row by row, of the right-hand side."""
        return self._made(target, "jacobian", values)

    def tangent(self, values: Values) -> Callable[..., None]:
        """f(t, rows, out) of variables and tangent vectors: the right-hand side, and the Jacobian times the vectors."""
        return self._made("rows", "tangent", values)

    def observables(self, values: Values) -> Callable[..., None]:
        """f(t, rows, out) of what is observed."""
        return self._made("rows", "observed", values)

    def expression(self, text: str, values: Values) -> Callable[..., None]:
        """f(t, rows, out) of one further expression of variables, parameters and definitions."""
        node = self._tape.parse(text, self._known)
        return self._generated("rows", self._variables, [node])(*self._ordered(values))

    def divergence(self, values: Values) -> Callable[..., None]:
        """f(t, rows, out) of the trace of the Jacobian."""
        return self._made("rows", "divergence", values)

    def _made(self, target: Target, what: str, values: Mapping[str, Any]) -> Callable[..., Any]:
        return self._factory(target, what)(*self._ordered(values))

    def _ordered(self, values: Mapping[str, Any]) -> list[Any]:
        return [values[name] for name in self._names]

    @functools.cache  # noqa: B019 - a program lives as long as its system
    def _factory(self, target: Target, what: str) -> Callable[..., Callable[..., Any]]:
        inputs = [*self._variables, *self._delayed]
        if what == "jacobian":
            return self._generated(target, inputs, [node for row in self._rows_of_jacobian() for node in row])
        if what == "tangent":
            return self._generated(target, [*self._variables, *self._tangents], [*self._outputs, *self._products()])
        if what == "divergence":
            total = self._tape.number(0.0)
            for i, row in enumerate(self._rows_of_jacobian()):
                total = self._tape.apply("+", total, row[i])
            return self._generated(target, inputs, [total])
        return self._generated(target, inputs, self._observed if what == "observed" else self._outputs)

    def _generated(
        self, target: Target, inputs: Sequence[Node], outputs: Sequence[Node]
    ) -> Callable[..., Callable[..., Any]]:
        return generate(
            self._tape, target, inputs=inputs, parameters=self._parameters, time=self._time, outputs=outputs
        )

    def _rows_of_jacobian(self) -> list[list[Node]]:
        return [[self._tape.derivative(output, each) for each in self._variables] for output in self._outputs]

    def _products(self) -> list[Node]:
        tape, products = self._tape, []
        for row in self._rows_of_jacobian():
            total = tape.number(0.0)
            for entry, tangent in zip(row, self._tangents, strict=True):
                total = tape.apply("+", total, tape.apply("*", entry, tangent))
            products.append(total)
        return products
