"""`separatrix system`: the catalogue of dynamical systems, their trajectories and exponents."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from separatrix.commands import _values as values
from separatrix.commands._printing import EXIT_FINE, list_members, print_json, print_out, say
from separatrix.runs.errors import UsageError

if TYPE_CHECKING:
    from separatrix.systems import System


def add(commands: values.Commands) -> None:
    """Add the grammar."""
    verbs = commands.add_parser(
        "system", help="simulate chaotic flows and maps, and measure their exponents"
    ).add_subparsers(metavar="list|show|simulate|lyapunov|benchmark", required=True)
    listing = verbs.add_parser("list", help="list the systems of the catalogue")
    listing.set_defaults(command="system list", perform=_list)
    show = verbs.add_parser("show", help="show a system's equations, parameters and what is known of it")
    show.set_defaults(command="system show", perform=_show)
    simulate = verbs.add_parser("simulate", help="write a trajectory as a run")
    simulate.set_defaults(command="system simulate", perform=_simulate)
    lyapunov = verbs.add_parser("lyapunov", help="compute the Lyapunov spectrum with its errors")
    lyapunov.set_defaults(command="system lyapunov", perform=_lyapunov)

    _add_benchmark(verbs)

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


def _add_benchmark(verbs: values.Commands) -> None:
    benchmark = verbs.add_parser(
        "benchmark",
        help="compare forecasters over systems: a table, ranks with a test, a figure",
        description="Compare forecasters over systems. What the folder holds already is not computed again.",
    )
    benchmark.add_argument("--systems", type=_names, metavar="A,B,...", help="default: twenty systems of many kinds")
    benchmark.add_argument("--models", type=_names, metavar="A,B,...", help="default: all that are installed")
    benchmark.add_argument("--points", type=_count, default=2000, metavar="N", help="learnt by each; default: 2000")
    benchmark.add_argument("--points-per-period", type=float, default=100.0, metavar="N", help="default: 100")
    benchmark.add_argument("--noise", type=float, default=0.0, metavar="SHARE", help="default: 0")
    benchmark.add_argument("--seeds", type=_count, default=1, metavar="N", help="trials of each pair; default: 1")
    benchmark.add_argument(
        "--set",
        type=values.assignment,
        action="append",
        default=[],
        metavar="MODEL.KEY=VALUE",
        help="change a setting of a model",
    )
    benchmark.add_argument("--workers", type=_count, default=1, metavar="N", help="processes; default: 1")
    benchmark.add_argument(
        "--out", type=values.path, default=Path("system-benchmark"), metavar="DIR", help="default: system-benchmark"
    )
    benchmark.add_argument("--json", action="store_true", help="print one JSON document")
    benchmark.set_defaults(command="system benchmark", perform=_benchmark)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of names: separate them by commas")
    return names


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


def _benchmark(options: argparse.Namespace) -> int:
    import numpy as np

    from separatrix.reconstruct.benchmark import DEFAULT_SYSTEMS, Trial, ranking, run_trials, usable_models
    from separatrix.systems import find_system
    from separatrix.view import forecasters

    systems = [find_system(name).name for name in options.systems or DEFAULT_SYSTEMS]
    models = usable_models(options.models)
    settings = _model_settings(models, options.set)
    trials = [
        Trial(
            system,
            model,
            seed,
            options.points,
            options.points_per_period,
            options.noise,
            settings=settings[model],
        )
        for system in systems
        for model in models
        for seed in range(options.seeds)
    ]

    def said(trial: Any, outcome: Any) -> None:
        if not options.json:
            say(f"{trial.system}, {trial.model}: {outcome.failure or f'{outcome.valid_time:.2f} Lyapunov times'}")

    outcomes = run_trials(trials, options.out / "trials.jsonl", workers=options.workers, said=said)
    table: dict[str, dict[str, list[Any]]] = {}
    for trial, outcome in zip(trials, outcomes, strict=True):
        table.setdefault(trial.system, {}).setdefault(trial.model, []).append(outcome)
    means = np.array([[np.mean([o.valid_time for o in row[model]]) for model in models] for row in table.values()])
    ranked = ranking(models, means) if len(models) > 1 and len(table) > 1 else None
    if options.json:
        print_json(forecasters.as_json(table, ranked))
        return EXIT_FINE
    print_out("\n".join(forecasters.valid_time_table(table)))
    if ranked is not None:
        print_out("\n".join(forecasters.ranking_lines(ranked)))
        print_out(str(forecasters.write_figure(table, ranked, options.out / "ranks.html")))
    return EXIT_FINE


def _model_settings(models: list[str], given: list[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    from separatrix.reconstruct import find_reconstructor
    from separatrix.runs.settings import parsed

    texts: dict[str, dict[str, str]] = {model: {} for model in models}
    for key, text in given:
        model, _, name = key.partition(".")
        if model not in texts:
            raise UsageError(
                f"--set {key} names no model that is compared: give MODEL.KEY=VALUE with {', '.join(texts)}"
            )
        texts[model][name] = text
    return {
        model: parsed(find_reconstructor(model).settings, chosen, f"reconstructor {model}")
        for model, chosen in texts.items()
    }


def _parameters(system: System, given: list[tuple[str, str]]) -> dict[str, Any]:
    parameters = {}
    for name, text in given:
        try:
            parameters[name] = float(text)
        except ValueError:
            raise UsageError(f"parameter {name} of system {system.name} is a number, not {text!r}") from None
    return parameters
