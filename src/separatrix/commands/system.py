"""`separatrix system`: the catalogue of dynamical systems, their trajectories and exponents."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from separatrix.commands import _values as values
from separatrix.commands._printing import EXIT_FINE, list_members, print_json, print_out
from separatrix.runs.errors import UsageError

if TYPE_CHECKING:
    from separatrix.systems import System


def add(commands: values.Commands) -> None:
    """Add the grammar."""
    verbs = commands.add_parser(
        "system", help="simulate chaotic flows and maps, and measure their exponents"
    ).add_subparsers(metavar="list|show|simulate|lyapunov", required=True)
    listing = verbs.add_parser("list", help="list the systems of the catalogue")
    listing.set_defaults(command="system list", perform=_list)
    show = verbs.add_parser("show", help="show a system's equations, parameters and what is known of it")
    show.set_defaults(command="system show", perform=_show)
    simulate = verbs.add_parser("simulate", help="write a trajectory as a run")
    simulate.set_defaults(command="system simulate", perform=_simulate)
    lyapunov = verbs.add_parser("lyapunov", help="compute the Lyapunov spectrum with its errors")
    lyapunov.set_defaults(command="system lyapunov", perform=_lyapunov)

    for verb in (show, simulate, lyapunov):
        verb.add_argument("system", metavar="NAME")
    for verb in (listing, show, lyapunov):
        verb.add_argument("--json", action="store_true", help="print one JSON document")
    simulate.add_argument("--out", type=values.path, metavar="RUN", required=True, help="the run's folder")
    simulate.add_argument("--points", type=_count, default=1000, metavar="N", help="default: 1000")
    simulate.add_argument("--points-per-period", type=float, default=100.0, metavar="N", help="default: 100")
    simulate.add_argument("--dt", type=float, metavar="TIME", help="time between points, instead of points per period")
    simulate.add_argument("--transient", type=float, default=0.0, metavar="TIME", help="time left out; default: 0")
    simulate.add_argument(
        "--noise", type=float, default=0.0, metavar="SHARE", help="noise over each spread; default: 0"
    )
    lyapunov.add_argument(
        "--time", type=float, metavar="TIME", help="time a copy; default: 200 periods, 5000 iterations"
    )
    for verb, default in ((simulate, 1), (lyapunov, 32)):
        verb.add_argument("--copies", type=_count, default=default, metavar="N", help=f"default: {default}")
        verb.add_argument("--seed", type=values.seed, default=0, metavar="N", help="default: 0")
        verb.add_argument(
            "--set", type=values.assignment, action="append", default=[], metavar="KEY=VALUE", help="change a parameter"
        )


def _count(text: str) -> int:
    return values.positive(text, "give 1 or more")


def _list(options: argparse.Namespace) -> int:
    from separatrix.systems import systems
    from separatrix.view.systems import described

    rows = [described(each) for each in systems().values()]
    for row in rows:
        row["summary"] = (
            f"{row['kind']}{', driven' if row['phase'] else ''}, {len(row['variables'])}: {row['description']}"
        )
    return list_members("systems", rows, options.json, ("name", "summary"))


def _show(options: argparse.Namespace) -> int:
    from separatrix.systems import find_system
    from separatrix.view.systems import described, lines

    system = find_system(options.system)
    if options.json:
        print_json(described(system))
    else:
        print_out("\n".join(lines(system)))
    return EXIT_FINE


def _simulate(options: argparse.Namespace) -> int:
    from separatrix.systems import find_system, simulate, write

    system = find_system(options.system)
    parameters = _parameters(system, options.set)
    found = simulate(
        system,
        options.points,
        points_per_period=options.points_per_period,
        dt=options.dt,
        copies=options.copies if options.copies > 1 else None,
        parameters=parameters,
        transient=options.transient,
        noise=options.noise,
        seed=options.seed,
    )
    config = {"seed": options.seed, "noise": options.noise, **system.parameters, **parameters}
    print_out(str(write(found, options.out, config=config)))
    return EXIT_FINE


def _lyapunov(options: argparse.Namespace) -> int:
    from separatrix.systems import find_system, lyapunov_spectrum
    from separatrix.view.systems import spectrum_as_dict, spectrum_lines

    system = find_system(options.system)
    parameters = _parameters(system, options.set)
    found = lyapunov_spectrum(
        system, time=options.time, copies=options.copies, parameters=parameters, seed=options.seed
    )
    if options.json:
        print_json(spectrum_as_dict(found))
    else:
        print_out("\n".join(spectrum_lines(found)))
    return EXIT_FINE


def _parameters(system: System, given: list[tuple[str, str]]) -> dict[str, Any]:
    parameters = {}
    for name, text in given:
        try:
            parameters[name] = float(text)
        except ValueError:
            raise UsageError(f"parameter {name} of system {system.name} is a number, not {text!r}") from None
    return parameters
