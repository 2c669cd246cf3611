"""Computes what the catalogue says of its systems: `python -m separatrix.systems.recompute [--systems A,B]`.

What the file already holds is left alone unless its systems are named, so an interrupted computation is resumed by the
same command. Exponents of all systems come first, then periods and correlation dimensions. Each number follows from the
seed, so a rerun on the same machine gives the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import time as clock
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from separatrix.runs.errors import SeparatrixError
from separatrix.systems.catalogue import MEASURED, catalogue
from separatrix.systems.dimensions import correlation_dimension
from separatrix.systems.lyapunov import lyapunov_spectrum
from separatrix.systems.measures import dominant_period
from separatrix.systems.simulation import simulate
from separatrix.systems.system import System

SETTLING = 20.0
"""Published periods after which the state is taken to be on the attractor."""
PERIODS = 40.0
"""Periods along which a trajectory is looked at for its period and dimension."""
POINTS = 32
"""Points a period in these."""
COPIES = 12
"""Trajectories that are looked at."""


def exponents(
    system: System, *, periods: float = 40.0, copies: int = 64, seed: int = 0, tolerance: float = 1e-6
) -> dict[str, Any]:
    """Spectrum, its errors and the dimension that follows, from `copies` of `periods` published periods each.

    A hundred iterations of a map are its period; a system with a delay has none of these.

    Raises:
        SeparatrixError: the system cannot be followed at all.
    """
    if system.kind == "delay":
        return {}
    unit = 100.0 if system.kind == "map" else _published_period(system)
    spectrum = lyapunov_spectrum(
        system, time=periods * unit, transient=0.2 * periods * unit, copies=copies, seed=seed, tolerance=tolerance
    )
    return {
        "exponents": [_rounded(each, 5) for each in spectrum.exponents],
        "errors": [_rounded(each, 2) for each in spectrum.errors],
        "kaplan_yorke": _rounded(spectrum.kaplan_yorke, 5),
    }


def _published_period(system: System) -> float:
    period = system.published.period or system.measured.period
    assert period is not None, f"the catalogue gives every flow a published period, {system.name} too"
    return period


def motion(system: System, seed: int = 0) -> dict[str, Any]:
    """Dominant period and correlation dimension of a flow, from trajectories on its attractor.

    Raises:
        SeparatrixError: the system cannot be followed at all.
    """
    if system.kind == "map":
        return {}
    period = _published_period(system)
    found = simulate(
        system,
        int(PERIODS * POINTS),
        dt=period / POINTS,
        copies=COPIES if system.kind == "flow" and not system.stiff else None,
        transient=SETTLING * period,
        seed=seed,
        tolerance=1e-7,
    )
    # the phase of a drive is no motion of the system's own
    kept = [i for i, name in enumerate(system.variables) if name != system.phase]
    observed = found.observed if found.observed.shape[2] == system.dimension else found.values
    periods = [dominant_period(each[:, kept], found.dt, segments=3) for each in observed]
    facts = {"period": _rounded(float(np.nanmedian(periods)))}
    if system.kind == "delay":
        return facts  # one variable is no point of its space
    points = observed.reshape(-1, observed.shape[2])
    spread = points.std(axis=0)
    scaled = points[:, spread > 0] / spread[spread > 0]
    dimension = correlation_dimension(scaled, window=3 * POINTS, references=300, seed=seed)
    return facts | {
        "correlation": _rounded(dimension.value, 4),
        "correlation_error": _rounded(dimension.error, 2),
    }


def _rounded(value: float, digits: int = 5) -> float:
    return float(f"{value:.{digits}g}")


def write(entries: Mapping[str, Any], path: Path) -> None:
    """Store entries, one a line, in alphabetical order."""
    lines = [f"{json.dumps(name)}: {json.dumps(entries[name], allow_nan=False)}" for name in sorted(entries)]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compute what is asked for and what is missing; 1 if a system could not be followed."""
    parser = argparse.ArgumentParser(prog="python -m separatrix.systems.recompute", description=__doc__.splitlines()[0])
    parser.add_argument("--systems", default="", help="names, separated by commas; all by default")
    parser.add_argument("--out", type=Path, default=MEASURED, help="the file to write")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    entries = json.loads(options.out.read_text()) if options.out.exists() else {}
    named = [each for each in options.systems.split(",") if each]
    failed = False
    for part, key in ((exponents, "exponents"), (motion, "period")):
        for name in named or [each for each in catalogue() if key not in entries.get(each, {})]:
            start = clock.perf_counter()
            try:
                found = part(catalogue()[name], seed=options.seed)
            except SeparatrixError as error:
                failed = True
                print(error, file=sys.stderr, flush=True)
                continue
            if found:
                entries[name] = entries.get(name, {}) | found
                write(entries, options.out)
                print(f"{name}: {found} ({clock.perf_counter() - start:.1f} s)", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
