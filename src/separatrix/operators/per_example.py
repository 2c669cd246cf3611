"""Gradients of single examples' losses: norms, inner products and group means from one backward pass."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from separatrix.operators._blocks import MEMORY, Build, block_kernels, every_layer, forward_size, plan
from separatrix.operators._channels_last import ChannelsLast, hooked
from separatrix.operators._contractions import group_sums, squared_norms
from separatrix.operators._examples import Inputs, StructureError, announce, examples_of, run, selected, undisturbed
from separatrix.operators._forwards import whole
from separatrix.operators._layouts import Layout
from separatrix.operators._structure import PROBED, Trace, pull, watch
from separatrix.operators._terms import slices_of
from separatrix.operators.errors import OperatorUsageError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Loss = Callable[[Any, Any], Tensor]

_SUMMED = ("sum", "batchmean")
"""Reductions that add up the entries of an example."""


def per_example_gradient_norms(
    model: nn.Module,
    loss: Loss,
    inputs: Inputs,
    targets: Tensor,
    per_layer: bool = False,
    *,
    parameters: Sequence[str | Tensor] | None = None,
    memory: int = MEMORY,
) -> Float[Tensor, " n"] | dict[str, Float[Tensor, " n"]]:
    """Euclidean norm of every example's loss gradient, (n,), or per layer a dict whose squares sum to its square.

    `loss(outputs, targets)` returns one loss an example, (n,); or it has a `reduction`, as the functions and modules of
    torch do, and is taken with reduction="none" and averaged over the entries of each example, as in
    `per_example_losses`. Not divided by the batch size. Inputs, parameters, layers, fallback and what stays unchanged:
    as in `tangent_kernel`. Every example goes once forward and once backward without weight gradients, as many together
    as half of `memory` (bytes) holds; that examples do not mix is checked on the first four. On the CPU, images have
    channels last in memory between convolutions and pooling, if the model gives the same outputs so and has no forward
    hooks.

    Raises:
        OperatorUsageError: a loss without one value an example, or inputs and targets of different lengths.
        ParameterError: no parameter to differentiate, or a frozen one.
        CoupledExamplesError: batch statistics or dropout, with the module's name where known.
        NonFiniteError: a loss that is not finite.

    Source: Goodfellow 2015, arXiv:1510.01799; Rochette et al. 2019, arXiv:1912.06015.
    """
    with _watched(model, loss, inputs, targets, parameters, memory) as problem:
        return _norms(problem, per_layer, memory)


def per_example_gradient_norms_of(
    forward: Callable[[], Tensor],
    modules: nn.Module | Mapping[str, nn.Module],
    parameters: Sequence[str | Tensor] | None = None,
    per_layer: bool = False,
    *,
    memory: int = MEMORY,
) -> Float[Tensor, " n"] | dict[str, Float[Tensor, " n"]]:
    """Norms of the gradients of the losses (n,) that `forward` computes, over the parameters of `modules`.

    For a training seen from outside, such as a replayed step: `forward` runs once, on the whole batch, in the modules'
    modes; two more backward passes check that examples do not mix. Gradients of parameters without structure cost n
    backward passes over the batch. Else as
    `per_example_gradient_norms`.
    """
    with _watched_from(forward, modules, parameters) as problem:
        return _norms(problem, per_layer, memory)


def per_example_inner_products(
    model: nn.Module,
    loss: Loss,
    inputs: Inputs,
    targets: Tensor,
    per_layer: bool = False,
    *,
    parameters: Sequence[str | Tensor] | None = None,
    memory: int = MEMORY,
) -> Float[Tensor, "n n"] | dict[str, Float[Tensor, "n n"]]:
    """Inner products of the examples' loss gradients, (n, n), or per layer a dict whose sum they are.

    Arguments, assumptions and errors are those of `per_example_gradient_norms`.
    """
    with _watched(model, loss, inputs, targets, parameters) as problem:
        return _products(problem, per_layer, memory)


def per_example_inner_products_of(
    forward: Callable[[], Tensor],
    modules: nn.Module | Mapping[str, nn.Module],
    parameters: Sequence[str | Tensor] | None = None,
    per_layer: bool = False,
    *,
    memory: int = MEMORY,
) -> Float[Tensor, "n n"] | dict[str, Float[Tensor, "n n"]]:
    """Inner products of gradients of the losses (n,) that `forward` computes; see `per_example_gradient_norms_of`."""
    with _watched_from(forward, modules, parameters) as problem:
        return _products(problem, per_layer, memory)


def group_mean_gradients(
    model: nn.Module,
    loss: Loss,
    inputs: Inputs,
    targets: Tensor,
    groups: Int[Tensor, " n"],
    *,
    parameters: Sequence[str | Tensor] | None = None,
) -> list[Tensor]:
    """Mean loss gradient of each group of examples, for each parameter (k, *shape), in the order of the parameters.

    `groups` numbers the group of every example from 0 to k - 1; an empty group has mean NaN. Costs as much as k weight
    gradients. Arguments, assumptions and errors are otherwise those of `per_example_gradient_norms`.
    """
    with _watched(model, loss, inputs, targets, parameters) as problem:
        return _means(problem, groups)


def group_mean_gradients_of(
    forward: Callable[[], Tensor],
    modules: nn.Module | Mapping[str, nn.Module],
    groups: Int[Tensor, " n"],
    parameters: Sequence[str | Tensor] | None = None,
) -> list[Tensor]:
    """Group means of the gradients of the losses (n,) that `forward` computes; see `per_example_gradient_norms_of`."""
    with _watched_from(forward, modules, parameters) as problem:
        return _means(problem, groups)


def per_example_losses(loss: Loss, outputs: Any, targets: Any) -> Float[Tensor, " n"]:
    """One loss an example; a loss with a `reduction` is averaged, or summed, over the entries of each example.

    Entries whose target is the loss's `ignore_index` do not count. Losses that sum are those of reduction "sum" and
    "batchmean".

    Raises:
        OperatorUsageError: a loss that has no `reduction` and returns anything but one value an example.
    """
    reduction = _option(loss, "reduction")
    if isinstance(loss, nn.Module) and reduction is not None:
        loss = copy.copy(loss)
        loss.__dict__["reduction"] = "none"
        losses = loss(outputs, targets)
    elif reduction is not None:
        losses = loss(outputs, targets, reduction="none")  # type: ignore[call-arg]
    else:
        losses = loss(outputs, targets)
    if isinstance(losses, Tensor) and losses.ndim > 1 and reduction is not None:
        losses = _over_entries(losses.flatten(1), targets, _option(loss, "ignore_index"), reduction)
    if not isinstance(losses, Tensor) or losses.ndim != 1 or len(losses) != len(targets):
        shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise OperatorUsageError(
            f"The loss gives {shape} for {len(targets)} examples: return one loss an example, as with reduction='none'."
        )
    return losses


def _over_entries(losses: Tensor, targets: Any, ignored: Any, reduction: str) -> Tensor:
    """Losses (n, entries) to (n,)."""
    if reduction in _SUMMED:
        return losses.sum(1)
    if not isinstance(targets, Tensor) or targets.is_floating_point() or ignored is None:
        return losses.mean(1)
    counted = (targets != ignored).flatten(1)
    return losses.sum(1) / counted.sum(1).clamp(min=1) if counted.shape == losses.shape else losses.mean(1)


def _option(loss: Loss, name: str) -> Any:
    """What a module holds, or a function takes unless told otherwise, under this name; None where there is none."""
    if isinstance(loss, nn.Module):
        return getattr(loss, name, None)
    try:
        parameter = inspect.signature(loss).parameters.get(name)
    except (TypeError, ValueError):
        return None
    return None if parameter is None else parameter.default


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Forwards to the losses of some of n examples, `forward` a time, and the names of the parameters' layers."""

    build: Build
    examples: int
    forward: int
    parameters: Sequence[Tensor]
    layers: Sequence[str]

    def whole(self) -> Trace:
        """The trace of all examples."""
        return self.build(slice(0, self.examples))


@contextlib.contextmanager
def _watched(
    model: nn.Module,
    loss: Loss,
    inputs: Inputs,
    targets: Tensor,
    parameters: Sequence[str | Tensor] | None,
    memory: int = MEMORY,
) -> Iterator[_Problem]:
    model = whole(model)
    if examples_of(inputs) != len(targets):
        raise OperatorUsageError(f"{examples_of(inputs)} inputs and {len(targets)} targets: pass as many of each.")
    chosen, layers = selected({"": model}, parameters)

    n, reasons = len(targets), dict[int, str]()

    def trace(examples: slice, fast: bool, layouts: tuple[Layout | None, ...] | None = None) -> Trace:
        def losses(part: slice) -> Tensor:
            return per_example_losses(loss, run(model, inputs, part), targets[part])

        def forward() -> Tensor:
            with ChannelsLast() if fast else contextlib.nullcontext():
                return losses(examples)

        found, why = watch(
            forward, chosen, lambda i: losses(slice(examples.start + i, examples.start + i + 1)), layouts
        )
        reasons.update(why)
        return found

    def probed(fast: bool) -> Trace:
        return trace(slice(0, min(n, PROBED)), fast)

    with undisturbed([model]):
        fast = any(parameter.ndim == 4 for parameter in chosen) and not hooked(model)
        try:
            probe = probed(fast)
        except Exception:  # a model may mind the layout in any way; what is wrong with it in every layout is raised
            if not fast:
                raise
            fast, probe = False, probed(False)
        reasons.clear()
        forward = forward_size(probe, n, _entries(probe.outputs, memory) // 2)
        forward = -(-n // -(-n // forward))  # as many forwards, of equal size
        yield _Problem(lambda part: trace(part, fast, probe.layouts), n, forward, chosen, layers)
    announce(reasons, layers, stacklevel=5)


@contextlib.contextmanager
def _watched_from(
    forward: Callable[[], Tensor],
    modules: nn.Module | Mapping[str, nn.Module],
    parameters: Sequence[str | Tensor] | None,
) -> Iterator[_Problem]:
    roots = {"": modules} if isinstance(modules, nn.Module) else modules
    chosen, layers = selected(roots, parameters)

    def losses() -> Tensor:
        found = forward()
        if not isinstance(found, Tensor) or found.ndim != 1:
            raise StructureError("The forward must return one loss an example, a tensor (n,): use reduction='none'.")
        return found

    with undisturbed(roots.values()):
        trace, reasons = watch(losses, chosen)
        n = len(trace.outputs)
        yield _Problem(lambda _: trace, n, n, chosen, layers)
    announce(reasons, layers, stacklevel=5)


def _norms(problem: _Problem, per_layer: bool, memory: int) -> Tensor | dict[str, Tensor]:
    found = [_squares(problem, part, memory) for part in slices_of(problem.examples, problem.forward)]
    parts = {layer: torch.cat([part[layer] for part in found]) for layer in found[0]}
    if per_layer:
        return {layer: part.sqrt() for layer, part in parts.items()}
    return torch.stack(list(parts.values())).sum(0).sqrt()


def _squares(problem: _Problem, examples: slice, memory: int) -> dict[str, Tensor]:
    """Squared norms of some examples' gradients for each layer, the memory of their forward free again afterwards."""
    trace = problem.build(examples)
    outputs, squares = trace.outputs, dict[str, Tensor]()
    for block, terms in pull(trace, torch.ones_like(outputs)).items():
        own, layer = squared_norms(terms, _entries(outputs, memory)), problem.layers[block.index]
        squares[layer] = squares[layer] + own if layer in squares else own
    return every_layer(squares, problem.layers, lambda: _zeros(outputs, len(outputs)))


def _entries(outputs: Tensor, memory: int) -> int:
    return max(1, memory // max(4, outputs.dtype.itemsize))


def _products(problem: _Problem, per_layer: bool, memory: int) -> Tensor | dict[str, Tensor]:
    trace, n = problem.whole(), problem.examples
    cut = dataclasses.replace(plan(trace, n, 0, memory), examples=n, forward=n)
    return block_kernels(lambda _: trace, n, None, n, cut, False, trace.outputs, problem.layers, per_layer)


def _means(problem: _Problem, groups: Tensor) -> list[Tensor]:
    trace = problem.whole()
    outputs = trace.outputs
    if groups.shape != (len(outputs),) or groups.is_floating_point() or bool((groups < 0).any()):
        raise OperatorUsageError(
            f"Groups of shape {tuple(groups.shape)} do not number {len(outputs)} examples: give integers from 0."
        )
    membership = nn.functional.one_hot(groups.long()).mT.to(_zeros(outputs, 0))
    sizes = membership.sum(1, keepdim=True)
    means = [(0 / sizes).repeat(1, parameter.numel()) for parameter in problem.parameters]
    for block, terms in pull(trace, torch.ones_like(outputs)).items():
        means[block.index][:, block.start : block.stop] += group_sums(terms, membership) / sizes
    return [mean.view(-1, *parameter.shape) for mean, parameter in zip(means, problem.parameters, strict=True)]


def _zeros(like: Tensor, *shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
