"""The empirical neural tangent kernel, contracted layer by layer without forming the Jacobian."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, cast

from torch import Tensor, nn

from separatrix.operators._blocks import Build, block_kernels, plan
from separatrix.operators._examples import Inputs, announce, examples_of, run, selected, undisturbed
from separatrix.operators._forwards import whole
from separatrix.operators._layouts import Layout
from separatrix.operators._structure import PROBED, Trace, watch
from separatrix.operators.errors import OperatorUsageError

if TYPE_CHECKING:
    from jaxtyping import Float

Form = Literal["trace", "full"]


def tangent_kernel(
    model: nn.Module,
    x: Inputs,
    y: Inputs | None = None,
    form: Form = "trace",
    per_layer: bool = False,
    *,
    parameters: Sequence[str | Tensor] | None = None,
    memory: int | None = None,
) -> Float[Tensor, "n m"] | Float[Tensor, "n m c c"] | dict[str, Tensor]:
    """Empirical neural tangent kernel between inputs x and y (default: x), over the parameters that train.

    With c outputs an example (flattened), `full` is (n, m, c, c): <d f_a(x_i) / d theta, d f_b(y_j) / d theta>;
    `trace` is
    (n, m): its trace over outputs, a SUM over a = b, not divided by c. With `per_layer` a dict from layer names (the
    module that owns the parameters, "" for the model itself; a shared parameter counts for its first owner) to kernels
    whose sum is the kernel.

    Inputs are a tensor, or several that the model takes in order or by name, examples first; `parameters` are names or
    tensors. Parameters used through linear,
    convolution, embedding, normalisation and attention layers, in matrix products and sums, once or shared, are
    contracted from layer inputs and output gradients; others get exact Jacobian rows, one example at a time, announced
    by
    JacobianFallbackWarning. float16 and bfloat16 are contracted in float32. In float32 the result's relative error is
    below 1e-5 of its largest entry.

    Cost: c backward passes and, per layer, the cheaper of n m t^2 (c p + q) and c p q (n + m) t + c p q n m
    multiplications for t positions, p outputs, q inputs. A first convolution behind rectification and max pooling is
    read at the pooled positions. `memory` bounds in bytes, roughly, what is held beside the result: 44 MB by default,
    176 MB where that keeps the graph of a forward which every output would repeat; blocks of examples are repeated to
    keep to it. That examples do not mix is checked on the first four. Parameters, gradients, buffers, modes and random
    states stay as they are.

    Raises:
        OperatorUsageError: an unknown form, or x and y with different numbers of outputs.
        ParameterError: no parameter to differentiate, or a frozen one.
        CoupledExamplesError: batch statistics or dropout, with the module's name where known.
        NonFiniteError: an output that is not finite.
        StructureError: outputs that are not one tensor with examples first.

    Source: Jacot et al. 2018, arXiv:1806.07572; Novak et al. 2022, arXiv:2206.08720, section 3.
    """
    model = whole(model)
    _check(form)
    chosen, layers = selected({"": model}, parameters)
    reasons: dict[int, str] = {}

    def build(inputs: Inputs, layouts: tuple[Layout | None, ...] | None = None) -> Build:
        def trace(examples: slice) -> Trace:
            def alone(i: int) -> Tensor:
                return cast(Tensor, run(model, inputs, slice(examples.start + i, examples.start + i + 1)))

            found, why = watch(lambda: run(model, inputs, examples), chosen, alone, layouts)
            reasons.update(why)
            return found

        return trace

    n, m = examples_of(x), examples_of(x if y is None else y)
    with undisturbed([model]):
        probe = build(x)(slice(0, PROBED))
        other = probe if y is None else build(y)(slice(0, PROBED))
        if other.outputs.shape[1] != probe.outputs.shape[1]:
            raise OperatorUsageError(
                "x and y give different numbers of outputs: pass inputs of equal shape per example."
            )
        build_x, build_y = build(x, probe.layouts), None if y is None else build(y, other.layouts)
        cut = plan(probe, n, 0 if y is None else m, memory, form == "full")
        kernel = block_kernels(build_x, n, build_y, m, cut, form == "full", probe.outputs, layers, per_layer)
    announce(reasons, layers, stacklevel=3)
    return kernel


def tangent_kernel_of(
    forward: Callable[[], Tensor],
    modules: nn.Module | Mapping[str, nn.Module],
    parameters: Sequence[str | Tensor] | None = None,
    form: Form = "trace",
    per_layer: bool = False,
    *,
    memory: int | None = None,
) -> Float[Tensor, "n n"] | Float[Tensor, "n n c c"] | dict[str, Tensor]:
    """Tangent kernel of the outputs (n, ...) that `forward` computes, over the parameters of `modules`.

    For a training seen from outside, such as a replayed step: `forward` runs once, on the whole batch, in the modules'
    modes; dropout masks are those of that run. Layer names of several modules are prefixed with their keys. Jacobian
    rows of
    parameters without structure cost n c backward passes over the batch. Else as `tangent_kernel`.
    """
    _check(form)
    roots = modules if isinstance(modules, Mapping) else {"": modules}
    chosen, layers = selected(roots, parameters)
    with undisturbed(roots.values()):
        trace, reasons = watch(forward, chosen)
        n = len(trace.outputs)
        cut = dataclasses.replace(plan(trace, n, 0, memory), examples=n, forward=n)
        kernel = block_kernels(lambda _: trace, n, None, n, cut, form == "full", trace.outputs, layers, per_layer)
    announce(reasons, layers, stacklevel=3)
    return kernel


def _check(form: str) -> None:
    if form not in ("trace", "full"):
        raise OperatorUsageError(f"Form {form!r} of a tangent kernel is unknown: use 'trace' or 'full'.")
