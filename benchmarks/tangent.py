"""Trace tangent kernel and per-example gradient norms by layer structure, against vmap(jacrev), vmap(grad), BackPACK.

The reference contracts the Jacobian layer by layer, so that it never holds all of it. Peak memory is that of a fresh
process that does one kernel, above the same process before it. The relative error is against float64.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

from benchmarks import _sidebyside
from benchmarks._trainings import CharTransformer
from separatrix import operators


class Characters(nn.Module):
    """A small character transformer that judges by the last of 16 positions; ten of its 96 scores are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.body = CharTransformer(width=64, heads=4, depth=2, length=16)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.body(tokens)[:, -1, :10]


def mlp() -> tuple[nn.Module, Tensor]:
    """670,000 parameters, 256 images."""
    layers: list[nn.Module] = [nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers), torch.randn(256, 784)


def cnn() -> tuple[nn.Module, Tensor]:
    """100,000 parameters, 256 images."""
    from benchmarks.curvature import network

    return network(), torch.randn(256, 1, 28, 28)


def transformer(lines: int = 64) -> tuple[nn.Module, Tensor]:
    """110,000 parameters, lines of 16 characters."""
    return Characters(), torch.randint(0, 96, (lines, 16))


CASES: dict[str, tuple[Callable[[], tuple[nn.Module, Tensor]], float]] = {
    "mlp": (mlp, 300.0),
    "cnn": (cnn, 10.0),
    "transformer": (transformer, 10.0),
    "transformer-256": (lambda: transformer(256), 10.0),
}


def case(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return CASES[name][0]()


def by_jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """The kernel from per-example Jacobians of one parameter at a time, contracted at once."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    kernel = torch.zeros(len(x), len(x), dtype=next(iter(parameters.values())).dtype)
    for name in parameters:

        def outputs(own: Tensor, row: Tensor, name: str = name) -> Tensor:
            return functional_call(model, {**parameters, name: own}, (row[None],))[0]

        jacobian = vmap(jacrev(outputs), (None, 0))(parameters[name], x).flatten(2)
        kernel += torch.einsum("iap,jap->ij", jacobian, jacobian)
    return kernel


WAYS = {"own": operators.tangent_kernel, "jacobian": by_jacobian}


def peak_megabytes(name: str, way: str) -> float:
    """Memory that one kernel takes in a fresh process, in megabytes."""
    command = [sys.executable, "-m", "benchmarks.tangent", "--memory", name, way]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory_here(name: str, way: str) -> float:
    """Peak of the resident memory above its level before, from Linux's own mark, which is lowered to that level first.

    The peak that getrusage reports is inherited over fork and exec, and so would be the parent's.
    """
    model, x = case(name)
    WAYS[way](model, x[:2])
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    WAYS[way](model, x)
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """A memory figure of this process, in kilobytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def norms_by_vmap(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(own: dict[str, Tensor], row: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, own, (row[None],)), target[None])

    gradients = vmap(grad(loss), (None, 0, 0))(parameters, x, y)
    return torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()


def norms_by_backpack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    from backpack import backpack, extend, extensions

    extended = extend(model)
    loss = extend(nn.CrossEntropyLoss(reduction="sum"))(extended(x), y)
    with backpack(extensions.BatchL2Grad()):
        loss.backward()
    found = torch.stack([p.batch_l2 for p in model.parameters()]).sum(0).sqrt()
    model.zero_grad()
    return found


def main() -> None:
    """Print the table and write benchmarks/results/tangent.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", nargs=2, metavar=("CASE", "WAY"), help="print the peak of one kernel and stop")
    options = parser.parse_args()
    if options.memory:
        print(memory_here(*options.memory))
        return
    rows = []
    for name, (_, goal) in CASES.items():
        model, x = case(name)
        exact = operators.tangent_kernel(model.double(), x.double() if x.is_floating_point() else x)
        model.float()
        error = float((operators.tangent_kernel(model, x).double() - exact).norm() / exact.norm())
        smaller = peak_megabytes(name, "jacobian") / max(1.0, peak_megabytes(name, "own"))
        note = f"relative error {error:.1g}, {smaller:.3g}x less memory"
        own, reference = (lambda: operators.tangent_kernel(model, x)), (lambda: by_jacobian(model, x))  # noqa: B023
        rows += _sidebyside.compare(
            f"trace tangent kernel, {name}", own, {"vmap(jacrev)": reference}, goal, options.rounds, note
        )
    model, _ = case("cnn")
    x, y = torch.randn(512, 1, 28, 28), torch.randint(0, 10, (512,))
    loss = nn.CrossEntropyLoss()
    exact = norms_by_vmap(model, x, y)
    errors = [
        float((found - exact).abs().max() / exact.max())
        for found in (operators.per_example_gradient_norms(model, loss, x, y), norms_by_backpack(case("cnn")[0], x, y))
    ]
    other, _ = case("cnn")
    rows += _sidebyside.compare(
        "per-example gradient norms, cnn, 512 images",
        lambda: operators.per_example_gradient_norms(model, loss, x, y),
        {"vmap(grad)": lambda: norms_by_vmap(model, x, y), "BackPACK": lambda: norms_by_backpack(other, x, y)},
        3.0,
        options.rounds,
        f"error {errors[0]:.1g}, BackPACK {errors[1]:.1g}",
    )
    _sidebyside.write("tangent", rows)


if __name__ == "__main__":
    main()
