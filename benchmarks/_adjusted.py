"""Runs a training script with one setting changed from outside: `python -m benchmarks._adjusted CHANGES SCRIPT ARGS`.

CHANGES is a JSON object: `rate` (a factor), `weight_decay`, `eps`, `clip_norm`, `batch_size` (two sizes, old and new),
`schedule` (an object of `steps`, `peak` and `warmup`). The script stays as it is; what it hands to torch is changed on
the way: learning rates are multiplied, so that groups keep their proportions, options of the optimizer and the limit of
`clip_grad_norm_` replaced. Batches of the old size become ones of the new size where a `DataLoader`, `split` of an
order or `randint` makes them. With `schedule` rates warm up and then fall linearly to zero, and the script's own
schedulers do nothing.
"""

from __future__ import annotations

import functools
import json
import runpy
import sys
from typing import Any

import torch
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader


def change_optimizers(rate: float | None, options: dict[str, float]) -> None:
    """Multiply learning rates, set options, in every optimizer that is made from now on."""
    original = torch.optim.Optimizer.__init__

    @functools.wraps(original)
    def construct(self: Any, params: Any, defaults: dict[str, Any]) -> None:
        groups = list(params)
        for group in (defaults, *(group for group in groups if isinstance(group, dict))):
            if rate is not None and "lr" in group:
                group["lr"] = group["lr"] * rate
            group.update({name: value for name, value in options.items() if name in group})
        original(self, groups, defaults)

    torch.optim.Optimizer.__init__ = construct


def change_clipping(limit: float) -> None:
    """Clip at another norm."""
    original = torch.nn.utils.clip_grad_norm_

    @functools.wraps(original)
    def clip(parameters: Any, max_norm: float, *args: Any, **kwargs: Any) -> Any:
        del max_norm
        return original(parameters, limit, *args, **kwargs)

    torch.nn.utils.clip_grad_norm_ = clip


def change_batches(before: int, after: int) -> None:
    """Make batches of another size where the script makes them of the one given."""
    make, split, draw = DataLoader.__init__, torch.Tensor.split, torch.randint

    def resized(size: Any) -> Any:
        return after if isinstance(size, int) and size == before else size

    @functools.wraps(make)
    def construct(self: Any, dataset: Any, batch_size: int | None = 1, *args: Any, **kwargs: Any) -> None:
        make(self, dataset, resized(batch_size), *args, **kwargs)

    @functools.wraps(split)
    def cut(self: Any, size: Any, dim: int = 0) -> Any:
        order = self.dim() == 1 and not self.is_floating_point()
        return split(self, resized(size) if order else size, dim)

    @functools.wraps(draw)
    def drawn(*args: Any, **kwargs: Any) -> Any:
        chosen = [tuple(map(resized, a)) if isinstance(a, tuple | list) and len(a) == 1 else a for a in args]
        return draw(*chosen, **kwargs)

    DataLoader.__init__, torch.Tensor.split, torch.randint = construct, cut, drawn


def change_schedule(steps: int, peak: float | None = None, warmup: int = 0) -> None:
    """Let rates warm up and then fall linearly to zero, and let the script's scheduler do nothing.

    The highest of the optimizer's rates becomes `peak`; without one they start from the script's own.
    """
    original = torch.optim.Optimizer.__init__

    @functools.wraps(original)
    def construct(self: Any, params: Any, defaults: dict[str, Any]) -> None:
        original(self, params, defaults)
        rates, taken = [group["lr"] for group in self.param_groups], [0]
        factor = 1.0 if peak is None else peak / max(rates)

        def before(*_: Any) -> None:
            done, left = (taken[0] + 1) / (warmup + 1), (steps - taken[0]) / (steps - warmup)
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = factor * rate * max(0.0, min(done, left))
            taken[0] += 1

        self.register_step_pre_hook(before)

    torch.optim.Optimizer.__init__ = construct
    lr_scheduler.LRScheduler.step = lambda self, epoch=None: None
    lr_scheduler.ReduceLROnPlateau.step = lambda self, metrics, epoch=None: None


def main() -> None:
    changes, script, *arguments = sys.argv[1:]
    told = json.loads(changes)
    options = {name: told[name] for name in ("weight_decay", "eps") if name in told}
    if "rate" in told or options:
        change_optimizers(told.get("rate"), options)
    if "clip_norm" in told:
        change_clipping(told["clip_norm"])
    if "batch_size" in told:
        change_batches(*told["batch_size"])
    if "schedule" in told:
        change_schedule(**told["schedule"])
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
