"""Top Hessian eigenvalues and spectral density of a convolutional net, against pyhessian and curvlinops.

Every way must reach the same accuracy: for eigenvalues a measured residual |Hv - lambda v| <= 1e-2 |lambda| of all
five pairs; pyhessian stops by the change of a value, so it is given the loosest tolerance that gets there. Along a
training the warm start is what the last step's vectors save; it is compared with the peers' cold start at that step.
pyhessian's density calls a function that torch has removed; it is given one of the same meaning.
"""

from __future__ import annotations

import argparse
import copy
import functools
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import _sidebyside
from separatrix import operators

TOP, RESIDUAL, LANCZOS_STEPS = 5, 1e-2, 100


def network() -> nn.Module:
    """About 100,000 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 49, 60), nn.ReLU(), nn.Linear(60, 10)),
    )


def data() -> tuple[Tensor, Tensor]:
    """512 digits of scikit-learn, enlarged to 28 x 28."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images[:512], dtype=torch.float32)[:, None] / 16.0
    return F.interpolate(images, size=28, mode="bilinear"), torch.tensor(digits.target[:512])


def train(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def worst_residual(model: nn.Module, x: Tensor, y: Tensor, values: list[float], vectors: Tensor) -> float:
    """Largest |Hv - lambda v| / |lambda| of unit vectors (n, k)."""
    product = operators.hessian(model, F.cross_entropy, (x, y)) @ vectors
    kept = torch.tensor(values, dtype=vectors.dtype)
    return float((torch.linalg.vector_norm(product - vectors * kept, dim=0) / kept.abs()).max())


def own_pairs(model: nn.Module, x: Tensor, y: Tensor, start: Tensor | None = None) -> operators.Eigenpairs:
    operator = operators.hessian(model, F.cross_entropy, (x, y))
    return operators.top_eigenpairs(operator, TOP, tolerance=RESIDUAL, start=start)


def pyhessian_pairs(model: nn.Module, x: Tensor, y: Tensor, tolerance: float) -> tuple[list[float], Tensor]:
    from pyhessian import hessian

    found = hessian(model, nn.CrossEntropyLoss(), data=(x, y), cuda=False)
    values, vectors = found.eigenvalues(maxIter=400, tol=tolerance, top_n=TOP)
    model.zero_grad()
    return values, torch.stack([torch.cat([part.reshape(-1) for part in vector]) for vector in vectors], 1)


def curvlinops_hessian(model: nn.Module, x: Tensor, y: Tensor) -> object:
    from curvlinops import HessianLinearOperator

    parameters = [p for p in model.parameters() if p.requires_grad]
    return HessianLinearOperator(model, nn.CrossEntropyLoss(), parameters, [(x, y)], check_deterministic=False)


def curvlinops_pairs(model: nn.Module, x: Tensor, y: Tensor) -> tuple[list[float], Tensor]:
    from scipy.sparse.linalg import eigsh

    operator = curvlinops_hessian(model, x, y).to_scipy()  # type: ignore[attr-defined]
    start = np.random.default_rng(0).standard_normal(operator.shape[0]).astype(np.float32)
    values, vectors = eigsh(operator, k=TOP, which="LA", tol=RESIDUAL, v0=start)
    return values.tolist(), torch.tensor(vectors)


def loosest_tolerance(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The loosest stopping rule by which pyhessian's pairs are as accurate as asked, or the tightest tried."""
    for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
        values, vectors = pyhessian_pairs(model, x, y, tolerance)
        residual = worst_residual(model, x, y, values, vectors)
        print(f"  pyhessian, tolerance {tolerance:g}: worst residual {residual:.2g}", flush=True)
        if residual <= RESIDUAL:
            break
    return tolerance


def pyhessian_density(model: nn.Module, x: Tensor, y: Tensor) -> object:
    from pyhessian import hessian

    def eig(matrix: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        return values[:, None], vectors

    before = vars(torch).get("eig")
    torch.eig = eig
    try:
        return hessian(model, nn.CrossEntropyLoss(), data=(x, y), cuda=False).density(iter=LANCZOS_STEPS, n_v=1)
    finally:
        torch.eig = before


def curvlinops_density(model: nn.Module, x: Tensor, y: Tensor) -> object:
    from curvlinops.papyan2020traces.spectrum import fast_lanczos

    return fast_lanczos(curvlinops_hessian(model, x, y), LANCZOS_STEPS)


def main() -> None:
    """Print the table and write benchmarks/results/curvature.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    warnings.simplefilter("ignore")
    model, (x, y) = network(), data()
    train(model, x, y, 20)
    tolerance = loosest_tolerance(model, x, y)
    own = own_pairs(model, x, y)
    reference, vectors = curvlinops_pairs(model, x, y)
    accurate = max(float(own.residuals.max()), worst_residual(model, x, y, own.values.tolist(), own.vectors))
    cold = {
        f"pyhessian (tol {tolerance:g})": lambda m: pyhessian_pairs(m, x, y, tolerance),
        "curvlinops + eigsh": lambda m: curvlinops_pairs(m, x, y),
    }
    note = f"residual {accurate:.1g}, curvlinops {worst_residual(model, x, y, reference, vectors):.1g}"
    peers = {name: functools.partial(work, model) for name, work in cold.items()}
    rows = _sidebyside.compare("top-5 eigenvalues, cold", lambda: own_pairs(model, x, y), peers, 1.8, rounds, note)
    later = copy.deepcopy(model)
    train(later, x, y, 1)
    again = own_pairs(later, x, y, own.vectors)
    note = f"residual {float(again.residuals.max()):.1g}, {again.products} products against {own.products}"
    peers = {name: functools.partial(work, later) for name, work in cold.items()}
    warm = functools.partial(own_pairs, later, x, y, own.vectors)
    rows += _sidebyside.compare("top-5 eigenvalues, warm, one step on", warm, peers, 5.0, rounds, note)
    rows += _sidebyside.compare(
        f"spectral density, {LANCZOS_STEPS} Lanczos steps",
        lambda: operators.spectral_density(operators.hessian(model, F.cross_entropy, (x, y)), LANCZOS_STEPS),
        {
            "pyhessian": lambda: pyhessian_density(model, x, y),
            "curvlinops": lambda: curvlinops_density(model, x, y),
        },
        1.8,
        rounds,
    )
    _sidebyside.write("curvature", rows)


if __name__ == "__main__":
    main()
