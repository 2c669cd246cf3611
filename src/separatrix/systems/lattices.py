"""Systems of any size, written out site by site."""

from __future__ import annotations

from separatrix.runs.errors import UsageError
from separatrix.systems.system import Facts, System


def lorenz96(sites: int = 40, forcing: float = 8.0) -> System:
    """Lorenz's ring: dx_k/dt = (x_{k+1} - x_{k-2}) x_{k-1} - x_k + f.

    The period given is that of a wave passing a site, about a time unit and a half at the usual forcing. Source:
    Lorenz (1996), Predictability: a problem partly solved; Lorenz and Emanuel (1998), J. Atmos. Sci. 55, 399.

    Raises:
        UsageError: there are fewer than four sites.
    """
    if sites < 4:
        raise UsageError(f"the ring needs at least 4 sites, not {sites}")
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
        tuple(forcing + 0.01 * ((7 * k) % 5) for k in range(sites)),
        description=f"Sites on a ring with advection, damping and forcing, {sites} of them",
        source="Lorenz (1996). Predictability: a problem partly solved. Seminar on Predictability, ECMWF.",
        family="networks",
        published=Facts(period=1.5),
    )
