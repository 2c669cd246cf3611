"""Where examples lie in what layers compute: the layout of each use of a parameter, found from gradients."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from separatrix.operators._terms import Lookup, Outer, Plain, Terms, written_out
from separatrix.operators._watching import Use, key_of


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which leading axis holds the examples, alone or merged with an axis after it (`major`) or before it."""

    axis: int
    major: bool
    examples: int

    def arrange(self, tensor: Tensor, lead: int) -> Tensor:
        """(c, *lead, *features) to (c, examples, positions, *features)."""
        if lead == 0:
            return tensor[:, None, None]
        repeats = tensor.shape[1 + self.axis] // self.examples
        if self.axis == 0 and repeats == 1:
            return tensor.unsqueeze(2) if lead == 1 else tensor.flatten(2, lead)
        sizes = (self.examples, repeats) if self.major else (repeats, self.examples)
        at = 1 + self.axis
        split = tensor.reshape(*tensor.shape[:at], *sizes, *tensor.shape[at + 1 :])
        return split.movedim(1 + self.axis + (not self.major), 1).flatten(2, 1 + lead)


def gradients_at(outputs: Tensor, edges: Sequence[GradientEdge], cotangent: Tensor) -> list[Tensor]:
    """Gradients of the outputs, weighted by the cotangent, at those places of the graph; zero where none flows."""
    if not edges:
        return []
    gradients = torch.autograd.grad(outputs, edges, cotangent, retain_graph=True, allow_unused=True)
    return [
        at_least_single(outputs.new_zeros(shape_at(edge)) if gradient is None else gradient)
        for edge, gradient in zip(edges, gradients, strict=True)
    ]


def shape_at(edge: GradientEdge) -> tuple[int, ...]:
    """The shape of what was computed there."""
    return tuple(edge.node._input_metadata[edge.output_nr].shape)


def at_least_single(tensor: Tensor) -> Tensor:
    """At least single precision."""
    return tensor.float() if tensor.itemsize < 4 else tensor


def zeros_at(edge: GradientEdge) -> Tensor:
    """A stand-in of the shape and type of an output, without memory."""
    told = edge.node._input_metadata[edge.output_nr]
    return torch.zeros((), dtype=told.dtype, device=told.device).expand(shape_at(edge))


def terms_in(use: Use, layout: Layout, gradient: Tensor) -> Terms:
    """What a use of a parameter adds to its gradient, for each example, by the gradient of the use's output."""
    terms = use.local.terms(use.local.lead(gradient), layout.arrange)
    if use.chain is not None:
        return use.chain(written_out(terms))
    if not use.transposed:
        return terms
    terms = terms.outer() if isinstance(terms, Lookup) else terms
    if isinstance(terms, Plain):
        return Plain(terms.values.view(*terms.values.shape[:2], *use.local.tensor.shape).mT.flatten(2))
    return Outer(terms.right, terms.left, terms.left.shape[-1], varies=(terms.varies[1], terms.varies[0]))


def fitted_layouts(
    layouts: Sequence[Layout | None] | None, uses: Sequence[Use], n: int
) -> tuple[Layout | None, ...] | None:
    """Layouts of other examples for n examples, None where the uses differ."""
    if layouts is None or len(layouts) != len(uses):
        return None
    fitted = tuple(layout and dataclasses.replace(layout, examples=n) for layout in layouts)
    shapes = [use.local.lead(zeros_at(use.edge).unsqueeze(0)).shape for use in uses]
    fits = all(
        layout is None or use.local.axes == 0 or shape[1 + layout.axis] % n == 0
        for layout, use, shape in zip(fitted, uses, shapes, strict=True)
    )
    return fitted if fits else None


def found_layouts(outputs: Tensor, uses: Sequence[Use]) -> tuple[tuple[Layout | None, ...], bool]:
    """The layout of each use: gradients of some examples' outputs must vanish on all other examples.

    Second, whether every gradient had an entry to tell by.
    """
    n, entries = outputs.shape
    generator = torch.Generator().manual_seed(n)
    chosen = torch.rand(n, generator=generator) < 0.5
    chosen[0], chosen[-1] = True, n == 1
    weights = (torch.rand(entries, generator=generator) + 0.5).to(outputs)
    chosen = chosen.to(outputs.device)
    edges = {key_of(use.edge): use.edge for use in uses}
    rows = [
        gradients_at(outputs, tuple(edges.values()), mask.to(outputs).unsqueeze(1) * weights)
        for mask in (chosen, ~chosen)
    ]
    gradients = dict(zip(edges, map(torch.stack, zip(*rows, strict=True)), strict=True))
    layouts = tuple(_layout(use.local.lead(gradients[key_of(use.edge)]), use.local.axes, chosen) for use in uses)
    return layouts, n > 1 and all(bool(gradient.any()) for gradient in gradients.values())


def _layout(gradients: Tensor, axes: int, chosen: Tensor) -> Layout | None:
    """The first layout in which the gradient of the chosen examples vanishes on the others, and the reverse."""
    n = len(chosen)
    if n == 1:
        return Layout(0, True, 1)
    sizes = gradients.shape[1 : 1 + axes]
    alone = [Layout(axis, True, n) for axis, size in enumerate(sizes) if size == n]
    joint = [
        Layout(axis, major, n)
        for axis, size in enumerate(sizes)
        if size % n == 0 and size > n
        for major in (True, False)
    ]
    for layout in alone + joint:
        arranged = layout.arrange(gradients, axes)
        if not arranged[0, ~chosen].any() and not arranged[1, chosen].any():
            return layout
    return None


def tables_of(sources: Mapping[int, Use], layouts: Mapping[Use, Layout | None]) -> dict[Use, list[tuple[Use, Layout]]]:
    """For each use whose output holds no examples: the calls that broadcast that output to them, standing for it."""
    result: dict[Use, list[tuple[Use, Layout]]] = {}
    for number, source in sources.items():
        consumers = [(use, layout) for use, layout in layouts.items() if use.index == number]
        placed = [(use, layout) for use, layout in consumers if layout is not None]
        whole = math.prod(shape_at(source.edge))
        partial = any(use.transposed or use.start or use.local.tensor.numel() != whole for use, _ in placed)
        if layouts.get(source, True) is None and placed and len(placed) == len(consumers) and not partial:
            result[source] = [(_chained(use, source), layout) for use, layout in placed]
    return result


def _chained(use: Use, source: Use) -> Use:
    """A use of the table that `source` made, as one of the parameter of `source`."""
    local = dataclasses.replace(use.local, tensor=source.local.tensor)
    return dataclasses.replace(use, index=source.index, start=source.start, local=local, chain=source.local.chain)


def complete_layouts(
    outputs: Tensor, sources: Mapping[int, Use], uses: Sequence[Use], layouts: Sequence[Layout | None]
) -> tuple[Layout | None, ...]:
    """The layouts, None for calls that broadcast a table of which something else was made out of sight.

    The gradients of all examples must add up to the table's own.
    """
    incomplete: set[int] = set()
    for number, source in sources.items():
        (table,) = tables_of({number: source}, dict(zip(uses, layouts, strict=True))).values() or [[]]
        if table and not _adds_up(outputs, source, [(dataclasses.replace(use, chain=None), at) for use, at in table]):
            incomplete.add(number)
    return tuple(None if use.index in incomplete else layout for use, layout in zip(uses, layouts, strict=True))


def _adds_up(outputs: Tensor, source: Use, placed: Sequence[tuple[Use, Layout]]) -> bool:
    generator = torch.Generator().manual_seed(len(outputs))
    cotangent = (torch.rand(outputs.shape, generator=generator) + 0.5).to(outputs)
    whole, *parts = gradients_at(outputs, [source.edge, *(use.edge for use, _ in placed)], cotangent)
    summed = [
        written_out(terms_in(use, layout, part.unsqueeze(0))).sum((0, 1))
        for (use, layout), part in zip(placed, parts, strict=True)
    ]
    total = torch.stack(summed).sum(0)
    return bool((total - whole.flatten()).abs().max() <= torch.finfo(whole.dtype).eps ** 0.5 * whole.abs().max())
