"""Units of one multilayer network renamed so that its weights come close to another's.

Source: Ainsworth, Hayase and Srinivasa 2022, Git Re-Basin, arXiv:2209.04836, section 3.2.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from separatrix.runs.errors import UsageError

_ROUNDS = 100
_UNIT_WISE = (nn.Dropout, nn.Flatten, nn.Identity)


@dataclasses.dataclass(frozen=True)
class Matching:
    """A network whose hidden units were renamed, and how.

    `permutations[l][i]` is the unit of the old network that became unit i of hidden layer l; `similarity` the sum of
    products of matched weights, and `rounds` how often all layers were gone through.
    """

    network: nn.Sequential
    permutations: tuple[Int[np.ndarray, " units"], ...]
    similarity: float
    rounds: int


def match(reference: nn.Sequential, other: nn.Sequential, *, seed: int = 0) -> Matching:
    """A copy of `other`, hidden units renamed so that its weights resemble those of `reference`.

    It computes the same function as `other`. Layer by layer in random order, the units of a layer are assigned to those
    of the reference so that the sum of products of incoming weights, biases and outgoing weights is largest (linear
    assignment), the neighbouring layers held, until no layer changes. This finds a local optimum of the sum.

    Args:
        reference: Linear layers with unit-wise activations between them, in an nn.Sequential.
        other: a network of the same shape.
        seed: of the order of the layers.

    Raises:
        UsageError: the networks are of another kind or differ in shape.

    Cost: for each round, units^2 (inputs + outputs) + units^3 for each hidden layer.
    """
    fixed, moving = _layers(reference), _layers(other)
    if [layer.weight.shape for layer in fixed] != [layer.weight.shape for layer in moving]:
        raise UsageError("the two networks differ in their layers: match networks of one shape")
    names = [np.arange(layer.out_features) for layer in moving[:-1]]
    generator = np.random.default_rng(seed)
    rounds, moved = 0, True
    while moved and rounds < _ROUNDS:
        rounds, moved = rounds + 1, False
        for index in generator.permutation(len(names)):
            found = _assigned(fixed, moving, names, int(index))
            moved = moved or not np.array_equal(found, names[index])
            names[index] = found
    network = permuted(other, names)
    return Matching(network, tuple(names), _similarity(fixed, _layers(network)), rounds)


def permuted(network: nn.Sequential, permutations: Sequence[Int[np.ndarray, " units"]]) -> nn.Sequential:
    """A copy of the network in which unit i of hidden layer l is what was unit `permutations[l][i]`.

    Raises:
        UsageError: the network is of another kind, or a permutation is none of its layer's units.
    """
    result = copy.deepcopy(network)
    layers = _layers(result)
    sizes = [layer.out_features for layer in layers[:-1]]
    if len(permutations) != len(sizes) or any(
        sorted(order.tolist()) != list(range(size)) for order, size in zip(permutations, sizes, strict=False)
    ):
        raise UsageError(f"permutations do not fit hidden layers of {sizes} units: give one of each layer's units")
    with torch.no_grad():
        for layer, following, order in zip(layers, layers[1:], permutations, strict=False):
            index = torch.from_numpy(np.ascontiguousarray(order))
            layer.weight.copy_(layer.weight[index].clone())
            if layer.bias is not None:
                layer.bias.copy_(layer.bias[index].clone())
            following.weight.copy_(following.weight[:, index].clone())
    return result


def _layers(network: nn.Sequential) -> list[nn.Linear]:
    """Linear layers of a network whose other parts act on each unit alike and hold no parameters.

    Raises:
        UsageError: it has other parts.
    """
    if not isinstance(network, nn.Sequential):
        raise UsageError(f"a {type(network).__name__} cannot be matched: give an nn.Sequential of Linear layers")
    layers = [part for part in network if isinstance(part, nn.Linear)]
    for part in network:
        activation = type(part).__module__ == "torch.nn.modules.activation" and not isinstance(part, nn.GLU)
        plain = activation or isinstance(part, _UNIT_WISE)
        if not isinstance(part, nn.Linear) and (not plain or any(True for _ in part.parameters())):
            raise UsageError(
                f"a network with {type(part).__name__} cannot be matched: give Linear layers with unit-wise activations"
            )
    if len(layers) < 2:
        raise UsageError(f"a network of {len(layers)} Linear layers has no hidden units to match: give two or more")
    return layers


def _assigned(
    fixed: Sequence[nn.Linear], moving: Sequence[nn.Linear], names: Sequence[np.ndarray], index: int
) -> np.ndarray:
    """The best units for hidden layer `index`, given the names in its neighbours."""
    from scipy.optimize import linear_sum_assignment

    incoming = _matrix(moving[index].weight)
    if index > 0:
        incoming = incoming[:, names[index - 1]]
    outgoing = _matrix(moving[index + 1].weight)
    if index + 1 < len(names):
        outgoing = outgoing[names[index + 1]]
    gain = _matrix(fixed[index].weight) @ incoming.T + _matrix(fixed[index + 1].weight).T @ outgoing
    if fixed[index].bias is not None and moving[index].bias is not None:
        gain = gain + np.outer(_matrix(fixed[index].bias), _matrix(moving[index].bias))
    _, columns = linear_sum_assignment(gain, maximize=True)
    return np.asarray(columns)


def _similarity(first: Sequence[nn.Linear], second: Sequence[nn.Linear]) -> float:
    pairs = zip(first, second, strict=True)
    return float(
        sum(
            (_matrix(p) * _matrix(q)).sum()
            for a, b in pairs
            for p, q in zip(a.parameters(), b.parameters(), strict=True)
        )
    )


def _matrix(values: Tensor) -> np.ndarray:
    return np.asarray(values.detach().to("cpu", torch.float64).numpy())
