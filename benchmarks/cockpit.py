"""Cockpit's economy configuration on every step of the MLP, beside the bare step: what all probes are compared with.

Cockpit 1.0 asks setuptools for its own version by a module that setuptools no longer has; it is given one that knows
none. It sees losses of single examples through BackPACK, so its steps are written as its documentation shows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import types
import warnings

import torch
from torch import nn

from benchmarks import overhead
from benchmarks._trainings import TRAININGS


def without_pkg_resources() -> None:
    """Let cockpit be imported although setuptools has lost a module."""
    if "pkg_resources" in sys.modules:
        return
    module = types.ModuleType("pkg_resources")

    def get_distribution(name: str) -> None:
        raise LookupError(name)

    vars(module).update(DistributionNotFound=LookupError, get_distribution=get_distribution)
    sys.modules["pkg_resources"] = module


def main() -> None:
    """Print the row, and the number of quantities."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds it may take")
    limit = parser.parse_args().limit
    warnings.simplefilter("ignore")
    without_pkg_resources()
    from backpack import extend
    from cockpit import Cockpit
    from cockpit.utils.configuration import configuration

    _, _, bare = TRAININGS["mlp"]()
    model, optimizer, _ = TRAININGS["mlp"]()
    model, mean, single = extend(model), extend(nn.CrossEntropyLoss()), nn.CrossEntropyLoss(reduction="none")
    inputs, labels = torch.randn(4096, 784), torch.randint(0, 10, (4096,))
    peer = Cockpit(model.parameters(), quantities=configuration("economy"))
    count = 0

    def step() -> None:
        nonlocal count
        rows = torch.randint(0, len(inputs), (128,))
        optimizer.zero_grad()
        scores = model(inputs[rows])
        loss, losses = mean(scores, labels[rows]), single(scores, labels[rows])
        facts = {"batch_size": len(rows), "individual_losses": losses, "loss": loss, "optimizer": optimizer}
        with peer(count, info=facts):
            loss.backward(create_graph=peer.create_graph(count))
        optimizer.step()
        count += 1

    times = [(overhead.seconds(step, 1), overhead.seconds(bare, 20) / 20) for _ in range(max(2, int(limit / 3)))][1:]
    ratio, error = overhead.ratio_of_sums(times)
    milliseconds = 1e3 * statistics.median(alone for _, alone in times)
    print(
        f"bare step {milliseconds:.2f} ms; with Cockpit's economy configuration on every step {ratio:.0f} ± {error:.0f}"
        f" times that, for {len(peer.quantities)} quantities"
    )


if __name__ == "__main__":
    main()
