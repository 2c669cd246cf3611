"""Runs a training script with one setting changed from outside: `python -m benchmarks._adjusted CHANGES SCRIPT ARGS`.

CHANGES is a JSON object: `rate` (a factor), `weight_decay`, `eps`, `clip_norm`, `schedule_steps`. The script stays as
it is; what it hands to torch is changed on the way: learning rates are multiplied, so that groups keep their
proportions, options of the optimizer and the limit of `clip_grad_norm_` replaced; with `schedule_steps` rates fall
linearly to zero over so many steps, and the script's own schedulers do nothing.
"""

from __future__ import annotations

import functools
import json
import runpy
import sys
from typing import Any

import torch
from torch.optim import lr_scheduler


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


def change_schedule(steps: int) -> None:
    """Let rates fall linearly from the script's own to zero, and let the script's scheduler do nothing."""
    original = torch.optim.Optimizer.__init__

    @functools.wraps(original)
    def construct(self: Any, params: Any, defaults: dict[str, Any]) -> None:
        original(self, params, defaults)
        rates, taken = [group["lr"] for group in self.param_groups], [0]

        def before(*_: Any) -> None:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate * max(0.0, 1 - taken[0] / steps)
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
    if "schedule_steps" in told:
        change_schedule(told["schedule_steps"])
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
