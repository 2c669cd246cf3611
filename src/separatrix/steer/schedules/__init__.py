"""Learning-rate schedules: pick one, rank several by a bound, refine one from a run, test the range of rates."""

from separatrix.steer.schedules.bound import (
    BaseRate,
    LastIterateBound,
    best_base_rate,
    bound_curve,
    extension_rate,
    last_iterate_bound,
    rank,
    scale_of,
)
from separatrix.steer.schedules.errors import ScheduleError
from separatrix.steer.schedules.range_test import RangeTest, range_test
from separatrix.steer.schedules.refinement import refine, refined_base_rate
from separatrix.steer.schedules.schedule import (
    Schedule,
    constant,
    cosine,
    linear,
    one_cycle,
    square_root,
    step_decay,
    tabulated,
    wsd,
)
from separatrix.steer.schedules.scheduler import FollowSchedule

__all__ = [
    "BaseRate",
    "FollowSchedule",
    "LastIterateBound",
    "RangeTest",
    "Schedule",
    "ScheduleError",
    "best_base_rate",
    "bound_curve",
    "constant",
    "cosine",
    "extension_rate",
    "last_iterate_bound",
    "linear",
    "one_cycle",
    "range_test",
    "rank",
    "refine",
    "refined_base_rate",
    "scale_of",
    "square_root",
    "step_decay",
    "tabulated",
    "wsd",
]
