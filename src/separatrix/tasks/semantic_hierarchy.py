"""Items of a tree, and the properties that each inherits from its ancestors."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from separatrix.tasks.task import Batch, Seed, Task, check, count, drawing, whole

_MOST_ITEMS = 4096


class HierarchyModes(NamedTuple):
    """Singular value decomposition of E[y x'], the largest first: left @ diag(values) @ right.T.

    `left` has shape (properties, modes), `values` (modes,), `right` (items, modes), and there are as many modes as
    items. `level` (modes,) tells what a mode distinguishes: -1 the mean of all items, k the children of one node at
    level k, the root being at level 0.
    """

    left: Float[Tensor, "properties modes"]
    values: Float[Tensor, " modes"]
    right: Float[Tensor, "items modes"]
    level: Int[Tensor, " modes"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SemanticHierarchy(Task):
    """Inputs are one-hot items (n, items), targets their properties (n, properties), for the leaves of a tree.

    Every node of the tree, the root at level 0 and the leaves at level `levels`, has `branching` children and one
    property that all leaves below it share and no others have: animals, birds, canaries. Items are equally likely, so
    that E[x x'] = 1 / items. `seed` deals the leaves to the items and the nodes to the properties.

    The modes are known: K_ij = (common ancestors of i and j) has the contrasts between children of a node at level k
    for eigenvectors, (branching - 1) branching^k of them, with eigenvalue
    (branching^(levels - k) - 1) / (branching - 1), that is the number of leaves below a child summed over the levels
    below the node; the mean of all items has (branching^(levels + 1) - 1) / (branching - 1). Singular values of E[y x']
    are their roots over `items`. Broad distinctions so have the larger ones.
    """

    name: ClassVar[str] = "semantic_hierarchy"
    source: ClassVar[str] = "Saxe et al. 2013, arXiv:1312.6120; Saxe et al. 2019, arXiv:1810.10531"

    branching: int = 2
    levels: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "branching", 2, _MOST_ITEMS)
        whole(self, "levels", 1)
        deepest = int(math.log(_MOST_ITEMS, self.branching) + 1e-9)
        check(self, "levels", self.levels <= deepest, f"at most {deepest}, for no more than {_MOST_ITEMS} items")

    @property
    def items(self) -> int:
        """How many leaves the tree has."""
        return int(self.branching**self.levels)

    @property
    def properties(self) -> int:
        """How many nodes the tree has."""
        return int((self.branching ** (self.levels + 1) - 1) // (self.branching - 1))

    @functools.cached_property
    def _order(self) -> tuple[Tensor, Tensor]:
        """The leaf that each item is, (items,), and the node that each property belongs to, (properties,)."""
        draw = self._structure()
        return torch.randperm(self.items, generator=draw), torch.randperm(self.properties, generator=draw)

    @functools.cached_property
    def table(self) -> Float[Tensor, "items properties"]:
        """Which item has which property: 1 or 0."""
        leaves = torch.arange(self.items)
        levels = []
        for level in range(self.levels + 1):
            nodes = torch.arange(self.branching**level)
            levels.append(leaves[:, None] // self.branching ** (self.levels - level) == nodes)
        leaf, node = self._order
        return torch.cat(levels, 1).to(self.dtype)[leaf][:, node]

    @property
    def dataset(self) -> Batch:
        """Every item once, with its properties: the whole distribution."""
        return Batch(torch.eye(self.items, dtype=self.dtype), self.table)

    @functools.cached_property
    def modes(self) -> HierarchyModes:
        """The exact input-output modes; those of one level are any orthonormal basis of a space that is unique."""
        sizes = [(self.branching ** (self.levels + 1) - 1) // (self.branching - 1)]
        vectors = [torch.ones(1, self.items, dtype=torch.float64)]
        labels = [-1]
        contrasts = _contrasts(self.branching)
        for level in range(self.levels):
            below = self.branching ** (self.levels - level - 1)
            for node, contrast in itertools.product(range(self.branching**level), contrasts):
                vector = torch.zeros(self.branching**level, self.branching, below, dtype=torch.float64)
                vector[node] = contrast[:, None]
                vectors.append(vector.reshape(1, -1))
                labels.append(level)
                sizes.append((self.branching ** (self.levels - level) - 1) // (self.branching - 1))
        right = torch.nn.functional.normalize(torch.cat(vectors), dim=1)[:, self._order[0]].T
        roots = torch.tensor(sizes, dtype=torch.float64).sqrt()
        left = self.table.double().T @ right / roots
        values = roots / self.items
        return HierarchyModes(
            left.to(self.dtype), values.to(self.dtype), right.to(self.dtype).contiguous(), torch.tensor(labels)
        )

    def sample(self, n: int, generator: Seed) -> Batch:
        """Draw n items with replacement."""
        index = torch.randint(self.items, (count(n),), generator=drawing(generator))
        return self.dataset.rows(index)


def _contrasts(children: int) -> Float[Tensor, "fewer children"]:
    """Orthogonal vectors that sum to zero: child j + 1 against the mean of those before it."""
    rows = torch.zeros(children - 1, children, dtype=torch.float64)
    for row in range(children - 1):
        rows[row, : row + 1], rows[row, row + 1] = 1.0, -(row + 1.0)
    return rows


default = SemanticHierarchy()
