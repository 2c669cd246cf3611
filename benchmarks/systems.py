"""Trajectories of Lorenz's flow beside dysts and scipy, and exponents beside published ones.

The work is that of dysts' `make_trajectory`: 1,000 points, 100 to a period, at the same parameters, initial states and
times. Errors are those before trajectories diverge (up to t = 5), against scipy's method of order 8 at the smallest
tolerance it takes; Separatrix counts as equal only where its error is no larger than that of the peer. dysts follows
initial states one by one, so its time for 64 is that of `--dysts-copies` (1 by default), scaled. Times are those of the
processor: each way runs on one thread.
"""

from __future__ import annotations

import argparse
import functools
import time
import warnings
from collections.abc import Callable

import numpy as np
from scipy.integrate import solve_ivp

from benchmarks._sidebyside import Comparison, write
from separatrix.systems import find_system, lorenz96, lyapunov_spectrum, simulate, systems

POINTS, COPIES, BEFORE = 1000, 64, 5.0
TOLERANCE = 1e-12
BETA = 2.667
PERIOD = 1.5008
DT = PERIOD * POINTS / 100 / (POINTS - 1)
TIMES = DT * np.arange(POINTS)
BATCH_GOAL, SINGLE_GOAL, SPECTRUM_SECONDS = 300.0, 10.0, 30.0
Work = Callable[[], np.ndarray]


def starts(copies: int) -> np.ndarray:
    """Initial states, (copy, 3)."""
    lorenz = find_system("Lorenz")
    return np.array(lorenz.initial) + np.random.default_rng(0).normal(size=(copies, 3))


def own(copies: int) -> np.ndarray:
    lorenz = find_system("Lorenz")
    found = simulate(lorenz, POINTS, dt=DT, initial=starts(copies), parameters={"beta": BETA}, tolerance=TOLERANCE)
    return found.values


def dysts(copies: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dysts.flows import Lorenz

        model, found = Lorenz(), []
        for each in starts(copies):  # make_trajectory fails on an array of several states
            model.ic = each
            found.append(model.make_trajectory(POINTS))
    return np.stack(found)


def scipy(method: str, copies: int, tolerance: float = TOLERANCE) -> np.ndarray:
    def slopes(t: float, state: np.ndarray) -> list[float]:
        x, y, z = state.tolist()
        return [10.0 * (y - x), x * (28.0 - z) - y, x * y - BETA * z]

    span, options = (0.0, float(TIMES[-1])), {"rtol": tolerance, "atol": tolerance}
    return np.stack([solve_ivp(slopes, span, each, method, TIMES, **options).y.T for each in starts(copies)])


def timed(work: Work) -> tuple[float, np.ndarray]:
    begin = time.process_time()
    found = work()
    return time.process_time() - begin, found


def trajectories(rounds: int, dysts_copies: int) -> list[Comparison]:
    """Times and errors of every way, for one initial state and for 64."""
    early = BEFORE > TIMES
    reference = scipy("DOP853", COPIES, 3e-14)[:, early]
    slow, slow_values = timed(functools.partial(dysts, dysts_copies))
    rows = []
    for copies, goal in ((COPIES, BATCH_GOAL), (1, SINGLE_GOAL)):
        own(copies)  # equations are compiled once
        ours, mine = zip(*(timed(functools.partial(own, copies)) for _ in range(rounds)), strict=True)
        for peer in ("dysts", "scipy DOP853", "scipy LSODA"):
            if peer == "dysts":
                theirs, found, done = (slow * copies / dysts_copies,) * rounds, slow_values, min(copies, dysts_copies)
            else:
                work = functools.partial(scipy, peer.split()[1], copies)
                theirs, values = zip(*(timed(work) for _ in range(rounds)), strict=True)
                found, done = values[0], copies
            error = np.abs(found[:done, early] - reference[:done]).max()
            own_error = np.abs(mine[0][:done, early] - reference[:done]).max()
            accuracy = f"error {own_error:.1e} (peer {error:.1e})"
            accuracy += "" if own_error <= max(error, TOLERANCE) else "  NOT AS ACCURATE"
            wanted = goal if peer == "dysts" else 1.0
            rows.append(Comparison(f"{copies} x {POINTS} points", peer, theirs, ours, wanted, accuracy))
            print(rows[-1].row(), flush=True)
    return rows


def spectra() -> None:
    """Exponents beside published ones."""
    cases = (
        (find_system("Lorenz"), {"time": 300.0}, (0.9056, 0.0, -14.5723), "Sprott (2003); +- 1 %, zero +- 0.01, 30 s"),
        (find_system("Rossler"), {"time": 1000.0}, (0.0714, 0.0, -5.3943), "Sprott (2003); +- 3 standard errors"),
    )
    for system, settings, published, source in cases:
        begin = time.perf_counter()
        found = lyapunov_spectrum(system, **settings)
        pairs = [f"{a:.4f} +- {e:.4f} ({p})" for a, e, p in zip(found.exponents, found.errors, published, strict=True)]
        print(f"{system.name:12} {', '.join(pairs)}  in {time.perf_counter() - begin:.1f} s   {source}", flush=True)
    begin = time.perf_counter()
    found = lyapunov_spectrum(lorenz96(40), time=50.0, transient=20.0, copies=8)
    positive = int((found.exponents > 3 * found.errors).sum())
    print(
        f"Lorenz96x40  largest {found.exponents[0]:.4f} +- {found.errors[0]:.4f} (1.65),"
        f" {positive} positive (13), Kaplan-Yorke {found.kaplan_yorke:.2f} (27.1), sum {found.exponents.sum():.4f}"
        f" (-40)  in {time.perf_counter() - begin:.1f} s   Lorenz and Emanuel (1998)",
        flush=True,
    )


def disagreements(share: float = 0.1) -> list[str]:
    """Systems whose largest exponent differs from the published one by more than 3 errors and a share of it."""
    rows = []
    for system in systems().values():
        if not (system.measured.exponents and system.published.exponents):
            continue
        ours, error = system.measured.exponents[0], system.measured.errors[0]
        theirs = system.published.exponents[0]
        if abs(ours - theirs) > max(1e-12, 3 * error, share * abs(theirs)):
            rows.append(f"{system.name:26} {ours:11.4g} +- {error:<8.2g} {theirs:11.4g}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dysts-copies", type=int, default=1, help="initial states that dysts really follows")
    options = parser.parse_args()
    write("systems", trajectories(options.rounds, options.dysts_copies))
    spectra()
    measured = [each for each in systems().values() if each.measured.exponents]
    rows = disagreements()
    print(f"\n{len(measured)} systems have exponents with errors; {len(rows)} disagree with the published table:")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
