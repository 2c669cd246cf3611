"""Feeds a schedule to an optimizer of torch."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from separatrix.steer.schedules.errors import ScheduleError
from separatrix.steer.schedules.schedule import Schedule


class FollowSchedule(LRScheduler):
    """Sets every group's learning rate to its own base rate times the schedule's factor, one `step()` a training step.

    The base rate of a group is its learning rate when this is made. A schedule with momentum also sets `momentum`, or
    the first of `betas`. `state_dict` holds numbers only: the schedule itself is given anew when a training resumes,
    with `last_epoch` left at its default, and `load_state_dict` puts it where it was.

    Raises:
        ScheduleError: the schedule has momentum and a group of the optimizer has none, or a momentum of 0.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, last_epoch: int = -1) -> None:
        self.schedule = schedule
        if schedule.momentum is not None:
            for group in optimizer.param_groups:
                if not group.get("momentum", group.get("betas", (0.0,))[0]):
                    raise ScheduleError(
                        f"schedule {schedule.name!r} moves momentum and {type(optimizer).__name__} has none: set one,"
                        " or use dataclasses.replace(schedule, momentum=None)"
                    )
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        """Rates of the groups at the present step; momentum is set beside them."""
        if self.schedule.momentum is not None:
            momentum = self.schedule.momentum_at(self.last_epoch)
            for group in self.optimizer.param_groups:
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum
        factor = self.schedule(self.last_epoch)
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """The position and the base rates, without the schedule and the optimizer."""
        return {name: value for name, value in super().state_dict().items() if name != "schedule"}
