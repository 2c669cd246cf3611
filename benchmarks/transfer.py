"""Best learning rates over widths, under the maximal update and the standard parametrization, and the mup package.

A net on digits of width 64 to 2048 and a transformer on source text of width 32 to 256 are trained by Adam at rates a
factor 2 apart, two seeds each; the goal is that the best rate under muP stays within a step of the grid while that of
the standard parametrization drifts. All rates of a width are trained at once, as many as fit into a bounded memory; how
long that will take is measured from a few steps and printed first. `--against-mup` compares factors with those that the
mup package gives, where it is installed. `--widths`, `--seeds` and `--steps` do less.
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
MOST_ENTRIES = 12_000_000
"""Parameters of all nets that are trained at once: Adam's moments, gradients and their like are five times as many."""
TIMED = 3


def batches(case: str, seed: int) -> Draw:
    return digit_batches(seed, 64) if case == "mlp" else text_batches(seed, 8)


def losses(case: str, rule: str, base: int, width: int, seed: int, steps: int) -> list[float]:
    """Losses by rate of nets of one width and start; rates are trained together as far as memory allows."""
    build, _, rates = CASES[case]
    entries = sum(tensor.numel() for tensor in build(width).parameters())
    together = max(1, MOST_ENTRIES // entries)
    scaling, draw = Scaling(build, rule, base), batches(case, seed)
    found = [
        losses_by_rate(scaling, width, rates[at : at + together], seed, draw, steps)
        for at in range(0, len(rates), together)
    ]
    return torch.cat(found).tolist()


def planned(cases: Sequence[str], widths: Sequence[int] | None, seeds: int, steps: int) -> None:
    """Print how many trainings there are and how long they will take, from a few steps of the first start."""
    runs, seconds = 0, 0.0
    for case in cases:
        _, own, rates = CASES[case]
        for width in widths or own:
            losses(case, RULES[0], (widths or own)[0], width, 0, 1)
            begin = time.process_time()
            losses(case, RULES[0], (widths or own)[0], width, 0, TIMED)
            seconds += (time.process_time() - begin) / TIMED * steps * seeds * len(RULES)
            runs += len(rates) * seeds * len(RULES)
    print(f"{runs} trainings of {steps} steps, about {seconds:.0f} s of one core", flush=True)


def sweep(case: str, rule: str, widths: Sequence[int], seeds: Iterable[int], steps: int) -> TransferSweep:
    """All trainings of one rule; a line for each width as it is done."""
    rates = CASES[case][2]
    rows = []
    for width in widths:
        begin = time.process_time()
        rows.append(np.array([losses(case, rule, widths[0], width, seed, steps) for seed in seeds]).T)
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
    planned(options.case or list(CASES), options.widths, options.seeds, options.steps)
    for case in options.case or CASES:
        for rule in RULES:
            widths = options.widths or CASES[case][1]
            rows.append(report(case, rule, sweep(case, rule, widths, range(options.seeds), options.steps)))
    RESULTS.mkdir(exist_ok=True)
    document = {"seeds": options.seeds, "steps": options.steps, "rows": rows}
    (RESULTS / "transfer.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
