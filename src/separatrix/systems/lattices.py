"""Systems of any size, written out site by site."""

from __future__ import annotations

import math
import re

from separatrix.runs.errors import UsageError
from separatrix.systems.system import Facts, System


def lorenz96(sites: int = 40, forcing: float = 8.0) -> System:
    """Lorenz's ring: dx_k/dt = (x_{k+1} - x_{k-2}) x_{k-1} - x_k + f.

    The period given is that of a wave passing a site, about a time unit and a half at the usual forcing. What is
    published of 40 sites at that forcing: errors double in 2.1 days of 0.2 time units, and the Kaplan-Yorke dimension
    is 27.1. Sources: Lorenz (1996), Predictability: a problem partly solved; Lorenz and Emanuel (1998), Journal of the
    Atmospheric Sciences 55, 399.

    Raises:
        UsageError: there are fewer than four sites.
    """
    if sites < 4:
        raise UsageError(f"the ring needs at least 4 sites, not {sites}")
    usual = Facts(period=1.5, exponents=(math.log(2) / 0.42,), kaplan_yorke=27.1)
    names = tuple(f"x{k + 1}" for k in range(sites))
    equations = tuple(
        f"({names[(k + 1) % sites]} - {names[k - 2]})*{names[k - 1]} - {names[k]} + f" for k in range(sites)
    )
    return System(
        f"Lorenz96x{sites}",
        "flow",
        names,
        equations,
        {"f": forcing},
        # no pattern: a state that repeats itself along the ring does so for ever, and is a smaller ring
        tuple(forcing + math.sin(k * k) for k in range(sites)),
        description=f"Sites on a ring with advection, damping and forcing, {sites} of them",
        source="Lorenz (1996). Predictability: a problem partly solved. Seminar on Predictability, ECMWF.",
        family="networks",
        published=usual if (sites, forcing) == (40, 8.0) else Facts(period=1.5),
    )


def lattice(name: str) -> System | None:
    """The ring whose sites a name such as "lorenz96x40" counts; None for other names.

    Raises:
        UsageError: there are fewer than four sites.
    """
    sites = re.fullmatch(r"lorenz96x(\d+)", name.lower())
    return lorenz96(int(sites[1])) if sites else None
