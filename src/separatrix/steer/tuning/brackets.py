"""Hyperband's plan: brackets of successive halving, computed before anything is trained.

With R the most that one configuration may be trained and eta the factor by which survivors are cut, bracket s starts n
configurations with R / eta^s each and keeps the best 1 / eta of them s times. Two tables are in print, which differ in
n. The journal's algorithm takes n = ceil((s_max + 1) eta^s / (s + 1)): 81, 34, 15, 8, 5 for R = 81 and eta = 3. The
first edition's takes n = floor((s_max + 1) / (s + 1)) eta^s: 81, 27, 9, 6, 5.

Sources: Li, Jamieson, DeSalvo, Rostamizadeh and Talwalkar 2018, Hyperband, JMLR 18(185), algorithm 1 (`ceiling`), and
its first edition, arXiv:1603.06560v1 (`floor`).
"""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from typing import Literal

from separatrix.steer.tuning.errors import SweepError

Edition = Literal["ceiling", "floor"]


@dataclasses.dataclass(frozen=True)
class Rung:
    """So many configurations, each trained until it has had `resource` in all."""

    configurations: int
    resource: Fraction


@dataclasses.dataclass(frozen=True)
class Bracket:
    """Successive halving from rung to rung; `index` is s, the number of cuts."""

    index: int
    rungs: tuple[Rung, ...]

    @property
    def configurations(self) -> int:
        """How many configurations it starts."""
        return self.rungs[0].configurations

    def cost(self, *, resumed: bool) -> Fraction:
        """Resource spent: by trainings that go on where they stood, or that start over on each rung."""
        total, before = Fraction(0), Fraction(0)
        for rung in self.rungs:
            total += rung.configurations * (rung.resource - before)
            before = rung.resource if resumed else Fraction(0)
        return total


def brackets(maximum: int, eta: int = 3, *, edition: Edition = "ceiling") -> tuple[Bracket, ...]:
    """The brackets of Hyperband, the one with most cuts first.

    Args:
        maximum: R, the most resource one configuration may have, in whole units.
        eta: factor of each cut.
        edition: which of the two published tables, see above.

    Raises:
        SweepError: maximum or eta is too small, or there is no such edition.
    """
    if maximum < 1 or eta < 2:
        raise SweepError(f"maximum={maximum} and eta={eta}: give at least 1 and 2")
    if edition not in ("ceiling", "floor"):
        raise SweepError(f"there is no edition {edition!r} of the plan: choose ceiling or floor")
    # In whole numbers: a logarithm of 243 to base 3 in floating point is below 5.
    cuts = 0
    while eta ** (cuts + 1) <= maximum:
        cuts += 1
    return tuple(_bracket(s, cuts, maximum, eta, edition) for s in range(cuts, -1, -1))


def _bracket(s: int, cuts: int, maximum: int, eta: int, edition: Edition) -> Bracket:
    shares = Fraction(cuts + 1, s + 1)
    count = math.ceil(shares * eta**s) if edition == "ceiling" else math.floor(shares) * eta**s
    rungs = tuple(Rung(count // eta**i, Fraction(maximum * eta**i, eta**s)) for i in range(s + 1))
    return Bracket(s, rungs)
