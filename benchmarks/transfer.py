"""Best learning rates over widths, under the maximal update and the standard parametrization, and the mup package.

A net on digits of width 64 to 2048 and a transformer on source text of width 32 to 256 are trained by Adam at rates a
factor 2 apart, two seeds each; the goal is that the best rate under muP stays within a step of the grid while that of
the standard parametrization drifts. `--against-mup` compares factors with those that the mup package gives, where it is
installed. `--widths`, `--seeds` and `--steps` do less.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks._sidebyside import RESULTS
from separatrix.steer import TransferSweep, judge_transfer, parametrize
from separatrix.studies._scaling import CharTransformer, Draw, Scaling, digit_batches, losses_by_rate, mlp, text_batches

RULES = ("maximal-update", "standard")
CASES: dict[str, tuple[Any, tuple[int, ...], tuple[float, ...]]] = {
    "mlp": (mlp, (64, 128, 256, 512, 1024, 2048), tuple(2.0**power for power in range(-13, 0))),
    "transformer": (CharTransformer, (32, 64, 128, 256), tuple(2.0**power for power in range(-11, -2))),
}


def batches(case: str, seed: int) -> Draw:
    return digit_batches(seed, 64) if case == "mlp" else text_batches(seed, 8)


def sweep(case: str, rule: str, widths: Sequence[int], seeds: Iterable[int], steps: int) -> TransferSweep:
    """All trainings of one rule; a line for each width as it is done."""
    build, _, rates = CASES[case]
    rows = []
    for width in widths:
        begin = time.process_time()
        scaling = Scaling(build, rule, widths[0])
        found = [losses_by_rate(scaling, width, rates, seed, batches(case, seed), steps).numpy() for seed in seeds]
        rows.append(np.stack(found, 1))
        means = np.where(np.isfinite(rows[-1]), rows[-1], np.inf).mean(1)
        best = int(means.argmin())
        print(
            f"{case:12} {rule:16} width {width:5}  best rate 2^{np.log2(rates[best]):+.0f}  loss {means[best]:.4f}"
            f"  ({time.process_time() - begin:.0f} s)",
            flush=True,
        )
    return judge_transfer(widths, rates, np.stack(rows))


def report(case: str, rule: str, found: TransferSweep) -> dict[str, Any]:
    """The line of the table, printed, and as plain data."""
    optima = " ".join(f"{value:+.1f}" for value in found.optima)
    print(
        f"{case:12} {rule:16} {found.verdict}; log2 of best rates {optima}; exponent {found.slope:+.2f};"
        f" the narrowest net's rate costs the widest {100 * found.cost[-1]:.1f} %",
        flush=True,
    )
    return {
        "case": case,
        "rule": rule,
        "widths": found.sizes,
        "log2_rates": np.log2(found.rates).tolist(),
        "losses": np.where(np.isfinite(found.means), found.means, 1e9).tolist(),
        "log2_best": found.optima,
        "drift": found.drift,
        "slope": found.slope,
        "cost": found.cost.tolist(),
        "verdict": found.verdict,
    }


class Layers(nn.Module):
    """One of each kind of tensor, with the readout of one's choice."""

    def __init__(self, width: int, readout: Any = nn.Linear) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(20, width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.filter, self.readout = nn.Conv1d(width, width, 3), readout(width, 20)


def against_mup(width: int = 256, base: int = 16) -> float:
    """The largest relative difference from the mup package, over initial values, rates and decays of all tensors.

    Its readout is divided by the width in the forward pass; by symmetry that is one with smaller values and rates.
    """
    import mup

    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs, ours = Layers(width, mup.MuReadout), Layers(width)
    ours.load_state_dict(theirs.state_dict())
    start = {name: float(tensor.detach().norm()) for name, tensor in ours.named_parameters()}
    mup.set_base_shapes(theirs, Layers(base, mup.MuReadout), delta=Layers(2 * base, mup.MuReadout))
    found = parametrize(ours, base=lambda: Layers(base), delta=lambda: Layers(2 * base))
    names = {id(tensor): name for name, tensor in theirs.named_parameters()}
    differences = []
    for kind, other, power in ((torch.optim.SGD, mup.MuSGD, 2), (torch.optim.AdamW, mup.MuAdamW, 1)):
        factors = found.factors(kind)
        for group in other(theirs.parameters(), lr=1.0, weight_decay=1.0).param_groups:
            for tensor in group["params"]:
                name = names[id(tensor)]
                behind = width / base if name == "readout.weight" else 1.0
                differences += [
                    factors[name].rate * behind**power / group["lr"] - 1,
                    factors[name].decay / behind**power / group["weight_decay"] - 1,
                ]
                if start[name]:
                    mine = float(dict(ours.named_parameters())[name].detach().norm())
                    differences.append(mine * behind / float(tensor.detach().norm()) - 1)
    return max(map(abs, differences))


def main() -> None:
    """Print the table and write benchmarks/results/transfer.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, action="append", help="only this one; may be repeated")
    parser.add_argument("--widths", type=int, nargs="+", help="instead of the case's own")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--against-mup", action="store_true", help="compare factors with the mup package and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.against_mup:
        print(f"largest relative difference from the mup package: {against_mup():.1e}")
        return
    rows = []
    for case in options.case or CASES:
        for rule in RULES:
            widths = options.widths or CASES[case][1]
            rows.append(report(case, rule, sweep(case, rule, widths, range(options.seeds), options.steps)))
    RESULTS.mkdir(exist_ok=True)
    document = {"seeds": options.seeds, "steps": options.steps, "rows": rows}
    (RESULTS / "transfer.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
